"""Net.forward and Net.backward against values and gradients recorded from Caffe 1.0, split blobs too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaffe.pycaffe import Net
from tests.compile.test_goldens import CASES, agree, computed

# Shared weights, in-place chains, splits, several losses, carried and batch state, gradients put on outputs. All 110
# agree; these are enough to show that the facade hands on what the compiled net computes.
CHOSEN = ("batchnorm_3iters", "bn_scale_residual", "conv_0", "lstm_static", "net_multi_loss", "net_propagate_down",
          "net_shared_weights", "pool_ties", "split_fanout")


def filled(z: np.lib.npyio.NpzFile) -> Net:
    """The recorded net with its weights before the run."""
    net = Net(str(z["prototxt"]), str(z["phase"]))
    for key in z.files:
        if key.startswith("param:"):
            _, layer, i = key.split(":")
            blob = net.params[layer][int(i)]
            blob.data[...] = z[key].reshape(blob.shape)
    return net


@pytest.mark.parametrize("path", [p for p in CASES if p.stem in CHOSEN], ids=lambda path: path.stem)
def test_recorded(path: Path):
    z = np.load(path)
    net = filled(z)
    passes = sorted({key.split(":")[2] for key in z.files if key.startswith("in:") and key.count(":") == 2}, key=int)
    for suffix in [f":{k}" for k in passes] or [""]:
        for name in net.inputs:
            net.blobs[name].data[...] = z[f"in:{name}{suffix}"]
        net.forward()
        tops = [key for key in z.files if key.startswith("top:") and key.endswith(suffix)]
        assert tops
        for key in tops:
            agree(net.blobs[key[len("top:") : len(key) - len(suffix)]].data, z[key], key)
    for key in z.files:
        kind, *names = key.split(":")
        if kind == "dtop":
            net.blobs[names[0]].diff[...] = z[key]
        if kind == "after":
            agree(net.params[names[0]][int(names[1])].data, z[key], key)
    net.backward()
    for key in computed(z, "din"):
        agree(net.blobs[key.split(":")[1]].diff, z[key], key)
    for key in computed(z, "dparam"):
        _, layer, i = key.split(":")
        agree(net.params[layer][int(i)].diff, z[key], key)
