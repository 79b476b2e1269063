"""Rematerialisation: pairs of graphs, the fewest values by trying all, results against those of kept values; memory."""

from __future__ import annotations

import importlib
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaffe import JaffeError
from jaffe.compile import compile_net
from jaffe.compile.passes import recompute
from jaffe.compile.passes.recompute import _best, _split, _Step
from jaffe.compile.remat import device_memory
from jaffe.netdef import SpecError
from tests.compile.programs import after, assert_near
from tests.nets.case import FILL, input_layer

KEY = jax.random.key(0)
X = input_layer("x", 2, 3, 7, 5) + input_layer("y", 2)


def layer(kind: str, name: str, *bottoms: str, more: str = "") -> str:
    below = "".join(f' bottom: "{one}"' for one in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}"{below} top: "{name}" {more} }}\n'


def conv(name: str, bottom: str, outputs: int = 3, more: str = "") -> str:
    return layer("Convolution", name, bottom,
                 more=f"{more} convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 {FILL} }}")


def scores(bottom: str) -> str:
    return layer("InnerProduct", "s", bottom, more=f"inner_product_param {{ num_output: 7 {FILL} }}") + layer(
        "SoftmaxWithLoss", "loss", "s", "y")


def chain(depth: int, between: str = "", inputs: str = X) -> str:
    """Convolutions and TanHs, and the head. ``between``: types of layers after each of them."""
    text, below = inputs, "x"
    for i in range(depth):
        text += conv(f"c{i}", below) + layer("TanH", f"t{i}", f"c{i}")
        below = f"t{i}"
        for kind in between.split():
            text += layer(kind, f"{kind}{i}", below)
            below = f"{kind}{i}"
    return text + scores(below)


def split(text: str, *keep: str, room: int | None = 0) -> list[str]:
    """The layers after the pass."""
    return after(recompute, text, *keep, phase="TRAIN", room=room)


def test_a_chain():
    """Ten values of 210 in five stretches of two: four between them, and two inside."""
    assert split(chain(5)) == [
        "x = Input<x>()",
        "y = Input<y>()",
        "t0 = Recomputed<c0, t0>(x)",
        "t1 = Recomputed<c1, t1>(t0)",
        "t2 = Recomputed<c2, t2>(t1)",
        "t3 = Recomputed<c3, t3>(t2)",
        "c4 = Convolution<c4>(t3)",
        "t4 = TanH<t4>(c4)",
        "s = InnerProduct<s>(t4)",
        "loss *1 = SoftmaxWithLoss<loss>(s, y)",
    ]


def test_only_where_there_is_no_room():
    """What the backward pass reads: ten blobs of 210 values, and the scores."""
    text = chain(5)
    assert not any("Recomputed" in line for line in split(text, room=10 * 210 + 14))
    assert any("Recomputed" in line for line in split(text, room=10 * 210 + 13))
    assert not any("Recomputed" in line for line in split(text, room=None))


def test_what_is_asked_for_comes_out():
    net, again = (compile_net(chain(5), phase="TRAIN", remat=remat) for remat in ("none", "full"))
    variables, inputs = net.init(KEY), {"x": np.ones((2, 3, 7, 5)), "y": np.zeros(2)}
    blobs = ["c0", "t1", "c3", "t4"]
    assert "Recomputed" in str(again.program(frozenset([*blobs, "loss"])))
    found, expected = (jax.jit(lambda one=one: one.apply(variables, inputs, blobs=blobs)[0])() for one in (again, net))
    assert set(found) == {*blobs, "loss"}
    assert_near(found, expected, 1e-6)


def test_narrow_places_are_kept():
    """Where values are few, as after a pooling."""
    text = X + conv("a", "x", 30) + layer("ReLU", "b", "a") + conv("c", "b", 2) + conv("d", "c", 30)
    text += layer("ReLU", "e", "d") + conv("f", "e", 2) + conv("g", "f", 30) + layer("ReLU", "h", "g") + scores("h")
    assert split(text)[2:4] == ["c = Recomputed<a, b, c>(x)", "f = Recomputed<d, e, f>(c)"]


