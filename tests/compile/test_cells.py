"""jaffe.netdef.cells against loops in NumPy from the published equations, and as loops against unrolled."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import L, cells, unroll
from tests.compile.programs import assert_near, differentiated, quickly
from tests.compile.test_reroll import both, feed, loop

T, N, D, H, C = 5, 3, 2, 7, 4
X = {"x": (T, N, D)}
CONT = {**X, "cont": (T, N)}
FRAMES = {"x": (T, N, D, 5, 6)}
FILL = {"type": "uniform", "min": -0.5, "max": 0.5}


def features(frames):
    return L.TanH(L.Convolution(frames, num_output=C, kernel_size=3, weight_filler=FILL, name="conv"), name="squashed")


NETS = {
    "rnn": unroll(cells.rnn(H, FILL), T, inputs=CONT),
    "lstm": unroll(cells.lstm(H, FILL), T, inputs=CONT),
    "lstm without cont": unroll(cells.lstm(H, FILL), T, inputs=X),
    "gru": unroll(cells.gru(H, FILL), T, inputs=CONT),
    "peephole lstm": unroll(cells.peephole_lstm(H, FILL), T, inputs=CONT),
    "conv lstm": unroll(cells.conv_lstm(C, filler=FILL), T, inputs=FRAMES),
    "attention": unroll(cells.attention_lstm(H, 4, 6, FILL), T, inputs=X, static={"memory": (4, N, 9)}),
    "lrcn": unroll(cells.lrcn(features, cells.lstm(H, FILL)), T, inputs={**FRAMES, "cont": (T, N)}),
    "stacked": unroll(cells.stacked(cells.lstm(H, FILL), cells.gru(5, FILL)), T, inputs=CONT),
    "bidirectional": cells.bidirectional(cells.lstm(H, FILL), T, X),
    "backwards": unroll(cells.gru(H, FILL), T, inputs=X, reverse=True),
}
UNROLLED = {"conv lstm": 0, "stacked": 2, "bidirectional": 2}  # loops, where not one


@pytest.mark.parametrize("name", NETS)
def test_as_loops_and_as_written(name):
    net, rolled, plain = both(NETS[name])
    assert sum(map(loop, rolled.nodes)) == UNROLLED.get(name, 1)
    variables, inputs = net.init(jax.random.key(3)), feed(net)
    found, expected = (quickly(lambda nodes=graph.nodes: differentiated(net, nodes, variables, inputs))
                       for graph in (rolled, plain))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[2]))
    assert_near(found, expected, 5e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(name):
    """The output h of a cell's net, its weights by layer, of the first step's names, and its inputs, in float64."""
    net = compile_net(NETS[name])
    variables, inputs = net.init(jax.random.key(3)), feed(net)
    # Peepholes and biases start at zero, where they would not be seen.
    keys = iter(jax.random.split(jax.random.key(4), 99))
    params = jax.tree.map(lambda w: w if w.any() else jax.random.normal(next(keys), w.shape) / 2, variables["params"])
    outputs, _ = net.apply({**variables, "params": params}, inputs)
    weights = {layer: {one: np.asarray(value, np.float64) for one, value in group.items()}
               for layer, group in params.items()}
    return np.asarray(outputs["h"]), weights, {key: np.asarray(value, np.float64) for key, value in inputs.items()}


def product(weights, layer, x):
    return x @ weights[layer]["weight"].T + weights[layer].get("bias", 0)


def lstm_step(w, x, h, c, cont, layers=("x2g_1", "h2g_1")):
    i, f, o, g = np.split(product(w, layers[0], x) + product(w, layers[1], cont * h), 4, -1)
    c = cont * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def close(found, steps):
    expected = np.stack(steps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_rnn():
    found, w, given = run("rnn")
    steps = [np.zeros((N, H))]
    for x, cont in zip(given["x"], given["cont"][..., None], strict=True):
        steps.append(np.tanh(product(w, "x2h_1", x) + product(w, "h2h_1", cont * steps[-1])))
    close(found, steps[1:])


@pytest.mark.parametrize("name", ["lstm", "lstm without cont"])
def test_lstm(name):
    found, w, given = run(name)
    h = c = np.zeros((N, H))
    steps = []
    for t, x in enumerate(given["x"]):
        h, c = lstm_step(w, x, h, c, given["cont"][t, :, None] if name == "lstm" else 1)
        steps.append(h)
    close(found, steps)


def gru_step(w, x, h, cont=1.0):
    h = cont * h
    z, r, n = np.split(product(w, "x2zrn_1", x), 3, -1)
    recurrent = product(w, "h2zr_1", h)
    z, r = sigmoid(z + recurrent[..., :H]), sigmoid(r + recurrent[..., H:])
    n = np.tanh(n + product(w, "h2n_1", r * h))
    return z * h + (1 - z) * n


def test_gru():
    found, w, given = run("gru")
    steps = [np.zeros((N, H))]
    for x, cont in zip(given["x"], given["cont"][..., None], strict=True):
        steps.append(gru_step(w, x, steps[-1], cont))
    close(found, steps[1:])


def test_backwards():
    found, w, given = run("backwards")
    w = {key.replace(f"_{T}", "_1"): value for key, value in w.items()}
    steps = [np.zeros((N, H))]
    for x in given["x"][::-1]:
        steps.append(gru_step(w, x, steps[-1]))
    close(found, steps[:0:-1])


def test_peephole_lstm():
    found, w, given = run("peephole lstm")
    h = c = np.zeros((N, H))
    peep = {one: w[f"peep_{one}_1"]["scale"] for one in "ifo"}
    steps = []
    for x, cont in zip(given["x"], given["cont"][..., None], strict=True):
        i, f, o, g = np.split(product(w, "x2g_1", x) + product(w, "h2g_1", cont * h), 4, -1)
        c = cont * c
        c = sigmoid(f + peep["f"] * c) * c + sigmoid(i + peep["i"] * c) * np.tanh(g)
        h = sigmoid(o + peep["o"] * c) * np.tanh(c)
        steps.append(h)
    close(found, steps)


def same_size(x, weight):
    """Cross-correlation of (N, C, H, W) with (O, C, 3, 3), padded by one."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    return sum(np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
               for i in range(3) for j in range(3))


