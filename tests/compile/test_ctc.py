"""CTCLoss and CTCGreedyDecoder against all ways to write the labels, one by one."""

from __future__ import annotations

from itertools import product

import jax
import numpy as np
import pytest

from jaffe import JaffeError
from jaffe.compile import compile_net
from tests.nets.case import input_layer, one

T, N, C, L = 5, 3, 4, 2
SCORES = np.random.default_rng(0).normal(size=(T, N, C))


def collapsed(path, blank: int) -> tuple[int, ...]:
    return tuple(a for i, a in enumerate(path) if a != blank and (i == 0 or a != path[i - 1]))


def loss_of(scores, labels, blank: int = 0) -> float:
    """-log of the sum over all paths (steps, C)**steps that are read as the labels."""
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    total = sum(np.exp(sum(logs[t, k] for t, k in enumerate(path)))
                for path in product(range(scores.shape[1]), repeat=len(scores)) if collapsed(path, blank) == labels)
    return -np.log(total) if total else np.inf


def net(settings: str = "", kind: str = "CTCLoss", cont: bool = False, labels: int = L, **options):
    inputs = input_layer("x", T, N, C) + (input_layer("y", N, labels) if kind == "CTCLoss" else "")
    bottoms = "x y" if kind == "CTCLoss" else "x"
    return compile_net(one(kind, settings, bottoms=bottoms + " cont" * cont,
                           inputs=inputs + input_layer("cont", T, N) * cont), **options)


@pytest.mark.parametrize("blank", [0, 3])
def test_the_sum_over_all_paths(blank):
    """Labels of two, equal ones, one and none."""
    a, b = (1, 2) if blank == 0 else (0, 2)
    labels = np.array([[a, b], [a, a], [b, -1]])
    compiled = net(f"ctc_loss_param {{ blank_label: {blank} }}")
    found = compiled.apply({"params": {}, "state": {}}, {"x": SCORES, "y": labels})[0]["t"]
    expected = [loss_of(SCORES[:, n], tuple(label for label in labels[n] if label >= 0), blank) for n in range(N)]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)
    none = compiled.apply({"params": {}, "state": {}}, {"x": SCORES, "y": -np.ones((N, L))})[0]["t"]
    np.testing.assert_allclose(none, np.mean([loss_of(SCORES[:, n], (), blank) for n in range(N)]), rtol=1e-6)


def test_labels_behind_a_missing_one_are_not_there():
    compiled = net(labels=3)
    found = [compiled.apply({"params": {}, "state": {}}, {"x": SCORES, "y": labels})[0]["t"]
             for labels in (np.array([[1, -1, 2]] * N), np.array([[1, -1, -1]] * N))]
    assert found[0] == found[1]


def test_cont_ends_sequences():
    """Five, three and two steps; what follows belongs to other sequences."""
    cont = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]])
    labels = np.array([[1, 2], [2, 1], [3, -1]])
    found = net(cont=True).apply({"params": {}, "state": {}}, {"x": SCORES, "y": labels, "cont": cont})[0]["t"]
    expected = [loss_of(SCORES[:5, 0], (1, 2)), loss_of(SCORES[:3, 1], (2, 1)), loss_of(SCORES[:2, 2], (3,))]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_the_gradient_is_that_of_the_sum():
    labels = np.array([[1, 2], [1, 1], [3, -1]])
    with jax.enable_x64(True):
        compiled = net(dtype="float64")
        gradient = jax.grad(
            lambda x: compiled.apply({"params": {}, "state": {}}, {"x": x, "y": labels})[0]["t"])(SCORES)
    step = 1e-5
    for place in [(0, 0, 0), (2, 0, 1), (4, 1, 1), (1, 1, 0), (3, 2, 3), (4, 2, 2)]:
        moved = [SCORES.copy(), SCORES.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        n = place[1]
        read = tuple(label for label in labels[n] if label >= 0)
        slope = (loss_of(moved[0][:, n], read) - loss_of(moved[1][:, n], read)) / (2 * step) / N
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-6, atol=1e-9)


def test_sequences_that_are_too_short_for_their_labels():
    """Two steps for two equal labels, which need a blank between them: infinite, and no gradient for that sequence."""
    compiled = net(cont=True)
    cont = np.ones((T, N))
    cont[2, 0] = 0
    labels = np.array([[1, 1], [1, 2], [1, 2]])

    def value(x):
        return compiled.apply({"params": {}, "state": {}}, {"x": x, "y": labels, "cont": cont})[0]["t"]

    found, gradient = jax.value_and_grad(value)(SCORES.astype(np.float32))
    assert np.isposinf(found)
    assert not gradient[:, 0].any()
    assert np.isfinite(gradient).all()
    assert gradient[:, 1].any()


@pytest.mark.parametrize("label", [0, C, 99])
def test_wrong_labels_give_nan(label):
    labels = np.array([[1, 2], [label, 2], [1, -1]])
    assert np.isnan(net().apply({"params": {}, "state": {}}, {"x": SCORES, "y": labels})[0]["t"])


@pytest.mark.parametrize("with_cont", [False, True])
def test_greedy_decoding(with_cont):
    cont = np.ones((T, N))
    cont[0] = 0
    cont[3, 1] = 0
    compiled = net("ctc_loss_param { blank_label: 2 }", kind="CTCGreedyDecoder", cont=with_cont)
    inputs = {"x": 3 * SCORES, **({"cont": cont} if with_cont else {})}
    found = np.asarray(compiled.apply({"params": {}, "state": {}}, inputs)[0]["t"])
    assert found.shape == (N, T)
    for n in range(N):
        steps = 3 if with_cont and n == 1 else T
        expected = collapsed(SCORES[:steps, n].argmax(1), 2)
        assert found[n].tolist() == [*expected, *[-1] * (T - len(expected))]


@pytest.mark.parametrize(("kind", "bottoms", "settings", "problem"), [
    ("CTCLoss", "z y", "", r"expected scores of 3 axes \(T, N, C\); found \(3, 4\)"),
    ("CTCLoss", "x z", "", None),
    ("CTCLoss", "x w", "", r"expected labels \(N = 3, L\); found \(5, 3\)"),
    ("CTCLoss", "x y z", "", r"expected cont to be \(T, N\) = \(5, 3\); found \(3, 4\)"),
    ("CTCLoss", "x y", "ctc_loss_param { blank_label: 4 }", "blank_label is one of the 4 classes; found 4"),
    ("CTCGreedyDecoder", "z", "", r"expected scores of 3 axes \(T, N, C\); found \(3, 4\)"),
    ("CTCGreedyDecoder", "x z", "", r"expected cont to be \(T, N\) = \(5, 3\); found \(3, 4\)"),
    ("CTCGreedyDecoder", "x", "ctc_loss_param { blank_label: 9 }", "blank_label is one of the 4 classes; found 9"),
])
def test_what_does_not_fit(kind, bottoms, settings, problem):
    inputs = (input_layer("x", T, N, C) + input_layer("y", N, L) + input_layer("z", N, C) + input_layer("w", T, N))
    text = one(kind, settings, bottoms=bottoms, inputs=inputs)
    if problem is None:
        compile_net(text)
    else:
        with pytest.raises(JaffeError, match=f"layer 'l' .*{problem}"):
            compile_net(text)


def test_bfloat16_nets_compute_it_in_float32():
    labels = np.array([[1, 2], [1, 1], [3, -1]])
    found = [net(precision=precision).apply({"params": {}, "state": {}}, {"x": SCORES, "y": labels})[0]["t"]
             for precision in ("float32", "bfloat16")]
    assert found[0] == found[1]
