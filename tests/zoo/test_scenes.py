"""Recipes on scenes of shapes: a few steps of each, and what they reach."""

from __future__ import annotations

import pytest

import jaffe
from jaffe import zoo
from jaffe.train.detection import evaluate_detection


@pytest.mark.parametrize("name", ["ssd_shapes", pytest.param("depth_shapes", marks=pytest.mark.slow)])
def test_losses_fall(name: str):
    job = jaffe.Solver(zoo.recipe(name), max_iter=30, test_interval=30, snapshot=0, base_lr=0.003, lr_policy="fixed")
    losses = job.step(30)
    assert losses[-5:].mean() < 0.75 * losses[:3].mean()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("unet_shapes", 0.86), ("fcn_shapes", 0.86), ("segnet_shapes", 0.86)])
def test_pixels_get_their_classes(name: str, least: float):
    """Mean intersection over union over the test's scenes."""
    job = jaffe.Solver(zoo.recipe(name), snapshot=0)
    job.run()
    report = job.tests[0].class_report(job.variables, job.net)
    assert report.counted == 400 * 64 * 64
    assert report.iou.mean() > least


@pytest.mark.slow
def test_boxes_are_found():
    recipe = zoo.recipe("ssd_shapes")
    job = jaffe.Solver(recipe, snapshot=0)
    job.run()
    report = evaluate_detection(recipe.net, job.variables, recipe.data)
    assert report.objects.sum() == 764
    assert report.mean > 0.98


@pytest.mark.slow
def test_depths_are_near():
    job = jaffe.Solver(zoo.recipe("depth_shapes"), snapshot=0)
    job.run()
    (means,) = job.test()
    assert means["relative_error"] < 0.045  # 0.08 for the mean of all scenes
