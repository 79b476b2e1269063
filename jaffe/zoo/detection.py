"""Nets that find objects: SSD, R-CNN's features, SPP-net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.alexnet import caffenet_features
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import XAVIER, classify, conv_bn_relu, gaussian, images, inputs, relu
from jaffe.zoo.vgg import vgg_convolutions

# The stage in which a test net puts out its loss only, not the boxes.
LOSS_ONLY = "loss_only"
_USED = {"phase": "TEST", "not_stage": [LOSS_ONLY]}


@dataclass(frozen=True)
class BoxMap:
    """A map from which SSD predicts boxes.

    Attributes:
        layer: the blob's name.
        smallest, largest: each cell has a square box of side ``smallest`` and one of ``sqrt(smallest * largest)``,
            in pixels.
        ratios: of width to height, and of height to width, of further boxes of ``smallest``'s area.
        step: pixels from cell to cell; 0: the image's size / the map's.
        norm: what the features of each cell are scaled to first, by a factor for each channel; 0: they are as they are.
    """

    layer: str
    smallest: float
    largest: float
    ratios: tuple[float, ...] = ()
    step: float = 0
    norm: float = 0


@published(
    title="SSD300", task="detection",
    paper="Liu et al. 2016 (arXiv 1512.02325); the authors' VGGNet/VOC0712/SSD_300x300",
    input="300x300, BGR, 0 to 255 less 104, 117, 123",
    accuracy=[Figure("77.2 % mAP", "PASCAL VOC 2007 test, trained on 2007 and 2012; the authors' README")],
)
def ssd300(
    *, classes: int = 21, objects: int = 64, batch: int = 32, test_batch: int = 8,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """SSD300: VGG-16 and smaller and smaller maps behind it; 8732 boxes, of which each gets a class and is moved.

    ``data`` (batch, 3, 300, 300), ``label`` (batch, objects, 8), as ``MultiBoxLoss`` reads it. ``detection_out`` in
    phase TEST: what ``DetectionOutput`` gives. Weights of VGG-16 with fc6 and fc7 as convolutions of 1024 channels
    begin its training.

    Args:
        classes: with the background, class 0.
        objects: the most true boxes of an image.
        transform: fields of ``transform_param``; the original subtracts a mean for each channel. It also crops around
            boxes, enlarges and mirrors, which images without their boxes cannot.
    """
    n = NetSpec("VGG_VOC0712_SSD_300x300")
    inputs(n, batch, test_batch, {"data": (3, 300, 300), "label": (objects, 8)}, transform)
    vgg_convolutions(n, n.data)
    n.pool5 = max_pool(n.relu5_3, kernel_size=3, stride=1, pad=1)

    def convolution(name: str, activation: str, bottom: Top, num_output: int, **settings: Any) -> Top:
        top = L.Convolution(bottom, num_output=num_output, param=learned(), weight_filler=XAVIER, **settings)
        return relu(n, name, top, activation)

    x = convolution("fc6", "relu6", n.pool5, 1024, kernel_size=3, pad=6, dilation=6)
    x = convolution("fc7", "relu7", x, 1024, kernel_size=1)
    for i, (narrow, wide, settings) in enumerate((
        (256, 512, {"pad": 1, "stride": 2}), (128, 256, {"pad": 1, "stride": 2}), (128, 256, {}), (128, 256, {}),
    ), 6):
        x = convolution(f"conv{i}_1", f"conv{i}_1_relu", x, narrow, kernel_size=1)
        x = convolution(f"conv{i}_2", f"conv{i}_2_relu", x, wide, kernel_size=3, **settings)
    multibox(n, (
        BoxMap("conv4_3", 30, 60, (2,), 8, norm=20), BoxMap("fc7", 60, 111, (2, 3), 16),
        BoxMap("conv6_2", 111, 162, (2, 3), 32), BoxMap("conv7_2", 162, 213, (2, 3), 64),
        BoxMap("conv8_2", 213, 264, (2,), 100), BoxMap("conv9_2", 264, 315, (2,), 300),
    ), classes)
    return n


def small_ssd(
    *, classes: int, objects: int, shape: Sequence[int], widths: Sequence[int], maps: Sequence[BoxMap], batch: int,
    test_batch: int, keep: int = 20, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """A small SSD with batch normalisation; inputs and outputs as those of ``ssd300``.

    Args:
        shape: (C, H, W) of the images.
        widths: channels of the convolutions ``conv1_1`` and ``conv1_2``, ...; pools stand between them.
        maps: of these convolutions.
        keep: the most boxes that are put out for an image.
    """
    n = NetSpec("SmallSSD")
    inputs(n, batch, test_batch, {"data": shape, "label": (objects, 8)}, transform)
    x = n.data
    for i, width in enumerate(widths, 1):
        if i > 1:
            n[f"pool{i - 1}"] = x = max_pool(x)
        for half in (1, 2):
            x = conv_bn_relu(n, f"{i}_{half}", x, width)
    multibox(n, maps, classes, keep=keep)
    return n


def multibox(n: NetSpec, maps: Sequence[BoxMap], classes: int, *, keep: int = 200) -> None:
    """SSD's end: offsets and scores of the boxes of each map, the loss against ``n.label``, and the boxes found.

    Args:
        keep: the most boxes that are put out for an image.
    """
    ends: dict[str, list[Top]] = {"loc": [], "conf": [], "priorbox": []}
    for one in maps:
        name, x = one.layer, n[one.layer]
        if one.norm:
            name = f"{name}_norm"
            n[name] = x = L.Normalize(x, across_spatial=False, channel_shared=False,
                                      scale_filler={"type": "constant", "value": one.norm})
        boxes = 2 + 2 * len(one.ratios)
        for kind, size in (("loc", 4), ("conf", classes)):
            at = f"{name}_mbox_{kind}"
            n[at] = L.Convolution(x, num_output=boxes * size, kernel_size=3, pad=1, param=learned(),
                                  weight_filler=XAVIER)
            n[f"{at}_perm"] = L.Permute(n[at], order=[0, 2, 3, 1])
            n[f"{at}_flat"] = L.Flatten(n[f"{at}_perm"], axis=1)
            ends[kind].append(n[f"{at}_flat"])
        n[f"{name}_mbox_priorbox"] = L.PriorBox(
            x, n.data, min_size=[one.smallest], max_size=[one.largest], aspect_ratio=list(one.ratios), flip=True,
            clip=False, variance=[0.1, 0.1, 0.2, 0.2], offset=0.5, **({"step": one.step} if one.step else {}))
        ends["priorbox"].append(n[f"{name}_mbox_priorbox"])
    for kind, axis in (("loc", 1), ("conf", 1), ("priorbox", 2)):
        n[f"mbox_{kind}"] = L.Concat(*ends[kind], axis=axis)
    n.mbox_loss = L.MultiBoxLoss(
        n.mbox_loc, n.mbox_conf, n.mbox_priorbox, n.label, loss_param={"normalization": "VALID"},
        multibox_loss_param={
            "loc_loss_type": "SMOOTH_L1", "conf_loss_type": "SOFTMAX", "loc_weight": 1, "num_classes": classes,
            "share_location": True, "match_type": "PER_PREDICTION", "overlap_threshold": 0.5,
            "use_prior_for_matching": True, "background_label_id": 0, "use_difficult_gt": True,
            "mining_type": "MAX_NEGATIVE", "neg_pos_ratio": 3, "neg_overlap": 0.5, "code_type": "CENTER_SIZE",
        })
    n.mbox_conf_reshape = L.Reshape(n.mbox_conf, shape={"dim": [0, -1, classes]}, include=_USED)
    n.mbox_conf_softmax = L.Softmax(n.mbox_conf_reshape, axis=2, include=_USED)
    n.mbox_conf_flatten = L.Flatten(n.mbox_conf_softmax, axis=1, include=_USED)
    n.detection_out = L.DetectionOutput(
        n.mbox_loc, n.mbox_conf_flatten, n.mbox_priorbox, include=_USED, num_classes=classes, share_location=True,
        background_label_id=0, nms_param={"nms_threshold": 0.45, "top_k": 400}, code_type="CENTER_SIZE",
        keep_top_k=keep, confidence_threshold=0.01)


@published(
    title="R-CNN features", task="detection",
    paper="Girshick, Donahue, Darrell, Malik 2014 (arXiv 1311.2524); Caffe's models/bvlc_reference_rcnn_ilsvrc13",
    input="227x227 windows, BGR, 0 to 255 less the mean image",
)
def rcnn_features(*, classes: int = 200, batch: int = 10) -> NetSpec:
    """R-CNN's net: CaffeNet's features of a window, ``fc7``, and the scores of a support vector machine for each class
    over them, ``fc-rcnn``.

    ``data`` (batch, 3, 227, 227): windows that ``jaffe.pycaffe.Detector`` cuts out and warps. No loss: the machines
    were trained apart, on features of a CaffeNet that had been tuned on windows.
    """
    n = NetSpec("R-CNN-ilsvrc13")
    n.data = L.Input(shape={"dim": [batch, 3, 227, 227]})
    n["fc-rcnn"] = L.InnerProduct(caffenet_features(n, n.data), num_output=classes, **gaussian(0.01))
    return n


@published(
    title="SPP-net", task="classification",
    paper="He, Zhang, Ren, Sun 2014 (arXiv 1406.4729); the authors' Zeiler_conv5, with Caffe's SPP layer",
    input="any size from 111 to a side on, 224x224 by default; BGR, 0 to 255 less the mean image",
)
def spp_net(
    *, classes: int = 1000, shape: Sequence[int] = (3, 224, 224), levels: int = 3, batch: int = 128,
    test_batch: int = 50, transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """SPP-net: five convolutions, then maxima over a pyramid of bins, as many for an image of any size.

    Caffe's layer has 1, 4 and 16 bins; the authors' pools, made for 224x224, have 1, 4, 9 and 36, so that their fc6 is
    another. All other layers are theirs.

    Args:
        shape: (3, H, W) of the images; weights fit every size.
        levels: of the pyramid; the last has 2^(levels - 1) bins to a side.
        transform: fields of ``transform_param``; the original subtracts the mean image.
    """
    n = NetSpec("SPP-net")
    x, _ = images(n, shape, batch, test_batch, transform)

    def convolution(i: int, bottom: Top, num_output: int, bias: float, **settings: Any) -> Top:
        return relu(n, f"conv{i}", L.Convolution(bottom, num_output=num_output, **settings, **gaussian(0.01, bias)),
                    f"relu{i}")

    for i, (width, bias, settings) in enumerate(
        ((96, 0, {"kernel_size": 7, "stride": 2, "pad": 1}), (256, 1, {"kernel_size": 5, "stride": 2})), 1
    ):
        x = convolution(i, x, width, bias, **settings)
        n[f"norm{i}"] = L.LRN(x, local_size=3, alpha=5e-5, beta=0.75, norm_region="WITHIN_CHANNEL")
        n[f"pool{i}"] = x = max_pool(n[f"norm{i}"], kernel_size=3)
    for i, (width, bias) in enumerate(((384, 0), (384, 1), (256, 1)), 3):
        x = convolution(i, x, width, bias, kernel_size=3, pad=1)
    n.pool5_spm = x = L.SPP(x, pyramid_height=levels, pool="MAX")
    for i in (6, 7):
        x = relu(n, f"fc{i}", L.InnerProduct(x, num_output=4096, **gaussian(0.01, 1)), f"relu{i}")
        n[f"drop{i}"] = x = L.Dropout(x, dropout_ratio=0.5, in_place=True)
    n.fc8 = L.InnerProduct(x, num_output=classes, **gaussian(0.01, 1))
    classify(n, n.fc8)
    return n
