"""Nets that give every pixel a class: FCN, SegNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.netdef.errors import JaffeError
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import MSRA, TEST, conv_bn_relu, inputs, relu
from jaffe.zoo.vgg import vgg_convolutions

_FCN = ("Long, Shelhamer, Darrell 2015 (arXiv 1411.4038); Shelhamer, Long, Darrell 2016 (arXiv 1605.06211); the "
        "authors' ")
_VOC = "any size, BGR, 0 to 255 less 104.00699, 116.66877, 122.67892"


def _on_voc(value: str) -> Figure:
    return Figure(f"{value} % mean IoU", "PASCAL VOC 2011, seg11valid; the authors' README")


def label_maps(n: NetSpec, scores: Top, ignore_label: int | None, *, normalize: bool = True) -> None:
    """Softmax loss of the scores, and accuracy, over the pixels; those of ``ignore_label`` do not count."""
    ignored = {} if ignore_label is None else {"ignore_label": ignore_label}
    n.accuracy = L.Accuracy(scores, n.label, include=TEST, **ignored)
    n.loss = L.SoftmaxWithLoss(scores, n.label, loss_param={"normalize": normalize, **ignored})


@published(title="FCN-32s", task="segmentation", paper=f"{_FCN}voc-fcn32s", input=_VOC, accuracy=[_on_voc("63.6")])
def fcn32s(
    *, classes: int = 21, shape: Sequence[int] = (3, 500, 500), grouped: bool = False, ignore_label: int | None = 255,
    batch: int = 1, test_batch: int = 1, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """FCN-32s: VGG-16 with convolutions in place of inner products, its scores for every 32nd pixel interpolated.

    ``data`` (batch, 3, H, W) of any size, ``label`` (batch, H, W). Weights of VGG-16 begin its training.

    Args:
        shape: (3, H, W) of the images.
        grouped: interpolate with a kernel for each class, which begins as the bilinear one. Published weights have one
            for each pair of classes, which begins as zeros.
        ignore_label: of pixels that do not count.
        transform: fields of ``transform_param``; the original subtracts a mean for each channel.
    """
    return _fcn((), classes, shape, grouped, ignore_label, batch, test_batch, transform)


@published(title="FCN-16s", task="segmentation", paper=f"{_FCN}voc-fcn16s", input=_VOC, accuracy=[_on_voc("65.0")])
def fcn16s(
    *, classes: int = 21, shape: Sequence[int] = (3, 500, 500), grouped: bool = False, ignore_label: int | None = 255,
    batch: int = 1, test_batch: int = 1, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """FCN-16s: as FCN-32s, and scores of pool4 are added on the way back to the image's size.

    Args:
        shape, grouped, ignore_label, transform: as for ``fcn32s``, with whose weights its training begins.
    """
    return _fcn((4,), classes, shape, grouped, ignore_label, batch, test_batch, transform)


@published(title="FCN-8s", task="segmentation", paper=f"{_FCN}voc-fcn8s", input=_VOC, accuracy=[_on_voc("65.5")])
def fcn8s(
    *, classes: int = 21, shape: Sequence[int] = (3, 500, 500), grouped: bool = False, ignore_label: int | None = 255,
    batch: int = 1, test_batch: int = 1, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """FCN-8s: as FCN-32s, and scores of pool4 and pool3 are added on the way back to the image's size.

    Args:
        shape, grouped, ignore_label, transform: as for ``fcn32s``; with the weights of ``fcn16s`` its training begins.
    """
    return _fcn((4, 3), classes, shape, grouped, ignore_label, batch, test_batch, transform)


# Where the first pixel of a map is in one of as many pixels that the padding of 100 made larger.
_POOL_OFFSETS = {4: 5, 3: 9}
_IMAGE_OFFSETS = {32: 19, 16: 27, 8: 31}


def _fcn(
    skips: Sequence[int], classes: int, shape: Sequence[int], grouped: bool, ignore_label: int | None, batch: int,
    test_batch: int, transform: Mapping[str, Any] | None,
) -> NetSpec:
    stride = 32 >> len(skips)
    n = NetSpec(f"FCN-{stride}s")
    inputs(n, batch, test_batch, {"data": shape, "label": shape[1:]}, transform)

    def score(bottom: Top) -> Top:
        return L.Convolution(bottom, num_output=classes, kernel_size=1, param=learned())

    x = vgg_convolutions(n, n.data, first_pad=100)
    for i, kernel in ((6, 7), (7, 1)):
        convolution = L.Convolution(x, num_output=4096, kernel_size=kernel, param=learned(), weight_filler=MSRA)
        n[f"drop{i}"] = x = L.Dropout(relu(n, f"fc{i}", convolution, f"relu{i}"), dropout_ratio=0.5, in_place=True)
    n.score_fr = x = score(x)
    names = ["upscore2", *(f"upscore_pool{i}" for i in skips)]
    for name, i in zip(names, skips, strict=False):
        n[name] = up = interpolated(x, classes, 2, grouped=grouped)
        n[f"score_pool{i}"] = score(n[f"pool{i}"])
        n[f"score_pool{i}c"] = L.Crop(n[f"score_pool{i}"], up, axis=2, offset=[_POOL_OFFSETS[i]])
        n[f"fuse_pool{i}"] = x = L.Eltwise(up, n[f"score_pool{i}c"], operation="SUM")
    name = f"upscore{stride}" if skips else "upscore"
    n[name] = interpolated(x, classes, stride, grouped=grouped)
    n.score = L.Crop(n[name], n.data, axis=2, offset=[_IMAGE_OFFSETS[stride]])
    label_maps(n, n.score, ignore_label, normalize=False)
    return n


def interpolated(bottom: Top, classes: int, factor: int, *, grouped: bool = True, pad: int = 0) -> Top:
    """A map ``factor`` times as large, by a kernel that does not learn: bilinear, a kernel for each class; or not
    ``grouped``, for kernels that are loaded."""
    own = {"group": classes, "weight_filler": {"type": "bilinear"}} if grouped else {}
    return L.Deconvolution(
        bottom, param=[{"lr_mult": 0, "decay_mult": 0} if grouped else {"lr_mult": 0}],
        convolution_param={"num_output": classes, "kernel_size": 2 * factor, "stride": factor, "pad": pad,
                           "bias_term": False, **own},
    )


def small_fcn(
    *, classes: int, shape: Sequence[int], widths: Sequence[int] = (16, 32, 64), batch: int, test_batch: int,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """A small net after FCN-8s: batch normalisation, two convolutions before each pool, and scores of every pool.

    ``data`` (batch, C, H, W), ``label`` (batch, H, W); height and width are multiples of 2 for each pool.

    Args:
        widths: channels of the convolutions before each pool.
    """
    n = NetSpec("SmallFCN")
    inputs(n, batch, test_batch, {"data": shape, "label": shape[1:]}, transform)
    x = n.data
    for stage, width in enumerate(widths, 1):
        for i in (1, 2):
            name = f"{stage}_{i}"
            x = conv_bn_relu(n, name, x, width)
        n[f"pool{stage}"] = x = max_pool(x)
    up = None
    for stage in range(len(widths), 0, -1):
        n[f"score_pool{stage}"] = x = L.Convolution(n[f"pool{stage}"], num_output=classes, kernel_size=3, pad=1,
                                                    param=learned(), weight_filler=MSRA)
        if up is not None:
            n[f"fuse_pool{stage}"] = x = L.Eltwise(up, x, operation="SUM")
        n[f"upscore_pool{stage}"] = up = interpolated(x, classes, 2, pad=1)
    label_maps(n, n.upscore_pool1, None)
    return n


@published(
    title="SegNet", task="segmentation",
    paper="Badrinarayanan, Kendall, Cipolla 2015 (arXiv 1511.00561); the authors' segnet_train",
    input="480x360 (others do), BGR, 0 to 255",
)
def segnet(
    *, classes: int = 11, shape: Sequence[int] = (3, 360, 480), widths: Sequence[int] = (64, 128, 256, 512, 512),
    convolutions: Sequence[int] = (2, 2, 3, 3, 3), ignore_label: int | None = 11, inference: bool = False,
    batch: int = 4, test_batch: int = 1, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """SegNet: VGG-16's convolutions and their mirror image, in which each maximum goes back to the place that the pool
    took it from.

    ``data`` (batch, 3, H, W), ``label`` (batch, H, W).

    Args:
        shape: (3, H, W) of the images.
        widths, convolutions: of each stage, the first at full size.
        ignore_label: of pixels that do not count.
        inference: whether BN layers hold the statistics of a data set, as in weights that were made ready for use;
            else they take those of the batch, in phase TEST too.
    """
    if not widths or len(widths) != len(convolutions):
        raise JaffeError(f"expected as many widths as numbers of convolutions, of each stage one; found {widths} and "
                         f"{convolutions}")
    n = NetSpec("SegNet")
    inputs(n, batch, test_batch, {"data": shape, "label": shape[1:]}, transform)
    settled = {"kernel_size": 3, "pad": 1, "param": learned(), "weight_filler": MSRA}
    normal: dict[str, Any] = {
        "param": learned(lr=(1, 1)), "scale_filler": {"type": "constant", "value": 1},
        "shift_filler": {"type": "constant", "value": 0.001}, **({"bn_mode": "INFERENCE"} if inference else {}),
    }

    def convolution(at: str, bottom: Top, num_output: int) -> Top:
        n[f"conv{at}"] = x = L.Convolution(bottom, num_output=num_output, **settled)
        n[f"conv{at}_bn"] = x = L.BN(x, in_place=True, **normal)
        n[f"relu{at}"] = L.ReLU(x, in_place=True)
        return n[f"relu{at}"]

    x, sizes = n.data, [tuple(shape[1:])]
    for stage, (count, width) in enumerate(zip(convolutions, widths, strict=True), 1):
        for i in range(1, count + 1):
            x = convolution(f"{stage}_{i}", x, width)
        pooled = L.Pooling(x, ntop=2, pool="MAX", kernel_size=2, stride=2)
        n[f"pool{stage}"], n[f"pool{stage}_mask"] = pooled
        x = n[f"pool{stage}"]
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    for stage, count in reversed([*enumerate(convolutions, 1)]):
        height, width = sizes[stage - 1]
        doubled = tuple(2 * side for side in sizes[stage]) == (height, width)
        size = {} if doubled else {"upsample_h": height, "upsample_w": width}
        n[f"pool{stage}_D"] = L.Upsample(x, n[f"pool{stage}_mask"], name=f"upsample{stage}", **size)
        x = n[f"pool{stage}_D"]
        for i in range(count, 0, -1):
            if stage == i == 1:
                n.conv1_1_D = x = L.Convolution(x, num_output=classes, **settled)
            else:
                x = convolution(f"{stage}_{i}_D", x, widths[stage - 1] if i > 1 else widths[stage - 2])
    label_maps(n, x, ignore_label)
    return n
