"""Nets of the ImageNet challenge: 1000 classes, colour images in BGR.

Layers are called as in the published files, so that published weights load by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import TRAIN, classify, images

_MSRA, _XAVIER = {"type": "msra"}, {"type": "xavier"}


@published(
    title="CaffeNet", task="classification",
    paper="Krizhevsky et al. 2012, with pooling before normalisation; Caffe's models/bvlc_reference_caffenet",
    input="227x227, BGR, 0 to 255 less the mean image",
    accuracy=[Figure("57.4 % top-1, 80.4 % top-5", "ImageNet, centre crop; Caffe's models/bvlc_reference_caffenet")],
)
def caffenet(
    *, classes: int = 1000, batch: int = 256, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """CaffeNet, AlexNet with pooling before normalisation: 227x227 images, 60,965,224 parameters for 1000 classes.

    Published: 57.4 % top-1, 80.4 % top-5 (centre crop). Source: Krizhevsky et al. 2012; Caffe's
    ``models/bvlc_reference_caffenet``.

    Args:
        transform: fields of ``transform_param``; the original subtracts the mean image from pixels 0 to 255, crops
            and mirrors.
    """
    n = NetSpec("CaffeNet")
    images(n, (3, 227, 227), batch, test_batch, transform)
    n.fc8 = L.InnerProduct(caffenet_features(n, n.data), num_output=classes, **_caffenet_filled(0.01, 0))
    classify(n, n.fc8)
    return n


def caffenet_features(n: NetSpec, data: Top, layers: Sequence[int] = (6, 7)) -> Top:
    """CaffeNet's layers from images up to fc7, or to fc6: (N, 3, 227, 227) -> (N, 4096)."""

    def convolution(i: int, bottom: Top, num_output: int, bias: float, **settings: Any) -> Top:
        n[f"conv{i}"] = L.Convolution(bottom, num_output=num_output, **settings, **_caffenet_filled(0.01, bias))
        n[f"relu{i}"] = L.ReLU(n[f"conv{i}"], in_place=True)
        return n[f"relu{i}"]

    def pool_norm(i: int, bottom: Top) -> Top:
        n[f"pool{i}"] = max_pool(bottom, kernel_size=3)
        n[f"norm{i}"] = _lrn(n[f"pool{i}"])
        return n[f"norm{i}"]

    x = pool_norm(1, convolution(1, data, 96, 0, kernel_size=11, stride=4))
    x = pool_norm(2, convolution(2, x, 256, 1, kernel_size=5, pad=2, group=2))
    x = convolution(3, x, 384, 0, kernel_size=3, pad=1)
    x = convolution(4, x, 384, 1, kernel_size=3, pad=1, group=2)
    x = convolution(5, x, 256, 1, kernel_size=3, pad=1, group=2)
    n.pool5 = x = max_pool(x, kernel_size=3)
    for i in layers:
        n[f"fc{i}"] = L.InnerProduct(x, num_output=4096, **_caffenet_filled(0.005, 1))
        n[f"relu{i}"] = L.ReLU(n[f"fc{i}"], in_place=True)
        n[f"drop{i}"] = x = L.Dropout(n[f"relu{i}"], dropout_ratio=0.5, in_place=True)
    return x


def _caffenet_filled(std: float, bias: float) -> dict[str, Any]:
    return {"param": learned(), "weight_filler": {"type": "gaussian", "std": std},
            "bias_filler": {"type": "constant", "value": bias}}


