"""Values and gradients of layers and small nets against those recorded from Caffe 1.0 (tests/goldens)."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net, load_weights

GOLDENS = Path(__file__).parents[1] / "goldens" / "layers"

CASES = sorted(GOLDENS.glob("*.npz"))


def test_all_recorded_cases_are_here():
    assert len(CASES) == 110


class Golden:
    """One recorded case; keys are explained where they are read."""

    def __init__(self, path: Path):
        self.z = z = np.load(path)
        self.net = compile_net(str(z["prototxt"]), phase=str(z["phase"]))
        blobs: dict[str, list[np.ndarray]] = {}
        for key in self.keys("param"):  # param:LAYER:i, before the run
            blobs.setdefault(key.split(":")[1], []).append(z[key])
        self.variables = self.net.init(jax.random.key(0))
        if blobs:
            self.variables = load_weights(self.net, self.variables, blobs)
        # in:BLOB, or in:BLOB:k for the k-th of several passes in a row
        passes = {key.split(":")[2] for key in self.keys("in") if key.count(":") == 2}
        self.passes = [f":{k}" for k in sorted(passes, key=int)] or [""]

    def keys(self, kind: str) -> list[str]:
        return [key for key in self.z.files if key.startswith(f"{kind}:")]

    def inputs(self, suffix: str) -> dict[str, np.ndarray]:
        return {blob: self.z[f"in:{blob}{suffix}"] for blob in self.net.inputs}

    def tops(self, suffix: str) -> list[str]:
        """Blobs recorded in a pass, without those of Caffe's own inserted Split layers."""
        names = [key[len("top:") : len(key) - len(suffix)] for key in self.keys("top") if key.endswith(suffix)]
        return [name for name in names if not re.search(r"_split_\d+$", name)]


def agree(found: jax.Array, expected: np.ndarray, what: str) -> None:
    assert found.shape == expected.shape, what
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    # 1e-5 of the blob's largest value: sums in float32 in another order.
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, rtol=0, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_forward(path: Path):
    golden = Golden(path)
    variables = golden.variables
    filtered = {top for node in golden.net.graph.nodes if node.type == "Filter" for top in node.tops}
    for suffix in golden.passes:
        names = golden.tops(suffix)
        outputs, state = golden.net.apply(variables, golden.inputs(suffix), blobs=names)
        for name in names:
            found, expected = outputs[name], golden.z[f"top:{name}{suffix}"]
            if name in filtered:  # Caffe's top ends after the selected items; ours is padded with zeros
                assert not found[len(expected) :].any(), name
                found = found[: len(expected)]
            agree(found, expected, name)
        variables = {**variables, "state": state}
    for key in golden.keys("after"):  # after:LAYER:i, blobs that the passes changed
        _, layer, i = key.split(":")
        stored = golden.net.stored[layer][int(i)]
        group = "params" if stored.weight.trained else "state"
        agree(variables[group][stored.owner[0]][stored.owner[1]], golden.z[key], key)


def computed(z: np.lib.npyio.NpzFile, kind: str) -> list[str]:
    """The gradients that Caffe computed: without force_backward it left out, as 0, those that no solver needs."""
    keys = [key for key in z.files if key.startswith(f"{kind}:")]
    return [key for key in keys if "force_backward: true" in str(z["prototxt"]) or z[key].any()]


def with_gradients(path: Path) -> bool:
    z = np.load(path)
    return bool(computed(z, "din") or computed(z, "dparam"))


@pytest.mark.parametrize("path", [p for p in CASES if with_gradients(p)], ids=lambda path: path.stem)
def test_gradients(path: Path):
    golden = Golden(path)
    z, net = golden.z, golden.net
    inputs = {name: jax.numpy.asarray(value) for name, value in golden.inputs(golden.passes[-1]).items()}
    given = {key.split(":")[1]: z[key] for key in golden.keys("dtop")}  # gradients put on outputs of nets without loss

    def scalar(params, inputs):
        variables = {**golden.variables, "params": params}
        if not given:
            return net.loss(variables, inputs)[0]
        outputs, _ = net.apply(variables, inputs, blobs=given)
        return sum((outputs[name] * gradient).sum() for name, gradient in given.items())

    d_params, d_inputs = jax.jit(jax.grad(scalar, argnums=(0, 1)))(golden.variables["params"], inputs)
    for key in computed(z, "din"):
        agree(d_inputs[key.split(":")[1]], z[key], key)
    for key in computed(z, "dparam"):
        _, layer, i = key.split(":")
        stored = net.stored[layer][int(i)]
        if stored.weight.trained:  # Caffe keeps a diff, of zeros, for BatchNorm's statistics too
            agree(d_params[stored.owner[0]][stored.owner[1]], z[key], key)
        else:
            assert not z[key].any()
