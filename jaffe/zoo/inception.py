"""GoogLeNet (Inception v1) and Inception v3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import ave_pool, learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, TRAIN, XAVIER, classify, global_pool, images, lrn, normalise, relu

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
    params=Figure("6,998,552", "HewlettPackard's dlcookbook-dlbs"),
    multiply_adds=Figure("1.498 G", "torchvision 0.24",
                         "torchvision's has BatchNorm in place of biases, and 3x3 convolutions in place of the 5x5"),
)
def googlenet(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """GoogLeNet: nine inception modules, and two auxiliary classifiers.

    Their losses count 0.3 each, and are there in phase TRAIN only; the original computes them in phase TEST too.

    Args:
        transform: fields of ``transform_param``; the original subtracts 104, 117, 123 from pixels 0 to 255, crops and
            mirrors.
    """
    n = NetSpec("GoogLeNet")
    images(n, (3, 224, 224), batch, test_batch, transform)
    settled = {"param": learned(), "weight_filler": XAVIER, "bias_filler": {"type": "constant", "value": 0.2}}
    last = {"param": learned(), "weight_filler": XAVIER}

    def convolution(module: str, name: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        convolution = L.Convolution(bottom, num_output=num_output, **settings, **settled)
        return relu(n, f"{module}/{name}", convolution, f"{module}/relu_{name.removesuffix('_s2')}")

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

    n["pool1/norm1"] = lrn(pool(1, convolution("conv1", "7x7_s2", n.data, 64, kernel_size=7, stride=2, pad=3)))
    x = convolution("conv2", "3x3_reduce", n["pool1/norm1"], 64, kernel_size=1)
    n["conv2/norm2"] = lrn(convolution("conv2", "3x3", x, 192, kernel_size=3, pad=1))
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
    title="Inception v3", task="classification", paper="Szegedy et al. 2015 (arXiv 1512.00567)",
    input="299x299, BGR, 0 to 255 less 128, divided by 128",
    accuracy=[Figure("78.33 % top-1, 94.25 % top-5", "ImageNet, centre crop; soeaver's caffe-model")],
    params=Figure("23,834,568", "osmr's imgclsmob"),
    multiply_adds=Figure("5.713 G", "torchvision 0.24"),
)
def inception_v3(
    *, classes: int = 1000, batch: int = 32, test_batch: int = 50, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Inception v3: convolutions factored into 1x7 and 7x1, with BatchNorm; an auxiliary classifier in phase TRAIN,
    whose loss counts 0.4.

    Names of the layers that are used: those of the Caffe file of soeaver's ``caffe-model``.

    Args:
        transform: fields of ``transform_param``; the published weights expect pixels 0 to 255 less 128, divided by 128.
    """
    n = NetSpec("InceptionV3")
    images(n, (3, 299, 299), batch, test_batch, transform)
    x = _convolution(n, "conv1_3x3_s2", n.data, 32, (3, 3), 2, pad=False, activation="conv1_3x3_relu")
    x = _convolution(n, "conv2_3x3_s1", x, 32, (3, 3), pad=False, activation="conv2_3x3_relu")
    x = _convolution(n, "conv3_3x3_s1", x, 64, (3, 3), activation="conv3_3x3_relu")
    n.pool1_3x3_s2 = x = max_pool(x, kernel_size=3)
    x = _convolution(n, "conv4_3x3_reduce", x, 80, activation="conv4_relu_3x3_reduce")
    x = _convolution(n, "conv4_3x3", x, 192, (3, 3), pad=False, activation="conv4_relu_3x3")
    n.pool2_3x3_s2 = x = max_pool(x, kernel_size=3)
    for name, projection in (("a1", 32), ("a2", 64), ("a3", 64)):
        x = _module_a(n, f"inception_{name}", x, projection)
    x = _reduction_a(n, "reduction_a", x)
    for name, width in (("b1", 128), ("b2", 160), ("b3", 160), ("b4", 192)):
        x = _module_b(n, f"inception_{name}", x, width)
    _auxiliary(n, x, classes)
    x = _reduction_b(n, "reduction_b", x)
    x = _module_c(n, "inception_c1", x, "AVE")
    x = _module_c(n, "inception_c2", x, "MAX")  # as in the weights that Google published
    n.pool_8x8_s1 = global_pool(x)
    n.pool_8x8_s1_drop = x = L.Dropout(n.pool_8x8_s1, dropout_ratio=0.2)
    n.classifier = L.InnerProduct(x, num_output=classes, param=learned(), weight_filler=XAVIER)
    classify(n, n.classifier)
    return n


