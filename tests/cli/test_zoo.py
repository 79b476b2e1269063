"""``jaffe zoo``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from jaffe.cli import zoo
from jaffe.zoo import card
from jaffe.zoo import list as names_of
from jaffe.zoo.cards import Weights
from jaffe.zoo.weights import WEIGHTS
from tests.cli.test_cli import jaffe


def test_the_list():
    lines = jaffe("zoo").splitlines()
    assert [line.split()[0] for line in lines[1:]] == names_of()
    assert lines[0].split() == ["net", "task", "parameters", "recipes", "weights"]
    found = {line.split()[0]: line.split()[1:] for line in lines}
    assert found["lenet"] == ["classification", "431,080", "lenet", "lenet_mnist"]
    assert found["rcnn_features"] == ["detection", "57,687,624", "bvlc"]
    assert found["unet"][:2] == ["segmentation", "31,100,354"]
    assert found["nin_cifar10"] == ["classification", "966,986"]


@pytest.mark.parametrize(("asked", "names"), [
    ("squeezenet*", ["squeezenet1_0", "squeezenet1_1"]), ("faces", ["deepface", "light_cnn4", "light_cnn9"]),
    ("vgg1", ["vgg16", "vgg19"]),
])
def test_a_part_of_the_list(asked: str, names: list[str], capsys: pytest.CaptureFixture[str]):
    zoo(asked)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == names


def test_a_card():
    assert jaffe("zoo", "squeezenet1_1") == f"{card('squeezenet1_1')}\n"


def test_what_is_not_there():
    assert jaffe("zoo", "resent50", status=1) == (
        "jaffe: no net of the zoo has 'resent50' as its name, task or a part of it; did you mean 'resnet50'?\n")
    assert "jaffe: no net 'vgg' in the zoo" in jaffe("zoo", "vgg", "--fetch", status=1)
    assert "jaffe: no published weights of zoo.lenet are known" in jaffe("zoo", "lenet", "--fetch", status=1)


def test_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    published = tmp_path / "net.caffemodel"
    published.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(WEIGHTS, "lenet", (Weights("mine", published.as_uri(), f"sha256:{digest}"),))
    zoo("lenet", fetch=True)
    path = Path(capsys.readouterr().out.rstrip("\n"))
    assert path == tmp_path / "cache" / "jaffe" / "weights" / digest[:12] / "net.caffemodel"
    assert path.read_bytes() == b"weights"


def test_nets_are_models():
    assert "1,235,496" in jaffe("summary", "--model", "squeezenet1_1")
    assert jaffe("summary", "--model", "resent50", status=1) == (
        "jaffe: resent50 is no file, and no recipe or net of the zoo; did you mean 'resnet50'?; jaffe zoo lists them\n")
    assert "jaffe: gone.prototxt: cannot be read" in jaffe("summary", "--model", "gone.prototxt", status=1)
