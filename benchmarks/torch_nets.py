"""The nets in PyTorch. Layers, sizes and groups are those of ``jaffe.zoo``; GoogLeNet has its auxiliary classifiers in
training only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def conv_relu(width: int, *arguments: Any, **settings: Any) -> list[nn.Module]:
    return [nn.LazyConv2d(width, *arguments, **settings), nn.ReLU(inplace=True)]


def conv_bn_relu(width: int, *arguments: Any, **settings: Any) -> list[nn.Module]:
    return [nn.LazyConv2d(width, *arguments, bias=False, **settings), nn.LazyBatchNorm2d(), nn.ReLU(inplace=True)]


def max_pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def avg_pool() -> nn.Module:
    return nn.AvgPool2d(3, 2, ceil_mode=True)


def lrn() -> nn.Module:
    return nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)


def mean() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class LRNWithin(nn.Module):
    """Within channels, 3x3."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + 5e-5 * nn.functional.avg_pool2d(x * x, 3, 1, 1)) ** 0.75


class Branches(nn.Module):
    """Branches of one input, joined along the channels."""

    def __init__(self, *branches: Sequence[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(20, 5), nn.MaxPool2d(2), nn.LazyConv2d(50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.LazyLinear(500), nn.ReLU(inplace=True), nn.LazyLinear(10),
    )


def cifar10_full() -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(32, 5, padding=2), max_pool(), nn.ReLU(inplace=True), LRNWithin(),
        *conv_relu(32, 5, padding=2), avg_pool(), LRNWithin(),
        *conv_relu(64, 5, padding=2), avg_pool(), nn.Flatten(), nn.LazyLinear(10),
    )


def caffenet() -> nn.Module:
    return nn.Sequential(
        *conv_relu(96, 11, 4), max_pool(), lrn(),
        *conv_relu(256, 5, padding=2, groups=2), max_pool(), lrn(),
        *conv_relu(384, 3, padding=1),
        *conv_relu(384, 3, padding=1, groups=2),
        *conv_relu(256, 3, padding=1, groups=2), max_pool(), nn.Flatten(),
        nn.LazyLinear(4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.LazyLinear(4096), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.LazyLinear(1000),
    )


def inception(ones: int, reduce3: int, threes: int, reduce5: int, fives: int, projection: int) -> nn.Module:
    return Branches(
        conv_relu(ones, 1),
        [*conv_relu(reduce3, 1), *conv_relu(threes, 3, padding=1)],
        [*conv_relu(reduce5, 1), *conv_relu(fives, 5, padding=2)],
        [nn.MaxPool2d(3, 1, 1), *conv_relu(projection, 1)],
    )


def auxiliary() -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(5, 3), *conv_relu(128, 1), nn.Flatten(),
        nn.LazyLinear(1024), nn.ReLU(inplace=True), nn.Dropout(0.7), nn.LazyLinear(1000),
    )


class GoogLeNet(nn.Module):
    """Scores; with auxiliary classifiers, theirs too."""

    def __init__(self, heads: bool):
        super().__init__()
        self.to_4a = nn.Sequential(
            *conv_relu(64, 7, 2, 3), max_pool(), lrn(),
            *conv_relu(64, 1), *conv_relu(192, 3, padding=1), lrn(), max_pool(),
            inception(64, 96, 128, 16, 32, 32), inception(128, 128, 192, 32, 96, 64), max_pool(),
            inception(192, 96, 208, 16, 48, 64),
        )
        self.to_4d = nn.Sequential(
            inception(160, 112, 224, 24, 64, 64), inception(128, 128, 256, 24, 64, 64),
            inception(112, 144, 288, 32, 64, 64),
        )
        self.to_scores = nn.Sequential(
            inception(256, 160, 320, 32, 128, 128), max_pool(),
            inception(256, 160, 320, 32, 128, 128), inception(384, 192, 384, 48, 128, 128),
            nn.AvgPool2d(7, 1), nn.Dropout(0.4), nn.Flatten(), nn.LazyLinear(1000),
        )
        self.heads = nn.ModuleList([auxiliary(), auxiliary()] if heads else [])

    def forward(self, x: Tensor) -> Any:
        four_a = self.to_4a(x)
        four_d = self.to_4d(four_a)
        scores = self.to_scores(four_d)
        heads = [head(value) for head, value in zip(self.heads, (four_a, four_d), strict=False)]
        return (scores, *heads) if heads else scores


def fire(squeeze: int, expand: int) -> list[nn.Module]:
    return [*conv_relu(squeeze, 1), Branches(conv_relu(expand, 1), conv_relu(expand, 3, padding=1))]


def squeezenet() -> nn.Module:
    return nn.Sequential(
        *conv_relu(64, 3, 2), max_pool(),
        *fire(16, 64), *fire(16, 64), max_pool(),
        *fire(32, 128), *fire(32, 128), max_pool(),
        *fire(48, 192), *fire(48, 192), *fire(64, 256), *fire(64, 256),
        nn.Dropout(0.5), *conv_relu(1000, 1), *mean(),
    )


class Residual(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*conv_bn_relu(width, 3, stride, 1), *conv_bn_relu(width, 3, 1, 1)[:-1])
        self.shortcut = nn.Sequential(*(conv_bn_relu(width, 1, stride)[:-1] if stride > 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)


def resnet18() -> nn.Module:
    blocks = [Residual(width, 2 if width > 64 and not i else 1) for width in (64, 128, 256, 512) for i in range(2)]
    return nn.Sequential(*conv_bn_relu(64, 7, 2, 3), max_pool(), *blocks, *mean(), nn.LazyLinear(1000))


def mobilenet() -> nn.Module:
    layers, last = conv_bn_relu(32, 3, 2, 1), 32
    for stride, width in ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024),
                          (1, 1024)):
        layers += [*conv_bn_relu(last, 3, stride, 1, groups=last), *conv_bn_relu(width, 1)]
        last = width
    return nn.Sequential(*layers, *mean(), nn.LazyLinear(1000))


class CharLSTM(nn.Module):
    """Symbols (T, N) to scores (T, N, 128). Begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.scores = nn.Embedding(128, 256), nn.LSTM(256, 256), nn.Linear(256, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.lstm(self.embed(x))[0])


def make(name: str, train: bool) -> nn.Module:
    """The net of that name of ``benchmarks.nets``. The sizes of its inputs are found in its first pass."""
    return GoogLeNet(heads=train) if name == "googlenet" else NETS[name]()


NETS = {
    "lenet": lenet, "cifar10_full": cifar10_full, "caffenet": caffenet, "squeezenet1_1": squeezenet,
    "resnet18": resnet18, "mobilenet": mobilenet, "char_lstm": CharLSTM,
}
