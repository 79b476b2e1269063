"""Average precision against cases by hand, and against a loop over VOC's definition."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.netdef import JaffeError
from jaffe.train.detection import average_precision, detection_report, evaluate_detection
from jaffe.zoo.detection import BoxMap, small_ssd

LEFT, RIGHT, FAR = (0, 0, 0.4, 1), (0.5, 0, 0.9, 1), (0.9, 0.9, 1, 1)


def found(*rows):
    """DetectionOutput's rows of (image, label, score, box), and one of none."""
    return np.array([[image, label, score, *box] for image, label, score, box in rows] + [[-1] * 7], np.float32)[
        None, None]


def true(*rows):
    """True boxes in one blob, of (image, label, box, difficult)."""
    return np.array([[image, label, 0, *box, difficult] for image, label, box, difficult in rows] + [[-1] * 8],
                    np.float32)[None, None]


def test_by_hand():
    """Of class 1 right, wrong, right: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; a third box is never found."""
    detections = found((0, 1, 0.9, LEFT), (1, 1, 0.8, FAR), (1, 1, 0.7, RIGHT), (0, 2, 0.6, RIGHT))
    truth = true((0, 1, LEFT, 0), (1, 1, RIGHT, 0), (1, 1, LEFT, 0), (0, 2, RIGHT, 0))
    report = detection_report([(detections, truth)], 3)
    np.testing.assert_allclose(report.ap, [np.nan, (1 + 2 / 3) / 3, 1])
    assert report.mean == pytest.approx((5 / 9 + 1) / 2)
    assert (report.objects.tolist(), report.found.tolist()) == ([0, 3, 1], [0, 2, 1])
    eleven = detection_report([(detections, truth)], 3, method="11point")
    # 0 to 0.3: 1; 0.4, 0.5, 0.6: 2/3; the others are not reached.
    assert eleven.ap[1] == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert str(report) == (
        "mAP 77.78% (area, overlap 0.5)\n"
        "class   objects     found        AP\n"
        "    1         3         2    55.56%\n"
        "    2         1         1   100.00%"
    )


def test_a_box_is_found_once_and_in_its_own_image():
    twice = detection_report([(found((0, 1, 0.9, LEFT), (0, 1, 0.8, LEFT)), true((0, 1, LEFT, 0), (0, 1, FAR, 0)))], 2)
    np.testing.assert_allclose(twice.ap[1], 0.5)
    elsewhere = detection_report([(found((1, 1, 0.9, LEFT)), true((0, 1, LEFT, 0)))], 2)
    assert elsewhere.ap[1] == 0


def test_difficult_boxes_do_not_count():
    truth = true((0, 1, LEFT, 1), (0, 1, RIGHT, 0))
    report = detection_report([(found((0, 1, 0.9, LEFT), (0, 1, 0.8, RIGHT)), truth)], 2)
    assert (report.objects[1], report.ap[1]) == (1, 1)


def test_overlap_is_as_large_as_asked_for():
    batch = [(found((0, 1, 0.9, (0, 0, 0.5, 0.5))), true((0, 1, (0, 0, 0.5, 1), 0)))]
    assert detection_report(batch, 2).ap[1] == 1
    assert detection_report(batch, 2, overlap=0.51).ap[1] == 0


def test_true_boxes_image_by_image():
    """(N, G, 8): places in the batch are the images."""
    rows = np.full((2, 2, 8), -1, np.float32)
    rows[1, 0] = 0, 1, 0, *LEFT, 0
    assert detection_report([(found((1, 1, 0.9, LEFT)), rows)], 2).ap[1] == 1
    assert detection_report([(found((0, 1, 0.9, LEFT)), rows)], 2).ap[1] == 0


def test_batches_are_apart():
    """Image 0 of one batch is not image 0 of the next; scores are compared over all of them."""
    batches = [(found((0, 1, 0.6, LEFT)), true((0, 1, LEFT, 0))), (found((0, 1, 0.9, FAR)), true((0, 1, LEFT, 0)))]
    report = detection_report(batches, 2)
    np.testing.assert_allclose(report.ap[1], 0.25)  # wrong, right: precision 1/2 at recall 1/2
    assert np.isnan(detection_report([], 2).mean)


def test_average_precision_against_a_loop():
    random = np.random.default_rng(0)
    for _ in range(20):
        count = int(random.integers(1, 30))
        scores, right = random.random(count), random.random(count) < 0.6
        objects = int(right.sum() + random.integers(1, 5))
        order = sorted(range(count), key=lambda i: -scores[i])
        points = [(sum(right[i] for i in order[:k]) / objects, sum(right[i] for i in order[:k]) / k)
                  for k in range(1, count + 1)]

        def highest(recall, points=points):
            return max((precision for at, precision in points if at >= recall - 1e-9), default=0)

        area = sum(highest(k / objects) / objects for k in range(1, objects + 1))
        assert average_precision(scores, right, objects) == pytest.approx(area)
        eleven = sum(highest(i / 10) for i in range(11)) / 11
        assert average_precision(scores, right, objects, "11point") == pytest.approx(eleven)


def test_what_is_wrong_is_said():
    with pytest.raises(JaffeError, match="method is area or 11point; received 'voc'"):
        detection_report([], 2, method="voc")
    with pytest.raises(JaffeError, match="expected classes 0 to 1; found 1 to 2"):
        detection_report([(found((0, 2, 0.9, LEFT)), true((0, 1, LEFT, 0)))], 2)
    with pytest.raises(JaffeError, match=r"expected detections \(..., 7\) and true boxes \(..., 8\)"):
        detection_report([(np.zeros((1, 6)), np.zeros((1, 8)))], 2)


def test_a_net_over_a_data_set():
    """As from the net's blobs, in one batch of all; each true box is where an image's fifth detection is."""
    spec = small_ssd(classes=3, objects=2, shape=(3, 16, 16), widths=(2, 2), maps=(BoxMap("conv2_2", 6, 9),), batch=2,
                     test_batch=2, keep=9)
    data = {"data": np.random.default_rng(0).random((4, 3, 16, 16), np.float32),
            "label": np.full((4, 2, 8), -1, np.float32)}
    net = compile_net(spec, phase="TEST", batch=4)
    variables = net.init(jax.random.key(0))
    variables = {**variables, "state": jax.tree.map(np.ones_like, variables["state"])}
    detections = np.asarray(net.apply(variables, data)[0]["detection_out"])
    rows = detections.reshape(4, 9, 7)[:, 4]
    data["label"][:, 0] = np.stack([0 * rows[:, 0], rows[:, 1], 0 * rows[:, 0], *rows[:, 3:].T, 0 * rows[:, 0]], 1)
    report, expected = evaluate_detection(spec, variables, data), detection_report([(detections, data["label"])], 3)
    assert report.objects.sum() == report.found.sum() == 4
    assert 0 < expected.mean < 1
    np.testing.assert_allclose(report.ap, expected.ap, rtol=1e-6)
    with pytest.raises(JaffeError, match="net 'LeNet' has no DetectionOutput layer in phase TEST"):
        evaluate_detection(zoo.lenet(), variables, data)
