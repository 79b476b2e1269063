"""Nets that find objects, against published files and by hand."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, L, NetSpec
from jaffe.zoo.detection import LOSS_ONLY, BoxMap, multibox, small_ssd
from tests.zoo.test_zoo import settings

SHARED = dict(classes=3, objects=2, shape=(3, 32, 32), widths=(4, 4, 4), maps=(BoxMap("conv3_2", 8, 12),), batch=2,
              test_batch=2)


def test_ssd300_has_the_published_boxes():
    """8732, and their sizes as the authors' script has them: 10 %, then from 20 to 90 % of the image in equal steps."""
    net = compile_net(zoo.ssd300(test_batch=1), phase="TEST")
    assert net.shape("mbox_priorbox") == (1, 2, 8732 * 4)
    assert net.shape("mbox_conf_flatten") == (1, 8732 * 21)
    shares = [10, *range(20, 106, (90 - 20) // 4)]
    maps = [node.proto.prior_box_param for node in net.graph.nodes if node.type == "PriorBox"]
    assert [p.min_size[0] for p in maps] == [300 * share / 100 for share in shares[:-1]]
    assert [p.max_size[0] for p in maps] == [300 * share / 100 for share in shares[1:]]


def test_ssd300_is_as_another_published_one(shared: Path):
    """SSD512: layers with weights, pools and ReLUs. The file, for an accelerator, orders the boxes in another way."""
    (path,) = shared.glob("prototxt/files/foss*/**/VGG_VOC0712_SSD_512x512_iter_120000_updated.prototxt")
    text = path.read_text()
    theirs = compile_net(text[: text.index('layer {\n  name: "detection_out"')], phase="TEST")
    ours = compile_net(zoo.ssd300(test_batch=1), phase="TEST")
    mine = {node.name: node for node in ours.graph.nodes}
    kinds = ("Convolution", "Pooling", "ReLU", "Normalize")
    later = ("conv8_2", "conv9_2")  # have another stride
    compared = 0
    for node in theirs.graph.nodes:
        if node.name not in mine or node.type not in kinds or node.name.startswith(later):
            continue
        assert mine[node.name].type == node.type
        assert settings(mine[node.name]) == settings(node), node.name
        assert [one.weight.shape for one in theirs.stored[node.name]] == [
            one.weight.shape for one in ours.stored[node.name]], node.name
        compared += 1
    assert compared > 50


def test_ssd_tests_its_loss_or_finds_boxes():
    spec = small_ssd(**SHARED)
    assert compile_net(spec, phase="TEST").outputs == ("detection_out", "mbox_loss")
    assert compile_net(spec, phase="TEST", stages=[LOSS_ONLY]).outputs == ("mbox_loss",)
    assert compile_net(spec, phase="TRAIN").outputs == ("mbox_loss",)


def test_boxes_are_found_where_offsets_put_them():
    """A net of no layers but SSD's end, whose scores are set: it gives back the boxes that it was asked for."""
    n = NetSpec("Boxes")
    n.data, n.label = L.Input(ntop=2, shape=[{"dim": [1, 3, 32, 32]}, {"dim": [1, 2, 8]}])
    n.map = L.Pooling(n.data, pool="AVE", kernel_size=8, stride=8)
    multibox(n, (BoxMap("map", 8, 12),), 3, keep=4)
    net = compile_net(n, phase="TEST")
    variables = net.init(jax.random.key(0))
    layers = {name: {key: np.zeros_like(value) for key, value in arrays.items()}
              for name, arrays in variables["params"].items()}
    layers["map_mbox_conf"]["bias"][:] = [5, 0, 0, 5, 0, 0]
    layers["map_mbox_conf"]["weight"][1, 0, 1, 1] = 10  # class 1 of a cell's smaller box, where the first channel is 1
    x = np.zeros((1, 3, 32, 32))
    x[0, 0, 8:16, 16:24] = 1
    outputs, _ = net.apply({**variables, "params": layers}, {"data": x, "label": -np.ones((1, 2, 8))})
    rows = np.asarray(outputs["detection_out"])[0, 0]
    best = rows[rows[:, 2].argmax()]
    np.testing.assert_allclose(best[[0, 1, 3, 4, 5, 6]], [0, 1, 0.5, 0.25, 0.75, 0.5], atol=1e-6)


def test_rcnn_has_caffenets_features():
    caffenet, rcnn = (compile_net(spec, phase="TEST") for spec in (zoo.caffenet(), zoo.rcnn_features()))
    for layer in ("conv1", "conv5", "fc6", "fc7"):
        assert [one.weight.shape for one in rcnn.stored[layer]] == [one.weight.shape for one in caffenet.stored[layer]]
    assert rcnn.outputs == ("fc-rcnn",)
    assert rcnn.shape("fc-rcnn") == (10, 200)


def test_spp_net_takes_images_of_many_sizes():
    nets = [compile_net(zoo.spp_net(shape=(3, *size)), phase="TEST", batch=1)
            for size in ((224, 224), (180, 300), (111, 500))]
    shapes = [[one.weight.shape for stored in net.stored.values() for one in stored] for net in nets]
    assert shapes[0] == shapes[1] == shapes[2]
    assert nets[0].shape("pool5_spm") == (1, 256 * (1 + 4 + 16))
    with pytest.raises(JaffeError, match=r"4 bins on each axis of \(5, 5\)"):
        compile_net(zoo.spp_net(shape=(3, 100, 100)))
