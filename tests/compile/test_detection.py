"""Layers of the detection forks against loops over their published definitions, and against OpenCV's importer."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from jaffe.compile import compile_net, load_weights
from tests.nets.case import input_layer, one
from tests.nets.detection import priors


def run(text: str, **inputs: np.ndarray) -> np.ndarray:
    """The blob ``t``, computed under jit."""
    net = compile_net(text)
    return np.asarray(jax.jit(lambda inputs: net.apply({}, inputs)[0]["t"])(inputs))


def opencv(text: str, **inputs: np.ndarray) -> np.ndarray:
    """The same by OpenCV, which reads Caffe's nets."""
    cv2 = pytest.importorskip("cv2")
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    for name, value in inputs.items():
        net.setInput(value.astype(np.float32), name)
    return net.forward()


# Prior boxes

MAP = input_layer("x", 2, 3, 3, 5) + input_layer("image", 2, 3, 41, 59)
PRIORS = {
    "square": "min_size: 7",
    "max_size": "min_size: 7 max_size: 13",
    "ratios": "min_size: 7 max_size: 13 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 3 clip: true",
    "no_flip": "min_size: 7 aspect_ratio: 2 aspect_ratio: 3 flip: false",
    "step": "min_size: 7 aspect_ratio: 1 step: 8 offset: 0.25 variance: 0.3",
    "steps": "min_size: 7 step_h: 8 step_w: 9.5 variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4",
}


@pytest.mark.parametrize("settings", PRIORS.values(), ids=PRIORS)
def test_prior_box_like_opencv(settings):
    settings += "" if "variance" in settings else " variance: 0.1"
    settings += "" if "clip" in settings else " clip: false"
    text = one("PriorBox", f"prior_box_param {{ {settings} }}", "x image", inputs=MAP)
    inputs = {"x": np.zeros((2, 3, 3, 5)), "image": np.zeros((2, 3, 41, 59))}
    np.testing.assert_allclose(run(text, **inputs), opencv(text, **inputs), rtol=1e-6, atol=1e-7)


def prior_loop(sizes, cells, image, step, offset=0.5):
    """xmin, ymin, xmax, ymax of boxes (width, height) in pixels around the cells."""
    boxes = []
    for h in range(cells[0]):
        for w in range(cells[1]):
            for width, height in sizes:
                y, x = (h + offset) * step[0], (w + offset) * step[1]
                boxes += [(x - width / 2) / image[1], (y - height / 2) / image[0],
                          (x + width / 2) / image[1], (y + height / 2) / image[0]]
    return np.array(boxes)


def test_prior_box_with_several_sizes():
    """For each min_size its square, the mean with its max_size, and the ratios; sizes are cut to whole pixels."""
    text = one("PriorBox", "prior_box_param { min_size: 7.9 min_size: 11 max_size: 13.5 max_size: 17 aspect_ratio: 2 "
               "aspect_ratio: 0.5 img_h: 37 img_w: 61 }", "x image", inputs=MAP)
    top = run(text, x=np.zeros((2, 3, 3, 5)), image=np.zeros((2, 3, 41, 59)))
    root = math.sqrt(2)
    sizes = [(7, 7), (math.sqrt(91),) * 2, (7 * root, 7 / root), (7 / root, 7 * root),
             (11, 11), (math.sqrt(187),) * 2, (11 * root, 11 / root), (11 / root, 11 * root)]
    assert top.shape == (1, 2, 3 * 5 * 8 * 4)
    np.testing.assert_allclose(top[0, 0], prior_loop(sizes, (3, 5), (37, 61), (37 / 3, 61 / 5)), rtol=1e-6, atol=1e-6)
    assert np.unique(top[0, 1]).tolist() == [np.float32(0.1)]


