"""Zoo nets against frozen tables, published files and figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from google.protobuf import text_format

from jaffe import zoo
from jaffe.compile import CompiledNet, compile_net
from jaffe.netdef import JaffeError, load
from jaffe.netdef.graph import Node
from jaffe.netdef.schema import settings_fields
from jaffe.zoo.cards import CARDS

TABLES = Path(__file__).parent / "tables"


def lines(net: CompiledNet) -> list[str]:
    """A layer a line: what it reads, its settings, shapes and weights."""
    shapes = net.inferred.shapes
    made, costs = [], net.cost()
    for node, text in zip(net.graph.nodes, str(net.graph).splitlines()[1:], strict=False):
        settings = [f"{field} {{ {text_format.MessageToString(getattr(node.proto, field), as_one_line=True)} }}"
                    for field in settings_fields(node.type) if node.proto.HasField(field)]
        weights = [f"{one.weight.name} {dims(one.weight.shape)} lr {one.lr_mult:g} decay {one.decay_mult:g}"
                   + (f" of {one.owner[0]}" if one.owner[0] != node.name else "") for one in net.stored[node.name]]
        made.append(" | ".join([text, *settings, ", ".join(dims(shapes[top]) for top in node.tops), *weights]))
    return [*made, f"  {costs.params} parameters, {costs.flops} FLOPs"]


def dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def table(name: str) -> str:
    """Every layer; what is in one phase only is marked."""
    train, test = (lines(compile_net(CARDS[name].declared(2), phase=phase)) for phase in ("TRAIN", "TEST"))
    merged = [name]
    for kind, i, j, k, m in SequenceMatcher(a=train, b=test, autojunk=False).get_opcodes():
        if kind == "equal":
            merged += train[i:j]
        else:
            merged += [f"TRAIN{line}" for line in train[i:j]] + [f"TEST{line}" for line in test[k:m]]
    return "\n".join(merged) + "\n"


@pytest.mark.parametrize("name", CARDS)
def test_nets_are_what_they_were(name: str):
    """To accept a change: python -m tests.zoo.test_zoo NAME..."""
    assert table(name) == (TABLES / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", CARDS)
def test_specs_round_trip_as_prototxt(name: str):
    spec = CARDS[name].build()
    assert load(str(spec)).net == spec.to_proto()


@pytest.mark.parametrize("name", CARDS)
def test_what_is_trained_is_what_is_used(name: str):
    """No layer that both phases have reads one that only the one has, but for the data."""
    graphs = [compile_net(CARDS[name].build(), phase=phase).graph for phase in ("TRAIN", "TEST")]
    both = {node.name for node in graphs[0].nodes} & {node.name for node in graphs[1].nodes}
    for graph in graphs:
        single = {top for node in graph.nodes if node.name not in both and node.bottoms for top in node.tops}
        assert not [node.name for node in graph.nodes if node.name in both and single.intersection(node.bottoms)]


def test_auxiliary_classifiers_are_for_training_only():
    train, test = (compile_net(zoo.googlenet(), phase=phase) for phase in ("TRAIN", "TEST"))
    assert sorted(train.loss_tops.values()) == [pytest.approx(0.3), pytest.approx(0.3), 1]
    assert list(test.loss_tops.values()) == [1]
    assert test.cost().params == 6_998_552


# Published files, their classes, and the layers that differ.
FILES = {
    "cifar10_quick": ("models/files/cifar10_hdf5_and_binary/**/cifar10_quick.prototxt", 10, ()),
    "cifar10_full": ("prototxt/files/everpeace+caffe/**/cifar10_full.prototxt", 10, ()),
    "alexnet": ("prototxt/files/SnailTyan*/AlexNet/deploy.prototxt", 1000, ()),
    "caffenet": ("prototxt/files/adilmoujahid*/**/caffenet_deploy_1.prototxt", 2, ()),
    "vgg16": ("prototxt/files/Xiangyu-CAS*/Classification/VGG/VGG16.prototxt", 1000, ()),
    "googlenet": ("prototxt/files/NVIDIA*/**/ItemNetFinal/googlenet.prototxt", 1000, ()),
    "squeezenet1_0": ("prototxt/files/DeepScale*/SqueezeNet_v1.0/deploy.prototxt", 1000, ()),
    "squeezenet1_1": ("prototxt/files/DeepScale*/SqueezeNet_v1.1/deploy.prototxt", 1000, ()),
    # With a projection where the paper and torchvision have an identity; and a pool that is for images of 224x224 only.
    "resnet18": ("prototxt/files/inisis*/**/resnet-18.prototxt", 1000,
                 ("res2a_branch1", "bn2a_branch1", "scale2a_branch1", "pool5")),
    # A pool that is for images of 224x224 only; statistics that are not of the batch in phase TRAIN either.
    "resnet50": ("prototxt/files/KaimingHe*/**/ResNet-50-deploy.prototxt", 1000, ("pool5",)),
    "resnet101": ("prototxt/files/KaimingHe*/**/ResNet-101-deploy.prototxt", 1000, ("pool5",)),
    "se_resnet50": ("prototxt/files/hujie-frank*/**/SE-ResNet-50.prototxt", 1000, ()),
    "densenet121": ("prototxt/files/shicai*/DenseNet_121.prototxt", 1000, ()),
    "light_cnn4": ("prototxt/files/AlfredXiangWu*/proto/LightenedCNN_A_deploy.prototxt", 10575, ()),
    "light_cnn9": ("prototxt/files/AlfredXiangWu*/proto/LightenedCNN_B_deploy.prototxt", 10575, ()),
    "mobilenet": ("prototxt/files/shicai*/mobilenet_deploy.prototxt", 1000, ()),
    "mobilenet_v2": ("prototxt/files/shicai*/mobilenet_v2_deploy.prototxt", 1000, ()),
}


# Of no effect on what a net computes in phase TEST.
WITHOUT_EFFECT = ("engine", "weight_filler", "bias_filler", "filler", "use_global_stats", "moving_average_fraction")
DEFAULTS = {"pad": [0], "stride": [1], "dilation": [1]}


def settings(node: Node) -> dict[str, object]:
    """Fields of the layer's own message, or their defaults."""
    fields = {
        f"{field}.{one.name}": getattr(getattr(node.proto, field), one.name)
        for field in settings_fields(node.type) for one in getattr(node.proto, field).DESCRIPTOR.fields
        if one.name not in WITHOUT_EFFECT
    }
    return {name: value or DEFAULTS.get(name.split(".")[1], value) for name, value in fields.items()}


