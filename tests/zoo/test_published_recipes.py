"""Recipes on ImageNet, which is not here: the settings are those that were published, and a step can be made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.cli.options import read_model
from jaffe.compile import compile_net
from jaffe.netdef import load
from jaffe.train.schedules import learning_rate

IMAGES = 1_281_167
NAMES = [name for name in zoo.RECIPES if zoo.recipe(name).data == "tfds:imagenet2012"]


@pytest.mark.parametrize("name", NAMES)
def test_the_net_is_the_zoo_s(name: str):
    """A recipe has its net's name, so that commands find it; it changes what is read and, of one, the losses."""
    net = load(read_model(name)).net
    assert net == zoo.recipe(name).net.to_proto()

    def layers(net):
        return [layer for layer in net.layer if not layer.type.endswith(("Data", "Loss"))]

    assert layers(net) == layers(zoo.create(name).to_proto())
    smoothed = {layer.loss_param.label_smoothing for layer in net.layer if layer.type == "SoftmaxWithLoss"}
    assert smoothed == ({np.float32(0.1)} if name == "inception_v3" else {0})


@pytest.mark.parametrize("name", NAMES)
def test_images_become_what_the_net_reads(name: str):
    train, test = (layer for layer in zoo.recipe(name).net.to_proto().layer if layer.type == "MemoryData")
    side = train.memory_data_param.height
    for layer in (train, test):
        p = layer.transform_param
        assert (p.crop_size, list(p.resize)) == (side, [320 if side == 299 else 256])
        assert len(p.mean_value) in (1, 3)
        assert list(p.mean_value) == sorted(p.mean_value, reverse=True)  # red, green, blue
    assert train.transform_param.mirror == (not name.startswith("squeezenet"))
    assert not test.transform_param.mirror
    shapes = compile_net(zoo.recipe(name).net, phase="TRAIN").inputs
    assert shapes["data"].shape == (train.memory_data_param.batch_size, 3, side, side)


@pytest.mark.parametrize(("names", "images", "epochs"), [
    ("alexnet caffenet", 256, 90), ("googlenet", 32, 60), ("nin", 64, None), ("squeezenet1_0 squeezenet1_1", 512, None),
    ("vgg16 vgg19 resnet18 resnet34 resnet50 resnet101 resnet152 densenet121", 256, 90), ("mobilenet_v2", 256, 300),
    ("se_resnet50", 1024, 100), ("shufflenet", 1024, None), ("inception_v3", 32, 100),
])
def test_images_a_step_and_epochs_as_stated(names: str, images: int, epochs: int | None):
    for name in names.split():
        recipe = zoo.recipe(name)
        proto = recipe.solver_proto()
        (batch,) = (layer.memory_data_param.batch_size for layer in recipe.net.to_proto().layer
                    if layer.type == "MemoryData" and layer.include[0].phase == 0)
        assert batch * proto.iter_size == images
        if epochs:
            assert proto.max_iter * images / IMAGES == pytest.approx(epochs, abs=0.1)


@pytest.mark.parametrize(("name", "rates"), [
    ("alexnet", {0: 0.01, 99_999: 0.01, 100_000: 0.001, 449_999: 1e-6}),
    ("caffenet", {0: 0.01, 100_000: 0.001, 449_999: 1e-6}),
    ("googlenet", {0: 0.01, 1_200_000: 0.01 * 0.5**0.5, 2_400_000: 0}),
    ("nin", {199_999: 0.01, 200_000: 0.001, 449_999: 0.0001}),
    ("squeezenet1_0", {0: 0.04, 85_000: 0.02, 170_000: 0}), ("squeezenet1_1", {0: 0.04, 85_000: 0.02, 170_000: 0}),
    ("vgg16", {0: 0.01, 150_150: 0.001, 450_449: 0.0001}), ("resnet50", {0: 0.1, 150_150: 0.01, 450_449: 0.001}),
    ("densenet121", {150_149: 0.1, 150_150: 0.01, 300_300: 0.001}), ("mobilenet_v2", {0: 0.045, 5005: 0.0441}),
    ("se_resnet50", {0: 0.6, 30 * 1252: 0.06, 125_199: 0.0006}), ("shufflenet", {0: 0.5, 150_000: 0.25, 300_000: 0}),
    ("inception_v3", {0: 0.045, 2 * 40_037: 0.0423}),
])
def test_rates(name: str, rates: dict[int, float]):
    rate = learning_rate(zoo.recipe(name).solver_proto())
    for iteration, expected in rates.items():
        assert float(rate(iteration)) == pytest.approx(expected, rel=1e-5, abs=1e-12), iteration


@pytest.mark.parametrize("name", NAMES)
def test_a_test_sees_each_image_of_the_validation_set(name: str):
    (_, test) = (layer for layer in zoo.recipe(name).net.to_proto().layer if layer.type == "MemoryData")
    batches, batch = zoo.recipe(name).solver["test_iter"][0], test.memory_data_param.batch_size
    assert 0 <= batches * batch - 50_000 < batch


def test_squeezenet_reads_what_its_authors_other_net_reads(shared: Path):
    theirs = load(shared / "prototxt/files/songhan+SqueezeNet-Residual/trainval.prototxt").net.layer[:2]
    ours = [layer for layer in zoo.recipe("squeezenet1_0").net.to_proto().layer if layer.type == "MemoryData"]
    assert ours[0].memory_data_param.batch_size == theirs[0].data_param.batch_size
    for one, other in zip(ours, theirs, strict=True):
        assert one.transform_param.crop_size == other.transform_param.crop_size
        assert list(one.transform_param.mean_value) == list(other.transform_param.mean_value)[::-1]  # theirs are BGR


class Photographs:
    """Images of different sizes and their labels, as ImageNet's."""

    ragged = True

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(index)
        size = (3, 256, 256) if index == 0 else (3, 240 + 30 * index, 300)
        return {"image": random.integers(0, 256, size, np.uint8), "label": np.int32(index)}


@pytest.mark.slow
def test_a_step_on_images_of_different_sizes():
    recipe = zoo.recipe("squeezenet1_1")
    for call in (recipe.net.data.call, recipe.net.test_data):
        call.proto.memory_data_param.batch_size = 2
    job = jaffe.Solver(recipe, data=Photographs(), iter_size=1, max_iter=3, test_iter=[1], snapshot=0)
    losses = job.step(3)
    assert abs(losses[0] - np.log(1000)) < 1  # of a thousand classes, none of which it knows yet
    assert np.isfinite(losses).all()
