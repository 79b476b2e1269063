"""Published nets and solvers of every age and fork: read, compiled, and compared with what Caffe made of them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jaffe.compile.infer import Inferred, infer
from jaffe.compile.layer import layer_types, make_layer
from jaffe.compile.layers.data import Source
from jaffe.netdef import Graph, NetState, SpecError, load, read_weights, resolve, upgrade_solver
from jaffe.netdef.source import decode, read_bytes
from jaffe.netdef.text import read_solver

PHASES = ("TEST", "TRAIN")

# Shapes of an item that only the data know, where those of `given` do not fit the net.
ITEMS: dict[str, dict[str, tuple[int, ...]]] = {
    "examples/siamese/mnist_siamese_train_test.prototxt": {"pair_data": (2, 28, 28)},
    "examples/mnist/mnist_autoencoder.prototxt": {"data": (1, 28, 28)},
    "models/age_gender/train.prototxt": {"data": (3, 62, 62), "label": (2,)},
    "cc-guardian/examples/mnist/lenet_train_test.prototxt": {"data": (1, 28, 28)},
    "fcn-8s/train_val.prototxt": {"data": (3, 227, 227), "label": (1, 227, 227)},
    "caffe-vdsr/Train/VDSR_net.prototxt": {"data": (1, 41, 41), "label": (1, 41, 41)},
}
# Nets that have no data in a phase without a stage.
STAGES = {
    "examples/mnist/mnist_autoencoder.prototxt": ("test-on-test",),
    "models/age_gender/train.prototxt": ("test",),
}
# Nets that do not fit together, and what is told of them; Caffe refuses those that it can read for the same reason.
WRONG = {
    "MXNet2Caffe/model_caffe/deploy.prototxt": "bottom 'flatten' is not produced by any earlier layer",
    "photo/noise0_model.prototxt": "bottoms have one count; found (1, 3, 128, 128) and (1, 1, 142, 142)",
    "dqn/dqn.prototxt": "bottoms have one shape; found (32, 18), (32, 18, 1, 1)",
    "LightenedCNN_B_deploy.prototxt": "bottom 'label' is not produced by any earlier layer",
}
REASONS = {
    "a field that the schema does not have": r"^\S+:\d+:\d+: \w+ has no field ",
    "a value that the schema does not have": r"^\S+:\d+:\d+: [\w.]+ has no value ",
    "a placeholder in place of a value": r"^\S+:\d+:\d+: \$\S+ is a placeholder ",
    "malformed text": r"^\S+:\d+:\d+: Expected ",
    "a layer type that is not known": r"^layer '.*' \(\S+:\d+\): unknown layer types? ",
    "Python code": r"^layer '.*' \(\S+:\d+\): runs Python code, ",
    "a net that does not fit together": r"^layer '.*' \(\S+:\d+\): ",
}

# What came of it, with the fields and types that jaffe knows; a change of these counts is to be looked at.
READ = {"net-V0": 3, "net-V1": 10, "net-V2": 94, "solver": 13}
REFUSED = {
    ("net-V1", "a field that the schema does not have"): 1,
    ("net-V2", "a field that the schema does not have"): 57,
    ("solver", "a field that the schema does not have"): 2,
    ("net-V1", "a value that the schema does not have"): 2,
    ("net-V2", "a value that the schema does not have"): 2,
    ("net-V1", "a placeholder in place of a value"): 1,
    ("net-V2", "a placeholder in place of a value"): 1,
    # neither nets nor solvers, or nets that the index says cannot be parsed
    ("labelmap", "a field that the schema does not have"): 5,
    ("other", "a field that the schema does not have"): 1,
    ("unparsed", "a field that the schema does not have"): 2,
    ("unparsed", "malformed text"): 1,
}
OUTCOMES = {
    "compiled": 72,
    "a field that the schema does not have": 116,
    "a value that the schema does not have": 8,
    "a layer type that is not known": 14,
    "a net that does not fit together": 6,
    "a placeholder in place of a value": 4,
    "Python code": 2,
}
UNKNOWN_TYPES = {
    "CostSoftmaxWithLoss", "DataRandTransform", "ICNetSubgraph", "ImageLabelmapData", "ImageOutput", "KLDivLoss",
    "L2Norm",
}


def reason(error: SpecError) -> str:
    """Why a file was refused; every message begins with file and line."""
    for name, pattern in REASONS.items():
        if re.match(pattern, str(error)):
            return name
    raise AssertionError(f"a refusal that is not located, or of a new kind: {error}")


def entry(table: dict[str, Any], file: str) -> Any:
    """What the table says of the file, by the end of its name."""
    return next((value for name, value in table.items() if file.endswith(name)), None)


def read(path: Path, kind: str) -> None:
    if kind == "solver":
        upgrade_solver(read_solver(decode(read_bytes(path), path), path.name), path.name)
    else:
        load(path)


def compiled(path: Path, phase: str, file: str) -> tuple[Graph, Inferred]:
    """The net; data that it does not state have the shapes above, or are colour images of the size it says, or 227."""
    graph = resolve(path, NetState(phase, stages=(entry(STAGES, file) or ()) if phase == "TEST" else ()))
    items = entry(ITEMS, file) or {}
    shapes = {}
    for node in graph.nodes:
        layer = make_layer(node) if node.type in layer_types() else None
        if not isinstance(layer, Source):
            continue
        transform, images = node.proto.transform_param, node.proto.image_data_param
        size = [transform.crop_size or images.new_height or 227, transform.crop_size or images.new_width or 227]
        for i, (top, shape) in enumerate(zip(node.tops, layer.declared(), strict=True)):
            if shape is None or top in items:
                shapes[top] = (layer.batch or 2, *items.get(top, (3, *size) if i == 0 else ()))
    return graph, infer(graph, shapes)


@pytest.fixture(scope="module")
def corpus(shared: Path) -> list[tuple[str, str, Path, dict[str, Any]]]:
    """File, kind, path, and by phase what Caffe made of it."""
    folder = shared / "prototxt"
    shapes = json.loads((folder / "shapes.json").read_text())
    rows = json.loads((folder / "index.json").read_text())
    return [(row["file"], row["kind"], folder / "files" / row["file"], shapes[row["file"]]) for row in rows]


def test_every_file_is_read_or_refused_in_place(corpus):
    read_files, refused = Counter(), Counter()
    for _, kind, path, _ in corpus:
        try:
            read(path, kind)
            read_files[kind] += 1
        except SpecError as error:
            refused[kind, reason(error)] += 1
    print(f"read: {dict(read_files)}")
    print("refused:", *(f"  {count:3d} {kind}: {why}" for (kind, why), count in refused.most_common()), sep="\n")
    assert sum(read_files.values()) + sum(refused.values()) == len(corpus) == 195
    assert read_files == READ
    assert refused == REFUSED


def test_shapes_are_those_of_the_original(corpus):
    """Blobs, parameters, inputs and outputs of every net and phase that Caffe 1.0 could build."""
    compared, differences = 0, []
    for file, _, path, phases in corpus:
        for phase, expected in phases.items():
            if "error" in expected:
                continue
            compared += 1
            graph = resolve(path, NetState(phase))
            inferred = infer(graph)
            fed = [top for node in graph.nodes if node.type == "Input" for top in node.tops]
            found = {
                "blobs": {blob: list(inferred.shapes[value]) for blob, value in graph.blobs.items()},
                "params": {node: [list(one.weight.shape) for one in stored]
                           for node, stored in inferred.stored.items() if stored},
                "inputs": fed,
                "outputs": list(graph.outputs),
            }
            # Caffe inserts Split layers where several layers read a blob; their tops are its copies.
            copies = {blob: shape for blob, shape in expected["blobs"].items() if re.search(r"_split_\d+$", blob)}
            own = {blob: shape for blob, shape in expected["blobs"].items() if blob not in copies}
            differences += [(file, phase, key) for key, value in found.items()
                            if value != (own if key == "blobs" else expected[key])]
    assert not differences
    assert compared == 120


def test_nets_that_the_original_could_not_build(corpus):
    """Most lacked their data there. Here shapes are given, and only fields and types of forks are refused."""
    outcomes: Counter[str] = Counter()
    types: Counter[str] = Counter()
    unexpected = []
    for file, kind, path, phases in corpus:
        if not kind.startswith("net"):
            continue
        for phase in (phase for phase in PHASES if "error" in phases[phase]):
            try:
                compiled(path, phase, file)
                outcomes["compiled"] += 1
            except SpecError as error:
                why = reason(error)
                outcomes[why] += 1
                if why == "a layer type that is not known":
                    types.update(set(re.findall(r"'(\w+)'", str(error).split(": ", 1)[1])) - set(layer_types()))
                elif why == "a net that does not fit together" and (entry(WRONG, file) or "?") not in str(error):
                    unexpected.append(f"{phase} {file}: {error}")
    print("nets and phases:", *(f"  {count:3d} {why}" for why, count in outcomes.most_common()), sep="\n")
    print("unknown types:", ", ".join(sorted(types)))
    assert not unexpected
    assert outcomes == OUTCOMES
    assert set(types) == UNKNOWN_TYPES


def test_published_models(shared: Path):
    """Nets that come with weights: each compiles, but for those that are malformed or private on purpose."""
    folder, refused = shared / "models" / "files", {}
    for path in sorted(folder.rglob("*.prototxt")):
        if "solver" in path.name:
            read(path, "solver")
            continue
        for phase in PHASES:
            try:
                compiled(path, phase, path.name)
            except SpecError as error:
                refused[path.relative_to(folder).as_posix(), phase] = reason(error)
    pruning, hostile = "fixtures_customlayers/examples/mnist/lenet_pruning.prototxt", "fixtures_hostile/deploy.prototxt"
    upscaling = "waifu2x_hist/bin/models/upconv_7_anime_style_art_rgb/scale2.0x_model.prototxt"
    assert refused == {
        (pruning, "TEST"): "a field that the schema does not have",
        (pruning, "TRAIN"): "a field that the schema does not have",
        (hostile, "TEST"): "malformed text",
        (hostile, "TRAIN"): "malformed text",
        (upscaling, "TRAIN"): "a net that does not fit together",  # its label is larger than what the net makes
    }


def test_weights_fit_the_published_models(shared: Path):
    """The net's weights have as many values as its file has for them."""
    folder = shared / "models" / "files"
    for row in json.loads((shared / "models" / "index.json").read_text()):
        _, inferred = compiled(folder / row["proto"], "TEST", row["proto"])
        blobs = read_weights(folder / row["weights"])
        expected = {layer: [math.prod(one.weight.shape) for one in stored]
                    for layer, stored in inferred.stored.items() if stored and layer in blobs}
        assert expected, row["proto"]
        assert {layer: [array.size for array in blobs[layer]] for layer in expected} == expected, row["proto"]