@pytest.mark.parametrize("name", FILES)
def test_nets_are_the_published_ones(shared: Path, name: str):
    """Layer for layer the type, settings, shapes and weights of a published file, under the same names."""
    pattern, classes, different = FILES[name]
    (path,) = shared.glob(pattern)
    theirs = compile_net(path, phase="TRAIN" if name == "light_cnn9" else "TEST")  # its accuracy has no label
    ours = compile_net(CARDS[name].build(classes=classes), phase="TEST", batch=theirs.shape("data")[0])
    mine = {node.name: node for node in ours.graph.nodes}
    compared = 0
    for node in theirs.graph.nodes:
        if node.type in ("Input", "Softmax") or node.name in different:
            continue
        assert mine[node.name].type == node.type, node.name
        stored = [[one.weight.shape for one in net.stored[node.name]] for net in (theirs, ours)]
        assert stored[0] == stored[1], node.name
        assert theirs.shape(node.proto.top[0]) == ours.shape(node.proto.top[0]), node.name
        assert settings(mine[node.name]) == settings(node), node.name
        compared += 1
    assert compared >= len(mine) - 3 - len(different)  # data, loss and accuracy


if __name__ == "__main__":
    for each in sys.argv[1:] or CARDS:
        (TABLES / f"{each}.txt").write_text(table(each))


@pytest.mark.parametrize(("name", "width"), [("light_cnn9", 1 / 3), ("light_cnn9", 1.3), ("light_cnn9", 0.001),
                                             ("maxout_conv", 0.001)])
def test_nets_of_any_width(name: str, width: float):
    net = compile_net(zoo.create(name, width=width, batch=2, test_batch=2), phase="TEST")
    assert net.cost().params > 0


@pytest.mark.parametrize(("name", "options", "message"), [
    ("mlp", {"shape": (5, 6)}, r"expected shape \(channels, height, width\); found \(5, 6\)"),
    ("spp_net", {"shape": (224, 224)}, r"expected shape \(channels, height, width\); found \(224, 224\)"),
    ("segnet", {"widths": (8, 16)}, "expected as many widths as numbers of convolutions"),
    ("segnet", {"widths": (), "convolutions": ()}, "expected as many widths"),
    ("multitask", {"weights": (1, 1)}, "expected weights of three losses"),
    ("autoencoder", {"widths": ()}, "expected widths of the encoder's layers"),
])
def test_options_that_do_not_fit(name: str, options: dict[str, object], message: str):
    with pytest.raises(JaffeError, match=message):
        zoo.create(name, **options)
