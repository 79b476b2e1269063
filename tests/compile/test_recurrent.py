"""LSTM and RNN: against loops in NumPy, from call to call, and what they store."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net, load_weights
from jaffe.netdef import JaffeError
from tests.compile.programs import operations
from tests.compile.test_every_layer import make_inputs
from tests.nets import NETS
from tests.nets.case import input_layer, one
from tests.nets.recurrent import BATCH, STEPS, UNITS, recurrent

KEY = jax.random.key(5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_loop(w, x, cont, static, h, c):
    """Item by item, unit by unit gates: Hochreiter and Schmidhuber's equations, with Caffe's cont."""
    outputs = np.zeros((*x.shape[:2], h.shape[-1]))
    h, c = h.copy(), c.copy()
    for t in range(x.shape[0]):
        for n in range(x.shape[1]):
            total = w["input_weight"] @ x[t, n].ravel() + w["bias"] + w["hidden_weight"] @ (cont[t, n] * h[n])
            if static is not None:
                total = total + w["static_weight"] @ static[n].ravel()
            i, f, o, g = total.reshape(4, -1)
            c[n] = cont[t, n] * sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
            h[n] = outputs[t, n] = sigmoid(o) * np.tanh(c[n])
    return outputs, h, c


def rnn_loop(w, x, cont, static, h):
    outputs = np.zeros((*x.shape[:2], h.shape[-1]))
    h = h.copy()
    for t in range(x.shape[0]):
        for n in range(x.shape[1]):
            total = w["input_weight"] @ x[t, n].ravel() + w["bias"] + w["hidden_weight"] @ (cont[t, n] * h[n])
            if static is not None:
                total = total + w["static_weight"] @ static[n].ravel()
            h[n] = np.tanh(total)
            outputs[t, n] = np.tanh(w["output_weight"] @ h[n] + w["output_bias"])
    return outputs, h


def arrays(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


@pytest.mark.parametrize("name", ["lstm", "lstm_static", "lstm_gradient", "rnn", "rnn_static", "rnn_gradient"])
def test_against_a_loop(name: str):
    net = compile_net(NETS[name].net)
    variables, inputs = net.init(KEY), make_inputs(net, NETS[name])
    assert 0 < inputs["cont"].mean() < 1
    given = arrays(inputs)
    zero = np.zeros((BATCH, UNITS))
    hidden = [given.get("h0", zero[None])[0], given.get("c0", zero[None])[0]]
    loop, count = (lstm_loop, 2) if name.startswith("lstm") else (rnn_loop, 1)
    weights = arrays(variables["params"]["l"])
    expected = loop(weights, given["x"], given["cont"], given.get("s"), *hidden[:count])
    outputs, state = net.apply(variables, inputs)
    np.testing.assert_allclose(outputs["t"], expected[0], rtol=2e-6, atol=1e-7)
    for key, value in zip(("h", "c"), expected[1:], strict=False):
        found = outputs[f"{key}T"] if "gradient" in name else state["l"][key]
        np.testing.assert_allclose(found, value[None], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lstm_static", "rnn"])
def test_two_calls_are_one_long_one(name: str):
    net = compile_net(NETS[name].net)
    variables, inputs = net.init(KEY), make_inputs(net, NETS[name])
    whole, last = net.apply(variables, inputs)

    def part(state, start, stop):  # T is another one than declared, 2 and then 3
        cut = {key: value if key == "s" else value[start:stop] for key, value in inputs.items()}
        return net.apply({**variables, "state": state}, cut)

    first, state = part(variables["state"], 0, 2)
    second, state = part(state, 2, 5)
    np.testing.assert_allclose(np.concatenate([first["t"], second["t"]]), whole["t"], rtol=1e-6, atol=1e-7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state, last)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), variables["state"], net.fresh_carry())


def test_what_is_stored_is_what_caffe_stores():
    net = compile_net(NETS["lstm_static"].net)
    names = [stored.weight.name for stored in net.stored["l"]]
    assert names == ["input_weight", "bias", "static_weight", "hidden_weight"]
    variables = net.init(KEY)
    assert jax.tree.map(jnp.shape, variables["state"]) == {"l": {"h": (1, BATCH, UNITS), "c": (1, BATCH, UNITS)}}
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables["state"]))
    arrays = [np.full(shape, i + 1.0) for i, shape in enumerate([(28, 2), (28,), (28, 11), (28, 7)])]
    loaded = load_weights(net, variables, {"l": arrays})
    for i, name in enumerate(names):
        assert (np.asarray(loaded["params"]["l"][name]) == i + 1).all()
    with pytest.raises(JaffeError, match=r"expected 4 blobs .*hidden_weight\); found 6"):
        load_weights(net, variables, {"l": [*arrays, np.zeros((1, 3, 7)), np.zeros((1, 3, 7))]})
    cost = net.cost()["l"]
    assert (cost.params, cost.state) == (28 * 2 + 28 + 28 * 11 + 28 * 7, 0)
    assert "carries h, c to the next call" in net.summary()
    rnn = compile_net(NETS["rnn_static"].net)
    assert [stored.weight.name for stored in rnn.stored["l"]] == [
        "input_weight", "bias", "static_weight", "hidden_weight", "output_weight", "output_bias",
    ]
    assert compile_net(NETS["lstm_exposed"].net).init(KEY)["state"] == {}


def test_flops():
    # 15 steps of items: products 2*28*2 and 2*28*7, bias 28, their sum 28, cont 7, ten for each of 7 units
    assert compile_net(NETS["lstm"].net).cost()["l"].flops == 15 * (112 + 392 + 28 + 28 + 7 + 70)
    static = 3 * 2 * 28 * 11 + 15 * 28  # once an item; added at every step
    assert compile_net(NETS["lstm_static"].net).cost()["l"].flops == 15 * 637 + static
    # RNN: tanh; and the output's product 2*7*7, bias and tanh
    assert compile_net(NETS["rnn"].net).cost()["l"].flops == 15 * (28 + 98 + 7 + 7 + 7 + 7 + 98 + 7 + 7)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_program_does_not_grow_with_the_sequence(kind: str):
    def program(steps: int) -> list[str]:
        inputs = input_layer("x", steps, 3, 2) + input_layer("cont", steps, 3) + input_layer("s", 3, 5)
        net = compile_net(one(kind, "recurrent_param { num_output: 7 }", bottoms="x cont s", inputs=inputs))
        feeds = {name: jnp.zeros(spec.shape) for name, spec in net.inputs.items()}

        def value(variables):
            outputs, state = net.apply(variables, feeds)
            return outputs["t"].sum(), state

        return operations(jax.make_jaxpr(jax.value_and_grad(value, has_aux=True, allow_int=True))(net.init(KEY)).jaxpr)

    short, long = program(3), program(300)
    assert short == long
    assert short.count("scan") == 2  # forward and backward
    forward = compile_net(NETS["lstm_static"].net, lowering="plain")
    feeds = make_inputs(forward, NETS["lstm_static"])
    (scan,) = [e for e in jax.make_jaxpr(lambda v: forward.apply(v, feeds))(forward.init(KEY)).jaxpr.eqns
               if e.primitive.name == "scan"]
    assert operations(scan.params["jaxpr"].jaxpr).count("dot_general") == 1  # the other products are outside


def test_another_batch_needs_another_carry():
    net = compile_net(NETS["lstm"].net)
    variables = net.init(KEY)
    inputs = {"x": jnp.ones((STEPS, 2, 2)), "cont": jnp.ones((STEPS, 2))}
    with pytest.raises(JaffeError) as caught:
        net.apply(variables, inputs)
    assert str(caught.value) == (
        "layer 'l' (<text>:3): its state 'h' is carried from call to call: expected shape (1, 2, 7) for these "
        "inputs; found (1, 3, 7); zeros start anew"
    )
    state = {"l": {name: jnp.zeros((1, 2, 7)) for name in ("h", "c")}}
    outputs, state = net.apply({**variables, "state": state}, inputs)
    declared, _ = net.apply(variables, {"x": jnp.ones((STEPS, 3, 2)), "cont": jnp.ones((STEPS, 3))})
    np.testing.assert_allclose(outputs["t"], declared["t"][:, :2], rtol=1e-6)
    assert state["l"]["h"].shape == (1, 2, 7)
    with pytest.raises(JaffeError, match=r"the variables have no 'state' 'l' 'h'; make them with net.init\(key\)"):
        net.apply({"params": variables["params"], "state": {}}, inputs)


def gradient_through(settings: str) -> np.ndarray:
    """How the last output of a decoder changes with the weights of an encoder before it."""
    inputs = (input_layer("x", 5, 3, 2) + input_layer("cont", 5, 3) + input_layer("zero", 1, 3, 7)
              + input_layer("y", 2, 3, 11) + input_layer("on", 2, 3))
    param = f'recurrent_param {{ num_output: 7 weight_filler {{ type: "xavier" }} expose_hidden: true {settings} }}'

    def layer(name: str, *bottoms: str) -> str:
        blobs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms) + f' top: "{name}" top: "{name}T"'
        return f'layer {{ name: "{name}" type: "RNN" {blobs} {param} }}\n'

    net = compile_net(inputs + layer("encoder", "x", "cont", "zero") + layer("decoder", "y", "on", "encoderT"))
    feeds = {name: jnp.ones(spec.shape) for name, spec in net.inputs.items()}
    variables = net.init(KEY)
    gradients = jax.grad(lambda p: net.apply({**variables, "params": p}, feeds)[0]["decoder"].sum())(
        variables["params"])
    return np.asarray(gradients["encoder"]["input_weight"])


def test_gradients_of_exposed_state_are_asked_for():
    assert not gradient_through("").any()  # as in Caffe
    assert np.abs(gradient_through("hidden_gradient: true")).max() > 1e-3


def test_no_gradient_reaches_cont_or_the_last_call():
    net = compile_net(NETS["lstm"].net)
    variables, inputs = net.init(KEY), make_inputs(net, NETS["lstm"])
    variables["state"] = jax.tree.map(jnp.ones_like, variables["state"])

    def value(state, cont):
        outputs, state = net.apply({**variables, "state": state}, {**inputs, "cont": cont})
        return outputs["t"].sum() + state["l"]["h"].sum()

    for gradient in jax.tree.leaves(jax.grad(value, (0, 1))(variables["state"], inputs["cont"])):
        assert not gradient.any()


def test_linen_keeps_the_carry():
    net = compile_net(NETS["lstm"].net)
    module, inputs = net.as_linen(), make_inputs(net, NETS["lstm"])
    variables = module.init(KEY, inputs)
    _, updated = module.apply(variables, inputs, mutable=["state"])
    again, _ = module.apply({**variables, **updated}, inputs, mutable=["state"])
    own = {"params": variables["params"], "state": variables["state"]}
    _, state = net.apply(own, inputs)
    expected, _ = net.apply({**own, "state": state}, inputs)
    np.testing.assert_array_equal(again["t"], expected["t"])
    assert not np.array_equal(again["t"], net.apply(own, inputs)[0]["t"])


def test_a_carry_alone_keeps_a_layer_alive():
    net = compile_net(recurrent("LSTM") + 'layer { name: "r" type: "Power" bottom: "x" top: "y" }\n')
    variables = net.init(KEY)
    _, state = net.apply(variables, make_inputs(net, NETS["lstm"]), blobs=["y"])
    assert state["l"]["c"].any()


def test_lstm_unit_in_few_loops():
    """The gates as they are fast on the CPU, against XLA's own, which alone have a forward-mode derivative."""
    case = NETS["lstm_unit"]
    with jax.enable_x64(True):
        tuned, plain = (compile_net(case.net, dtype="float64", lowering=way) for way in ("auto", "plain"))
        inputs = {name: value - 0.3 for name, value in make_inputs(plain, case).items()}
        inputs["cont"] = jnp.asarray([[0, 1, 1]], "float64")

        def tops(net):
            return lambda c, g: [net.apply({}, {**inputs, "c": c, "g": g})[0][name] for name in ("t", "u")]

        (expected, pull_plain), (found, pull) = (jax.vjp(tops(net), inputs["c"], inputs["g"]) for net in (plain, tuned))
        gradient = [jnp.cos(value) for value in expected]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15),
                     (found, pull(gradient)), (expected, pull_plain(gradient)))
        assert "custom_vjp_call" in str(jax.make_jaxpr(tops(tuned))(inputs["c"], inputs["g"]))
        _, moved = jax.jvp(tops(plain), (inputs["c"], inputs["g"]), (inputs["c"], inputs["g"]))
        assert all(np.isfinite(value).all() for value in moved)
