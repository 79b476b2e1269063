"""Losses where recordings of Caffe do not reach: floors, labels outside the classes, weights, files."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from jaffe.netdef.weights import array_to_blob
from tests.nets.case import input_layer, one

ROWS = input_layer("x", 3, 5) + input_layer("y", 3)


def loss_and_gradient(text: str, inputs: dict[str, np.ndarray], by: str = "x") -> tuple[np.ndarray, np.ndarray]:
    """The blob ``t`` and its gradient by one input."""
    net = compile_net(text)

    def loss(x):
        return net.apply({}, {**inputs, by: x})[0]["t"]

    return jax.jit(jax.value_and_grad(loss))(jnp.asarray(inputs[by], jnp.float32))


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss", "InfogainLoss", "SoftmaxWithLoss"])
@pytest.mark.parametrize("label", [-1, 5, np.nan])
def test_a_label_outside_the_classes_is_nan(kind, label):
    third = " h" if kind == "InfogainLoss" else ""
    inputs = {"x": np.full((3, 5), 0.2), "y": np.array([0, label, 4])}
    inputs |= {"h": np.eye(5)} if third else {}
    text = one(kind, bottoms="x y" + third, inputs=ROWS + (input_layer("h", 5, 5) if third else ""))
    assert np.isnan(loss_and_gradient(text, inputs)[0])


def test_a_nan_label_is_wrong_for_accuracy():
    """Not the class 0."""
    settings = "accuracy_param { ignore_label: -1 }"
    net = compile_net(one("Accuracy", settings, bottoms="x y", tops="t u", inputs=ROWS))
    found = net.apply({}, {"x": np.eye(5)[[0, 0, 3]], "y": [np.nan, 0, -1]})[0]
    assert found["t"] == 0.5
    assert found["u"].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tops", ["t", "t u"])
@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss"])
def test_ignored_scores_may_be_anything(kind, tops, bad):
    x = np.random.default_rng(0).normal(size=(3, 5))
    inputs = {"x": x, "y": np.array([3, 7, 1])} | ({"h": np.eye(5)} if kind == "InfogainLoss" else {})
    third = input_layer("h", 5, 5) if kind == "InfogainLoss" else ""
    text = one(kind, "loss_param { ignore_label: 7 }", bottoms=" ".join(inputs), tops=tops, inputs=ROWS + third)
    x[1, 2] = bad
    loss, gradient = loss_and_gradient(text, inputs)
    p = np.exp(x[[0, 2]]) / np.exp(x[[0, 2]]).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(p[[0, 1], [3, 1]]).sum() / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient[::2], (p - np.eye(5)[[3, 1]]) / 2, rtol=1e-5)
    assert not gradient[1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ignored_logits_may_be_anything(bad):
    inputs = {"x": np.array([[0.0, bad, 0]]), "y": np.array([[1.0, 7, 0]])}
    text = one("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 7 normalization: VALID }", bottoms="x y",
               inputs=input_layer("x", 1, 3) + input_layer("y", 1, 3))
    loss, gradient = loss_and_gradient(text, inputs)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert gradient.tolist() == [[-0.25, 0, 0.25]]


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss"])
def test_gradient_where_the_probability_is_zero(kind):
    """p - onehot, though the logarithm is -inf."""
    inputs = {"x": np.array([[1, 2, -np.inf]]), "y": np.array([2])}
    layers = input_layer("x", 1, 3) + input_layer("y", 1)
    if kind == "InfogainLoss":
        inputs, layers = inputs | {"h": np.eye(3)}, layers + input_layer("h", 3, 3)
    loss, gradient = loss_and_gradient(one(kind, bottoms=" ".join(inputs), inputs=layers), inputs)
    least = 1e-20 if kind == "InfogainLoss" else np.finfo(np.float32).tiny
    np.testing.assert_allclose(loss, -np.log(float(least)), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1 / (1 + np.e), np.e / (1 + np.e), -1]], rtol=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_sigmoid_cross_entropy_is_exact(target):
    """For right answers of high confidence too, each by itself."""
    x = np.concatenate([np.linspace(-20, -10, 11), [-1, 0, 1], np.linspace(10, 20, 11)])
    net = compile_net(one("SigmoidCrossEntropyLoss", bottoms="x y", inputs=input_layer("x", 1) + input_layer("y", 1)))

    def loss(x):
        return net.apply({}, {"x": x[None], "y": [target]})[0]["t"]

    found, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.asarray(x, jnp.float32))
    expected = target * np.logaddexp(0, -x) + (1 - target) * np.logaddexp(0, x)
    np.testing.assert_allclose(found, expected, rtol=3e-7)
    np.testing.assert_allclose(gradient, (1 - target) / (1 + np.exp(-x)) - target / (1 + np.exp(x)), rtol=3e-7)
    assert gradient[12] == 0.5 - target


def test_hinge_gradient_of_a_margin_of_zero():
    inputs = {"x": np.array([[1.0, -1, 0, -3, 2]] * 3), "y": np.zeros(3)}
    loss, gradient = loss_and_gradient(one("HingeLoss", bottoms="x y", inputs=ROWS), inputs)
    assert loss == 0 + 0 + 1 + 0 + 3
    np.testing.assert_allclose(gradient, np.array([[0, 0, 1, 0, 1]] * 3) / 3, rtol=1e-6)


def test_multinomial_floor():
    """Below 1e-20 the value stops and the slope stays -1e20."""
    p = np.full((3, 5), 0.25)
    p[1, 2], p[2, 4] = 0, -1
    inputs = {"x": p, "y": np.array([0, 2, 4])}
    loss, gradient = loss_and_gradient(one("MultinomialLogisticLoss", bottoms="x y", inputs=ROWS), inputs)
    np.testing.assert_allclose(loss, -(np.log(0.25) + 2 * np.log(1e-20)) / 3, rtol=1e-6)
    expected = np.zeros((3, 5))
    expected[[0, 1, 2], [0, 2, 4]] = [-4 / 3, -1e20 / 3, -1e20 / 3]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


INFOGAIN = input_layer("x", 2, 3, 5) + input_layer("y", 2, 5) + input_layer("h", 1, 1, 3, 3)
TABLE = np.array([[1, 0.5, 0.25], [0, 2, 0.125], [0.75, 0, 3]], np.float32)


def infogain(scores, labels, z):
    """Over all positions but those of label 1, with softmax in float64: the loss, and its gradient."""
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss, gradient = 0.0, np.zeros_like(scores)
    for n, place in np.ndindex(*labels.shape):
        if labels[n, place] != 1:
            row = TABLE[labels[n, place]]
            loss -= (row * np.log(np.maximum(p[n, :, place], 1e-20))).sum() / z
            gradient[n, :, place] = (p[n, :, place] * row.sum() - row) / z
    return loss, gradient


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_infogain_normalisation(mode):
    random = np.random.default_rng(0)
    labels = np.array([[0, 1, 2, 2, 0], [1, 1, 2, 0, 1]])
    scores = random.normal(size=(2, 3, 5))
    scores[0, 1, 0] = -200  # its probability is below the floor
    settings = f"loss_param {{ ignore_label: 1 normalization: {mode} }}"
    text = one("InfogainLoss", settings, bottoms="x y h", inputs=INFOGAIN)
    found = loss_and_gradient(text, {"x": scores, "y": labels, "h": TABLE[None, None]})
    expected = infogain(scores, labels, {"FULL": 10, "VALID": 6, "BATCH_SIZE": 2, "NONE": 1}[mode])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def infogain_file(folder: Path, source: str) -> Path:
    path = folder / "net.prototxt"
    settings = f'infogain_loss_param {{ source: "{source}" }}'
    path.write_text(one("InfogainLoss", settings, bottoms="x y", inputs=input_layer("x", 2, 3) + input_layer("y", 2)))
    return path


def test_infogain_matrix_from_a_file(tmp_path):
    """Beside the net, whatever the current folder is."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "h.binaryproto").write_bytes(array_to_blob(TABLE[None, None]).SerializeToString())
    net = compile_net(infogain_file(tmp_path, "tables/h.binaryproto"))
    x = np.array([[0.5, 1, -1], [2, 0, 1]])
    found = net.apply({}, {"x": x, "y": [2, 0]})[0]["t"]
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    np.testing.assert_allclose(found, -(TABLE[[2, 0]] * log_p).sum() / 2, rtol=1e-6)