def test_prior_box_clustered():
    text = one("PriorBoxClustered", "prior_box_param { width: 3.5 width: 8 height: 21 height: 2 step_h: 11 step_w: 13 "
               "offset: 0.25 variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 }", "x image", inputs=MAP)
    top = run(text, x=np.zeros((2, 3, 3, 5)), image=np.zeros((2, 3, 41, 59)))
    expected = prior_loop([(3.5, 21), (8, 2)], (3, 5), (41, 59), (11, 13), 0.25)
    np.testing.assert_allclose(top[0, 0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(top[0, 1], np.tile([0.1, 0.2, 0.3, 0.4], 30), rtol=1e-6)


# DetectionOutput

COUNT, CLASSES, BATCH = 61, 5, 3


def decoded(code, prior, variance, offset):
    """One box, as SSD's paper and ``bbox_util.cpp`` write it."""
    width, height = prior[2] - prior[0], prior[3] - prior[1]
    moved = variance * offset
    if code == "CORNER":
        return prior + moved
    if code == "CORNER_SIZE":
        return prior + moved * [width, height, width, height]
    x = (prior[0] + prior[2]) / 2 + moved[0] * width
    y = (prior[1] + prior[3]) / 2 + moved[1] * height
    width, height = width * math.exp(moved[2]), height * math.exp(moved[3])
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0) if box[2] > box[0] and box[3] > box[1] else 0


def iou(a, b):
    common = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return common / (area(a) + area(b) - common) if common else 0


def detections(offsets, scores, blob, code, share=True, encoded=False, background=0, keep_top_k=-1, confidence=-np.inf,
               top_k=-1, threshold=0.3, eta=1.0):
    """The rows of each image, in SSD's order."""
    prior, variance = blob.reshape(-1, len(blob[0, 0]) // 4, 4)[[0, -1]]
    images = []
    for image in range(len(offsets)):
        offset = offsets[image].reshape(len(prior), -1, 4)
        score = scores[image].reshape(len(prior), -1)
        rows = []
        for label in range(score.shape[1]):
            if label == background:
                continue
            boxes = [decoded(code, prior[i], 1 if encoded else variance[i], offset[i, 0 if share else label])
                     for i in range(len(prior))]
            order = [i for i in sorted(range(len(prior)), key=lambda i: -score[i, label])
                     if score[i, label] > confidence]
            kept, limit = [], threshold
            for i in order[: top_k if top_k > -1 else None]:
                if all(iou(boxes[i], boxes[j]) <= limit for j in kept):
                    kept.append(i)
                    if eta < 1 and limit > 0.5:
                        limit *= eta
            rows += [[image, label, score[i, label], *boxes[i]] for i in kept]
        if keep_top_k > -1:
            best = sorted(rows, key=lambda row: -row[2])[:keep_top_k]
            rows = [row for row in rows if row in best]
        images.append(rows)
    return images


DETECTIONS = {
    "ssd": dict(code="CENTER_SIZE", keep_top_k=29, confidence=0.3, top_k=23, threshold=0.45),
    "corner": dict(code="CORNER", keep_top_k=17, confidence=0.5, top_k=31),
    "corner_size": dict(code="CORNER_SIZE", keep_top_k=17, confidence=0.5, top_k=31),
    "own_locations": dict(code="CENTER_SIZE", share=False, keep_top_k=29, confidence=0.4, top_k=23),
    "encoded": dict(code="CENTER_SIZE", encoded=True, keep_top_k=29, confidence=0.4, top_k=23),
    "no_background": dict(code="CENTER_SIZE", background=-1, keep_top_k=200, confidence=0.4, top_k=23),
    "last_background": dict(code="CENTER_SIZE", background=4, keep_top_k=11, confidence=0.4, top_k=23),
    "eta": dict(code="CENTER_SIZE", keep_top_k=200, top_k=40, threshold=0.9, eta=0.8),
    "all": dict(code="CENTER_SIZE", threshold=0.2),
    "none": dict(code="CENTER_SIZE", confidence=2, keep_top_k=3, top_k=7),
}


def detection_case(code, share=True, encoded=False, background=0, keep_top_k=-1, confidence=-np.inf, top_k=-1,
                   threshold=0.3, eta=1.0):
    """A net and its inputs; scores have no ties."""
    random = np.random.default_rng(7)
    locations = 1 if share else CLASSES
    blob = priors(COUNT)
    offsets = random.normal(size=(BATCH, COUNT * locations * 4)) * (0.1 if encoded else 1)
    scores = random.permutation(BATCH * COUNT * CLASSES).reshape(BATCH, -1) / (BATCH * COUNT * CLASSES)
    limits = f" top_k: {top_k}" if top_k > -1 else ""
    limits += f" eta: {eta}" if eta < 1 else ""
    settings = f"num_classes: {CLASSES} share_location: {str(share).lower()} background_label_id: {background} " \
               f"variance_encoded_in_target: {str(encoded).lower()} code_type: {code} keep_top_k: {keep_top_k} " \
               f"nms_param {{ nms_threshold: {threshold}{limits} }}"
    if confidence > -np.inf:
        settings += f" confidence_threshold: {confidence}"
    blob = blob[:, :1] if encoded else blob  # OpenCV takes no variances then, SSD with or without
    inputs = {"l": offsets.astype(np.float32), "s": scores.astype(np.float32), "p": blob.astype(np.float32)}
    layers = "".join(input_layer(name, *value.shape) for name, value in inputs.items())
    return one("DetectionOutput", f"detection_output_param {{ {settings} }}", "l s p", inputs=layers), inputs


@pytest.mark.parametrize("settings", DETECTIONS.values(), ids=DETECTIONS)
def test_detection_output(settings):
    text, inputs = detection_case(**settings)
    top = run(text, **inputs)
    images = detections(inputs["l"].astype(float), inputs["s"].astype(float), inputs["p"].astype(float), **settings)
    most = settings.get("keep_top_k", -1)
    most = most if most > -1 else (CLASSES - 1) * COUNT
    assert top.shape == (1, 1, BATCH * most, 7)
    for rows, expected in zip(top.reshape(BATCH, most, 7), images, strict=True):
        np.testing.assert_allclose(rows[: len(expected)], np.reshape(expected, (-1, 7)), rtol=1e-5, atol=1e-5)
        assert (rows[len(expected) :] == -1).all()
    if settings is not DETECTIONS["none"]:
        assert sum(map(len, images)) > 30  # there is something to compare, and NMS drops something
        assert sum(map(len, images)) < BATCH * (CLASSES - 1) * COUNT


# What OpenCV has: not CORNER_SIZE, not eta. It orders an image's rows by score alone.
@pytest.mark.parametrize("name", ["ssd", "corner", "own_locations", "encoded", "last_background"])
def test_detection_output_like_opencv(name):
    text, inputs = detection_case(**DETECTIONS[name])
    top, expected = run(text, **inputs), opencv(text, **inputs).reshape(-1, 7)
    found = top[top[..., 0] >= 0]
    found = found[np.lexsort((-found[:, 2], found[:, 0]))]
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5, atol=1e-5)
    assert not expected[len(found) :].any()


def test_detection_output_of_equal_scores():
    """The lower label and then the earlier prior goes first; boxes that only touch do not overlap."""
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1], [0, 0, 1, 1], [5, 5, 4, 6]])  # two the same, one turned around
    blob = np.stack([boxes.ravel(), np.ones(16)])[None]
    text = one("DetectionOutput", "detection_output_param { num_classes: 3 background_label_id: 0 keep_top_k: 4 }",
               "l s p", inputs=input_layer("l", 1, 16) + input_layer("s", 1, 12) + input_layer("p", 1, 2, 16))
    zeros = np.zeros((1, 12))
    zeros[0, :8] *= -1  # -0.0 equals 0.0
    for scores in (np.full((1, 12), 0.5), zeros):
        top = run(text, l=np.zeros((1, 16)), s=scores, p=blob)
        assert top[0, 0, :, 1].tolist() == [1, 1, 1, 2]
        assert top[0, 0, :, 3:].tolist() == boxes[[0, 1, 3, 0]].tolist()