def _convolution(
    n: NetSpec, name: str, bottom: Top, width: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, *,
    pad: bool = True, activation: str = "", **settings: Any,
) -> Top:
    """With BatchNorm and ReLU; ``kernel``: height and width; ``pad``: the size stays, at stride 1."""
    height, wide = kernel
    size = {"kernel_size": height} if height == wide else {"kernel_h": height, "kernel_w": wide}
    if pad and max(kernel) > 1:
        size |= {"pad": height // 2} if height == wide else {"pad_h": height // 2, "pad_w": wide // 2}
    n[name] = L.Convolution(bottom, num_output=width, bias_term=False, weight_filler=MSRA, stride=stride, **size,
                            **settings)
    x = normalise(n, f"{name}_bn", f"{name}_scale", n[name], eps=1e-3)
    n[activation or f"{name}_relu"] = x = L.ReLU(x, in_place=True, include=list(x.call.proto.include))
    return x


def _pool(n: NetSpec, name: str, bottom: Top, method: str) -> Top:
    n[name] = L.Pooling(bottom, pool=method, kernel_size=3, stride=1, pad=1)
    return n[name]


def _concat(n: NetSpec, name: str, *tops: Top) -> Top:
    n[name] = L.Concat(*tops)
    return n[name]


def _module_a(n: NetSpec, a: str, x: Top, projection: int) -> Top:
    three = _convolution(n, f"{a}_3x3_1", _convolution(n, f"{a}_3x3_reduce", x, 64), 96, (3, 3))
    return _concat(
        n, f"{a}_output",
        _convolution(n, f"{a}_1x1", x, 64),
        _convolution(n, f"{a}_5x5", _convolution(n, f"{a}_5x5_reduce", x, 48), 64, (5, 5)),
        _convolution(n, f"{a}_3x3_2", three, 96, (3, 3)),
        _convolution(n, f"{a}_pool_proj", _pool(n, f"{a}_pool", x, "AVE"), projection),
    )


def _module_b(n: NetSpec, b: str, x: Top, width: int) -> Top:
    long = _convolution(n, f"{b}_7x1_reduce", x, width)
    for part, size in (("7x1_2", (7, 1)), ("1x7_2", (1, 7)), ("7x1_3", (7, 1))):
        long = _convolution(n, f"{b}_{part}", long, width, size)
    short = _convolution(n, f"{b}_1x7", _convolution(n, f"{b}_1x7_reduce", x, width), width, (1, 7))
    return _concat(
        n, f"{b}_concat",
        _convolution(n, f"{b}_1x1_2", x, 192),
        _convolution(n, f"{b}_7x1", short, 192, (7, 1)),
        _convolution(n, f"{b}_1x7_3", long, 192, (1, 7)),
        _convolution(n, f"{b}_1x1", _pool(n, f"{b}_pool_ave", x, "AVE"), 192),
    )


def _module_c(n: NetSpec, c: str, x: Top, method: str) -> Top:
    pooled = _pool(n, f"{c}_pool", x, method)
    short = _convolution(n, f"{c}_1x3_reduce", x, 384)
    long = _convolution(n, f"{c}_3x3", _convolution(n, f"{c}_3x3_reduce", x, 448), 384, (3, 3))
    return _concat(
        n, f"{c}_concat",
        _convolution(n, f"{c}_1x1_2", x, 320),
        _convolution(n, f"{c}_1x3", short, 384, (1, 3)), _convolution(n, f"{c}_3x1", short, 384, (3, 1)),
        _convolution(n, f"{c}_1x3_2", long, 384, (1, 3)), _convolution(n, f"{c}_3x1_2", long, 384, (3, 1)),
        _convolution(n, f"{c}_1x1", pooled, 192),
    )


def _reduction_a(n: NetSpec, a: str, x: Top) -> Top:
    three = _convolution(n, f"{a}_3x3_2", _convolution(n, f"{a}_3x3_2_reduce", x, 64), 96, (3, 3))
    n[f"{a}_pool"] = max_pool(x, kernel_size=3)
    return _concat(n, f"{a}_concat", _convolution(n, f"{a}_3x3", x, 384, (3, 3), 2, pad=False),
                   _convolution(n, f"{a}_3x3_3", three, 96, (3, 3), 2, pad=False), n[f"{a}_pool"])


def _reduction_b(n: NetSpec, b: str, x: Top) -> Top:
    three = _convolution(n, f"{b}_3x3_reduce", x, 192)
    seven = _convolution(n, f"{b}_1x7", _convolution(n, f"{b}_1x7_reduce", x, 192), 192, (1, 7))
    seven = _convolution(n, f"{b}_7x1", seven, 192, (7, 1))
    n[f"{b}_pool"] = max_pool(x, kernel_size=3)
    return _concat(n, f"{b}_concat", _convolution(n, f"{b}_3x3", three, 320, (3, 3), 2, pad=False),
                   _convolution(n, f"{b}_3x3_2", seven, 192, (3, 3), 2, pad=False), n[f"{b}_pool"])


def _auxiliary(n: NetSpec, bottom: Top, classes: int) -> None:
    n.aux_pool = ave_pool(bottom, kernel_size=5, stride=3, include=TRAIN)
    x = _convolution(n, "aux_1x1", n.aux_pool, 128, include=TRAIN)
    x = _convolution(n, "aux_5x5", x, 768, (5, 5), pad=False, include=TRAIN)
    n.aux_classifier = L.InnerProduct(x, num_output=classes, param=learned(), weight_filler=XAVIER, include=TRAIN)
    n.aux_loss = L.SoftmaxWithLoss(n.aux_classifier, n.label, loss_weight=0.4, include=TRAIN)