def test_infogain_file_that_is_wrong(tmp_path):
    (tmp_path / "text").write_text("shape { dim: 3 }")
    (tmp_path / "small").write_bytes(array_to_blob(TABLE[:2]).SerializeToString())
    messages = {
        "text": "'text' is not a binary BlobProto (truncated, or text?)",
        "small": "expected an infogain matrix of 3 x 3 values; found (2, 3) in 'small'",
        "none": f"infogain matrix 'none' is not found; looked in {Path.cwd()} and {tmp_path}",
    }
    for source, message in messages.items():
        with pytest.raises(SpecError) as caught:
            compile_net(infogain_file(tmp_path, source))
        assert str(caught.value) == f"layer 'l' (net.prototxt:3): {message}"


PAIRS = input_layer("x", 4, 5) + input_layer("z", 4, 5) + input_layer("y", 4)


def test_contrastive_gradient():
    """Of dissimilar pairs divided by d + 1e-4, which shows at small distances; 0, not NaN, at d = 0."""
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, 4, 5))
    x[1], x[2] = z[1] + 1e-4 * random.normal(size=5), z[2]
    inputs = {"x": x.astype(np.float32), "z": z.astype(np.float32), "y": np.array([0, 0.9, -0.5, 1.0])}
    for name, sign in (("x", 1), ("z", -1)):
        text = one("ContrastiveLoss", "contrastive_loss_param { margin: 4 }", bottoms="x z y", inputs=PAIRS)
        loss, gradient = loss_and_gradient(text, inputs, name)
        difference = inputs["x"].astype(float) - inputs["z"]
        d = np.sqrt((difference**2).sum(1))
        slope = -(4 - d) / (d + 1e-4)
        slope[3] = 1  # y is cut to a whole number: only the last pair is similar
        np.testing.assert_allclose(loss, (((4 - d[:3]) ** 2).sum() + d[3] ** 2) / 8, rtol=1e-6)
        np.testing.assert_allclose(gradient, sign * slope[:, None] * difference / 4, rtol=1e-4, atol=1e-6)


