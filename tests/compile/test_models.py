"""Published models: read, compiled, and equal to what Caffe 1.0 or OpenCV 4 computes; and files that are refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs.models import Model, line, models, page, up
from jaffe.compile import compile_net
from jaffe.netdef import SpecError, read_weights
from tests.conftest import ROOT

MODELS = models()
PAGE = ROOT / "docs" / "models.md"


def files(shared: Path) -> Path:
    return shared / "models" / "files"


def test_all_are_here(shared: Path):
    assert len(MODELS) == 20


@pytest.mark.parametrize("i", range(len(MODELS)), ids=[model.id for model in MODELS])
def test_equal_to_the_recording(i: int):
    """Every recorded value, inner ones too, to 1e-5 of the blob's largest; and the page says so.

    They come within 5e-6. The digit of the error may differ from machine to machine, and so from the page's.
    """
    net, comparison = MODELS[i].compared()
    assert comparison.agrees, str(comparison)
    assert comparison.unused == ()
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    assert len(rows) == len(MODELS)
    written, found = (row.split(" | ") for row in (rows[i], line(MODELS[i], net, comparison)))
    assert written[:6] + written[7:] == found[:6] + found[7:], "run `make models`"
    assert float(found[6]) < 10 * float(written[6])


def test_the_page_says_how_it_was_made():
    text = PAGE.read_text()
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    assert text == page(rows), "run `make models`"


def test_errors_are_rounded_up():
    assert [up(x) for x in (0.0, 1e-6, 1.01e-6, 9.3e-7, 9.0e-7)] == pytest.approx([0, 1e-6, 2e-6, 1e-6, 9e-7])
    assert Model({"weights": "a/b.caffemodel", "out": "c.npz"}, Path()).name == "b.caffemodel"


def test_binary_and_hdf5_hold_the_same_net(shared: Path):
    folder = files(shared) / "cifar10_hdf5_and_binary" / "examples" / "cifar10" / "model"
    binary, hdf5 = (read_weights(folder / f"cifar10_full_iter_70000.caffemodel{suffix}") for suffix in ("", ".h5"))
    assert list(binary)
    assert set(binary) == set(hdf5)
    for layer, arrays in binary.items():
        assert [array.size for array in arrays] == [array.size for array in hdf5[layer]]


def test_a_net_of_several_in_one_file(shared: Path):
    """PCN's three nets stand in one file; each takes the layers that have its names."""
    weights = read_weights(files(shared) / "pcn_face" / "PCN" / "model" / "PCN.caffemodel")
    net = compile_net(files(shared) / "pcn_face" / "PCN" / "model" / "PCN-1.prototxt")
    named = {layer for layer, stored in net.stored.items() if stored}
    assert named < set(weights)


@pytest.mark.parametrize("name", ["logreg_auto_train", "logreg_auto_test", "nonlinear_auto_train",
                                  "nonlinear_auto_test", "train_val", "nonlinear_train_val"])
def test_nets_on_hdf5_data(shared: Path, name: str):
    """Their shapes stand in the data only; the first batch runs, with a gradient."""
    folder = files(shared) / "hdf5_logreg" / "examples" / "hdf5_classification"
    path = folder / f"{name}.prototxt"
    with pytest.raises(SpecError, match=r"the shape of 'data' is not in the net, only in the data"):
        compile_net(path)
    with h5py.File(folder / "data" / "train.h5") as file:
        inputs = {key: jnp.asarray(file[key][:10], jnp.float32) for key in ("data", "label")}
    net = compile_net(path, phase="TRAIN", inputs={key: value.shape for key, value in inputs.items()})
    variables = net.init(jax.random.key(0))
    loss, gradient = jax.value_and_grad(lambda params: net.loss({**variables, "params": params}, inputs)[0])(
        variables["params"])
    assert np.isfinite(loss)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_net_of_a_fork(shared: Path):
    """The settings of its own layers are fields that the schema does not have; without them, all types are named."""
    folder = files(shared) / "fixtures_customlayers"
    path = folder / "examples" / "mnist" / "lenet_pruning.prototxt"
    with pytest.raises(SpecError, match=r"^lenet_pruning.prototxt:58:2: LayerParameter has no field 'cconvolution_par"):
        compile_net(path)
    text = path.read_text()
    while "cconvolution_param" in text or "cinner_product_param" in text:
        start = min(at for at in (text.find("cconvolution_param"), text.find("cinner_product_param")) if at >= 0)
        text = text[:start] + text[text.index("}", start) + 1 :]
    with pytest.raises(SpecError, match=r"unknown layer types in this net: 'CConvolution' \(did you mean 'Convolution'"
                                        r"\?\), 'CInnerProduct' \(did you mean 'InnerProduct'\?\); jaffe.register_"):
        compile_net(text, inputs={"data": (2, 1, 28, 28), "label": (2,)})
    resnet = compile_net(folder / "models" / "resnet20" / "res20_cifar_train_test.prototxt", phase="TRAIN",
                         inputs={"Data1": (2, 3, 32, 32), "Data2": (2,)})
    assert len([node for node in resnet.graph.nodes if node.type == "BatchNorm"]) == 21


def test_what_is_no_net(shared: Path):
    folder = files(shared) / "fixtures_hostile"
    with pytest.raises(SpecError, match=r"is not a .caffemodel: it is a web page; a download has failed"):
        read_weights(folder / "res10_300x300_ssd_iter_140000.caffemodel")
    with pytest.raises(SpecError, match=r"^deploy.prototxt:1790:1: "):
        compile_net(folder / "deploy.prototxt")
