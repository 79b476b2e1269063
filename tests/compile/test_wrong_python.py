"""Python layers: what is refused, and how it is said."""

from __future__ import annotations

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, SpecError, resolve
from jaffe.netdef.errors import of_callbacks
from tests.compile.python_layers import X, feeds, modules, net_of  # noqa: F401
from tests.nets.case import input_layer


def test_refused_before_anything_is_imported(modules):  # noqa: F811
    ran = modules / "ran"
    with pytest.raises(SpecError) as caught:
        net_of("Anything", module="hostile", python_modules=())
    assert str(caught.value) == (
        "layer 'l' (<text>:2): runs Python code, 'Anything' of module 'hostile': to allow it, give "
        "python_modules=['hostile'] (--python-module hostile); found it in no such list"
    )
    two = X + "".join(
        f'layer {{ name: "{module}" type: "Python" bottom: "x" top: "{module}" '
        f'python_param {{ module: "{module}" layer: "f" }} }}\n' for module in ("hostile", "os.path")
    )
    with pytest.raises(SpecError, match=r"layer 'os.path' \(<text>:3\): runs Python code"):
        compile_net(two, python_modules=["hostile"])  # allowed, but the net as a whole is not
    with pytest.raises(SpecError, match="runs Python code"):
        compile_net(two, python_modules=["hostile.py", "host", ""])
    graph = resolve(two)
    with pytest.raises(SpecError, match="runs Python code"):
        jaffe.compile.layer.make_layer(graph.nodes[1]).shapes([(5, 3, 2)])
    assert not ran.exists()
    assert "hostile" not in sys.modules
    with pytest.raises(SpecError, match="has no 'Anything'"):
        net_of("Anything", module="hostile")
    assert ran.exists()


ADAPT = "expected `import jaffe` in place of `import caffe`, and jaffe.PythonLayer in place of caffe.Layer"

# name: (arguments of net_of, message)
WRONG = {
    "caffe": (dict(layer="L", module="old"), f"module 'old' imports caffe: {ADAPT}"),
    "foreign": (dict(layer="Foreign"), f"class 'Foreign' of module 'mine' does not derive from jaffe.PythonLayer: "
                                       f"{ADAPT}"),
    "no_module": (dict(layer="L", module="nowhere"), "there is no module 'nowhere': expected it on Python's path "
                                                     "(PYTHONPATH=FOLDER)"),
    "no_submodule": (dict(layer="L", module="mine.deep"), "there is no module 'mine.deep': expected it on Python's "
                                                          "path (PYTHONPATH=FOLDER)"),
    "broken": (dict(layer="L", module="broken"), "module 'broken' cannot be imported: ZeroDivisionError: division by "
                                                 "zero"),
    "lacking": (dict(layer="L", module="lacking"), "module 'lacking' cannot be imported: No module named "
                                                   "'no_such_library'"),
    "misspelt": (dict(layer="EuclideanLos"), "module 'mine' has no 'EuclideanLos'; did you mean 'EuclideanLoss'?"),
    "number": (dict(layer="NUMBER"), "'NUMBER' of module 'mine': expected a class that derives from "
                                     "jaffe.PythonLayer, or a function; found int"),
    "no_layer": (dict(layer=""), "expected module and layer in python_param; found none"),
    "setup": (dict(layer="EuclideanLoss"), "mine.EuclideanLoss failed on bottoms of shape (5, 3, 2): Exception: Need "
                                           "two inputs to compute distance."),
    "reshape": (dict(layer="EuclideanLoss", bottoms="x y", inputs=X + input_layer("y", 7)),
                "mine.EuclideanLoss failed on bottoms of shape (5, 3, 2), (7,): Exception: Inputs must have the same "
                "dimension."),
    "data": (dict(layer="Data", bottoms=""), "mine.Data has neither bottoms nor parameters: a layer that reads data "
             "keeps its place between calls, which is not supported; expected an Input layer, or Solver(data=...), "
             "fed by that code"),
    "tops": (dict(layer="cube", tops="a b"), "mine.cube returns 1 tops; found 2"),
    "settings": (dict(layer="cube", extra="relu_param { }"), "Python does not read relu_param; expected python_param"),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str):
    arguments, message = WRONG[name]
    with pytest.raises(SpecError) as caught:
        net_of(**arguments)
    line = 1 + str(arguments.get("inputs", X)).count("\n")
    assert str(caught.value) == f"layer 'l' (<text>:{line}): {message}"


