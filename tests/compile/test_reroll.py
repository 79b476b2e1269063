"""Time steps as loops: graphs as text, and the numbers of the unrolled nets."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaffe import JaffeError, SpecError
from jaffe.compile import compile_net
from jaffe.compile.passes import PIPELINE, eliminate_dead, recompute, reroll, run
from jaffe.compile.reroll.components import components
from jaffe.compile.reroll.find import MOST_STEPS_OF_CONVOLUTIONS
from jaffe.compile.reroll.plan import Steps
from tests.compile.programs import (
    after,
    assert_near,
    differentiated,
    every_equation,
    kept,
    operations,
    quickly,
)
from tests.nets import unrolled
from tests.nets.case import input_layer
from tests.nets.unrolled import UNROLLED

KEY = jax.random.key(0)


def feed(net):
    random = np.random.default_rng(0)
    return {
        name: random.integers(0, 2, value.shape) if name == "cont" else random.integers(0, 5, value.shape)
        if name == "label" else random.normal(size=value.shape)
        for name, value in net.inputs.items()
    }


def both(text: str, **settings):
    """The net, its rolled and its unrolled nodes."""
    net = compile_net(text, phase="TRAIN", **settings)
    context = net.context(kept(net))
    plain = run(net.graph, [one for one in PIPELINE if one is not reroll], context)
    return net, run(net.graph, PIPELINE, context), plain


def loop(node) -> bool:
    return isinstance(node.plan, Steps) and bool(node.plan.carried)


@pytest.mark.parametrize("name", UNROLLED)
def test_numbers_are_those_of_the_unrolled_net(name):
    text, loops = UNROLLED[name]
    net, rolled, plain = both(text)
    assert sum(map(loop, rolled.nodes)) == loops, str(rolled)
    variables, inputs = net.init(KEY), feed(net)
    found, expected = (quickly(lambda nodes=graph.nodes: differentiated(net, nodes, variables, inputs, KEY))
                       for graph in (rolled, plain))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[2]))
    assert_near(found, expected, 3e-6)


def lines(text: str, *keep: str, phase: str = "TEST") -> list[str]:
    """The layers after the pass, which is run on what leads to the values kept."""

    def live(graph, context):
        return reroll(eliminate_dead(graph, context), context)

    return after(live, text, *keep, phase=phase)


def test_a_chain_of_steps():
    assert lines(unrolled.simple()) == [
        "x = Input<x>()",
        "h_0 = DummyData<h_0_zeros>()",
        "x2h_1 .. x2h_5 = Steps<5 x x2h_1>(x)",
        "h_1 .. h_5 = Steps<5 x h2h_1, sum_1, tanh_1>(x2h_1 .. x2h_5, h_0)",
        "h_all = Join<joined>(h_1 .. h_5)",
    ]


def test_values_asked_for_come_out_by_name():
    assert lines(unrolled.simple(), "h_2", "sum_4", "h_all")[-2:] == [
        "h_1 .. h_5, sum_4, h_2 = Steps<5 x h2h_1, sum_1, tanh_1>(x2h_1 .. x2h_5, h_0)",
        "h_all = Join<joined>(h_1 .. h_5)",
    ]
    net = compile_net(unrolled.simple())
    variables, inputs = net.init(KEY), feed(net)
    outputs, _ = net.apply(variables, inputs, blobs=["h_1", "h_4", "x2h_2"])
    for step in (1, 4):
        np.testing.assert_array_equal(outputs[f"h_{step}"], outputs["h_all"][step - 1 : step])
    np.testing.assert_allclose(outputs["x2h_2"], inputs["x"][1:2] @ variables["params"]["x2h_1"]["weight"].T,
                               rtol=0, atol=1e-6)


def test_first_and_last_steps_are_peeled():
    """The first has no product with h before it, the last no counterpart of what the others do with theirs."""
    assert lines(unrolled.first_differs())[2:4] == [
        "x2h_1 = InnerProduct<x2h_1>(x_1)", "h_1 = TanH<tanh_1>(x2h_1)"]
    last = unrolled.simple(6).replace('name: "tanh_6" type: "TanH"', 'name: "tanh_6" type: "ReLU"')
    assert lines(last)[-5:] == [
        "h_1 .. h_5, h_5 = Steps<5 x h2h_1, sum_1, tanh_1>(x2h_1 .. x2h_6, h_0)",
        "h2h_6 = InnerProduct<h2h_6>(h_5) [0]=h2h_1[0]",
        "sum_6 = Eltwise<sum_6>(x2h_6, h2h_6)",
        "h_6 = ReLU<tanh_6>(sum_6)",
        "h_all = Join<joined>(h_1 .. h_5, h_6)",
    ]


def test_a_concat_that_says_where_gradients_go_stays():
    """It says so of each of its bottoms."""
    text = unrolled.simple().replace('type: "Concat"', 'type: "Concat"' + " propagate_down: true" * 5)
    net, rolled, plain = both(text)
    assert "h_all = Concat<h_all>(h_1, h_2, h_3, h_4, h_5)" in str(rolled)
    variables, inputs = net.init(KEY), feed(net)
    found, expected = (differentiated(net, graph.nodes, variables, inputs) for graph in (rolled, plain))
    assert_near(found, expected, 3e-6)


def test_fewer_than_four_steps_stay():
    assert not any("Steps" in line for line in lines(unrolled.simple(3)))
    assert any("Steps<4 x h2h_1" in line for line in lines(unrolled.simple(4)))


@pytest.mark.parametrize("make", [unrolled.simple, unrolled.lstm, unrolled.lstm_of_gates], ids=lambda one: one.__name__)
def test_programs_do_not_grow_with_the_steps(make):
    def program(steps: int) -> list[str]:
        net = compile_net(make(steps))
        variables, inputs = net.init(KEY), feed(net)
        gradient = jax.grad(lambda params: net.apply({**variables, "params": params}, inputs)[0]["h_all"].sum())
        return operations(jax.make_jaxpr(gradient)(variables["params"]).jaxpr)

    short, long = program(5), program(50)
    assert short == long
    assert short.count("scan") == 2  # forward and backward


def test_weights_have_one_product_after_the_loop():
    """The loop's backward pass has one product a step, with the weight turned round; W's gradient is not in it."""
    net = compile_net(unrolled.simple())
    variables, inputs = net.init(KEY), feed(net)
    gradient = jax.grad(lambda params: net.apply({**variables, "params": params}, inputs)[0]["h_all"].sum())
    jaxpr = jax.make_jaxpr(gradient)(variables["params"]).jaxpr
    loops = [equation for equation in every_equation(jaxpr) if equation.primitive.name == "scan"]
    products = [operations(loop.params["jaxpr"].jaxpr) for loop in loops]
    assert [sum(name in PRODUCTS for name in names) for names in products] == [1, 1]


PRODUCTS = ("dot_general", "onednn")


NETS = {"simple": unrolled.simple(), "lstm": unrolled.lstm(), "both ways": unrolled.both_ways(),
        "losses": unrolled.losses(), "first differs": unrolled.first_differs()}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(NETS)), st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(name, random):
    """Any order in which layers follow what they read gives as many loops, with the same layers."""
    layers = NETS[name].strip().split("\n")
    written = {top: i for i, line in enumerate(layers) for top in re.findall(r'top: "([^"]+)"', line)}
    needs = [{written[bottom] for bottom in re.findall(r'bottom: "([^"]+)"', line)} for line in layers]
    order: list[int] = []
    while len(order) < len(layers):
        ready = [i for i in range(len(layers)) if i not in order and needs[i] <= set(order)]
        order.append(random.choice(ready))
    shuffled = "\n".join(layers[i] for i in order)

    def loops(text: str) -> list[set[str]]:
        net = compile_net(text, phase="TRAIN")
        nodes = reroll(net.graph, net.context(kept(net))).nodes
        return sorted((sorted(leaf.name for leaf in node.leaves) for node in nodes if loop(node)), key=str)

    assert loops(shuffled) == loops(NETS[name])
    assert loops(shuffled)


def test_random_layers_draw_what_they_draw_unrolled():
    """Dropout of each step's scores, which take all steps at once, has a key of its own a step."""
    text = unrolled.inputs(5) + unrolled.zeros("h_0")
    for t in range(1, 6):
        text += unrolled.simple_step(t) + unrolled.layer("Dropout", f"drop_{t}", f"h_{t}")
    text += unrolled.together("drop", range(1, 6))
    net, rolled, plain = both(text)
    assert "drop_1 .. drop_5 = Steps<5 x drop_1>(h_1 .. h_5)" in str(rolled)
    variables, inputs = net.init(KEY), feed(net)
    found, expected = (differentiated(net, graph.nodes, variables, inputs, KEY) for graph in (rolled, plain))
    assert_near(found, expected, 3e-6)
    dropped = found[0]["drop_all"] == 0
    assert 0.2 < dropped.mean() < 0.8
    assert (dropped[0] != dropped[1]).any()


