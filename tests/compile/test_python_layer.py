"""Layers of the caller's own Python: values and gradients, transformations, and what is refused."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, SpecError, resolve
from jaffe.train.timing import time_layers
from tests.nets.case import input_layer, one

X = input_layer("x", 5, 3, 2)
Y = input_layer("y", 5, 3, 2)
KEY = jax.random.key(2)

LAYERS = '''
import jaffe
import numpy as np

MADE = []


class EuclideanLoss(jaffe.PythonLayer):
    """As the example of Caffe: keeps the difference from forward for backward."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = sign * self.diff / bottom[i].num * top[0].diff[0]


class Affine(jaffe.PythonLayer):
    """With learned parameters: a x + b, b one a channel."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs.add_blob(bottom[0].channels)
        self.blobs[0].data[...] = eval(self.param_str)["a"]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        shift = self.blobs[1].data.reshape(1, -1, 1)
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data + shift

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] = (top[0].diff * bottom[0].data).sum()
        self.blobs[1].diff[...] = top[0].diff.sum((0, 2))
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


class Label(jaffe.PythonLayer):
    """Loss that refuses a gradient for its labels, as many do."""

    def reshape(self, bottom, top):
        top[0].reshape(*[])

    def forward(self, bottom, top):
        top[0].data[...] = (bottom[0].data * bottom[1].data).sum()

    def backward(self, top, propagate_down, bottom):
        assert propagate_down == [True, False], propagate_down
        bottom[0].diff[...] = top[0].diff * bottom[1].data


class Parameter(jaffe.PythonLayer):
    """No bottoms, one learned value."""

    def setup(self, bottom, top):
        self.blobs.add_blob(3)
        self.blobs[0].data[...] = [1, 2, 3]

    def reshape(self, bottom, top):
        top[0].reshape(3)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] = top[0].diff


class InPlace(jaffe.PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        bottom[0].data[...] *= 3

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] *= 3


class Phase(jaffe.PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(1)
        top[1].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...], top[1].data[...] = self.phase, len(self.param_str)


class Growing(jaffe.PythonLayer):
    """Its top depends on values."""

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].reshape(int(bottom[0].data.flat[0]) + 2)


class Counting(jaffe.PythonLayer):
    """Counts its objects and calls."""

    def setup(self, bottom, top):
        MADE.append("setup")
        self.calls = 0

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.calls += 1
        top[0].data[...] = self.calls


class Failing(jaffe.PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        raise RuntimeError("the sensor is off")


class Data(jaffe.PythonLayer):
    def reshape(self, bottom, top):
        top[0].reshape(3)


class Foreign:
    pass


def cube(x):
    return x**3


def scaled(x, y, param_str):
    return float(param_str) * x * y, x.sum(0)


def _scaled_gradients(x, y, d_product, d_sum):
    return 2.0 * y * d_product + d_sum, None


scaled.backward = _scaled_gradients
NUMBER = 7
'''


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """The module ``mine``, and others, where Python finds them; forgotten afterwards."""
    files = {
        "mine": LAYERS,
        "old": "import caffe\nclass L(caffe.Layer): pass\n",
        "broken": "1 / 0\n",
        "lacking": "import no_such_library\n",
        "hostile": f"open({str(tmp_path / 'ran')!r}, 'w').close()\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in files:
        sys.modules.pop(name, None)


def net_of(layer: str, bottoms: str = "x", tops: str = "t", *, inputs: str = X, extra: str = "", module: str = "mine",
           param_str: str = "", **options):
    settings = f'python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }} {extra}'
    options.setdefault("python_modules", [module])
    return compile_net(one("Python", settings, bottoms, tops, inputs), **options)


def feeds(net, seed: int = 0):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(random.normal(size=spec.shape), net.dtype) for name, spec in net.inputs.items()}


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_loss_is_the_built_in_one(weight: float):
    own = net_of("EuclideanLoss", "x y", inputs=X + Y, extra=f"loss_weight: {weight}")
    shipped = compile_net(one("EuclideanLoss", f"loss_weight: {weight}", "x y", inputs=X + Y))
    assert own.shape("t") == (1,)
    inputs = feeds(own)
    found, expected = (
        jax.jit(jax.value_and_grad(lambda x, net=net: net.loss({}, x)[0]))(inputs) for net in (own, shipped)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for name in ("x", "y"):
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=1e-6)


def test_it_is_no_loss_by_itself():
    with pytest.raises(JaffeError, match="has no loss"):
        net_of("EuclideanLoss", "x y", inputs=X + Y).loss({}, {})


def test_learned_parameters():
    net = net_of("Affine", param_str="{'a': 2.5}", extra="param { } param { lr_mult: 2 }")
    variables, inputs = net.init(KEY), feeds(net)
    assert jax.tree.map(np.ravel, variables["params"])["l"]["blob0"] == 2.5
    variables["params"]["l"]["blob1"] = jnp.array([1.0, -1.0, 0.5])
    outputs, _ = net.apply(variables, inputs)
    np.testing.assert_allclose(outputs["t"], 2.5 * inputs["x"] + np.array([1, -1, 0.5])[:, None], rtol=1e-6)
    assert [stored.lr_mult for stored in net.stored["l"]] == [1, 2]
    assert net.cost().params == 4
    weights = np.random.default_rng(1).normal(size=(5, 3, 2))

    def value(params, x):
        return (net.apply({"params": params, "state": {}}, {"x": x})[0]["t"] * weights).sum()

    d_params, d_x = jax.grad(value, (0, 1))(variables["params"], inputs["x"])
    np.testing.assert_allclose(d_params["l"]["blob0"], [(weights * inputs["x"]).sum()], rtol=1e-5)
    np.testing.assert_allclose(d_params["l"]["blob1"], weights.sum((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(d_x, 2.5 * weights, rtol=1e-6)


def test_parameter_without_bottoms():
    net = net_of("Parameter", "", inputs=X)
    variables = net.init(KEY)
    np.testing.assert_array_equal(net.apply(variables, feeds(net))[0]["t"], [1, 2, 3])
    gradient = jax.grad(lambda v: (net.apply(v, feeds(net))[0]["t"] * jnp.array([5.0, 7, 11])).sum())(variables)
    np.testing.assert_array_equal(gradient["params"]["l"]["blob0"], [5, 7, 11])


def test_jit_and_vmap():
    net = net_of("Affine", param_str="{'a': 2}")
    variables = net.init(KEY)
    several = [feeds(net, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several)

    def value(inputs):
        return (net.apply(variables, inputs)[0]["t"] ** 2).sum()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(value)))(stacked)
    for i, inputs in enumerate(several):
        np.testing.assert_allclose(values[i], value(inputs), rtol=1e-6)
        np.testing.assert_allclose(gradients["x"][i], 8 * inputs["x"], rtol=1e-6)


def test_float64():
    with jax.enable_x64(True):
        net = net_of("Affine", param_str="{'a': 3}", dtype=jnp.float64)
        variables, inputs = net.init(KEY), feeds(net)
        outputs, _ = net.apply(variables, inputs)
        assert outputs["t"].dtype == jnp.float64
        np.testing.assert_allclose(outputs["t"], 3 * inputs["x"], rtol=1e-15)


def test_propagate_down_says_what_is_needed():
    net = net_of("Label", "x y", inputs=X + Y)
    inputs = feeds(net)
    gradient = jax.grad(lambda x: net.apply({}, {**inputs, "x": x})[0]["t"])(inputs["x"])
    np.testing.assert_allclose(gradient, inputs["y"])
    stopped = net_of("Label", "x y", inputs=X + Y, extra="propagate_down: true propagate_down: false")
    gradient = jax.grad(lambda inputs: stopped.apply({}, inputs)[0]["t"])(inputs)
    np.testing.assert_allclose(gradient["x"], inputs["y"])
    assert not gradient["y"].any()


def test_in_place_is_one_blob():
    net = net_of("InPlace", tops="x")
    inputs = feeds(net)
    np.testing.assert_allclose(net.apply({}, inputs)[0]["x"], 3 * inputs["x"])
    gradient = jax.grad(lambda inputs: net.apply({}, inputs)[0]["x"].sum())(inputs)
    np.testing.assert_allclose(gradient["x"], 3)


def test_functions():
    net = net_of("scaled", "x y", "p s", inputs=X + Y, param_str="2")
    assert (net.shape("p"), net.shape("s")) == ((5, 3, 2), (3, 2))
    inputs = feeds(net)
    outputs, _ = jax.jit(net.apply)({}, inputs)
    np.testing.assert_allclose(outputs["p"], 2 * inputs["x"] * inputs["y"], rtol=1e-6)
    np.testing.assert_allclose(outputs["s"], inputs["x"].sum(0), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda inputs: sum(top.sum() for top in net.apply({}, inputs)[0].values()))(inputs)
    np.testing.assert_allclose(gradient["x"], 2 * inputs["y"] + 1, rtol=1e-6)
    assert not gradient["y"].any()  # None
    tanh = net_of("tanh", module="numpy")
    np.testing.assert_allclose(tanh.apply({}, inputs={"x": inputs["x"]})[0]["t"], np.tanh(inputs["x"]), rtol=1e-6)


@pytest.mark.parametrize(("phase", "number"), [("TRAIN", 0), ("TEST", 1)])
def test_phase_and_text(phase: str, number: int):
    net = net_of("Phase", tops="a b", phase=phase, param_str="four")
    outputs, _ = net.apply({}, feeds(net))
    assert (outputs["a"], outputs["b"]) == (number, 4)


def test_every_call_has_a_fresh_object():
    net = net_of("Counting")
    import mine

    net.apply({}, feeds(net))
    mine.MADE.clear()
    assert [float(net.apply({}, feeds(net))[0]["t"][0]) for _ in range(3)] == [1, 1, 1]
    assert mine.MADE == ["setup"] * 3


def test_other_batch():
    net = net_of("Affine", param_str="{'a': 2}")
    outputs, _ = net.apply(net.init(KEY), {"x": np.ones((7, 3, 2))})
    assert outputs["t"].shape == (7, 3, 2)
    assert (outputs["t"] == 2).all()


def test_large_blobs_do_not_wait_for_each_other():
    """The host copies that a callback makes must not need the thread that the callback holds."""
    double = 'layer {{ name: "{0}" type: "Python" bottom: "{1}" top: "{0}" ' \
             'python_param {{ module: "mine" layer: "Affine" param_str: "{{\'a\': 2}}" }} }}\n'
    net = compile_net(input_layer("x", 64, 3, 10007) + double.format("a", "x") + double.format("b", "a"),
                      python_modules=["mine"])
    variables, inputs = net.init(KEY), {"x": jnp.ones((64, 3, 10007))}
    step = jax.jit(jax.value_and_grad(lambda v: net.apply(v, inputs)[0]["b"].mean()))
    pending = [step(variables) for _ in range(4)]
    assert all(float(value) == 4 for value, _ in pending)


def test_solver_and_snapshot(tmp_path):
    text = '''
    layer { name: "d" type: "MemoryData" top: "data" top: "label"
            memory_data_param { batch_size: 5 channels: 2 height: 1 width: 3 } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
            inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
    layer { name: "label" type: "Reshape" bottom: "label" top: "y" reshape_param { shape { dim: 0 dim: 1 } } }
    layer { name: "loss" type: "LOSS" bottom: "ip" bottom: "y" top: "loss" PARAM loss_weight: 1 }
    '''
    random = np.random.default_rng(0)
    data = {"data": random.normal(size=(23, 2, 1, 3)).astype(np.float32), "label": random.integers(0, 3, 23)}
    losses = []
    for kind, param in (("Python", 'python_param { module: "mine" layer: "EuclideanLoss" }'), ("EuclideanLoss", "")):
        job = jaffe.Solver(net=text.replace("LOSS", kind, 1).replace("PARAM", param), data=data, base_lr=0.05,
                           momentum=0.9, lr_policy="fixed", max_iter=12, test_iter=[2], test_interval=6,
                           random_seed=3, python_modules=["mine"])
        losses.append(job.step(12))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_refused_before_anything_is_imported(modules):
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


@pytest.mark.parametrize(("layer", "message"), [
    ("Failing", "the sensor is off"),
    ("Growing", r"layer 'l': mine.Growing gives tops of shape \[\(2,\)\] in forward; expected \[\(1,\)\]"),
])
def test_what_fails_while_it_runs_says_why(layer: str, message: str, caplog):
    net = net_of(layer)
    with pytest.raises(Exception, match=message):
        jax.jit(net.apply)({}, {"x": jnp.zeros((5, 3, 2))})[0]["t"].block_until_ready()


def test_a_layer_without_gradient_is_timed_forward():
    timings = {name: time_layers(net_of(name, param_str="{'a': 2}"), 1)[0] for name in ("cube", "Affine")}
    assert timings["cube"].forward > 0
    assert timings["cube"].backward is None
    assert timings["Affine"].backward is not None


def test_modules_are_a_list():
    with pytest.raises(JaffeError) as caught:
        net_of("cube", python_modules="mine")
    assert str(caught.value) == "python_modules is a list of names; received 'mine'"


def test_export_is_refused_by_jax():
    net = net_of("cube")
    with pytest.raises(NotImplementedError, match="callback"):
        jax.export.export(jax.jit(net.apply))({}, feeds(net)).serialize()


def test_blobs():
    blob = jaffe.compile.layers.python.Blob(np.ones((2, 3), np.float32))
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count, blob.shape) == (2, 3, 1, 1, 6, (2, 3))
    blob.reshape(2, 3)
    assert blob.data.all()
    blob.reshape(3, 1, 2, 2, 5)
    assert (blob.data.shape, blob.diff.shape, blob.data.any()) == ((3, 1, 2, 2, 5), (3, 1, 2, 2, 5), False)
    with pytest.raises(ValueError, match="at most 4 axes"):
        _ = blob.num
    with pytest.raises(ValueError, match=r"sizes are positive; received \(0,\)"):
        blob.reshape(0)
    with pytest.raises(AttributeError):
        blob.data = 1