# Of each inception module: 1x1; 3x3 and 5x5, each after its reduction; projection of the pool.
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@published(
    title="GoogLeNet", task="classification",
    paper="Szegedy et al. 2014 (arXiv 1409.4842); Caffe's models/bvlc_googlenet",
    input="224x224, BGR, 0 to 255 less 104, 117, 123",
    accuracy=[Figure("68.7 % top-1, 88.9 % top-5", "ImageNet, centre crop; Caffe's models/bvlc_googlenet")],
)
def googlenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """GoogLeNet: 224x224 images, nine inception modules; 6,998,552 parameters for 1000 classes, and 6,379,728 in two
    auxiliary classifiers.

    Their losses count 0.3 each, and are there in phase TRAIN only; the original computes them in phase TEST too.
    Published: 68.7 % top-1, 88.9 % top-5 (centre crop). Source: Szegedy et al. 2014; Caffe's ``models/bvlc_googlenet``.

    Args:
        transform: fields of ``transform_param``; the original subtracts 104, 117, 123 from pixels 0 to 255, crops and
            mirrors.
    """
    n = NetSpec("GoogLeNet")
    images(n, (3, 224, 224), batch, test_batch, transform)
    settled = {"param": learned(), "weight_filler": _XAVIER, "bias_filler": {"type": "constant", "value": 0.2}}
    last = {"param": learned(), "weight_filler": _XAVIER}

    def convolution(module: str, name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        convolution = L.Convolution(bottom, num_output=num_output, **settings, **settled)
        return _relu(n, f"{module}/{name}", convolution, f"{module}/relu_{name.removesuffix('_s2')}")

    def pool(i: int, bottom: Top) -> Top:
        n[f"pool{i}/3x3_s2"] = max_pool(bottom, kernel_size=3)
        return n[f"pool{i}/3x3_s2"]

    def inception(name: str, bottom: Top) -> Top:
        module = f"inception_{name}"
        ones, reduce3, threes, reduce5, fives, projection = _INCEPTION[name]
        reduced3 = convolution(module, "3x3_reduce", bottom, reduce3, kernel_size=1)
        reduced5 = convolution(module, "5x5_reduce", bottom, reduce5, kernel_size=1)
        n[f"{module}/pool"] = max_pool(bottom, kernel_size=3, stride=1, pad=1)
        n[f"{module}/output"] = L.Concat(
            convolution(module, "1x1", bottom, ones, kernel_size=1),
            convolution(module, "3x3", reduced3, threes, kernel_size=3, pad=1),
            convolution(module, "5x5", reduced5, fives, kernel_size=5, pad=2),
            convolution(module, "pool_proj", n[f"{module}/pool"], projection, kernel_size=1),
        )
        return n[f"{module}/output"]

    def auxiliary(head: str, bottom: Top) -> None:
        n[f"{head}/ave_pool"] = ave_pool(bottom, kernel_size=5, stride=3, include=TRAIN)
        x = convolution(head, "conv", n[f"{head}/ave_pool"], 128, kernel_size=1, include=TRAIN)
        n[f"{head}/fc"] = L.InnerProduct(x, num_output=1024, include=TRAIN, **settled)
        n[f"{head}/relu_fc"] = L.ReLU(n[f"{head}/fc"], in_place=True, include=TRAIN)
        n[f"{head}/drop_fc"] = L.Dropout(n[f"{head}/relu_fc"], dropout_ratio=0.7, in_place=True, include=TRAIN)
        n[f"{head}/classifier"] = L.InnerProduct(n[f"{head}/drop_fc"], num_output=classes, include=TRAIN, **last)
        n[f"{head}/loss"] = L.SoftmaxWithLoss(n[f"{head}/classifier"], n.label, loss_weight=0.3, include=TRAIN)

    n["pool1/norm1"] = _lrn(pool(1, convolution("conv1", "7x7_s2", n.data, 64, kernel_size=7, stride=2, pad=3)))
    x = convolution("conv2", "3x3_reduce", n["pool1/norm1"], 64, kernel_size=1)
    n["conv2/norm2"] = _lrn(convolution("conv2", "3x3", x, 192, kernel_size=3, pad=1))
    x = pool(2, n["conv2/norm2"])
    pools, heads = {"3b": 3, "4e": 4}, {"4a": "loss1", "4d": "loss2"}
    for module in _INCEPTION:
        x = inception(module, x)
        if module in pools:
            x = pool(pools[module], x)
        if module in heads:
            auxiliary(heads[module], x)
    n["pool5/7x7_s1"] = ave_pool(x, kernel_size=7, stride=1)
    n["pool5/drop_7x7_s1"] = L.Dropout(n["pool5/7x7_s1"], dropout_ratio=0.4, in_place=True)
    n["loss3/classifier"] = L.InnerProduct(n["pool5/drop_7x7_s1"], num_output=classes, **last)
    classify(n, n["loss3/classifier"])
    return n


@published(
    title="VGG-16", task="classification",
    paper="Simonyan, Zisserman 2014 (arXiv 1409.1556), configuration D; VGG_ILSVRC_16_layers",
    input="224x224, BGR, 0 to 255 less 103.939, 116.779, 123.68",
    accuracy=[Figure("73.0 % top-1, 91.2 % top-5", "ImageNet, images of 256, all places; the paper")],
)
def vgg16(
    *, classes: int = 1000, batch: int = 64, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """VGG-16: 224x224 images, 13 convolutions of 3x3, 138,357,544 parameters for 1000 classes.

    Published: 73.0 % top-1, 91.2 % top-5 (images of 256, all places; the paper's configuration D). Source: Simonyan and
    Zisserman 2014 (arXiv 1409.1556); the authors' ``VGG_ILSVRC_16_layers``.

    Args:
        transform: fields of ``transform_param``; the original subtracts 103.939, 116.779, 123.68 from pixels 0 to 255,
            crops and mirrors.
    """
    n = NetSpec("VGG_ILSVRC_16_layers")
    x, _ = images(n, (3, 224, 224), batch, test_batch, transform)
    # The authors began from a smaller net that was trained before; He et al.'s filler needs none.
    filled = {"param": learned(), "weight_filler": _MSRA}
    for stage, (convolutions, width) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, convolutions + 1):
            convolution = L.Convolution(x, num_output=width, kernel_size=3, pad=1, **filled)
            x = _relu(n, f"conv{stage}_{i}", convolution, f"relu{stage}_{i}")
        n[f"pool{stage}"] = x = max_pool(x, kernel_size=2)
    for i in (6, 7):
        x = _relu(n, f"fc{i}", L.InnerProduct(x, num_output=4096, **filled), f"relu{i}")
        n[f"drop{i}"] = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.fc8 = L.InnerProduct(x, num_output=classes, **filled)
    classify(n, n.fc8)
    return n


@published(
    title="SqueezeNet 1.1", task="classification",
    paper="Iandola et al. 2016 (arXiv 1602.07360); the authors' SqueezeNet_v1.1",
    input="227x227, BGR, 0 to 255 less 104, 117, 123",
    accuracy=[Figure("57.5 % top-1, 80.3 % top-5", "ImageNet, version 1.0; the paper")],
)
def squeezenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 25, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """SqueezeNet 1.1: 227x227 images, no inner products, 1,235,496 parameters for 1000 classes.

    Published: the accuracy of version 1.0, which is 57.5 % top-1, 80.3 % top-5, at 2.4 times fewer operations. Source:
    Iandola et al. 2016 (arXiv 1602.07360); the authors' ``SqueezeNet_v1.1``.

    Args:
        transform: fields of ``transform_param``; the original subtracts 104, 117, 123 from pixels 0 to 255, and crops.
    """
    n = NetSpec("SqueezeNet_v1.1")
    images(n, (3, 227, 227), batch, test_batch, transform)

    def fire(i: int, bottom: Top, squeeze: int, expand: int) -> Top:
        def convolution(name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
            convolution = L.Convolution(bottom, num_output=num_output, weight_filler=_XAVIER, **settings)
            return _relu(n, f"fire{i}/{name}", convolution, f"fire{i}/relu_{name}")

        x = convolution("squeeze1x1", bottom, squeeze, kernel_size=1)
        n[f"fire{i}/concat"] = L.Concat(convolution("expand1x1", x, expand, kernel_size=1),
                                        convolution("expand3x3", x, expand, kernel_size=3, pad=1))
        return n[f"fire{i}/concat"]

    conv1 = L.Convolution(n.data, num_output=64, kernel_size=3, stride=2, weight_filler=_XAVIER)
    x = _relu(n, "conv1", conv1, "relu_conv1")
    widths = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    for i, (squeeze, expand) in enumerate(widths, 2):
        if i in (2, 4, 6):
            n[f"pool{i - 1}"] = x = max_pool(x, kernel_size=3)
        x = fire(i, x, squeeze, expand)
    n.drop9 = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    conv10 = L.Convolution(n.drop9, num_output=classes, kernel_size=1, weight_filler={"type": "gaussian", "std": 0.01})
    n.pool10 = L.Pooling(_relu(n, "conv10", conv10, "relu_conv10"), pool="AVE", global_pooling=True)
    classify(n, n.pool10)
    return n


@published(
    title="ResNet-18", task="classification",
    paper="He et al. 2015 (arXiv 1512.03385)",
    input="224x224, BGR, 0 to 255 less the mean",
    accuracy=[Figure("69.76 % top-1, 89.08 % top-5", "ImageNet, centre crop; torchvision's weights")],
)
def resnet18(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """ResNet-18: 224x224 images, 11,689,512 parameters for 1000 classes, without BatchNorm's statistics.

    Published: 69.76 % top-1, 89.08 % top-5 (centre crop, torchvision's weights). Source: He et al. 2015 (arXiv
    1512.03385), with identity shortcuts where the sizes are equal; names as in the authors' Caffe files.

    Args:
        transform: fields of ``transform_param``.
    """
    n = NetSpec("ResNet-18")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def convolution(block: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        return _conv_bn(n, f"res{block}", f"bn{block}", f"scale{block}", bottom, num_output, **settings)

    def residual(block: str, bottom: Top, width: int, stride: int, project: bool) -> Top:
        x = convolution(f"{block}_branch2a", bottom, width, kernel_size=3, stride=stride, pad=1)
        n[f"res{block}_branch2a_relu"] = x = L.ReLU(x, in_place=True)
        x = convolution(f"{block}_branch2b", x, width, kernel_size=3, pad=1)
        if project:
            bottom = convolution(f"{block}_branch1", bottom, width, kernel_size=1, stride=stride)
        return _relu(n, f"res{block}", L.Eltwise(bottom, x), f"res{block}_relu")

    x = _conv_bn(n, "conv1", "bn_conv1", "scale_conv1", n.data, 64, kernel_size=7, stride=2, pad=3)
    n.conv1_relu = L.ReLU(x, in_place=True)
    n.pool1 = x = max_pool(n.conv1_relu, kernel_size=3)
    for stage, width in zip((2, 3, 4, 5), (64, 128, 256, 512), strict=True):
        x = residual(f"{stage}a", x, width, stride=1 if stage == 2 else 2, project=stage > 2)
        x = residual(f"{stage}b", x, width, stride=1, project=False)
    n.pool5 = L.Pooling(x, pool="AVE", global_pooling=True)
    n.fc1000 = L.InnerProduct(n.pool5, num_output=classes, param=learned(lr=(1, 1)), weight_filler=_XAVIER)
    classify(n, n.fc1000)
    return n


# Of each pair of a depthwise and a 1x1 convolution: the stride of the first, the width of the second.
_SEPARABLE = {
    "2_1": (1, 64), "2_2": (2, 128), "3_1": (1, 128), "3_2": (2, 256), "4_1": (1, 256), "4_2": (2, 512),
    "5_1": (1, 512), "5_2": (1, 512), "5_3": (1, 512), "5_4": (1, 512), "5_5": (1, 512), "5_6": (2, 1024),
    "6": (1, 1024),
}


@published(
    title="MobileNet v1", task="classification",
    paper="Howard et al. 2017 (arXiv 1704.04861)",
    input="224x224, BGR, 0 to 255 less 103.94, 116.78, 123.68, times 0.017",
    accuracy=[Figure("70.81 % top-1, 89.85 % top-5", "ImageNet, centre crop; shicai's MobileNet-Caffe")],
)
def mobilenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """MobileNet v1, width 1.0: 224x224 images, depthwise convolutions (a group for each channel), 4,231,976 parameters
    for 1000 classes, without BatchNorm's statistics.

    Published: 70.81 % top-1, 89.85 % top-5 (centre crop, shicai's MobileNet-Caffe); 70.6 % top-1 in the paper. Source:
    Howard et al. 2017 (arXiv 1704.04861).

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 103.94, 116.78,
            123.68, times 0.017.
    """
    n = NetSpec("MobileNet")
    images(n, (3, 224, 224), batch, test_batch, transform)

    def convolution(i: str, kind: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        name = f"conv{i}{kind}"
        x = _conv_bn(n, name, f"{name}/bn", f"{name}/scale", bottom, num_output, **settings)
        n[f"relu{i}{kind}"] = L.ReLU(x, in_place=True)
        return n[f"relu{i}{kind}"]

    width = 32
    x = convolution("1", "", n.data, width, kernel_size=3, stride=2, pad=1)
    for i, (stride, wider) in _SEPARABLE.items():
        x = convolution(i, "/dw", x, width, kernel_size=3, stride=stride, pad=1, group=width)
        x = convolution(i, "/sep", x, wider, kernel_size=1)
        width = wider
    n.pool6 = L.Pooling(x, pool="AVE", global_pooling=True)
    n.fc7 = L.Convolution(n.pool6, num_output=classes, kernel_size=1, param=learned(), weight_filler=_MSRA)
    classify(n, n.fc7)
    return n


def _lrn(bottom: Top) -> Top:
    """The normalisation across channels of AlexNet and GoogLeNet."""
    return L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)


def _relu(n: NetSpec, name: str, top: Top, relu: str) -> Top:
    """A layer and an in-place ReLU on it, under these names; the ReLU is there in the layer's phases."""
    n[name] = top
    n[relu] = L.ReLU(top, in_place=True, include=list(top.call.proto.include))
    return n[relu]


def _conv_bn(n: NetSpec, name: str, bn: str, scale: str, bottom: Top, num_output: int, **settings: Any) -> Top:
    """Convolution without bias, BatchNorm and Scale in place, under these names."""
    n[name] = L.Convolution(bottom, num_output=num_output, bias_term=False, weight_filler=_MSRA, **settings)
    n[bn] = L.BatchNorm(n[name], in_place=True)
    n[scale] = L.Scale(n[bn], bias_term=True, in_place=True, param=learned(lr=(1, 1), decay=(0, 0)))
    return n[scale]