@pytest.mark.parametrize(("layer", "message"), [
    ("cube", "mine.cube has no gradient: the function has no attribute backward; expected one, or propagate_down: "
             "false"),
    ("Phase", "mine.Phase has no gradient: the class has no method backward; expected one, or propagate_down: false"),
])
def test_no_gradient(layer: str, message: str):
    tops = "a b" if layer == "Phase" else "a"
    net = net_of(layer, tops=tops)
    with pytest.raises(SpecError) as caught:
        jax.grad(lambda x: net.apply({}, {"x": x})[0]["a"].sum())(feeds(net)["x"])
    assert str(caught.value) == f"layer 'l' (<text>:2): {message}"
    stopped = net_of(layer, tops=tops, extra="propagate_down: false")
    assert not jax.grad(lambda x: stopped.apply({}, {"x": x})[0]["a"].sum())(feeds(net)["x"]).any()


GRADIENT = "a gradient of shape {}; expected (5, 3, 2)"
# layer: what is said while it runs
RUNNING = {
    "Failing": "mine.Failing failed in forward on bottoms of shape (5, 3, 2): RuntimeError: the sensor is off",
    "FailingBackward": "mine.FailingBackward failed in backward on bottoms of shape (5, 3, 2): KeyError: 'scale'",
    "Growing": "mine.Growing gives tops of shape [(2,)] in forward; expected [(1,)], as found from the shapes of the "
               "bottoms alone",
    "Misshapen": "the backward of mine.Misshapen gives bottom 'x' " + GRADIENT.format((3, 5, 2)),
    "summed": "the backward of mine.summed gives bottom 'x' " + GRADIENT.format((1, 5, 3, 2)),
    "short": "the backward of mine.short returns 2 gradients; expected one for each of 1 bottoms",
}


@pytest.mark.parametrize("layer", RUNNING)
def test_what_fails_while_it_runs_names_the_layer(layer: str):
    net = net_of(layer, extra="loss_weight: 1")
    run = jax.grad if "backward" in RUNNING[layer] else lambda forward: forward
    step = jax.jit(run(lambda inputs: net.loss({}, inputs)[0]))
    message = f"layer 'l' (<text>:2): {RUNNING[layer]}"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        jax.block_until_ready(step({"x": jnp.zeros((5, 3, 2))}))
    with pytest.raises(SpecError) as caught, of_callbacks():
        jax.block_until_ready(step({"x": jnp.zeros((5, 3, 2))}))
    assert str(caught.value) == message
    assert (caught.value.layer, caught.value.location) == ("l", "<text>:2")


def test_the_solver_names_the_layer():
    net = """
    layer { name: "d" type: "MemoryData" top: "data" top: "label"
            memory_data_param { batch_size: 5 channels: 2 height: 1 width: 3 } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
    layer { name: "l" type: "Python" bottom: "ip" top: "loss" loss_weight: 1
            python_param { module: "mine" layer: "LAYER" } include { phase: PHASE } }
    layer { name: "zero" type: "Reduction" bottom: "ip" top: "zero" loss_weight: 1 }
    """
    data = {"data": np.ones((7, 2, 1, 3), np.float32), "label": np.zeros(7)}
    for layer, phase in (("FailingBackward", "TRAIN"), ("Failing", "TEST")):
        job = jaffe.Solver(net=net.replace("LAYER", layer).replace("PHASE", phase), data=data, base_lr=0.1,
                           lr_policy="fixed", max_iter=2, test_iter=[1], test_interval=1, python_modules=["mine"])
        with pytest.raises(SpecError, match=rf"^layer 'l' \(<text>:5\): mine.{layer} failed in "):
            job.step(2)


def test_functions_without_bottoms_are_not_called():
    with pytest.raises(SpecError, match=r"mine.reading has neither bottoms nor parameters"):
        net_of("reading", "")
    assert sys.modules["mine"].MADE == []


@pytest.mark.parametrize("names", ["mine", None, 5, [5]])
def test_modules_are_a_list(names):
    with pytest.raises(JaffeError) as caught:
        net_of("cube", python_modules=names)
    assert str(caught.value) == f"python_modules is a list of names; received {names!r}"


def test_modules_may_come_one_by_one():
    assert net_of("cube", python_modules=(name for name in ["other", "mine"])).shape("t") == (5, 3, 2)
