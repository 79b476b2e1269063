"""The zoo by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe import compile_net, save_weights, zoo
from jaffe.netdef.errors import JaffeError
from jaffe.zoo.cards import CARDS
from jaffe.zoo.weights import WEIGHTS

TASKS = {"classification", "segmentation", "detection", "faces", "regression", "embedding", "autoencoder", "sequences"}


def test_list():
    assert set(zoo.list()) == set(CARDS)
    assert zoo.list("squeezenet*") == ["squeezenet1_0", "squeezenet1_1"]
    assert zoo.list("vgg") == ["vgg16", "vgg19"]
    assert zoo.list("sequences") == [name for name in zoo.list() if CARDS[name].task == "sequences"]
    assert zoo.list("resnet1*") == ["resnet18", "resnet101", "resnet110", "resnet152"]
    assert zoo.list("nothing") == []


def test_every_net_has_a_card():
    assert {card.task for card in CARDS.values()} <= TASKS
    for name, card in CARDS.items():
        assert getattr(zoo, name) is card.build
        assert all((card.title, card.paper, card.input, card.about)), name


def test_each_net_has_a_name_of_its_own():
    """By which recipes and cards find each other."""
    own = [card.build().to_proto().name for card in CARDS.values()]
    assert sorted(own) == sorted(set(own))


def test_create():
    assert zoo.create("lenet", classes=3).to_proto() == zoo.lenet(classes=3).to_proto()
    with pytest.raises(JaffeError, match=r"no net 'lenett' in the zoo; did you mean 'lenet'\?"):
        zoo.create("lenett")
    with pytest.raises(JaffeError, match=r"zoo.lenet has no option 'clases'; did you mean 'classes'\?; it has "):
        zoo.create("lenet", clases=3)


def test_card():
    text = str(zoo.card("resnet50"))
    for part in ("zoo.resnet50", "He et al. 2015", "25,557,096", "published: 25,557,032 (torchvision 0.24)",
                 "the bias of the first convolution", "data 1x3x224x224", "classes=1000", "ResNet-50-model.caffemodel"):
        assert part in text
    assert "jaffe train --recipe lenet" in str(zoo.card("lenet"))
    assert "recipe" not in str(zoo.card("nin_cifar10"))
    assert str(zoo.card("lenet")) in zoo.card("lenet")._repr_markdown_()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    net = compile_net(zoo.lenet(), phase="TEST")
    path = tmp_path_factory.mktemp("published") / "lenet.caffemodel"
    save_weights(net, net.init(jax.random.key(7)), path)
    return path


def test_load_a_file(published: Path):
    net, variables = zoo.load("lenet", published, batch=3, test_batch=3)
    expected = net.init(jax.random.key(7))
    np.testing.assert_array_equal(variables["params"]["conv1"]["weight"], expected["params"]["conv1"]["weight"])
    assert (net.phase, net.inputs["data"].shape) == ("TEST", (3, 1, 28, 28))


def test_load_what_is_published(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digest = "sha256:" + hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(WEIGHTS, "lenet", (zoo.cards.Weights("mine", published.as_uri(), digest),))
    for weights in ("", "mine", f"{published.as_uri()}#{digest}"):
        _, variables = zoo.load("lenet", weights)
        assert set(variables["params"]) == {"conv1", "conv2", "ip1", "ip2"}
    assert (tmp_path / "jaffe" / "weights" / digest[7:19] / "lenet.caffemodel").exists()


def test_load_what_does_not_fit(published: Path, tmp_path: Path):
    for weights, message in (
        ("nowhere.caffemodel", "nowhere.caffemodel is not there, and no name of published weights of zoo.lenet"),
        ("http://a/b.caffemodel", "expected URL#DIGEST"), ("", "no published weights of zoo.lenet are known"),
    ):
        with pytest.raises(JaffeError, match=message):
            zoo.load("lenet", weights)
    with pytest.raises(JaffeError, match="do not fit"):
        zoo.load("lenet", published, classes=3)
    np.savez(tmp_path / "half.npz", **{"conv1/0": np.zeros((20, 1, 5, 5)), "conv1/1": np.zeros(20)})
    with pytest.raises(JaffeError, match=r"half.npz has no weights of layers conv2, ip1, ip2 of zoo.lenet"):
        zoo.load("lenet", tmp_path / "half.npz")


def test_published_weights_are_of_nets():
    assert set(WEIGHTS) <= set(CARDS)
