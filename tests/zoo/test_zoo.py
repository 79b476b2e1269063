"""Zoo nets against frozen tables, published figures, and a few steps of their recipes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import jaffe
from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError, load
from jaffe.zoo import nets

TABLES = Path(__file__).parent / "tables"
NETS = {
    "lenet": nets.lenet, "mlp": nets.mlp, "logreg": nets.logreg, "cifar10_quick": nets.cifar10_quick,
    "autoencoder": nets.autoencoder,
}


def table(name: str) -> str:
    """Every layer of both phases: graph, output shapes and weights."""
    parts = []
    for phase in ("TRAIN", "TEST"):
        net = compile_net(NETS[name](), phase=phase)
        parts.append(str(net.graph))
        parts += [f"  {value}: {shape}" for value, shape in net.inferred.shapes.items()]
        parts += [
            f"  {layer}.{one.weight.name}: {one.weight.shape} {one.weight.filler.type} lr {one.lr_mult:g} "
            f"decay {one.decay_mult:g}"
            for layer, stored in net.stored.items() for one in stored
        ]
        parts.append(f"  {net.cost().params} parameters, {net.cost().flops} FLOPs")
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("name", NETS)
def test_nets_are_what_they_were(name: str):
    """To accept a change: python -m tests.zoo.test_zoo."""
    assert table(name) == (TABLES / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", NETS)
def test_specs_round_trip_as_prototxt(name: str):
    spec = NETS[name]()
    assert load(str(spec)).net == spec.to_proto()


AUTOENCODER = sum(a * b + b for a, b in itertools.pairwise((784, 1000, 500, 250, 30, 250, 500, 1000, 784)))


@pytest.mark.parametrize(
    ("name", "params"), [("lenet", 431_080), ("cifar10_quick", 145_578), ("autoencoder", AUTOENCODER)]
)
def test_parameter_counts(name: str, params: int):
    assert compile_net(NETS[name]()).cost().params == params


def test_cifar10_quick_is_the_published_net(shared: Path):
    """Layer for layer the shapes and weights of Caffe's own deploy file."""
    (path,) = shared.glob("models/files/cifar10_hdf5_and_binary/**/cifar10_quick.prototxt")
    theirs, ours = compile_net(path), compile_net(nets.cifar10_quick(), phase="TEST", batch=1)
    for layer, stored in theirs.stored.items():
        assert [one.weight.shape for one in stored] == [one.weight.shape for one in ours.stored.get(layer, ())], layer
    for blob in ("conv1", "pool1", "pool2", "pool3", "ip2"):
        assert theirs.shape(blob) == ours.shape(blob)


def test_every_net_has_a_recipe():
    assert set(zoo.RECIPES) == set(NETS)
    with pytest.raises(JaffeError, match="no recipe 'lnet'; did you mean 'lenet'"):
        zoo.recipe("lnet")


@pytest.mark.parametrize("name", ["lenet", "mlp", "logreg", "autoencoder"])
def test_recipes_on_digits_learn(name: str):
    """A short run of each recipe on the real digits: the loss falls well below where it began."""
    iterations = {"autoencoder": 100}.get(name, 60)
    job = jaffe.Solver(zoo.recipe(name), max_iter=iterations, test_interval=iterations, snapshot=0)
    losses = job.step(iterations)
    assert losses[-10:].mean() < 0.6 * losses[:3].mean()
    (means,) = job.test()
    if "accuracy" in means:
        assert means["accuracy"] > 0.8


def test_cifar_recipe_runs_on_cifar_like_images():
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 200)
    images = (random.random((200, 3, 32, 32)) * 20 + labels.reshape(-1, 1, 1, 1) * 25).astype(np.uint8)
    job = jaffe.Solver(zoo.recipe("cifar10_quick"), data={"image": images, "label": labels}, test_iter=[2],
                       max_iter=3, test_interval=3, snapshot=0, base_lr=0.001)
    assert np.isfinite(job.step(3)).all()


if __name__ == "__main__":
    for each in NETS:
        (TABLES / f"{each}.txt").write_text(table(each))
