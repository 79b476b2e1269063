"""Scenes of shapes that are made: what their maps, boxes and depths say of each other."""

from __future__ import annotations

import numpy as np
import pytest

from jaffe.netdef import JaffeError
from jaffe.train.data.scenes import SHAPES, SIDE, shapes
from jaffe.train.data.sources import open_dataset


@pytest.fixture(scope="module")
def scenes():
    return shapes("test")


def test_shapes_and_types(scenes):
    assert {name: (array.shape, array.dtype.name) for name, array in scenes.items()} == {
        "data": ((400, 3, SIDE, SIDE), "uint8"), "label": ((400, SIDE, SIDE), "uint8"),
        "boxes": ((400, 4, 8), "float32"), "depth": ((400, 1, SIDE, SIDE), "float32")}
    assert np.unique(scenes["label"]).tolist() == [*range(len(SHAPES))]
    kinds = scenes["boxes"][..., 1].astype(int)
    assert np.bincount(kinds[kinds > 0]).tolist()[1:] == pytest.approx([250] * 3, rel=0.15)


def test_boxes_are_around_their_shapes(scenes):
    """Each box has pixels of its class at all four sides; together they are the map's shapes, and no two overlap."""
    for label, boxes in zip(scenes["label"][::7], scenes["boxes"][::7], strict=True):
        there = boxes[boxes[:, 0] == 0]
        assert len(there)
        assert (boxes[len(there):] == -1).all()
        np.testing.assert_array_equal(there[:, 2], np.arange(len(there)))
        assert not there[:, 7].any()
        inside = np.zeros_like(label, dtype=bool)
        for _, kind, _, *ends, _ in there:
            left, top, right, bottom = np.rint(np.array(ends) * SIDE).astype(int)
            own = label[top:bottom, left:right] == kind
            for side in (own[0], own[-1], own[:, 0], own[:, -1]):
                assert side.any()
            inside[top:bottom, left:right] = True
        assert not label[~inside].any()


def test_shapes_have_their_forms(scenes):
    """A circle fills pi/4 of its box; a square and a triangle, turned, from a half of it on."""
    share = {kind: [] for kind in range(1, len(SHAPES))}
    for label, boxes in zip(scenes["label"], scenes["boxes"], strict=True):
        for _, kind, _, left, top, right, bottom, _ in boxes[boxes[:, 0] == 0]:
            rows, columns = (slice(*np.rint(np.array(ends) * SIDE).astype(int)) for ends in ((top, bottom),
                                                                                              (left, right)))
            box = label[rows, columns]
            share[int(kind)].append((box == kind).mean())
    assert np.median(share[1]) == pytest.approx(np.pi / 4, rel=0.03)
    assert 0.48 < np.min(share[2]) < 0.62
    assert np.max(share[2]) > 0.9
    assert np.median(share[3]) == pytest.approx(0.5, abs=0.08)


def test_depth_is_one_for_a_shape_and_grows_up_the_floor(scenes):
    for label, depth, boxes in zip(scenes["label"][::9], scenes["depth"][::9, 0], scenes["boxes"][::9], strict=True):
        floor = np.where(label == 0, depth, np.nan)
        rows = np.nanmax(floor, 1)
        np.testing.assert_allclose(np.broadcast_to(rows[:, None], floor.shape)[label == 0], depth[label == 0])
        assert depth[-1].min() == 1
        assert (np.diff(rows) < 0).all()
        assert 1.5 <= rows[0] <= 3
        for _, kind, _, left, top, right, bottom, _ in boxes[boxes[:, 0] == 0]:
            box = np.rint(np.array([top, bottom, left, right]) * SIDE).astype(int)
            own = label[box[0]:box[1], box[2]:box[3]] == kind
            values = depth[box[0]:box[1], box[2]:box[3]][own]
            assert rows[box[1] - 1] in values  # as the floor where it stands; a neighbour's corner may be in the box


def test_splits_differ(scenes):
    train = shapes("train")
    assert len(train["data"]) == 2_000
    assert not {image.tobytes() for image in train["data"]} & {image.tobytes() for image in scenes["data"]}


def test_fields_are_named():
    data = open_dataset("made:shapes?data=data&label=boxes", "test")
    assert data.shuffle
    assert {name: value.shape for name, value in data.fields().items()} == {"data": (3, 64, 64), "label": (4, 8)}
    with pytest.raises(JaffeError, match="has no field 'box'; did you mean 'boxes'"):
        open_dataset("made:shapes?label=box", "test")
