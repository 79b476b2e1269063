"""Recipes: a few steps of each, and what they reach. Those of sequences and scenes have tests of their own."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError


def test_names():
    for name in zoo.RECIPES:
        assert zoo.recipe(name).name == name
    with pytest.raises(JaffeError, match="no recipe 'lnet'; did you mean 'lenet'"):
        zoo.recipe("lnet")


@pytest.mark.parametrize("name", zoo.RECIPES)
def test_what_measures_a_recipe_is_there(name: str):
    recipe = zoo.recipe(name)
    net = compile_net(recipe.net, phase="TEST")
    assert recipe.measure in net.outputs
    assert recipe.higher == (recipe.measure not in net.loss_tops and not recipe.measure.endswith("_error"))


@pytest.mark.parametrize(("name", "iterations", "least"), [
    ("logreg", 60, 0.8), ("local_digits", 200, 0.6), ("siamese", 40, 0.6), ("multitask_digits", 60, 0.5),
    ("logreg_vectors", 150, 0.6),
    *(pytest.param(*other, marks=pytest.mark.slow) for other in (
        ("lenet", 60, 0.8), ("mlp", 60, 0.8), ("maxout_digits", 60, 0.6), ("light_cnn_digits", 60, 0.6),
        ("mlp_vectors", 150, 0.6))),
])
def test_recipes_learn(name: str, iterations: int, least: float):
    """A short run on the real digits: the test net's measure is well above chance."""
    job = short(name, iterations)
    job.step(iterations)
    assert measure(job, name) > least


@pytest.mark.parametrize(("name", "iterations", "share"), [("autoencoder", 100, 0.6), ("multilabel", 80, 0.8)])
def test_losses_fall(name: str, iterations: int, share: float):
    losses = short(name, iterations).step(iterations)
    assert losses[-10:].mean() < share * losses[:3].mean()


@pytest.mark.parametrize("name", ["cifar10_full_sigmoid_bn", *(
    pytest.param(other, marks=pytest.mark.slow)
    for other in ("cifar10_quick", "cifar10_full", "cifar10_full_sigmoid", "resnet20"))])
def test_cifar_recipes_run_on_images_like_those(name: str):
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 200)
    images = (random.random((200, 3, 32, 32)) * 20 + labels.reshape(-1, 1, 1, 1) * 25).astype(np.uint8)
    job = short(name, 3, data={"image": images, "label": labels}, test_iter=[2])
    assert np.isfinite(job.step(3)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [
    ("lenet", 0.98), ("mlp", 0.95), ("logreg", 0.94), ("maxout_digits", 0.97), ("light_cnn_digits", 0.97),
    ("local_digits", 0.94), ("siamese", 0.94), ("multitask_digits", 0.96), ("multilabel", 0.85),
    ("logreg_vectors", 0.75), ("mlp_vectors", 0.8),
])
def test_recipes_reach_what_they_say(name: str, least: float):
    job = jaffe.Solver(zoo.recipe(name), snapshot=0)
    job.run()
    assert measure(job, name) > least


def test_vectors_from_hdf5(shared: Path):
    """Caffe's example of logistic regression, on the files that its notebook wrote."""
    folder = shared / "models/files/hdf5_logreg/examples/hdf5_classification/data"
    job = short("logreg_vectors", 200, data={phase: f"hdf5:{folder / phase}.h5" for phase in ("train", "test")})
    job.step(200)
    assert measure(job, "logreg_vectors") > 0.7


def test_a_siamese_net_has_one_set_of_weights():
    net = compile_net(zoo.siamese(), phase="TRAIN")
    owners = {layer: {one.owner[0] for one in stored} for layer, stored in net.stored.items() if stored}
    layers = ["conv1", "conv2", "ip1", "ip2", "feat"]
    assert owners == {f"{layer}{suffix}": {layer} for layer in layers for suffix in ("", "_p")}


def test_errors_of_several_labels():
    """Shares of labels, and of images without an error, against counting."""
    net = compile_net(zoo.multilabel(test_batch=50), phase="TEST")
    random = np.random.default_rng(0)
    inputs = {"data": random.random((50, 1, 28, 28)), "label": random.integers(0, 2, (50, 10))}
    inputs["label"][:20] = 0
    variables = net.init(jax.random.key(0))
    outputs, _ = net.apply(variables, inputs, blobs=["scores", "accuracy", "all_right"])
    right = (np.asarray(outputs["scores"]) > 0) == inputs["label"]
    np.testing.assert_allclose(outputs["accuracy"], right.mean(), rtol=1e-6)
    np.testing.assert_allclose(outputs["all_right"], right.all(1).mean(), rtol=1e-6, atol=1e-7)


def short(name: str, iterations: int, **settings: object) -> jaffe.Solver:
    return jaffe.Solver(zoo.recipe(name), **{"max_iter": iterations, "test_interval": iterations, "snapshot": 0,
                                             **settings})


def measure(job: jaffe.Solver, name: str) -> float:
    (means,) = job.test()
    return float(means[zoo.recipe(name).measure])
