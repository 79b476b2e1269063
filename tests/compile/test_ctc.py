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
    found = compiled.apply({}, {"x": SCORES, "y": labels})[0]["t"]
    expected = [loss_of(SCORES[:, n], tuple(label for label in labels[n] if label >= 0), blank) for n in range(N)]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)
    none = compiled.apply({}, {"x": SCORES, "y": -np.ones((N, L))})[0]["t"]
    np.testing.assert_allclose(none, np.mean([loss_of(SCORES[:, n], (), blank) for n in range(N)]), rtol=1e-6)


def test_labels_behind_a_missing_one_are_not_there():
    compiled = net(labels=3)
    found = [compiled.apply({}, {"x": SCORES, "y": labels})[0]["t"]
             for labels in (np.array([[1, -1, 2]] * N), np.array([[1, -1, -1]] * N))]
    assert found[0] == found[1]


def test_cont_ends_sequences():
    """Five, three and two steps; what follows belongs to other sequences."""
    cont = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]])
    labels = np.array([[1, 2], [2, 1], [3, -1]])
    found = net(cont=True).apply({}, {"x": SCORES, "y": labels, "cont": cont})[0]["t"]
    expected = [loss_of(SCORES[:5, 0], (1, 2)), loss_of(SCORES[:3, 1], (2, 1)), loss_of(SCORES[:2, 2], (3,))]
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_the_gradient_is_that_of_the_sum():
    """At every score; those behind the end of a sequence have none."""
    labels = np.array([[1, 2], [1, 1], [3, -1]])
    cont = np.ones((T, N))
    cont[4, 0] = cont[3, 2] = 0
    steps = [4, 5, 3]
    with jax.enable_x64(True):
        compiled = net(cont=True, dtype="float64")
        gradient = jax.grad(lambda x: compiled.apply({}, {"x": x, "y": labels, "cont": cont})[0]["t"])(SCORES)
    expected, step = np.zeros(SCORES.shape), 1e-5
    for t, n, k in np.ndindex(T, N, C):
        sides = []
        for sign in (1, -1):
            moved = SCORES[:, n].copy()
            moved[t, k] += sign * step
            sides.append(loss_of(moved[:steps[n]], tuple(label for label in labels[n] if label >= 0)))
        expected[t, n, k] = (sides[0] - sides[1]) / (2 * step) / N
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10)
    assert not gradient[4, 0].any()
    assert not gradient[3:, 2].any()


@pytest.mark.parametrize(("mode", "total", "divisor"), [
    ("", np.inf, N), ("BATCH_SIZE", np.inf, N), ("FULL", np.inf, N), ("NONE", np.inf, 1), ("VALID", 0, 2)])