def test_contrastive_pairs_beyond_the_margin():
    x = np.full((4, 5), 3.0)
    for legacy in ("false", "true"):
        settings = f"contrastive_loss_param {{ margin: 4 legacy_version: {legacy} }}"
        text = one("ContrastiveLoss", settings, bottoms="x z y", inputs=PAIRS)
        loss, gradient = loss_and_gradient(text, {"x": x, "z": -x, "y": np.zeros(4)})
        assert loss == 0
        assert not gradient.any()


@pytest.mark.parametrize("weights", [0, 1, 2])
@pytest.mark.parametrize("by", ["x", "y"])
def test_smooth_l1(weights, by):
    """Element by element, with no weights, those inside, and those outside too."""
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=(3, 5, 2)).astype(np.float32) for name in ["x", "y", "i", "o"][: 2 + weights]}
    text = one("SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 }", bottoms=" ".join(inputs),
               inputs="".join(input_layer(name, 3, 5, 2) for name in inputs))
    total, expected = 0.0, np.zeros((3, 5, 2))
    for k in np.ndindex(3, 5, 2):
        inside = inputs["i"][k] if weights else 1
        outside = inputs["o"][k] if weights > 1 else 1
        value = float(inside) * (float(inputs["x"][k]) - float(inputs["y"][k]))
        near = abs(value) < 1 / 4
        total += outside * (0.5 * 4 * value**2 if near else abs(value) - 0.125) / 3
        expected[k] = outside * inside * (4 * value if near else np.sign(value)) / 3
    loss, gradient = loss_and_gradient(text, inputs, by)
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected if by == "x" else -expected, rtol=1e-5, atol=1e-6)


def test_smooth_l1_of_an_infinite_difference():
    inputs = {"x": np.array([[3e38, np.inf, 0]]), "y": np.array([[-3e38, 0, -np.inf]])}
    text = one("SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 }", bottoms="x y",
               inputs=input_layer("x", 1, 3) + input_layer("y", 1, 3))
    loss, gradient = loss_and_gradient(text, inputs)
    assert loss == np.inf
    assert gradient.tolist() == [[1, 1, 1]]


def test_contrastive_of_a_nan_similarity():
    inputs = {"x": np.ones((4, 5)), "z": np.zeros((4, 5)), "y": np.array([0, 1, np.nan, 1])}
    assert np.isnan(loss_and_gradient(one("ContrastiveLoss", bottoms="x z y", inputs=PAIRS), inputs)[0])


@pytest.mark.parametrize("normalization", ["VALID", "BATCH_SIZE", "NONE"])
def test_label_smoothing(normalization):
    x = np.random.default_rng(0).normal(size=(3, 5))
    settings = f"loss_param {{ label_smoothing: 0.3 ignore_label: 4 normalization: {normalization} }}"
    text = one("SoftmaxWithLoss", settings, bottoms="x y", inputs=ROWS)
    loss, gradient = loss_and_gradient(text, {"x": x, "y": np.array([3, 4, 0])})
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    target = np.eye(5)[[3, 4, 0]] * 0.7 + 0.3 / 5
    target[1] = p[1] = 0  # ignored
    z = {"VALID": 2, "BATCH_SIZE": 3, "NONE": 1}[normalization]
    np.testing.assert_allclose(loss, -(target * np.log(np.where(p > 0, p, 1))).sum() / z, rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - target) / z, atol=1e-6)


def test_labels_that_are_shares():
    x = np.random.default_rng(0).normal(size=(3, 5))
    shares = np.random.default_rng(1).dirichlet(np.ones(5), 3)
    text = one("SoftmaxWithLoss", bottoms="x y", inputs=input_layer("x", 3, 5) + input_layer("y", 3, 5))
    loss, gradient = loss_and_gradient(text, {"x": x, "y": shares})
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -(shares * np.log(p)).sum() / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - shares) / 3, atol=1e-6)
    # Along another axis, for each place of an image.
    x, shares = (array.reshape(1, 5, 3, 1) for array in (x.T, shares.T))
    text = one("SoftmaxWithLoss", bottoms="x y", inputs=input_layer("x", 1, 5, 3, 1) + input_layer("y", 1, 5, 3, 1))
    np.testing.assert_allclose(loss_and_gradient(text, {"x": x, "y": shares})[0], loss, rtol=1e-6)


@pytest.mark.parametrize(("kind", "message"), [
    ("SoftmaxWithLoss", "label_smoothing is a share, from 0 to below 1; found 1"),
    ("MultinomialLogisticLoss", "MultinomialLogisticLoss does not read label_smoothing; SoftmaxWithLoss does"),
])
def test_wrong_label_smoothing(kind, message):
    with pytest.raises(SpecError) as caught:
        compile_net(one(kind, "loss_param { label_smoothing: 1 }", bottoms="x y", inputs=ROWS))
    assert message in str(caught.value)