def test_long_branches_are_kept_once():
    """The sum of residual nets: what goes round a stretch is kept anyway."""
    text = X + conv("a", "x") + layer("TanH", "b", "a")
    below = "b"
    for i in range(5):
        text += conv(f"c{i}", below) + layer("TanH", f"d{i}", f"c{i}") + layer("Eltwise", f"e{i}", below, f"d{i}")
        below = f"e{i}"
    lines = split(text + scores(below))
    assert "e1 = Recomputed<c1, d1, e1>(e0)" in lines


def test_frozen_layers_are_not_run_again():
    frozen = conv("a", "x", more="param { lr_mult: 0 } param { lr_mult: 0 }") + layer("TanH", "b", "a")
    lines = split(X + frozen + chain(5, inputs="").replace('bottom: "x"', 'bottom: "b"'))
    assert lines[2:5] == ["a = Convolution<a>(x)", "b = TanH<b>(a)", "t0 = Recomputed<c0, t0>(b)"]


def test_a_net_that_does_not_train():
    assert not any("Recomputed" in line for line in split(chain(5).rsplit("layer", 1)[0]))


def test_python_code_runs_once(tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text("""
CALLS = []

def half(x):
    CALLS.append(1)
    return x / 2

half.backward = lambda x, d_top: d_top / 2
""")
    monkeypatch.syspath_prepend(tmp_path)
    code = layer("Python", "p", "t2", more='python_param { module: "counted" layer: "half" }')
    text = chain(3).removesuffix(scores("t2")) + code + chain(3, inputs="").replace(
        'bottom: "x"', 'bottom: "p"').replace('"c', '"d').replace('"t', '"u')
    net = compile_net(text, phase="TRAIN", python_modules=["counted"], remat="full")
    lines = [line.strip() for line in str(net.program(frozenset(net.loss_tops))).splitlines()]
    assert "p = Python<p>(t2)" in lines
    assert any("Recomputed<c" in line for line in lines)
    variables, inputs = net.init(KEY), {"x": np.ones((2, 3, 7, 5)), "y": np.zeros(2)}
    step = jax.jit(jax.grad(lambda params: net.loss({"params": params}, inputs)[0]))
    step = step.lower(variables["params"]).compile()
    calls = importlib.import_module("counted").CALLS
    calls.clear()
    jax.block_until_ready(step(variables["params"]))
    assert calls == [1]


STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 4)), min_size=2, max_size=8
).map(lambda drawn: [_Step(free, (size,), (i + ahead,)) for i, (free, size, ahead) in enumerate(drawn)])


def peak(steps, stretches) -> int:
    between = sum(step.beyond(one.stop) for one in stretches for step in steps[one.start : one.stop])
    return between + max(sum(step.inside for step in steps[one.start : one.stop]) for one in stretches)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(0, 40))
def test_the_fewest_values_between(steps, most):
    """Among all ways to split, with at most so many values inside a stretch of several."""
    stretches, found = _split(steps, most)
    assert [i for one in stretches for i in one] == list(range(len(steps)))
    fewest = []
    for count in range(len(steps)):
        for inner in combinations(range(1, len(steps)), count):
            options = [range(*pair) for pair in pairwise([0, *inner, len(steps)])]
            allowed = all(len(one) == 1 or (sum(steps[i].inside for i in one) <= most
                                            and all(steps[i].free for i in one)) for one in options)
            if allowed:
                fewest.append(sum(steps[i].beyond(one.stop) for one in options for i in one))
    assert found == min(fewest)


@pytest.mark.parametrize("depth", [16, 64, 100])
def test_equal_layers_take_the_square_root(depth):
    steps = [_Step(True, (1,), (i + 1,)) for i in range(depth)]
    assert peak(steps, _best(steps)) < 2 * depth**0.5 + 1