def test_detection_output_leaves_out_nan():
    text, inputs = detection_case(**DETECTIONS["corner"])
    inputs["s"][:] = np.nan
    assert (run(text, **inputs) == -1).all()


def test_published_face_detector(shared):
    """libfacedetection's SSD on a real image: what OpenCV finds."""
    folder = shared / "models" / "files" / "yufacedetect" / "models" / "caffe"
    recorded = np.load(shared / "models" / "expected" / "yufacedetect__v1.npz")
    image = recorded["in:data"]
    net = compile_net(folder / "yufacedetectnet-open-v1.prototxt", inputs={"data": image.shape})
    variables = load_weights(net, net.init(jax.random.key(0)), folder / "yufacedetectnet-open-v1.caffemodel")
    top = np.asarray(jax.jit(net.apply)(variables, {"data": image})[0]["detection_out"])
    found, expected = top[top[..., 0] >= 0], recorded["top:detection_out"].reshape(-1, 7)
    assert len(found) == np.count_nonzero(expected[:, 2]) == 36
    np.testing.assert_allclose(found, expected[:36], rtol=1e-4, atol=1e-5)  # one class: both go by score


# Regions

REGIONS = np.concatenate([
    np.random.default_rng(3).integers(0, 2, (29, 1)),
    np.random.default_rng(4).uniform(-20, 130, (29, 4)),  # some over the border, some turned around
], 1)
SCALE = 0.125
MAPS = np.random.default_rng(5).integers(-9, 9, (2, 12, 11, 13)).astype(np.float32)  # with ties


