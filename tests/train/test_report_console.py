"""What the console shows of a run."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from jaffe.netdef import SolverParameter
from jaffe.train.compilation import Compilation
from jaffe.train.console import ConsoleReporter
from jaffe.train.report import Run

TEST_NET = {"accuracy": 0.0, "loss": 1.0, "scores": 0.0}


def run(iteration: int = 0, test_weights=(TEST_NET,)) -> Run:
    return Run("net", SolverParameter(max_iter=1000), iteration, {"loss": 1.0}, tuple(test_weights), None)


def trained(iteration: int, **changed):
    return {"iteration": iteration, "loss": 0.123456, "lr": 0.00925, "images_per_second": 12345.6,
            "outputs": {"loss": 0.2}, "elapsed": 1.0, **changed}


def reporter(width: int = 0) -> tuple[ConsoleReporter, io.StringIO]:
    """With a terminal so wide, or none."""
    file = io.StringIO()
    shape = {"width": width, "force_terminal": True, "force_interactive": True} if width else {"force_terminal": False}
    return ConsoleReporter(Console(file=file, legacy_windows=False, **shape)), file


def plain(file: io.StringIO) -> str:
    """What a terminal would show, all frames one after another."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")


def last_bar(file: io.StringIO) -> str:
    return next(line.rstrip() for line in reversed(plain(file).splitlines()) if "/1000" in line)


def test_lines_without_a_terminal():
    console, file = reporter()
    console.start(run())
    console.tested({"iteration": 0, "test": 0, "accuracy": 0.1, "loss": 2.3, "scores": [1.0, 2.0], "elapsed": 0.5})
    console.compiled(Compilation(3.21, requests=1))
    console.trained(trained(0, images_per_second=None))
    console.advanced(1)
    console.trained(trained(100))
    console.tested({"iteration": 100, "test": 1, "accuracy": 0.975, "total loss": None, "elapsed": 0.5})
    console.trained(trained(200, lr=None, loss=float("nan"), outputs={"loss1": 0.5, "loss2": 0.25}))
    console.saved(Path("x/iter_200"))
    console.warned("[bold] " + "word " * 40)
    console.debugged(["    [Forward] Layer conv1, top blob conv1 data: 0.5"])
    console.stop("no better accuracy in 5 tests")
    assert file.getvalue().splitlines() == [
        "iteration      0  test accuracy 0.1  loss 2.3  scores (2 values)",
        "compiled in 3.2 s",
        "iteration      0  loss 0.1235  lr 0.00925",
        "iteration    100  loss 0.1235  lr 0.00925  12,346 images/s",
        "iteration    100  test 1 accuracy 0.975  total loss nan",
        "iteration    200  loss nan  loss1 0.5  loss2 0.25  12,346 images/s",
        "snapshot  x/iter_200",
        "warning: [bold] " + "word " * 40,
        "    [Forward] Layer conv1, top blob conv1 data: 0.5",
        "stopped early: no better accuracy in 5 tests",
    ]


def test_a_bar_in_a_terminal():
    console, file = reporter(width=120)
    console.start(run())
    console.tested({"iteration": 0, "test": 0, "accuracy": 0.98765, "loss": 2.3, "scores": [1.0], "elapsed": 0.5})
    console.tested({"iteration": 0, "test": 1, "accuracy": 0.5, "elapsed": 0.5})  # not on the bar: another net's
    console.trained(trained(0))
    console.advanced(250)
    console.warned("look [out]")
    console.stop()
    assert re.fullmatch(r"━+ *╺?━* +250/1000 \S+ loss 0.1235  accuracy 98.77%  lr 0.00925  12,346 images/s",
                        last_bar(file))
    shown = plain(file)
    assert "iteration      0  test accuracy 0.9877  loss 2.3  scores (1 values)" in shown
    assert "warning: look [out]" in shown
    assert "iteration      0  loss" not in shown  # the bar says it
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


def test_a_resumed_run_begins_where_it_stopped():
    console, file = reporter(width=120)
    console.start(run(iteration=400))
    console.stop()
    assert " 400/1000 " in last_bar(file)


@pytest.mark.parametrize("width", [50, 80])
def test_a_narrow_terminal_keeps_bar_and_time(width):
    console, file = reporter(width)
    console.start(run())
    console.tested({"iteration": 0, "test": 0, "accuracy": 0.98765, "loss": 2.3, "elapsed": 0.5})
    console.trained(trained(0))
    console.advanced(250)
    console.stop()
    assert re.match(r"━+╸?╺?━* +250/1000 \S+ loss 0.1235  ac", last_bar(file))
    assert len(last_bar(file)) <= width
    assert max(map(len, plain(file).splitlines())) <= width


def test_a_test_net_with_losses_only():
    console, file = reporter(width=120)
    console.start(run(test_weights=[{"loss": 1.0}]))
    console.trained(trained(0))
    console.tested({"iteration": 0, "test": 0, "loss": 2.25, "elapsed": 0.5})
    console.stop()
    assert "loss 0.1235  test loss 2.25  lr" in last_bar(file)


def test_no_bar_where_the_terminal_cannot_draw_one():
    console = ConsoleReporter(Console(file=(file := io.StringIO()), force_terminal=True, _environ={"TERM": "dumb"}))
    console.start(run())
    console.trained(trained(0))
    console.stop()
    assert plain(file) == "iteration      0  loss 0.1235  lr 0.00925  12,346 images/s\n"


def test_nothing_is_lost_outside_of_a_run():
    console, file = reporter()
    console.trained(trained(0))
    console.tested({"iteration": 0, "test": 0, "accuracy": 0.5, "elapsed": 0.5})
    console.stop()
    assert len(file.getvalue().splitlines()) == 2