def test_conv_lstm():
    found, w, given = run("conv lstm")
    h = c = np.zeros((N, C, 5, 6))
    steps = []
    for x in given["x"]:
        sums = same_size(x, w["x2g_1"]["weight"]) + w["x2g_1"]["bias"][:, None, None]
        i, f, o, g = np.split(sums + same_size(h, w["h2g_1"]["weight"]), 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    close(found, steps)


def test_attention():
    found, w, given = run("attention")
    h = c = np.zeros((N, H))
    steps = []
    for x in given["x"]:
        energy = np.tanh(product(w, "keys_1", given["memory"]) + product(w, "query_1", h))
        scores = np.exp(product(w, "energy2score_1", energy))
        seen = (scores / scores.sum(0) * given["memory"]).sum(0)
        h, c = lstm_step(w, np.concatenate([x, seen], -1), h, c, 1)
        steps.append(h)
    close(found, steps)


def test_lrcn():
    found, w, given = run("lrcn")
    kernel, bias = w["conv_1"]["weight"], w["conv_1"]["bias"]
    h = c = np.zeros((N, H))
    steps = []
    for x, cont in zip(given["x"], given["cont"][..., None], strict=True):
        seen = np.tanh(same_size(x, kernel)[:, :, 1:-1, 1:-1] + bias[:, None, None]).reshape(N, -1)
        h, c = lstm_step(w, seen, h, c, cont)
        steps.append(h)
    close(found, steps)


def test_stacked():
    net = compile_net(NETS["stacked"])
    variables, inputs = net.init(jax.random.key(3)), feed(net)
    outputs, _ = net.apply(variables, inputs, blobs=[f"h_1_{t}" for t in range(1, T + 1)])
    w = {layer: {one: np.asarray(value, np.float64) for one, value in group.items()}
         for layer, group in variables["params"].items()}
    h = c = np.zeros((N, H))
    g = np.zeros((N, 5))
    steps = []
    for t in range(T):
        cont = inputs["cont"][t, :, None]
        h, c = lstm_step(w, inputs["x"][t], h, c, cont, ("x2g_1_1", "h2g_1_1"))
        np.testing.assert_allclose(outputs[f"h_1_{t + 1}"][0], h, rtol=0, atol=2e-6)
        z, r, n = np.split(product(w, "x2zrn_2_1", h), 3, -1)
        recurrent = product(w, "h2zr_2_1", cont * g)
        z, r = sigmoid(z + recurrent[..., :5]), sigmoid(r + recurrent[..., 5:])
        n = np.tanh(n + product(w, "h2n_2_1", r * cont * g))
        g = z * cont * g + (1 - z) * n
        steps.append(g)
    close(outputs["h_2"], steps)


def test_bidirectional():
    found, w, given = run("bidirectional")
    ways = []
    for way, layers in ((1, ("forward_x2g_1", "forward_h2g_1")), (-1, (f"backward_x2g_{T}", f"backward_h2g_{T}"))):
        h = c = np.zeros((N, H))
        steps = []
        for x in given["x"][::way]:
            h, c = lstm_step(w, x, h, c, 1, layers)
            steps.append(h)
        ways.append(np.stack(steps[::way]))
    close(found, np.concatenate(ways, -1))


def test_the_lstm_cell_is_the_lstm_layer():
    """Values, and gradients of the same weights."""
    cell = compile_net(NETS["lstm"])
    text = "".join(f'layer {{ name: "{one}" type: "Input" top: "{one}" input_param {{ shape {{ {shape} }} }} }}'
                   for one, shape in (("x", f"dim: {T} dim: {N} dim: {D}"), ("cont", f"dim: {T} dim: {N}")))
    layer = compile_net(text + f'layer {{ name: "h" type: "LSTM" bottom: "x" bottom: "cont" top: "h" '
                               f"recurrent_param {{ num_output: {H} }} }}")
    params, inputs = cell.init(jax.random.key(3))["params"], feed(cell)
    same = {"h": {"input_weight": params["x2g_1"]["weight"], "bias": params["x2g_1"]["bias"],
                  "hidden_weight": params["h2g_1"]["weight"]}}

    def value(net, params):
        return (net.apply({"params": params, "state": net.fresh_carry()}, inputs)[0]["h"] ** 2).sum()

    found, gradients = jax.value_and_grad(lambda params: value(cell, params))(params)
    expected, others = jax.value_and_grad(lambda params: value(layer, params))(same)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert_near([gradients["x2g_1"]["weight"], gradients["x2g_1"]["bias"], gradients["h2g_1"]["weight"]],
                [others["h"]["input_weight"], others["h"]["bias"], others["h"]["hidden_weight"]], 3e-6)


def test_truncated_through_time():
    """Two calls of half the steps, each from where the one before ended, are one call; no gradient crosses."""
    def part(steps):
        return compile_net(unroll(cells.lstm(H, FILL), steps, inputs={"x": (steps, N, D)}, start="input"))

    whole, half = part(4), part(2)
    variables = whole.init(jax.random.key(3))
    x = np.random.default_rng(0).normal(size=(4, N, D))
    state = {"h_0": np.zeros((1, N, H)), "c_0": np.zeros((1, N, H))}
    expected, _ = whole.apply(variables, {"x": x, **state})
    found = []
    for begin, end in pairwise((0, 2, 4)):
        outputs, _ = half.apply(variables, {"x": x[begin:end], **state}, blobs=["h_2"])
        found.append(outputs["h"])
        state = {"h_0": outputs["h_2"], "c_0": outputs["c_2"]}
    np.testing.assert_allclose(np.concatenate(found), expected["h"], rtol=0, atol=1e-6)
