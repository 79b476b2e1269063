"""Nets of the zoo, written as Caffe's files, against OpenCV 4's importer: the same outputs from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaffe import compile_net, save_weights
from jaffe.compile import CompiledNet
from jaffe.netdef.deploy import deploy
from jaffe.netdef.errors import JaffeError
from jaffe.parity.oracles import random_inputs, run_opencv
from jaffe.parity.reference import Reference
from jaffe.zoo.cards import CARDS

# What the importer says of nets that have layers which it lacks, or other shapes of LSTMs.
REFUSED = {
    "deepface": 'layer "L4" of type "LocallyConnected"', "net3": 'layer "local1" of type "LocallyConnected"',
    "maxout": 'layer "h0" of type "Maxout"', "maxout_conv": 'layer "h0" of type "Maxout"',
    "siamese": 'layer "squares" of type "Reduction"', "multilabel": 'layer "found" of type "Threshold"',
    "char_lstm": 'layer "embed" of type "Embed"', "seq2seq_addition": 'layer "asked" of type "Embed"',
    "caption": 'layer "embedding" of type "Embed"',
    "segnet": 'layer "conv1_1_bn" of type "BN"', "spp_net": 'layer "pool5_spm" of type "SPP"',
    "lstm_sequence_classifier": 'layer "Reduction1" of type "Reduction"', "lrcn": "bidirectional",
}
# Run by `make test`; the others take minutes.
QUICK = ("lenet", "mlp", "cifar10_full_sigmoid_bn", "resnet20", "squeezenet1_1")
TOLERANCE = 1e-5  # of the largest value; measured: 5e-6 at most
WIDER = {"ssd300": 3e-5, "unet": 2e-5}  # softmaxes, whose scores the importer names otherwise or not at all


def written(name: str, folder: Path) -> tuple[CompiledNet, Any, Path, Path]:
    """The net as it is used, with random weights, and its two files."""
    prototxt, weights = folder / "deploy.prototxt", folder / "net.caffemodel"
    proto = deploy(CARDS[name].declared(1))
    net = compile_net(proto)
    variables = randomised(net)
    save_weights(net, variables, weights)
    for layer in proto.layer:
        if layer.type == "Axpy":  # OpenCV 4.14 computes a y + x, where the authors' axpy_layer.cpp has a x + y
            scale, x, y = layer.bottom
            layer.bottom[:] = scale, y, x
    prototxt.write_text(str(proto))
    return net, variables, prototxt, weights


def randomised(net: CompiledNet) -> Any:
    """Weights that keep values of one size from layer to layer, and statistics and biases that matter."""
    random = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        name, fan_in = path[-1].key, int(np.prod(leaf.shape[1:]))
        if name == "weight" and len(leaf.shape) > 1:
            values = random.normal(0, (2 / fan_in) ** 0.5, leaf.shape)
        elif name in ("variance", "factor", "weight"):
            values = random.uniform(0.5, 1.5, leaf.shape)
        else:
            values = random.normal(0, 0.1, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(net.init, jax.random.key(0)))


def compared(net: CompiledNet, theirs: Reference) -> dict[str, np.ndarray]:
    """Outputs of OpenCV by blob; of probabilities the scores, since a softmax multiplies differences of large ones, and
    of detections what they are found in, since near ties are many among random boxes."""
    blobs = {value: blob for blob, value in net.graph.blobs.items()}
    writers = {blobs[top]: node for node in net.graph.nodes for top in node.tops if top in blobs}
    found = {}
    for output in net.outputs:
        node = writers[output]
        before = [blobs[bottom] for bottom in node.bottoms] if node.type in ("Softmax", "DetectionOutput") else []
        known = [blob for blob in before if writers[blob].name in theirs.layers]
        found |= {blob: theirs.layers[writers[blob].name][0] for blob in known or [output]}
    return found


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CARDS if name not in REFUSED
])
def test_outputs_are_those_of_opencv(name: str, tmp_path: Path):
    net, variables, prototxt, weights = written(name, tmp_path)
    inputs = random_inputs(net)
    theirs = run_opencv(net, prototxt, weights, inputs)
    expected, tolerance = compared(net, theirs), WIDER.get(name, TOLERANCE)
    ours, _ = jax.jit(lambda variables, inputs: net.apply(variables, inputs, blobs=list(expected)))(variables, inputs)
    assert expected
    for blob, value in expected.items():
        np.testing.assert_allclose(ours[blob], value.reshape(ours[blob].shape), rtol=0,
                                   atol=tolerance * np.abs(value).max(), err_msg=blob)


@pytest.mark.parametrize("name", REFUSED)
def test_what_opencv_does_not_read(name: str, tmp_path: Path):
    net, _, prototxt, weights = written(name, tmp_path)
    with pytest.raises(JaffeError, match=REFUSED[name]):
        run_opencv(net, prototxt, weights, random_inputs(net))
