"""transform_param: each setting of Caffe's against its formula pixel by pixel, and jaffe's own."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaffe
from jaffe.netdef import JaffeError, NetState, resolve
from jaffe.netdef.jaffe_pb2 import BlobProto
from jaffe.train.data import Feed
from jaffe.train.data.augment import cut_out, jitter_colors, mix, turn
from jaffe.train.data.transform import Transform

C, H, W = 3, 7, 11
IMAGES = np.random.default_rng(0).integers(256, size=(40, C, H, W), dtype=np.uint8)
MEAN = np.random.default_rng(1).uniform(0, 255, (C, H, W)).astype(np.float32)


def make(text: str, phase: str = "TRAIN", shape=(C, H, W), base=None) -> Transform:
    (node,) = resolve(f'layer {{ name: "d" type: "Data" top: "data" transform_param {{ {text} }} }}',
                      NetState(phase)).nodes
    return Transform(node, shape, base) if base else Transform(node, shape)


def by_pixel(image, mean, scale: float, crop: int, top: int, left: int, flip: bool) -> np.ndarray:
    """``DataTransformer::Transform`` of Caffe 1.0, as a loop."""
    height, width = (crop, crop) if crop else image.shape[1:]
    out = np.empty((len(image), height, width), np.float32)
    for c, h, w in np.ndindex(*out.shape):
        pixel = np.float32(image[c, top + h, left + w])
        at = width - 1 - w if flip else w
        out[c, h, at] = (pixel - mean[c, top + h, left + w]) * np.float32(scale)
    return out


MEANS = {"": np.zeros((C, H, W), np.float32),
         "mean_value: 3.5": np.full((C, H, W), 3.5, np.float32),
         "mean_value: 1 mean_value: 20 mean_value: 300": np.broadcast_to(
             np.array([1, 20, 300], np.float32).reshape(3, 1, 1), (C, H, W)),
         'mean_file: "mean.binaryproto"': MEAN}


@pytest.mark.parametrize(("mean", "crop", "mirror", "scale", "phase"), list(itertools.product(
    MEANS, (0, 5), (False, True), (1.0, 0.00390625), ("TRAIN", "TEST"))))
def test_the_originals_formula(tmp_path, mean, crop, mirror, scale, phase):
    """Every image is what the loop makes of it for one offset and one direction; the mean is not mirrored with it."""
    (tmp_path / "mean.binaryproto").write_bytes(
        BlobProto(num=1, channels=C, height=H, width=W, data=MEAN.ravel().tolist()).SerializeToString())
    text = f"{mean} crop_size: {crop} mirror: {str(mirror).lower()} scale: {scale}"
    found = np.asarray(make(text, phase, base=tmp_path)(jnp.asarray(IMAGES), jax.random.key(7)))
    random = crop and phase == "TRAIN"
    tops, lefts = (range(n - crop + 1) if random else [(n - crop) // 2] if crop else [0] for n in (H, W))
    seen = set()
    for image, out in zip(IMAGES, found, strict=True):
        fitting = [(top, left, flip) for top in tops for left in lefts for flip in {False, mirror}
                   if np.array_equal(out, by_pixel(image, MEANS[mean], scale, crop, top, left, flip))]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert {flip for *_, flip in seen} == {False, mirror}
    if random:  # rows and columns are drawn alone
        assert len({top for top, *_ in seen}) == 3
        assert len({left for _, left, _ in seen}) > 4
        assert len({(top, left) for top, left, _ in seen}) > 10


# jaffe's own.


def test_own_settings_are_for_training_only():
    text = ("rotate: 30 rescale: 0.5 rescale: 2 cutout: 3 "
            "color_jitter { brightness: 0.5 contrast: 0.5 saturation: 0.5 }")
    np.testing.assert_array_equal(make(text, "TEST")(jnp.asarray(IMAGES), jax.random.key(0)), IMAGES)
    assert not np.array_equal(make(text)(jnp.asarray(IMAGES), jax.random.key(0)), IMAGES)


def test_own_settings_leave_the_originals_draws_as_they_are():
    """Cropped and mirrored as without a hole."""
    key = jax.random.key(3)
    with_hole = make("crop_size: 5 mirror: true cutout: 1")(jnp.asarray(IMAGES), key)
    without = make("crop_size: 5 mirror: true")(jnp.asarray(IMAGES), key)
    assert ((np.asarray(with_hole) == without) | (with_hole == 0)).all()


def test_quarter_turns_and_scale():
    square = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 9, 9)), jnp.float32)

    def turned(degrees: float, factor: float) -> np.ndarray:
        # Angles of either sign: the key that draws the largest one is looked for.
        draws = {}
        for i in range(200):
            angle_key, _ = jax.random.split(jax.random.key(i))
            draws[float(jax.random.uniform(angle_key, (1,), minval=-1, maxval=1)[0])] = i
        share = max(draws)
        return np.asarray(turn(square, degrees / share, (factor, factor), jax.random.key(draws[share])))

    # Of 90 degrees: counter-clockwise where rows go down.
    np.testing.assert_allclose(turned(90, 1), np.rot90(square, 1, (2, 3)), atol=2e-5)
    np.testing.assert_allclose(turned(180, 1), np.rot90(square, 2, (2, 3)), atol=2e-5)
    np.testing.assert_array_equal(turned(0, 1), square)
    twice = turned(0, 2)
    np.testing.assert_allclose(twice[:, :, ::2, ::2], square[:, :, 2:7, 2:7], atol=1e-6)
    half = turned(0, 0.5)
    np.testing.assert_allclose(half[:, :, 2:7, 2:7], square[:, :, ::2, ::2], atol=1e-6)
    assert (half[:, :, :2] == 0).all()


def test_turns_are_within_their_bounds():
    """A blob at a known place tells the angle and the factor."""
    rows, columns = np.indices((41, 41)) - 20
    blob = np.exp(-(rows**2 + (columns - 10) ** 2) / 8).astype(np.float32)  # 10 to the right of the middle
    image = np.broadcast_to(blob, (300, 1, 41, 41))
    found = np.asarray(turn(jnp.asarray(image), 30, (0.5, 1.5), jax.random.key(0)))[:, 0]
    weight = found.sum((1, 2))
    y, x = ((found * axis).sum((1, 2)) / weight for axis in (rows, columns))
    angle, factor = np.degrees(np.arctan2(-y, x)), np.hypot(x, y) / 10
    assert -31 < angle.min() < -27
    assert 27 < angle.max() < 31
    assert 0.45 < factor.min() < 0.55
    assert 1.4 < factor.max() < 1.55


def test_colour_jitter():
    x = jnp.asarray(IMAGES, jnp.float32)

    def jittered(**settings: float) -> np.ndarray:
        return np.asarray(jitter_colors(x, make("color_jitter {{ {} }}".format(" ".join(
            f"{name}: {value}" for name, value in settings.items()))).p.color_jitter, jax.random.key(1), 255.0))

    grey = np.tensordot(IMAGES, [0.114, 0.587, 0.299], (1, 0))[:, None]
    middle = grey.mean((1, 2, 3), keepdims=True)
    for setting, base in (("brightness", 0), ("contrast", middle), ("saturation", grey)):
        found = jittered(**{setting: 0.4})
        off, was = found - base, IMAGES - base
        inside = (found > 0.5) & (found < 254.5) & (np.abs(was) > 5)
        ratio = np.where(inside, off / np.where(inside, was, 1), np.nan).reshape(len(IMAGES), -1)
        factor = np.nanmedian(ratio, axis=1)
        assert np.nanmax(np.abs(ratio - factor[:, None])) < 1e-3  # one factor an image
        assert 0.6 <= factor.min() < 0.75
        assert 1.25 < factor.max() <= 1.4
        assert found.min() >= 0
        assert found.max() <= 255
    np.testing.assert_array_equal(jittered(), IMAGES)


def test_holes():
    found = np.asarray(cut_out(jnp.ones((500, 2, 9, 13)), 4, jax.random.key(0)))
    assert set(np.unique(found)) == {0, 1}
    assert (found[:, 0] == found[:, 1]).all()
    rows, columns = ((found[:, 0] == 0).any(axis).sum(1) for axis in (2, 1))
    assert (rows * columns == (found[:, 0] == 0).sum((1, 2))).all()  # a rectangle each
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4}  # at the edges part of it is outside
    assert (found == 0).any(0).all()  # holes are everywhere


def test_mixup():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, 2, 2)), jnp.float32)
    labels = jnp.array([0, 1, 2, 0, 1, 2])
    mixed, shares = mix(x, labels, 0.5, 3, jax.random.key(2))
    mixed, shares = np.asarray(mixed), np.asarray(shares)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    # One share and one order for all of it: solved for by least squares.
    x = np.asarray(x)
    best = min((np.linalg.norm(share * x + (1 - share) * x[list(order)] - mixed), share, order)
                for order in itertools.permutations(range(6)) for share in {float(shares[0].max()),
                                                                           1 - float(shares[0].max())})
    assert best[0] < 1e-5
    one_hot = np.eye(3)[np.asarray(labels)]
    np.testing.assert_allclose(shares, best[1] * one_hot + (1 - best[1]) * one_hot[list(best[2])], atol=1e-6)
    assert np.isnan(np.asarray(mix(x, labels.at[3].set(7), 0.5, 3, jax.random.key(2))[1])).any()


NET = """
layer { name: "d" type: "Data" top: "data" top: "label" data_param { batch_size: 8 source: "x" }
        transform_param { mixup { alpha: 0.4 classes: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
"""


def test_training_with_mixup():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    data = {"data": (rng.normal(size=(120, 1, 2, 3)) + labels[:, None, None, None] * 2).astype(np.float32),
            "label": labels}
    one = Feed(resolve(NET, NetState("TRAIN")), data)
    assert one.shapes["label"] == (8, 3)
    solver = jaffe.Solver(net=NET, data=data, base_lr=0.05, momentum=0.9, lr_policy="fixed", max_iter=300,
                          test_iter=[15], test_interval=300, random_seed=1)
    solver.run()
    assert solver.metrics.tests()[-1]["acc"] > 0.7
    with pytest.raises(JaffeError, match="mixup is for images with one label each"):
        Feed(resolve(NET.split("layer")[1].join(["layer", ""]).replace('top: "label"', ""), NetState("TRAIN")), data)


@pytest.mark.parametrize(("text", "message"), [
    ("rotate: -1", "rotate is a number of degrees, 0 and above; found -1"),
    ("rescale: 1", "rescale is the least and the largest factor, above 0; found [1.0]"),
    ("rescale: 2 rescale: 1", "rescale is the least and the largest factor, above 0; found [2.0, 1.0]"),
    ("color_jitter { contrast: 2 }", "color_jitter.contrast is from 0 to 1; found 2"),
    ("cutout: 8", "cutout 8 is larger than the images, (7, 11)"),
    ("mixup { alpha: 0.2 }", "mixup has an alpha above 0 and the number of classes; found 0.2 and 0"),
])
def test_wrong_settings(text, message):
    with pytest.raises(JaffeError) as caught:
        make(text)
    assert message in str(caught.value)


def test_saturation_is_for_colour():
    with pytest.raises(JaffeError, match=r"color_jitter.saturation is for 3 channels; found 1"):
        make("color_jitter { saturation: 0.5 }", shape=(1, H, W))
