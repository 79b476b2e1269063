"""Nets that give every pixel a class, or a number, against published files and by hand."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, L, NetSpec
from jaffe.pycaffe.coord_map import crop
from jaffe.zoo.segmentation import interpolated, small_fcn

FCNS = {"fcn32s": ("upscore", 19), "fcn16s": ("upscore16", 27), "fcn8s": ("upscore8", 31)}


@pytest.mark.parametrize("name", FCNS)
@pytest.mark.parametrize("size", [(97, 64), (320, 241)])
def test_fcn_takes_any_size(name: str, size: tuple[int, int]):
    net = compile_net(zoo.create(name, shape=(3, *size)), phase="TEST")
    assert net.shape("score") == (1, 21, *size)


@pytest.mark.parametrize("name", FCNS)
def test_fcn_crops_where_coordinates_say(name: str):
    """Offsets as published, which are those that pycaffe's ``crop`` finds."""
    spec = zoo.create(name)
    last, offset = FCNS[name]
    pairs = {"score": (last, "data", offset), "score_pool4c": ("score_pool4", "upscore2", 5),
             "score_pool3c": ("score_pool3", "upscore_pool4", 9)}
    checked = 0
    for layer, (cut, like, expected) in pairs.items():
        if layer in spec:
            found = crop(spec[cut], spec[like]).call.proto.crop_param
            own = spec[layer].call.proto.crop_param
            assert (own.axis, list(own.offset)) == (found.axis, list(found.offset)) == (2, [expected])
            checked += 1
    assert checked == {"fcn32s": 1, "fcn16s": 2, "fcn8s": 3}[name]


def test_fcn8s_has_the_weights_of_another_published_one(shared: Path):
    """Of PASCAL-Context, an early one, whose layers have other names."""
    (path,) = shared.glob("prototxt/files/developmentseed*/fcn-8s/deploy.prototxt")
    shapes = []
    for spec in (path, zoo.fcn8s(classes=60)):
        net = compile_net(spec, phase="TEST")
        shapes.append([(node.type, [one.weight.shape for one in net.stored[node.name]]) for node in net.graph.nodes
                       if node.type not in ("Input", "Accuracy", "SoftmaxWithLoss")])
    assert shapes[0] == shapes[1]


def test_interpolation_begins_bilinear():
    """A slope stays a slope between the outermost cells."""
    n = NetSpec("Interpolation")
    n.data = L.Input(shape={"dim": [1, 2, 6, 6]})
    n.up = interpolated(n.data, 2, 4)
    net = compile_net(n)
    variables = net.init(jax.random.key(0))
    x = np.broadcast_to(np.arange(6.0), (1, 2, 6, 6))
    found = np.asarray(net.apply(variables, {"data": x})[0]["up"])[:, :, 8:-8, 8:-8]
    # Place p of the larger map, cut or not, is at (p - 3.5) / 4 - 0.5 + 0.5 of the smaller one's cells.
    expected = (np.arange(8, found.shape[-1] + 8) - 3.5) / 4
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)
    assert net.stored["up"][0].lr_mult == 0


def test_small_fcn_is_as_large_as_its_images():
    net = compile_net(small_fcn(classes=4, shape=(3, 32, 48), batch=2, test_batch=3), phase="TEST")
    assert net.shape("upscore_pool1") == (3, 4, 32, 48)


def test_segnet_goes_back_to_every_size():
    """Sizes as published: 360x480 to 12x15 and back."""
    net = compile_net(zoo.segnet(), phase="TEST")
    assert [net.shape(f"pool{i}")[2:] for i in range(1, 6)] == [(180, 240), (90, 120), (45, 60), (23, 30), (12, 15)]
    assert [net.shape(f"pool{i}_D")[2:] for i in range(5, 0, -1)] == [(23, 30), (45, 60), (90, 120), (180, 240),
                                                                     (360, 480)]
    stated = {node.name: (node.proto.upsample_param.upsample_h, node.proto.upsample_param.upsample_w)
              for node in net.graph.nodes if node.proto.upsample_param.HasField("upsample_h")}
    assert stated == {"upsample5": (23, 30), "upsample4": (45, 60)}
    assert net.shape("conv1_1_D") == (1, 11, 360, 480)
    widths = [net.shape(f"conv{at}_D")[1] for at in ("5_3", "5_1", "4_2", "4_1", "3_1", "2_1", "1_2")]
    assert widths == [512, 512, 512, 256, 128, 64, 64]