def half_away(x):
    return math.floor(abs(x) + 0.5) * (1 if x > 0 else -1)


def roi_pooling_loop(maps, regions, scale, ph, pw, gradient):
    """Fast R-CNN's definition, with exact fractions: top and gradient of the map."""
    top = np.zeros((len(regions), maps.shape[1], ph, pw))
    d_maps = np.zeros(maps.shape)
    for r, (image, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (half_away(corner * scale) for corner in corners)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(ph):
            rows = range(max(y1 + i * height // ph, 0), min(y1 + -(-(i + 1) * height // ph), maps.shape[2]))
            for j in range(pw):
                columns = range(max(x1 + j * width // pw, 0), min(x1 + -(-(j + 1) * width // pw), maps.shape[3]))
                for c in range(maps.shape[1]):
                    cells = [(int(image), c, h, w) for h in rows for w in columns]
                    if cells:
                        best = max(cells, key=lambda cell: maps[cell])  # the first of equal ones
                        top[r, c, i, j] = maps[best]
                        d_maps[best] += gradient[r, c, i, j]
    return top, d_maps


def psroi_pooling_loop(maps, regions, scale, group, gradient):
    """R-FCN's definition, in float64: top and gradient of the map."""
    out = maps.shape[1] // group**2
    top = np.zeros((len(regions), out, group, group))
    d_maps = np.zeros(maps.shape)
    for r, (image, *corners) in enumerate(regions):
        x1, y1, x2, y2 = map(half_away, corners)
        x, y = x1 * scale, y1 * scale
        width, height = max((x2 + 1) * scale - x, 0.1), max((y2 + 1) * scale - y, 0.1)
        for i in range(group):
            top_row, end_row = math.floor(y + i * height / group), math.ceil(y + (i + 1) * height / group)
            rows = slice(min(max(top_row, 0), maps.shape[2]), min(max(end_row, 0), maps.shape[2]))
            for j in range(group):
                left, right = math.floor(x + j * width / group), math.ceil(x + (j + 1) * width / group)
                columns = slice(min(max(left, 0), maps.shape[3]), min(max(right, 0), maps.shape[3]))
                for d in range(out):
                    where = (int(image), (d * group + i) * group + j, rows, columns)
                    if maps[where].size:
                        top[r, d, i, j] = maps[where].mean(dtype=float)
                        d_maps[where] += gradient[r, d, i, j] / maps[where].size
    return top, d_maps


ROI = "roi_pooling_param { pooled_h: 3 pooled_w: 5 spatial_scale: 0.125 }"
PSROI = "psroi_pooling_param { output_dim: 3 group_size: 2 spatial_scale: 0.125 }"
REGION_INPUTS = input_layer("x", 2, 12, 11, 13) + input_layer("r", 29, 5)


@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_regions(kind):
    net = compile_net(one(kind, ROI if kind == "ROIPooling" else PSROI, "x r", inputs=REGION_INPUTS))
    top, pull = jax.vjp(jax.jit(lambda x: net.apply({}, {"x": x, "r": REGIONS})[0]["t"]), MAPS)
    gradient = np.random.default_rng(6).normal(size=top.shape).astype(np.float32)
    if kind == "ROIPooling":
        expected, d_maps = roi_pooling_loop(MAPS, REGIONS, SCALE, 3, 5, gradient)
    else:
        expected, d_maps = psroi_pooling_loop(MAPS, REGIONS, SCALE, 2, gradient)
    assert (expected == 0).all(axis=(1, 2, 3)).any()  # some region lies beside the map
    np.testing.assert_allclose(top, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pull(gradient)[0], d_maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_regions_like_opencv(kind):
    text = one(kind, ROI if kind == "ROIPooling" else PSROI, "x r", inputs=REGION_INPUTS)
    random = np.random.default_rng(8)
    corner = random.uniform(0, 60, (29, 2))
    # OpenCV takes regions of the first image only, and inside the map.
    regions = np.concatenate([np.zeros((29, 1)), corner, corner + random.uniform(0, 40, (29, 2))], 1)
    inputs = {"x": MAPS, "r": regions.astype(np.float32)}
    np.testing.assert_allclose(run(text, **inputs), opencv(text, **inputs), rtol=1e-5, atol=1e-5)


def test_a_nan_in_a_bin_is_its_maximum():
    maps = MAPS.copy()
    maps[0, 3, 2, 4] = np.nan
    text = one("ROIPooling", ROI, "x r", inputs=REGION_INPUTS)
    top = run(text, x=maps, r=np.tile([0.0, 0, 0, 96, 80], (29, 1)))  # of all cells
    assert np.argwhere(np.isnan(top[0])).tolist() == [[3, 0, 1]]


def test_a_nan_stays_in_its_bins():
    maps = MAPS.copy()
    maps[0, 3, 2, 4], maps[1, 6, 5, 5] = np.nan, np.inf
    top, pull = jax.vjp(lambda x: compile_net(one("PSROIPooling", PSROI, "x r", inputs=REGION_INPUTS)).apply(
        {}, {"x": x, "r": REGIONS})[0]["t"], maps)
    expected, d_maps = psroi_pooling_loop(maps, REGIONS, SCALE, 2, np.ones(top.shape))
    assert 0 < np.count_nonzero(~np.isfinite(expected)) < 29
    np.testing.assert_allclose(top, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pull(np.ones_like(top))[0], d_maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_regions_of_no_image_are_nan(kind):
    text = one(kind, ROI if kind == "ROIPooling" else PSROI, "x r", inputs=REGION_INPUTS)
    regions = np.tile([0.0, 8, 8, 40, 40], (29, 1))
    regions[1, 0], regions[2, 0], regions[3, 0], regions[4, 2], regions[5, 3] = 2, -1, np.nan, np.nan, np.inf
    nan = np.isnan(run(text, x=MAPS, r=regions)).all(axis=(1, 2, 3))
    assert nan.tolist() == [False] + [True] * 5 + [False] * 23