def test_a_plain_net_has_derivatives_of_every_mode():
    net = compile_net(unrolled.lstm(), lowering="plain", remat="none")
    variables, inputs = net.init(KEY), feed(net)
    assert any("Steps" in line for line in str(net.program(kept(net))).splitlines())

    def total(x):
        return net.apply(variables, {**inputs, "x": x})[0]["h_all"].sum()

    x = jax.numpy.asarray(inputs["x"], "float32")
    direction = jax.numpy.cos(jax.numpy.arange(x.size)).reshape(x.shape)
    _, forward = jax.jvp(total, (x,), (direction,))
    np.testing.assert_allclose(forward, (jax.grad(total)(x) * direction).sum(), rtol=1e-5)
    tuned = compile_net(unrolled.lstm())
    with pytest.raises(JaffeError, match=r'forward-mode derivatives .* compiled with lowering="plain"'):
        jax.jvp(lambda x: tuned.apply(variables, {**inputs, "x": x})[0]["h_all"].sum(), (x,), (direction,))


def test_gradients_of_gradients():
    def second(net):
        variables, inputs = net.init(KEY), feed(net)

        def total(x):
            return (net.apply(variables, {**inputs, "x": x})[0]["h_all"] ** 2).sum()

        return jax.grad(lambda x: (jax.grad(total)(x) ** 2).sum())(jax.numpy.asarray(inputs["x"], "float32"))

    assert_near(second(compile_net(unrolled.simple())), second(compile_net(unrolled.simple(), lowering="plain")), 1e-5)