LSTM = (input_layer("x", 3, 2, 5) + input_layer("cont", 3, 2) + input_layer("y", 3, 2)
        + "".join(layer("LSTM", f"l{i}", *bottoms, more=f"recurrent_param {{ num_output: 5 {FILL} }}")
                  for i, bottoms in enumerate([("x", "cont"), ("l0", "cont"), ("l1", "cont"), ("l2", "cont")]))
        + layer("InnerProduct", "s", "l3", more=f"inner_product_param {{ num_output: 7 axis: 2 {FILL} }}")
        + layer("SoftmaxWithLoss", "loss", "s", "y", more="softmax_param { axis: 2 }"))
NUMBERS = {
    "chain": chain(6),
    "dropout": chain(6, "Dropout"),
    "statistics of the batch": chain(6, "BatchNorm Scale"),
    "shared weights": chain(6).replace(
        "convolution_param", 'param { name: "w" } param { name: "b" } convolution_param'),
    "shared statistics": chain(6, "BatchNorm").replace(
        'top: "BatchNorm', 'param { name: "m" } param { name: "v" } param { name: "f" } top: "BatchNorm'),
    "frozen parts": chain(6).replace('name: "c3"', 'name: "c3" param { lr_mult: 0 }'),
    "gradients that stop": chain(6).replace('name: "c3"', 'name: "c3" propagate_down: false'),
    "lstm": LSTM,
}


def steps_of(text: str, **settings):
    """Loss, outputs, state and gradients with all kept, and with what is not run once more."""
    for remat in ("none", "full"):
        net = compile_net(text, phase="TRAIN", remat=remat, **settings)
        assert any("Recomputed" in line for line in str(net.program(frozenset(net.loss_tops))).splitlines()) == (
            remat == "full")
        variables = net.init(KEY)
        random = np.random.default_rng(0)
        inputs = {name: random.integers(0, 2 if name == "cont" else 7, value.shape) if name in ("y", "cont")
                  else random.normal(size=value.shape) for name, value in net.inputs.items()}
        step = jax.jit(jax.value_and_grad(
            lambda params, state, net=net, inputs=inputs: net.loss({"params": params, "state": state}, inputs, KEY),
            has_aux=True))
        (_, (_, state)), _ = step(variables["params"], variables["state"])
        yield step(variables["params"], state)  # the second, which goes on from a state


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    kept, again = steps_of(NUMBERS[name])
    assert_near(again, kept, 1e-6)
    assert any(one.any() for one in jax.tree.leaves(kept[1]))


def test_bfloat16():
    kept, again = steps_of(chain(6, "BatchNorm Dropout"), precision="bfloat16")
    assert_near(again, kept, 2**-8)


def test_float64():
    with jax.enable_x64(True):
        kept, again = steps_of(chain(6, "BatchNorm Dropout"), dtype=jnp.float64)
        assert_near(again, kept, 1e-14)


def test_keys_of_either_kind():
    net = compile_net(chain(6, "Dropout"), phase="TRAIN", remat="full")
    variables, inputs = net.init(KEY), {"x": np.ones((2, 3, 7, 5)), "y": np.zeros(2)}
    typed, raw = (jax.grad(lambda params, key=key: net.loss({**variables, "params": params}, inputs, key)[0])(
        variables["params"]) for key in (jax.random.key(3), jax.random.PRNGKey(3)))
    assert_near(raw, typed, 1e-6)


def test_transformations():
    """vmap, and gradients of gradients."""
    def curvature(remat):
        net = compile_net(chain(3), phase="TRAIN", remat=remat, lowering="plain")
        variables, x = net.init(KEY), np.random.default_rng(0).normal(size=(2, 2, 3, 7, 5))

        def slope(params, x):
            gradients = jax.grad(lambda p: net.loss({"params": p}, {"x": x, "y": np.zeros(2)})[0])(params)
            return sum((one**2).sum() for one in jax.tree.leaves(gradients))

        return jax.jit(jax.vmap(jax.grad(slope), (None, 0)))(variables["params"], x)

    assert_near(curvature("full"), curvature("none"), 1e-5)


