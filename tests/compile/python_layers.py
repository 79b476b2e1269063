"""Python layers that the tests use, as a module ``mine``, and nets of one such layer."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

X = input_layer("x", 5, 3, 2)
Y = input_layer("y", 5, 3, 2)
KEY = jax.random.key(2)

LAYERS = '''
import random

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


class Growing(InPlace):
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


class Failing(InPlace):
    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        raise RuntimeError("the sensor is off")


class FailingBackward(InPlace):
    def backward(self, top, propagate_down, bottom):
        raise KeyError("scale")


class Misshapen(InPlace):
    def backward(self, top, propagate_down, bottom):
        bottom[0].reshape(3, 5, 2)


class Noise(jaffe.PythonLayer):
    """Multiplies by numbers drawn in forward, and by parameters drawn in setup."""

    def setup(self, bottom, top):
        self.blobs.add_blob(2)
        self.blobs[0].data[...] = np.random.randn(2)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.factor = np.random.randn(*bottom[0].shape) + random.random()
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff


class Late(jaffe.PythonLayer):
    """Adds its parameter in reshape, where it reads another, added in setup."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 1 / 3

    def reshape(self, bottom, top):
        self.seen = self.blobs[0].data.copy()
        if len(self.blobs) == 1:
            self.blobs.add_blob(*bottom[0].shape[1:])
            self.blobs[1].data[...] = 7
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[1].data + self.seen

    def backward(self, top, propagate_down, bottom):
        self.blobs[1].diff[...] = (top[0].diff * bottom[0].data).sum(0)


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


def summed(x):
    return x.sum(0)


summed.backward = lambda x, d_top: np.broadcast_to(d_top, (1, *x.shape))
short = lambda x: x
short.backward = lambda x, d_top: (d_top, d_top)


def reading():
    MADE.append("read")
    return np.zeros(3)


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
