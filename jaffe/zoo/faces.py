"""Nets for faces: Light CNN, DeepFace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, gaussian, images

_LIGHT = "Wu, He, Sun, Tan 2018 (arXiv 1511.02683), A light CNN for deep face representation with noisy labels"
_LIGHT_INPUT = "128x128, grey, scaled to [0, 1); aligned by eyes and mouth"
_LIGHT_SOURCE = "LFW, trained on CASIA-WebFace; README of github.com/AlfredXiangWu/face_verification_experiment"
_FILLED = {"weight_filler": {"type": "xavier"}, "bias_filler": {"type": "constant", "value": 0.1}}


@published(
    title="Light CNN-4", task="faces", paper=_LIGHT, input=_LIGHT_INPUT,
    accuracy=[Figure("97.77 %", f"model A; {_LIGHT_SOURCE}")],
)
def light_cnn4(
    *, shape: Sequence[int] = (1, 128, 128), classes: int = 10575, batch: int = 20, test_batch: int = 20,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Light CNN with four convolutions, each followed by Max-Feature-Map: the greater of each two maps; 6,815,823
    parameters by default, 4,098,048 without the classifier of 10,575 people.

    ``eltwise6`` (batch, 256) is what a face is compared by. Source: model A of the authors' Caffe nets, which makes
    Max-Feature-Map of Slice and Eltwise; Maxout with two pieces is the same in one layer.

    Args:
        shape: (C, H, W) of a face.
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("LightCNN4")
    x, _ = images(n, shape, batch, test_batch, transform)
    for i, (maps, size) in enumerate([(96, 9), (192, 5), (256, 5), (384, 4)], 1):
        n[f"conv{i}"] = L.Convolution(x, num_output=maps, kernel_size=size, **_FILLED)
        n[f"pool{i}"] = max_pool(n[f"conv{i}"])
        x = _max_feature_map(n, n[f"pool{i}"], f"{i}")
    heavy = {"param": learned(lr=(1, 1), decay=(10, 10)), **_FILLED}
    n.fc1 = L.InnerProduct(x, num_output=512, **heavy)
    n.dropout1 = L.Dropout(_max_feature_map(n, n.fc1, "6", eltwise="eltwise6"), dropout_ratio=0.7)
    n.fc2 = L.InnerProduct(n.dropout1, num_output=classes, **heavy)
    classify(n, n.fc2)
    return n


@published(
    title="Light CNN-9", task="faces", paper=_LIGHT, input=_LIGHT_INPUT,
    accuracy=[Figure("98.13 %", f"model B; {_LIGHT_SOURCE}")],
)
def light_cnn9(
    *, shape: Sequence[int] = (1, 128, 128), classes: int = 10575, width: float = 1, batch: int = 20,
    test_batch: int = 20, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Light CNN with nine convolutions, each followed by Max-Feature-Map: the greater of each two maps; 8,198,639
    parameters by default, 5,480,864 without the classifier of 10,575 people.

    ``eltwise_fc1`` (batch, 256) is what a face is compared by. Source: model B of the authors' Caffe nets, which makes
    Max-Feature-Map of Slice and Eltwise; Maxout with two pieces is the same in one layer.

    Args:
        shape: (C, H, W) of a face.
        width: share of the maps, and of the numbers a face is compared by, that each layer has.
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("LightCNN9")
    x, _ = images(n, shape, batch, test_batch, transform)

    def doubled(maps: int) -> int:
        """Of which each two become one."""
        return 2 * max(1, round(width * maps / 2))

    def convolution(name: str, bottom: Top, maps: int, size: int) -> Top:
        n[f"conv{name}"] = L.Convolution(bottom, num_output=doubled(maps), kernel_size=size, pad=size // 2,
                                         param=learned(), **_FILLED)
        return _max_feature_map(n, n[f"conv{name}"], name)

    x = n.pool1 = max_pool(convolution("1", x, 96, 5))
    for i, (thin, maps, pool) in enumerate([(96, 192, 2), (192, 384, 3), (384, 256, 0), (256, 256, 4)], 2):
        x = convolution(f"{i}", convolution(f"{i}a", x, thin, 1), maps, 3)
        if pool:
            n[f"pool{pool}"] = x = max_pool(x)
    n.fc1 = L.InnerProduct(x, num_output=doubled(512), param=learned(), **_FILLED)
    n.drop1 = L.Dropout(_max_feature_map(n, n.fc1, "_fc1"), dropout_ratio=0.75, in_place=True)
    n.fc2 = L.InnerProduct(n.drop1, num_output=classes, **_FILLED)
    classify(n, n.fc2)
    return n


def _max_feature_map(n: NetSpec, bottom: Top, name: str, eltwise: str = "") -> Top:
    """The greater of the first and the second half of the maps; layers as published, ``etlwise`` included."""
    halves = L.Slice(bottom, ntop=2, name=f"slice{name}")
    n[f"slice{name}_1"], n[f"slice{name}_2"] = halves
    n[f"eltwise{name}"] = L.Eltwise(*halves, operation="MAX", name=eltwise or f"etlwise{name}")
    return n[f"eltwise{name}"]


@published(
    title="DeepFace", task="faces",
    paper="Taigman, Yang, Ranzato, Wolf 2014, DeepFace: closing the gap to human-level performance in face "
          "verification",
    input="152x152, RGB; aligned by a 3D model",
    accuracy=[Figure("97.35 %", "LFW, trained on 4.4 million images of 4,030 people; abstract")],
    params=Figure("120 M", "abstract: more than that", "layers of the sizes that are published sum up to 118,923,774"),
)
def deepface(
    *, shape: Sequence[int] = (3, 152, 152), classes: int = 4030, batch: int = 128, test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """DeepFace: two convolutions, then three locally connected layers, whose every place has weights of its own;
    118,923,774 parameters by default.

    ``F7`` (batch, 4096) is what a face is compared by. Source: Taigman et al. 2014.

    Args:
        shape: (C, H, W) of a face.
        transform: fields of ``transform_param``.
    """
    n = NetSpec("DeepFace")
    images(n, shape, batch, test_batch, transform)
    settled = gaussian(0.01, bias=0.5)
    n.C1 = L.Convolution(n.data, num_output=32, kernel_size=11, **settled)
    n.M2 = max_pool(L.ReLU(n.C1, in_place=True), kernel_size=3)
    n.C3 = L.Convolution(n.M2, num_output=16, kernel_size=9, **settled)
    x = L.ReLU(n.C3, in_place=True)
    for i, (size, stride) in enumerate([(9, 1), (7, 2), (5, 1)], 4):
        n[f"L{i}"] = L.LocallyConnected(x, num_output=16, kernel_size=size, stride=stride, **settled)
        x = L.ReLU(n[f"L{i}"], in_place=True)
    n.F7 = L.InnerProduct(x, num_output=4096, **settled)
    n.drop7 = L.Dropout(L.ReLU(n.F7, in_place=True), dropout_ratio=0.5, in_place=True)
    n.F8 = L.InnerProduct(n.drop7, num_output=classes, **settled)
    classify(n, n.F8)
    return n
