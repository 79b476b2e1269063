"""MultiBoxLoss against a loop over SSD's definition: matching, negatives, both losses, their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from tests.compile.test_detection import decoded, iou
from tests.nets.case import input_layer, one
from tests.nets.detection import priors

BATCH, COUNT, CLASSES, ROWS = 3, 31, 4, 13


def encoded(code, prior, variance, box):
    """The inverse of ``decoded``."""
    size = np.array([prior[2] - prior[0], prior[3] - prior[1]])
    if code == "CORNER":
        return (box - prior) / variance
    if code == "CORNER_SIZE":
        return (box - prior) / np.tile(size, 2) / variance
    centre = (box[:2] + box[2:]) / 2 - (prior[:2] + prior[2:]) / 2
    return np.concatenate([centre / size, np.log((box[2:] - box[:2]) / size)]) / variance


def match(boxes, truth, threshold, bipartite, inside):
    """For each box the index of its true box, -1 for none, -2 for never; and its largest overlap."""
    index = [-2 if inside and (min(box) < 0 or max(box) > 1) else -1 for box in boxes]
    table = np.array([[iou(box, row[3:7]) if i == -1 else 0 for row in truth]
                      for i, box in zip(index, boxes, strict=True)])
    table[table <= 1e-6] = 0
    left = set(range(len(truth)))
    while True:
        pairs = [(table[i, j], -i, -j) for i in range(len(boxes)) for j in left if index[i] == -1 and table[i, j] > 0]
        if not pairs:
            break
        _, i, j = max(pairs)
        index[-i] = -j
        left.remove(-j)
    if not bipartite:
        for i in range(len(boxes)):
            if index[i] == -1 and table[i].max() >= threshold:
                index[i] = int(table[i].argmax())
    return index, table.max(1)


def multibox(offsets, scores, blob, rows, code="CENTER_SIZE", threshold=0.5, bipartite=False, mining=True, ratio=3.0,
             neg_overlap=0.5, difficult=True, by_prior=True, in_target=False, bp_inside=False, inside=False,
             logistic=False, l2=False, mode="VALID", background=0):
    """The loss, in float64; counts of matches and of negatives beside it."""
    prior, variance = blob.reshape(2, -1, 4)
    loc = conf = matches = negatives = 0
    for image in range(len(offsets)):
        offset, score = offsets[image].reshape(-1, 4), scores[image].reshape(len(prior), -1)
        truth = [row for row in rows if row[0] == image and (difficult or not row[7])]
        boxes = prior if by_prior else [decoded(code, prior[i], 1 if in_target else variance[i], offset[i])
                                        for i in range(len(prior))]

        def confidence(i, label, score=score):
            if logistic:
                target = np.arange(len(score[i])) == label
                return (np.log1p(np.exp(score[i])) - score[i] * target).sum()
            return np.log(np.exp(score[i]).sum()) - score[i][label]

        index, overlaps = [-1] * len(prior), np.zeros(len(prior))
        if truth:
            index, overlaps = match(boxes, truth, threshold, bipartite, inside)
        positive = [i for i in range(len(prior)) if index[i] >= 0]
        matches += len(positive)
        for i in positive:
            box = truth[index[i]]
            difference = offset[i] - encoded(code, prior[i], 1 if in_target else variance[i], box[3:7])
            if in_target:
                difference = difference / variance[i]
            if bp_inside:
                difference = difference * [0 <= side <= 1 for side in boxes[i]]
            size = np.abs(difference)
            loc += (difference**2 / 2 if l2 else np.where(size < 1, difference**2 / 2, size - 0.5)).sum()
            conf += confidence(i, int(box[1]))
        others = [i for i in range(len(prior)) if i not in positive]
        if mining:
            others = [i for i in others if index[i] == -1 and overlaps[i] < neg_overlap] if truth else []
            others.sort(key=lambda i: -confidence(i, background))
            others = others[: int(np.float32(len(positive)) * np.float32(ratio))]
        negatives += len(others)
        conf += sum(confidence(i, background) for i in others)
    z = {"VALID": matches, "FULL": len(offsets) * len(prior), "BATCH_SIZE": len(offsets), "NONE": 1}[mode]
    return (2 * loc + conf) / max(z, 1), matches, negatives


CASES = {
    "ssd": {},
    "corner": dict(code="CORNER", l2=True),
    "corner_size": dict(code="CORNER_SIZE", mode="FULL"),
    "bipartite": dict(bipartite=True, mode="BATCH_SIZE"),
    "low_threshold": dict(threshold=0.1, neg_overlap=0.05, ratio=1.7),
    "no_mining": dict(mining=False, mode="NONE"),
    "not_difficult": dict(difficult=False),
    "by_prediction": dict(by_prior=False, threshold=0.3),
    "variance_in_target": dict(in_target=True),
    "variance_in_target_by_prediction": dict(in_target=True, by_prior=False, threshold=0.3),
    "inside": dict(inside=True, bp_inside=True, threshold=0.2),
    "backpropagation_inside": dict(bp_inside=True, by_prior=False, threshold=0.2),
    "logistic": dict(logistic=True),
    "logistic_no_mining": dict(logistic=True, mining=False),
    "other_background": dict(background=3),
}


def net_text(code="CENTER_SIZE", threshold=0.5, bipartite=False, mining=True, ratio=3.0, neg_overlap=0.5,
             difficult=True, by_prior=True, in_target=False, bp_inside=False, inside=False, logistic=False, l2=False,
             mode="VALID", background=0):
    def flag(value):
        return str(value).lower()

    settings = f"""loss_param {{ normalization: {mode} }} multibox_loss_param {{ num_classes: {CLASSES} loc_weight: 2
        code_type: {code} overlap_threshold: {threshold} match_type: {"BIPARTITE" if bipartite else "PER_PREDICTION"}
        mining_type: {"MAX_NEGATIVE" if mining else "NONE"} neg_pos_ratio: {ratio} neg_overlap: {neg_overlap}
        use_difficult_gt: {flag(difficult)} use_prior_for_matching: {flag(by_prior)} bp_inside: {flag(bp_inside)}
        encode_variance_in_target: {flag(in_target)} ignore_cross_boundary_bbox: {flag(inside)}
        conf_loss_type: {"LOGISTIC" if logistic else "SOFTMAX"} loc_loss_type: {"L2" if l2 else "SMOOTH_L1"}
        background_label_id: {background} }}"""
    inputs = input_layer("l", BATCH, COUNT * 4) + input_layer("s", BATCH, COUNT * CLASSES)
    inputs += input_layer("p", 1, 2, COUNT * 4) + input_layer("g", 1, 1, ROWS, 8)
    return one("MultiBoxLoss", settings, "l s p g", inputs=inputs)


def data(background=0):
    """Predictions, priors (some over the image's border) and true boxes, one of no image; the last image has none."""
    random = np.random.default_rng(1)
    corner = random.uniform(0, 0.6, (ROWS, 2))
    rows = np.concatenate([
        random.integers(0, BATCH - 1, (ROWS, 1)), random.integers(1, CLASSES, (ROWS, 1)) - (background > 0),
        np.zeros((ROWS, 1)), corner, corner + random.uniform(0.1, 0.4, (ROWS, 2)), random.integers(0, 2, (ROWS, 1)),
    ], 1)
    rows[11] = -1
    blob = priors(COUNT)
    blob[0, 0, :32] -= 0.15
    return {
        "l": random.normal(size=(BATCH, COUNT * 4)), "s": random.normal(size=(BATCH, COUNT * CLASSES)),
        "p": blob, "g": rows[None, None],
    }


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_loss_and_gradient(settings):
    inputs = data(settings.get("background", 0))
    arrays = [inputs["l"], inputs["s"], inputs["p"], inputs["g"][0, 0]]
    expected, matches, negatives = multibox(*arrays, **settings)
    assert matches >= 3
    assert negatives > 3
    with jax.enable_x64(True):
        net = compile_net(net_text(**settings), dtype=jnp.float64)

        def loss(inputs):
            return net.loss({}, inputs)[0]

        found, gradient = jax.jit(jax.value_and_grad(loss))(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    direction = np.random.default_rng(2)
    for name, at in (("l", 0), ("s", 1)):  # along a line: all entries at once
        step = direction.normal(size=inputs[name].shape) * 1e-6
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[at] = arrays[at] + sign * step
            ends.append(multibox(*moved, **settings)[0])
        np.testing.assert_allclose((np.asarray(gradient[name]) * step).sum(), (ends[0] - ends[1]) / 2, rtol=1e-5)
    assert not gradient["p"].any()
    assert not gradient["g"].any()


def test_no_true_boxes():
    inputs = data()
    inputs["g"][0, 0, :, 0] = -1
    net = compile_net(net_text())
    loss, gradient = jax.value_and_grad(lambda inputs: net.loss({}, inputs)[0])(
        {name: jnp.asarray(value, jnp.float32) for name, value in inputs.items()})
    assert loss == 0
    assert all(not leaf.any() for leaf in gradient.values())


def test_equal_overlaps_and_losses():
    """The earlier prior matches the earlier row; the earlier priors are the negatives."""
    blob = np.stack([np.tile([0.25, 0.25, 0.75, 0.75], 3).tolist() + [0, 0, 0.125, 0.125] * 28, np.ones(124)])[None]
    rows = np.full((1, 1, ROWS, 8), -1.0)
    rows[0, 0, :2] = [0, 1, 0, 0.25, 0.25, 0.75, 0.75, 0], [0, 2, 0, 0.25, 0.25, 0.75, 0.75, 0]
    inputs = {"l": np.zeros((BATCH, COUNT * 4)), "s": np.zeros((BATCH, COUNT * CLASSES)), "p": blob, "g": rows}
    net = compile_net(net_text(bipartite=True, ratio=1.0, mode="NONE"))
    gradient = jax.grad(lambda s: net.loss({}, {**inputs, "s": s})[0])(jnp.asarray(inputs["s"], jnp.float32))
    gradient = np.asarray(gradient).reshape(BATCH, COUNT, CLASSES)
    label = np.where(gradient.any(-1), gradient.argmin(-1), -1)
    assert label[0, :6].tolist() == [1, 2, -1, 0, 0, -1]
    assert (label[0, 6:] == -1).all()
    assert (label[1:] == -1).all()


def value_and_gradient(settings, inputs):
    """The loss and its gradient by the scores, (BATCH, COUNT, CLASSES)."""
    net = compile_net(net_text(**settings))
    scores = jnp.asarray(inputs["s"], jnp.float32)
    loss, gradient = jax.value_and_grad(lambda s: net.loss({}, {**inputs, "s": s})[0])(scores)
    return loss, np.asarray(gradient).reshape(BATCH, COUNT, CLASSES)


@pytest.mark.parametrize("x64", [False, True])
def test_the_number_of_negatives_is_counted_in_float32(x64):
    """As SSD counts it: 10 * 0.7 is 7, though float32's 0.7 is less than 0.7."""
    inputs = data()
    inputs["p"][0, 0, 40:] = np.tile([2, 2, 2.125, 2.125], COUNT - 10)
    rows = inputs["g"][0, 0]
    rows[:, 0] = -1
    rows[:10, 0], rows[:10, 3:7] = 0, inputs["p"][0, 0, :40].reshape(10, 4)
    with jax.enable_x64(x64):
        _, gradient = value_and_gradient(dict(ratio=0.7, bipartite=True), inputs)
    assert np.count_nonzero(gradient.any(-1), axis=1).tolist() == [10 + 7, 0, 0]


@pytest.mark.parametrize("image", [np.nan, BATCH, -2])
def test_rows_of_no_image_do_not_count(image):
    inputs = data()
    inputs["g"][0, 0, [0, 3], 0] = -1
    expected = value_and_gradient({}, inputs)
    inputs["g"][0, 0, [0, 3], 0] = image
    found = value_and_gradient({}, inputs)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("logistic", [False, True])
@pytest.mark.parametrize("label", [-1, 0, CLASSES, np.nan])
def test_a_label_of_no_class_is_nan(label, logistic):
    """The background's too."""
    inputs = data()
    inputs["g"][0, 0, 0, 1] = label
    assert np.isnan(value_and_gradient(dict(logistic=logistic), inputs)[0])


@pytest.mark.parametrize("logistic", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_do_not_count_have_no_gradient(bad, logistic):
    """Those of the last image, which has no true box."""
    inputs = data()
    expected = value_and_gradient(dict(logistic=logistic), inputs)
    inputs["s"][2] = bad
    found = value_and_gradient(dict(logistic=logistic), inputs)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    assert not found[1][2].any()


@pytest.mark.parametrize("by_prior", [True, False])
def test_export_with_any_batch(by_prior):
    net = compile_net(net_text(by_prior=by_prior, threshold=0.3), phase="TEST")
    inputs = {name: np.asarray(value, np.float32) for name, value in data().items()}
    artefact = jax.export.deserialize(bytearray(net.export({}, platforms=["cpu"])))
    found = artefact.call({**inputs, "l": inputs["l"][:2], "s": inputs["s"][:2]})  # the last image adds nothing
    np.testing.assert_allclose(found["t"], net.apply({}, inputs)[0]["t"], rtol=1e-6)


def test_true_boxes_image_by_image():
    """(N, G, 8): the same loss as of rows that say their images; -1 is no box, other numbers say nothing."""
    inputs = data()
    rows = inputs["g"][0, 0]
    apart = np.full((BATCH, ROWS, 8), -1.0)
    for image in range(BATCH):
        own = rows[rows[:, 0] == image]
        apart[image, 1 : len(own) + 1] = own
        apart[image, 1 : len(own) + 1, 0] = 7
    text = net_text()
    flat = f"dim: 1 dim: 1 dim: {ROWS} dim: 8"
    assert flat in text
    expected = compile_net(text).loss({}, inputs)[0]
    own = compile_net(text.replace(flat, f"dim: {BATCH} dim: {ROWS} dim: 8"))
    np.testing.assert_allclose(own.loss({}, {**inputs, "g": apart})[0], expected, rtol=1e-6)
