"""The nets in Flax Linen, NHWC, as its users write them.

Layers, sizes and groups are those of ``jaffe.zoo``. ``train`` turns on dropout, statistics of the batch, and the
auxiliary classifiers of GoogLeNet. Pools that Caffe rounds up are padded ``"SAME"``: the same windows, here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array


def lrn(x: Array) -> Array:
    """Across channels, 5 of them: x / (1 + alpha / 5 sum x^2)^beta."""
    squares = lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), "SAME")
    return x / (1 + 1e-4 / 5 * squares) ** 0.75


def lrn_within(x: Array) -> Array:
    """Within channels, 3x3."""
    return x / (1 + 5e-5 * nn.avg_pool(x * x, (3, 3), padding="SAME")) ** 0.75


def max_pool(x: Array, padding: str = "SAME") -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), padding)


def avg_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False)


def flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


class Net(nn.Module):
    """A net that computes in ``dtype``; weights stay float32."""

    dtype: Any = jnp.float32
    classes: int = 1000

    def conv(self, x: Array, width: int, kernel: int, stride: int = 1, pad: int = 0, **settings: Any) -> Array:
        return nn.Conv(width, (kernel, kernel), stride, pad, dtype=self.dtype, **settings)(x)

    def conv_relu(self, *arguments: Any, **settings: Any) -> Array:
        return nn.relu(self.conv(*arguments, **settings))

    def conv_bn(self, x: Array, train: bool, *arguments: Any, **settings: Any) -> Array:
        x = self.conv(x, *arguments, use_bias=False, **settings)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)

    def dense(self, x: Array, width: int) -> Array:
        return nn.Dense(width, dtype=self.dtype)(x)

    def dropout(self, x: Array, rate: float, train: bool) -> Array:
        return nn.Dropout(rate, deterministic=not train)(x)


class LeNet(Net):
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.max_pool(self.conv(x, 20, 5), (2, 2), (2, 2))
        x = nn.max_pool(self.conv(x, 50, 5), (2, 2), (2, 2))
        return self.dense(nn.relu(self.dense(flat(x), 500)), self.classes)


class CIFAR10Full(Net):
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = lrn_within(nn.relu(max_pool(self.conv(x, 32, 5, pad=2))))
        x = lrn_within(avg_pool(self.conv_relu(x, 32, 5, pad=2)))
        return self.dense(flat(avg_pool(self.conv_relu(x, 64, 5, pad=2))), self.classes)


class CaffeNet(Net):
    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = lrn(max_pool(self.conv_relu(x, 96, 11, stride=4), "VALID"))
        x = lrn(max_pool(self.conv_relu(x, 256, 5, pad=2, feature_group_count=2), "VALID"))
        x = self.conv_relu(x, 384, 3, pad=1)
        x = self.conv_relu(x, 384, 3, pad=1, feature_group_count=2)
        x = flat(max_pool(self.conv_relu(x, 256, 3, pad=1, feature_group_count=2), "VALID"))
        for _ in range(2):
            x = self.dropout(nn.relu(self.dense(x, 4096)), 0.5, train)
        return self.dense(x, self.classes)


class GoogLeNet(Net):
    def inception(
        self, x: Array, ones: int, reduce3: int, threes: int, reduce5: int, fives: int, projection: int
    ) -> Array:
        return jnp.concatenate([
            self.conv_relu(x, ones, 1),
            self.conv_relu(self.conv_relu(x, reduce3, 1), threes, 3, pad=1),
            self.conv_relu(self.conv_relu(x, reduce5, 1), fives, 5, pad=2),
            self.conv_relu(nn.max_pool(x, (3, 3), (1, 1), "SAME"), projection, 1),
        ], axis=-1)

    def auxiliary(self, x: Array, train: bool) -> Array:
        x = flat(self.conv_relu(nn.avg_pool(x, (5, 5), (3, 3)), 128, 1))
        return self.dense(self.dropout(nn.relu(self.dense(x, 1024)), 0.7, train), self.classes)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Any:
        x = lrn(max_pool(self.conv_relu(x, 64, 7, stride=2, pad=3)))
        x = max_pool(lrn(self.conv_relu(self.conv_relu(x, 64, 1), 192, 3, pad=1)))
        x = self.inception(x, 64, 96, 128, 16, 32, 32)
        x = max_pool(self.inception(x, 128, 128, 192, 32, 96, 64))
        x = self.inception(x, 192, 96, 208, 16, 48, 64)
        heads = [self.auxiliary(x, train)] if train else []
        x = self.inception(x, 160, 112, 224, 24, 64, 64)
        x = self.inception(x, 128, 128, 256, 24, 64, 64)
        x = self.inception(x, 112, 144, 288, 32, 64, 64)
        heads += [self.auxiliary(x, train)] if train else []
        x = max_pool(self.inception(x, 256, 160, 320, 32, 128, 128))
        x = self.inception(x, 256, 160, 320, 32, 128, 128)
        x = self.inception(x, 384, 192, 384, 48, 128, 128)
        scores = self.dense(self.dropout(flat(nn.avg_pool(x, (7, 7))), 0.4, train), self.classes)
        return (scores, *heads) if train else scores


class SqueezeNet(Net):
    def fire(self, x: Array, squeeze: int, expand: int) -> Array:
        x = self.conv_relu(x, squeeze, 1)
        return jnp.concatenate([self.conv_relu(x, expand, 1), self.conv_relu(x, expand, 3, pad=1)], axis=-1)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = max_pool(self.conv_relu(x, 64, 3, stride=2), "VALID")
        x = max_pool(self.fire(self.fire(x, 16, 64), 16, 64))
        x = max_pool(self.fire(self.fire(x, 32, 128), 32, 128))
        for squeeze, expand in ((48, 192), (48, 192), (64, 256), (64, 256)):
            x = self.fire(x, squeeze, expand)
        return self.conv_relu(self.dropout(x, 0.5, train), self.classes, 1).mean((1, 2))


class ResNet18(Net):
    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = max_pool(nn.relu(self.conv_bn(x, train, 64, 7, 2, 3)))
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage and not block else 1
                y = nn.relu(self.conv_bn(x, train, width, 3, stride, 1))
                y = self.conv_bn(y, train, width, 3, 1, 1)
                x = nn.relu(y + (self.conv_bn(x, train, width, 1, stride) if stride > 1 else x))
        return self.dense(x.mean((1, 2)), self.classes)


class MobileNet(Net):
    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(self.conv_bn(x, train, 32, 3, 2, 1))
        for stride, width in ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024),
                              (1, 1024)):
            x = nn.relu(self.conv_bn(x, train, x.shape[-1], 3, stride, 1, feature_group_count=x.shape[-1]))
            x = nn.relu(self.conv_bn(x, train, width, 1))
        return self.dense(x.mean((1, 2)), self.classes)


class CharLSTM(Net):
    """Symbols (T, N) to scores (T, N, classes). Begins at zero."""

    classes: int = 128
    units: int = 256

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.Embed(self.classes, self.units, dtype=self.dtype)(x)
        x = nn.RNN(nn.OptimizedLSTMCell(self.units, dtype=self.dtype), time_major=True)(x)
        return self.dense(x, self.classes)


NETS = {
    "lenet": LeNet, "cifar10_full": CIFAR10Full, "caffenet": CaffeNet, "googlenet": GoogLeNet,
    "squeezenet1_1": SqueezeNet, "resnet18": ResNet18, "mobilenet": MobileNet, "char_lstm": CharLSTM,
}