def test_segnet_ready_for_use_normalises_by_what_is_stored():
    for inference in (False, True):
        net = compile_net(zoo.segnet(inference=inference, shape=(3, 16, 16), widths=(4,), convolutions=(2,)),
                          phase="TEST")
        variables = net.init(jax.random.key(0))
        x = np.random.default_rng(0).normal(size=(1, 3, 16, 16))
        conv, normal = (np.asarray(net.apply(variables, {"data": scale * x, "label": np.zeros((1, 16, 16))},
                                             blobs=["conv1_1_D"])[0]["conv1_1_D"]) for scale in (1, 100))
        assert np.allclose(conv, normal, atol=1e-3) != inference


def test_unet_is_the_published_one(shared: Path):
    """Layer for layer, under the same names; the file, for a Caffe of their own, does not say where to crop."""
    (path,) = shared.glob("prototxt/files/foss*/caffe_models/unet/caffe_model/tmp-test.prototxt")
    mine = {layer.name: layer for layer in zoo.unet().to_proto().layer}
    theirs = [line for line in path.read_text().splitlines() if line.startswith("layers { bottom")]
    for line in theirs:
        def words(field: str, line: str = line) -> list[str]:
            return re.findall(rf"\b{field}: '?([\w-]+)", line)

        own = mine[words("name")[0]]
        kind = {"SOFTMAX_LOSS": "SoftmaxWithLoss", "RELU": "ReLU"}.get(words("type")[0], words("type")[0].title())
        assert own.type == kind
        assert [*own.bottom] == words("bottom")
        assert [*own.top] == words("top")
        stated = {field.name: value for message in (own.convolution_param, own.pooling_param)
                  for field, value in message.ListFields()}
        for field in ("num_output", "kernel_size", "stride"):
            values = stated.get(field, [])
            values = [values] if isinstance(values, int) else values
            assert [str(value) for value in values] == words(field), line
    assert len(mine) == len(theirs) + 2  # data, accuracy


def test_unet_crops_the_middle():
    net = compile_net(zoo.unet(), phase="TEST")
    assert net.shape("score") == (1, 2, 388, 388)
    offsets = {node.name: node.proto.crop_param.offset[0] for node in net.graph.nodes if node.type == "Crop"}
    for level in range(4):
        outside = net.shape(f"d{level}c")[2] - net.shape(f"d{level}cc")[2]
        assert outside == 2 * offsets[f"crop_d{level}c-d{level}cc"] > 0


def test_padded_unet_keeps_the_size():
    spec = zoo.unet(shape=(3, 48, 32), padded=True, normalised=True, width=4, classes=3)
    assert compile_net(spec, phase="TEST").shape("score") == (1, 3, 48, 32)
    with pytest.raises(JaffeError, match=r"concat_d\dcc_u\da-b"):
        compile_net(zoo.unet(shape=(3, 50, 32), padded=True), phase="TEST")


def test_relative_error_of_depth():
    net = compile_net(zoo.depth_unet(shape=(3, 16, 16), width=2, test_batch=2), phase="TEST")
    random = np.random.default_rng(0)
    inputs = {"data": random.random((2, 3, 16, 16)), "depth": random.uniform(1, 3, (2, 1, 16, 16))}
    variables = net.init(jax.random.key(0))
    variables = {**variables, "state": jax.tree.map(np.ones_like, variables["state"])}
    outputs, _ = net.apply(variables, inputs, blobs=["found", "relative_error"])
    error = np.abs(np.asarray(outputs["found"]) - inputs["depth"])
    np.testing.assert_allclose(outputs["relative_error"], (error / inputs["depth"]).mean(), rtol=1e-5)
    # EuclideanLoss is half of the sum over an item; its weight makes the net's loss the mean over pixels.
    loss, _ = net.loss(variables, inputs)
    np.testing.assert_allclose(loss, (error**2).mean() / 2, rtol=1e-5)