@pytest.mark.parametrize("lowering", ["auto", "plain"])
def test_bfloat16(lowering):
    """A start of float32 zeros, and steps that put out bfloat16."""
    rounded, net = (compile_net(unrolled.lstm(), precision=precision, lowering=lowering)
                    for precision in ("bf16", "float32"))
    variables, inputs = net.init(KEY), feed(net)
    found, expected = (one.apply(variables, inputs)[0]["h_all"] for one in (rounded, net))
    assert found.dtype == "float32"
    assert 0 < np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()  # five steps of 0.4 % each


def test_vmap_and_export():
    net = compile_net(unrolled.lstm())
    variables, inputs = net.init(KEY), feed(net)
    expected = net.apply(variables, inputs)[0]["h_all"]
    many = jax.vmap(lambda x: net.apply(variables, {**inputs, "x": x})[0]["h_all"])(
        np.stack([inputs["x"], 2 * inputs["x"]]))
    np.testing.assert_allclose(many[0], expected, rtol=0, atol=1e-6)
    exported = jax.export.deserialize(net.export(variables, batch=None)).call(
        {name: np.asarray(value, np.float32) for name, value in inputs.items()})
    np.testing.assert_allclose(exported["h_all"], expected, rtol=0, atol=1e-6)


def test_other_sizes_than_declared():
    """The first h is an input, so another number of sequences fits; a Slice by points must still cut equally."""
    text = unrolled.inputs(5) + input_layer("h_0", 1, 3, 7) + "".join(unrolled.simple_step(t) for t in range(1, 6))
    text += unrolled.together("h", range(1, 6))
    net = compile_net(text)
    variables = net.init(KEY)
    random = np.random.default_rng(1)
    inputs = {"x": random.normal(size=(5, 4, 2)), "h_0": random.normal(size=(1, 4, 7))}
    expected = compile_net(text, inputs={"x": (5, 4, 2), "h_0": (1, 4, 7)}, lowering="plain").apply(variables, inputs)
    np.testing.assert_allclose(net.apply(variables, inputs)[0]["h_all"], expected[0]["h_all"], rtol=0, atol=1e-6)
    pieces = unrolled.pieces("x", "x", 5)
    by_points = compile_net(text.replace(pieces, unrolled.pieces("x", "x", 5, points=True)))
    np.testing.assert_allclose(by_points.apply(variables, inputs)[0]["h_all"], expected[0]["h_all"], rtol=0, atol=1e-6)
    with pytest.raises(SpecError, match=r"layer '(sum_5|x_slice)'"):
        by_points.apply(variables, {**inputs, "x": np.zeros((6, 4, 2))})


