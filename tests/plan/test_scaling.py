"""What the benchmark makes of plans and programs. Nothing is compiled here."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from benchmarks.table import replaced
from jaffe.plan import MACHINES, plan
from tests.plan.nets import compiled, perceptron


def test_tables_of_plans():
    net = compiled(perceptron(64, 4096, 4096, 8, batch=64))
    plans, plain = ({devices: plan(net, devices, machine=MACHINES["h100"], model_parallel=model) for devices in (1, 2)}
                    for model in (None, 1))
    lines = scaling.predictions(plans, plain).splitlines()
    assert lines[2].startswith("| 1 | 1 x 1 | ")
    assert lines[2].endswith(" | 100% | none |")
    assert lines[3].startswith("| 2 | 1 x 2 | ")
    assert lines[3].endswith(" | ip1 by output, ip2 by input |")
    shared = {devices: plan(net, devices, machine=MACHINES["h100"], scaling="strong") for devices in (1, 2)}
    assert scaling.strong({"perceptron": shared}).splitlines()[2] == "| 1 | 1.0 |"


def test_bytes_are_held_against_programs():
    equal = {"model": 1, "predicted": {"all-reduce": 2e6}, "compiled": {"all-reduce": 2e6}}
    other = {"model": 2, "predicted": {"all-reduce": 2e6, "all-gather": 1e6},
             "compiled": {"all-reduce": 2e6, "all-gather": 0.96e6}}
    missing = {"model": 2, "predicted": {"all-reduce": 1.0}, "compiled": {"all-to-all": 1.0}}
    assert [scaling.apart(one) for one in (equal, other, missing)] == [0, pytest.approx(0.04), 1]
    text = scaling.comparison([("LeNet", 4, equal), ("LeNet", 4, other)])
    assert "| LeNet | 4 | 4 x 1 | 2.00 | 2.00 | 0.000% | all-reduce 2.00 |" in text
    assert "| LeNet | 4 | 2 x 2 | 3.00 | 2.96 | 4.000% | all-gather 0.960, all-reduce 2.00 |" in text
    assert text.endswith("At most 4.000% apart in any kind of collective.\n")


def test_the_page_has_what_is_written():
    """And within what is asked of predictions: five per cent of the program's bytes."""
    page = scaling.PAGE.read_text()
    for section in ("example", "weak", "strong", "programs", "published"):
        assert replaced(page, section, "") != page
    worst = page.partition("At most ")[2].partition("%")[0]
    assert float(worst) < 5


def test_the_published_time_is_near():
    """The model's milliseconds are of the right size."""
    (line,) = scaling.published().splitlines()[2:]
    assert 0.5 < float(line.strip("| ").split(" | ")[3]) < 1.5