def test_forward_mode_is_told():
    net = compile_net(chain(3), phase="TRAIN", remat="full", lowering="plain")
    variables = net.init(KEY)
    with pytest.raises(JaffeError, match='remat="none"'):
        jax.jvp(lambda x: net.loss(variables, {"x": x, "y": np.zeros(2)})[0], (jnp.ones((2, 3, 7, 5)),),
                (jnp.ones((2, 3, 7, 5)),))


def test_missing_weights_are_named():
    net = compile_net(chain(3), phase="TRAIN", remat="full")
    variables = net.init(KEY)
    del variables["params"]["c1"]["weight"]
    with pytest.raises(SpecError, match=r"layer 'c1'.*no 'params' 'c1' 'weight'"):
        net.loss(variables, {"x": np.ones((2, 3, 7, 5)), "y": np.zeros(2)})


def temporary_bytes(net) -> int:
    """What the program of loss and gradients needs beside its arguments and results."""
    variables = net.init(KEY)
    step = jax.jit(jax.grad(lambda params, inputs: net.loss({**variables, "params": params}, inputs, KEY)[0]))
    return step.lower(variables["params"], net.inputs).compile().memory_analysis().temp_size_in_bytes


def test_memory_falls():
    """Of 32 convolutions, each with a TanH: XLA:CPU did not wait with the second run of ``jax.checkpoint``."""
    text = chain(32, "Dropout", input_layer("x", 4, 3, 16, 16) + input_layer("y", 4))
    none, full = (temporary_bytes(compile_net(text, phase="TRAIN", remat=remat, lowering="plain"))
                  for remat in ("none", "full"))
    assert full < none / 2


def test_forward_alone_is_as_it_was():
    def forward(remat):
        net = compile_net(chain(5), phase="TRAIN", remat=remat, lowering="plain")
        variables = jax.eval_shape(net.init, KEY)
        text = jax.jit(lambda v, x: net.apply(v, x)[0]).lower(variables, net.inputs).compile().as_text()
        return text.count(" convolution("), text.count(" tanh(")

    assert forward("full") == forward("none") == (5, 5)


def test_memory_decides():
    """Weights three times over, and blobs: at one byte less than they need they are not kept."""
    text = chain(5)
    needed = 4 * (3 * compile_net(text, phase="TRAIN").cost().params + 10 * 210 + 14)

    def again(**settings) -> bool:
        net = compile_net(text, phase="TRAIN", **settings)
        return "Recomputed" in str(net.program(frozenset(net.loss_tops)))

    assert not again()
    assert not again(memory=needed)
    assert again(memory=needed - 1)
    assert not again(memory=needed - 2 * (10 * 210 + 14), precision="bfloat16")
    assert again(memory=1)


def test_memory_of_the_device(monkeypatch):
    if jax.default_backend() == "cpu":
        assert device_memory() >= 2**28

    class Device:
        def memory_stats(self):
            return {"bytes_limit": 12345}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert device_memory() == 12345


@pytest.mark.parametrize(("wrong", "message"), [
    (dict(remat="some"), 'remat is "auto", "none" or "full"; received \'some\''),
    (dict(remat="full", memory=10), 'memory is what remat="auto" goes by; received it with remat="full"'),
    (dict(memory=0), "memory is a positive number of bytes; received 0"),
    (dict(memory="4G"), "memory is a positive number of bytes; received '4G'"),
])
def test_wrong_arguments(wrong, message):
    with pytest.raises(JaffeError) as error:
        compile_net(chain(2), **wrong)
    assert str(error.value) == message