def test_steps_are_run_again_where_memory_is_short():
    net = compile_net(unrolled.losses(), phase="TRAIN", remat="full")
    program = str(net.program(frozenset(net.loss_tops)))
    assert "Steps<5 x h2h_1, sum_1, tanh_1, each run again>" in program
    variables, inputs = net.init(KEY), feed(net)
    all_kept = compile_net(unrolled.losses(), phase="TRAIN", remat="none")
    found, expected = (quickly(lambda one=one: jax.grad(
        lambda params: one.loss({**variables, "params": params}, inputs)[0])(variables["params"]))
        for one in (net, all_kept))
    assert_near(found, expected, 1e-6)


def test_memory_is_counted_with_the_steps():
    """Five steps of 21 values: h2h, sum and h of the loop, x2h before it, h after it; and 15 scores; h_0."""
    total = 5 * (3 * 21 + 21 + 21 + 15) + 21
    text = unrolled.losses()
    net = compile_net(text, phase="TRAIN")
    rolled = reroll(net.graph, net.context(frozenset(net.loss_tops)))

    def again(room: int) -> bool:
        context = replace(net.context(frozenset(net.loss_tops)), room=room)
        return any(loop(node) and node.plan.again for node in recompute(rolled, context).nodes)

    assert again(total - 1)
    assert not again(total)


def test_the_summary_says_what_became_a_loop_and_why_not():
    def notes(text: str) -> list[str]:
        return compile_net(text, phase="TRAIN").summary().split("\n\n")[-1].strip().splitlines()[-3:]

    assert notes(unrolled.simple())[-1] == (
        "one loop: 5 steps from h2h_1, sum_1, tanh_1 to h2h_5, sum_5, tanh_5")
    assert notes(unrolled.one_differs()) == [
        "one loop: 5 steps from h2h_1, sum_1, h_1 to h2h_5, sum_5, h_5",
        "one loop: 5 steps from h2h_7, sum_7, h_7 to h2h_11, sum_11, h_11",
        "no loop: h2h_6: 'sum_6' is like no layer of the steps before and after it"]
    assert notes(unrolled.convolutional())[-1].startswith(
        "no loop: h2h_1 ... h2h_5 (5): 5 steps (up to ")
    assert notes(unrolled.around_the_loop())[-1] == (
        "no loop: h2h_1 ... h2h_6 (6): 'own_2' is like no layer of the steps before and after it")
    other = unrolled.simple(6).replace('bottom: "h_3" top: "h2h_4" param { name: "W_h" }  inner_product_param {',
                                       'bottom: "h_3" top: "h2h_4" param { name: "W_h" } inner_product_param { '
                                       'transpose: true')
    assert "no loop: h2h_4: it shares its weights with h2h_1, but not its settings or sizes" in notes(other)


def test_long_bodies_with_convolutions_are_loops():
    """More steps than are worth compiling one by one."""
    steps = max(MOST_STEPS_OF_CONVOLUTIONS.values()) + 1
    text = input_layer("x", 1, 1, 3, 3)
    for t in range(steps):
        text += unrolled.layer("Convolution", f"c{t}", f"c{t - 1}" if t else "x", more='param { name: "w" } '
                               "convolution_param { num_output: 1 kernel_size: 3 pad: 1 bias_term: false }")
    assert lines(text)[1] == f"c{steps - 1} = Steps<{steps} x c0>(x)"


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_components(edges):
    """Two nodes are in one component if each can be reached from the other."""
    successors: dict[int, list[int]] = {node: [] for node in range(8)}
    for start, end in edges:
        successors[start].append(end)
    reached = {node: {node} for node in successors}
    for _ in successors:
        for node, following in successors.items():
            reached[node] = reached[node].union(*(reached[one] for one in following))
    found = components(successors, successors)
    assert sorted(node for one in found for node in one) == list(range(8))
    for i, one in enumerate(found):
        for node in one:
            assert {other for other in reached[node] if node in reached[other]} == set(one)
            assert not any(reached[node].intersection(later) for later in found[i + 1 :])
