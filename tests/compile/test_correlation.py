"""Correlation against a loop over FlowNet's definition."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

SETTINGS = [
    # pad, kernel_size, max_displacement, stride_1, stride_2
    (0, 1, 2, 1, 1),
    (4, 1, 4, 1, 2),
    (3, 3, 3, 2, 2),
    (2, 5, 1, 3, 1),
]


def loop(a, b, pad, kernel, most, stride_1, stride_2, subtract):
    """One value after another; positions are those of the patches' centres in the padded maps."""
    a, b = (np.pad(x.astype(float), [(0, 0), (0, 0), (pad, pad), (pad, pad)]) for x in (a, b))
    r, steps = kernel // 2, range(-(most // stride_2), most // stride_2 + 1)
    rows = range(most + r, a.shape[2] - most - r, stride_1)
    columns = range(most + r, a.shape[3] - most - r, stride_1)
    top = np.zeros((len(a), len(steps) ** 2, len(rows), len(columns)))
    for k, (i, j) in enumerate((i, j) for i in steps for j in steps):
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                moved_row, moved_column = row + i * stride_2, column + j * stride_2
                patch = a[:, :, row - r : row + r + 1, column - r : column + r + 1]
                other = b[:, :, moved_row - r : moved_row + r + 1, moved_column - r : moved_column + r + 1]
                top[:, k, y, x] = (np.abs(patch - other) if subtract else patch * other).mean((1, 2, 3))
    return top


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["MULTIPLY", "SUBTRACT"])
def test_values(settings, kind):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 2, 3, 11, 13)).astype(np.float32)
    names = ("pad", "kernel_size", "max_displacement", "stride_1", "stride_2")
    fields = " ".join(f"{name}: {value}" for name, value in zip(names, settings, strict=True))
    net = compile_net(one("Correlation", f"correlation_param {{ {fields} correlation_type: {kind} }}", "x y",
                          inputs=input_layer("x", 2, 3, 11, 13) + input_layer("y", 2, 3, 11, 13)))
    top = jax.jit(lambda x, y: net.apply({}, {"x": x, "y": y})[0]["t"])(a, b)
    expected = loop(a, b, *settings, kind == "SUBTRACT")
    assert top.shape == net.shape("t") == expected.shape
    np.testing.assert_allclose(top, expected, rtol=1e-5, atol=1e-6)