def test_sequences_that_are_too_short_for_their_labels(mode, total, divisor):
    """Two steps for two equal labels, which need a blank between them: infinite, or left out; never with a gradient."""
    settings = f"loss_param {{ normalization: {mode} }}" if mode else ""
    compiled = net(settings, cont=True)
    cont = np.ones((T, N))
    cont[2, 0] = 0
    labels = np.array([[1, 1], [1, 2], [1, 2]])

    def value(x):
        return compiled.apply({}, {"x": x, "y": labels, "cont": cont})[0]["t"]

    found, gradient = jax.value_and_grad(value)(SCORES.astype(np.float32))
    np.testing.assert_allclose(found, (total + sum(loss_of(SCORES[:, n], (1, 2)) for n in (1, 2))) / divisor, rtol=1e-6)
    assert not gradient[:, 0].any()
    labels[0] = [1, 2]
    np.testing.assert_allclose(gradient[:, 1:], jax.grad(value)(SCORES.astype(np.float32))[:, 1:] *
                               (1.5 if mode == "VALID" else 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("mode", "divisor"), [("BATCH_SIZE", N), ("FULL", N), ("VALID", N), ("NONE", 1)])
def test_normalisation(mode, divisor):
    labels = np.array([[1, 2], [1, 1], [3, -1]])
    found = net(f"loss_param {{ normalization: {mode} }}").apply({}, {"x": SCORES, "y": labels})[0]["t"]
    expected = sum(loss_of(SCORES[:, n], labels_) for n, labels_ in enumerate([(1, 2), (1, 1), (3,)]))
    np.testing.assert_allclose(found, expected / divisor, rtol=1e-6)


def test_valid_of_no_sequence_is_zero():
    compiled = net("loss_param { normalization: VALID }", labels=T + 1)
    labels = np.ones((N, T + 1))
    found, gradient = jax.value_and_grad(lambda x: compiled.apply({}, {"x": x, "y": labels})[0]["t"])(SCORES)
    assert found == 0
    assert not gradient.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_behind_the_end_may_be_anything(bad):
    cont = np.ones((T, N))
    cont[3, 1] = 0
    scores = SCORES.copy()
    scores[3:, 1] = bad
    compiled, labels = net(cont=True), np.array([[1, 2], [2, -1], [3, 3]])

    def value(x):
        return compiled.apply({}, {"x": x, "y": labels, "cont": cont})[0]["t"]

    jax.tree.map(np.testing.assert_array_equal, jax.value_and_grad(value)(scores), jax.value_and_grad(value)(SCORES))


def test_a_nan_score_gives_nan():
    scores = SCORES.copy()
    scores[1, 1, 0] = np.nan
    for mode in ("BATCH_SIZE", "VALID"):
        compiled = net(f"loss_param {{ normalization: {mode} }}")
        assert np.isnan(compiled.apply({}, {"x": scores, "y": np.array([[1, 2], [2, -1], [3, 3]])})[0]["t"])


def test_classes_of_probability_zero():
    """Where the labels do not need them it is a number, else infinite; p - 1 and the like are finite either way."""
    scores = SCORES.copy()
    scores[:, :, 3] = scores[2, 0, 1] = -np.inf
    labels = [(1, 2), (1, 1), (2,)]

    def value(x, y):
        return net().apply({}, {"x": x, "y": np.asarray(y)})[0]["t"]

    found, gradient = jax.value_and_grad(value)(scores, [[1, 2], [1, 1], [2, -1]])
    np.testing.assert_allclose(found, np.mean([loss_of(scores[:, n], labels[n]) for n in range(N)]), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[:, :, 3].any()
    found, gradient = jax.value_and_grad(value)(scores, [[1, 2], [1, 3], [2, -1]])
    assert np.isposinf(found)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 1].any()


def test_losses_of_any_size():
    """Far above 1e5, optax's own stand-in for impossible: the likeliest path is all there is of the sum."""
    scores = np.random.default_rng(1).permutation(T * N * C).reshape(T, N, C) * 1e5
    labels = [(1, 2), (1, 1), (3,)]
    best = [min((scores[:, n].max(1).sum() - sum(scores[t, n, k] for t, k in enumerate(path)))
                for path in product(range(C), repeat=T) if collapsed(path, 0) == labels[n]) for n in range(N)]
    assert max(best) > 1e6
    found = net().apply({}, {"x": scores, "y": np.array([[1, 2], [1, 1], [3, -1]])})[0]["t"]
    np.testing.assert_allclose(found, np.mean(best), rtol=1e-6)


@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("label", ["blank", C, 99, np.nan, np.inf])
def test_wrong_labels_give_nan(label, blank):
    labels = np.array([[1, 2], [blank if label == "blank" else label, 2], [1, -1]])
    assert np.isnan(net(f"ctc_loss_param {{ blank_label: {blank} }}").apply({}, {"x": SCORES, "y": labels})[0]["t"])


def test_products_are_exact_on_every_device():
    """TensorFloat-32 has 10 bits of a logarithm, which is not what a loss should have."""
    program = str(jax.make_jaxpr(jax.grad(
        lambda x: net().apply({}, {"x": x, "y": np.ones((N, L))})[0]["t"]))(SCORES.astype(np.float32)))
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 2


@pytest.mark.parametrize("with_cont", [False, True])
def test_greedy_decoding(with_cont):
    cont = np.ones((T, N))
    cont[0] = 0
    cont[3, 1] = 0
    compiled = net("ctc_loss_param { blank_label: 2 }", kind="CTCGreedyDecoder", cont=with_cont)
    inputs = {"x": 3 * SCORES, **({"cont": cont} if with_cont else {})}
    found = np.asarray(compiled.apply({}, inputs)[0]["t"])
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
    ("CTCLoss", "x y", "loss_param { ignore_label: 3 }", "CTCLoss does not read loss_param.ignore_label; expected a "
     "negative label behind the last of a sequence"),
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
    found = [net(precision=precision).apply({}, {"x": SCORES, "y": labels})[0]["t"]
             for precision in ("float32", "bfloat16")]
    assert found[0] == found[1]
