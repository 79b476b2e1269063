"""Log lines as Caffe's: their exact form, what the scripts of Caffe's users read in them, and reading such logs."""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path

import pytest

from jaffe import zoo
from jaffe.netdef import SolverParameter
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.text import read_solver
from jaffe.train.caffe_log import CaffeLogReporter, read_caffe_log
from jaffe.train.report import Run, read_metrics
from jaffe.train.solver import Solver

TRAIN = {"aux": 0.3, "loss": 1.0}
TEST = {"accuracy": 0.0, "loss": 1.0}
SOLVER = """
base_lr: 0.01
display: 20
max_iter: 100
lr_policy: "inv"
net: "net.prototxt"
train_state {
  stage: "a"
}
"""


def run(iteration: int = 0, train=TRAIN, tests=(TEST,)) -> Run:
    return Run("LeNet", read_solver(SOLVER), iteration, train, tuple(tests), None)


def a_row(iteration: int, **changed):
    # as of a compiled function, the outputs come in another order than Caffe's
    outputs = {"loss": 0.5 - iteration / 1000, "aux": 1 / 3}
    return {"iteration": iteration, "loss": 0.75, "lr": 0.00992565123, "images_per_second": 9.0, "outputs": outputs,
            "elapsed": 0.0, **changed}


def a_test(iteration: int, **changed):
    return {"iteration": iteration, "test": 0, "loss": 0.25, "accuracy": iteration / 1000, "elapsed": 0.0, **changed}


def write(path: Path, first: int = 0, last: int = 100, display: int = 20) -> None:
    """A run from one iteration to another, tested at both and in the middle."""
    reporter = CaffeLogReporter(path)
    reporter.start(run(first))
    for i in range(first, last, display):
        if i % 50 == 0:
            reporter.tested(a_test(i))
        reporter.trained(a_row(i))
    reporter.saved(Path(f"run_snapshots/iter_{last}"))
    reporter.tested(a_test(last))
    reporter.stop()


def messages(path: Path) -> list[str]:
    """The lines, without glog's prefix where they have one."""
    return [re.sub(r"^[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [a-z_]+(\.cpp)?:\d+\] ", "", line)
            for line in path.read_text().splitlines()]


# The reading rules of Caffe's scripts, as ../shared/caffe-semantics.md lists them.


def when(line: str) -> datetime:
    """Two fields, ``Lmmdd hh:mm:ss.us``. ValueError: it is no date. IndexError: there are not two fields."""
    fields = line.split()
    date, time = fields[0], fields[1]
    if not re.fullmatch(r"\D\d{4}", date):
        raise ValueError
    return datetime(2000, int(date[1:3]), int(date[3:]), *map(int, re.split("[:.]", time)))


def parse_log_py(text: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The rows of training and of tests that parse_log.py finds."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "Solving" in line)
    began, iteration, rate = when(lines[start]), None, math.nan
    patterns = [re.compile(phase + r" net output #(\d+): (\S+) = ([\.\deE+-]+)") for phase in ("Train", "Test")]
    tables: tuple[list, list] = ([], [])
    rows: list[dict[str, float] | None] = [None, None]
    for line in lines[start + 1:]:
        if found := re.search(r"Iteration (\d+)", line):
            iteration = float(found[1])
        if iteration is None:
            continue
        try:
            seconds = (when(line) - began).total_seconds()
        except ValueError:
            continue
        if found := re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", line):
            rate = float(found[1])
        for k, (pattern, table) in enumerate(zip(patterns, tables, strict=True)):
            row = rows[k]
            if found := pattern.search(line):
                if row is None or row["NumIters"] != iteration:
                    if row is not None:
                        table.append(row)
                    row = {"NumIters": iteration, "Seconds": seconds, "LearningRate": rate}
                row[found[2]] = float(found[3])
            if row is not None and table and len(row) == len(table[0]):
                table.append(row)
                row = None
            rows[k] = row
    for table in tables:
        if len(table) > 1:
            table[0]["LearningRate"] = table[1]["LearningRate"]
    return tables


def parse_log_sh(text: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """What parse_log.sh cuts out: (iteration, loss, rate) of training, and (iteration, output 0, output 1) of tests."""
    lines = text.splitlines()
    number = {line: found[1] for line in lines if (found := re.search(r"Iteration (\d*)", line))}
    losses = [line for line in lines if ", loss = " in line]
    rates = [line.split()[8] for line in lines if ", lr = " in line]
    headers = [line for line in lines if "Testing net" in line]
    outputs = [[line.split()[10] for line in lines if f"Test net output #{k}" in line] for k in range(2)]
    train = zip((number[line] for line in losses), (line.split("=")[1].strip() for line in losses), rates, strict=True)
    return list(train), list(zip((number[line] for line in headers), *outputs, strict=True))


def test_the_exact_lines(tmp_path):
    reporter = CaffeLogReporter(tmp_path / "new" / "train.log")
    reporter.start(run())
    reporter.tested(a_test(0, **{"total loss": 12345678.0}))
    reporter.trained(a_row(0, outputs={"loss": [0.5, math.nan], "aux": 1 / 3}))
    reporter.debugged(["    [Forward] Layer conv1, top blob conv1 data: 0.5",
                       "    [Backward] All net params (data, diff): L1 norm = (1, 2); L2 norm = (3, 4)"])
    reporter.warned("one\ntwo")
    reporter.saved(Path("run_snapshots/iter_20"))
    reporter.trained(a_row(20, lr=1e-5, loss=math.inf))
    reporter.stop()
    found = [re.sub(r"\(\S+ iter/s, \S+s/", "(X iter/s, Ys/", line) for line in messages(reporter.path)]
    assert found == [
        "Initializing solver from parameters: ",
        *SOLVER.strip().splitlines(),
        "Solving LeNet",
        "Learning Rate Policy: inv",
        "Iteration 0, Testing net (#0)",
        "Test loss: 1.23457e+07",
        "    Test net output #0: accuracy = 0",
        "    Test net output #1: loss = 0.25 (* 1 = 0.25 loss)",
        "Iteration 0 (X iter/s, Ys/20 iters), loss = 0.75",
        "    Train net output #0: aux = 0.333333 (* 0.3 = 0.1 loss)",
        "    Train net output #1: loss = 0.5 (* 1 = 0.5 loss)",
        "    Train net output #2: loss = nan (* 1 = nan loss)",
        "Iteration 0, lr = 0.00992565",
        "    [Forward] Layer conv1, top blob conv1 data: 0.5",
        "    [Backward] All net params (data, diff): L1 norm = (1, 2); L2 norm = (3, 4)",
        "one",
        "two",
        "Snapshotting to run_snapshots/iter_20",
        "Iteration 20 (X iter/s, Ys/20 iters), loss = inf",
        "    Train net output #0: aux = 0.333333 (* 0.3 = 0.1 loss)",
        "    Train net output #1: loss = 0.48 (* 1 = 0.48 loss)",
        "Iteration 20, lr = 1e-05",
        "Optimization Done.",
    ]
    lines = reporter.path.read_text().splitlines()
    loss = next(line for line in lines if ", loss = " in line)
    assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ solver\.cpp:\d+\] "
                        r"Iteration 0 \(0 iter/s, [\d.e-]+s/20 iters\), loss = 0\.75", loss)
    assert {line[0] for line in lines if "Train net" in line or "lr = " in line or "Testing" in line} == {"I"}
    assert [line[0] for line in lines if "All net params" in line or line.endswith(("one", "two"))] == ["E", "W", "W"]


def test_a_run_that_ends_early(tmp_path):
    reporter = CaffeLogReporter(tmp_path / "train.log")
    reporter.start(run())
    reporter.stop("interrupted")
    assert messages(reporter.path)[-2:] == ["interrupted", "Optimization stopped early."]


def test_what_parse_log_reads(tmp_path):
    write(tmp_path / "train.log")
    text = (tmp_path / "train.log").read_text()
    train, test = parse_log_py(text)
    assert [list(row) for row in train] == [["NumIters", "Seconds", "LearningRate", "aux", "loss"]] * 5
    assert [row["NumIters"] for row in train] == [0, 20, 40, 60, 80]
    assert [row["loss"] for row in train] == [0.5, 0.48, 0.46, 0.44, 0.42]
    assert {row["LearningRate"] for row in train} == {0.00992565}
    assert all(0 <= row["Seconds"] < 60 for row in train)
    assert [list(row) for row in test] == [["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]] * 2
    assert [(row["NumIters"], row["accuracy"], row["loss"]) for row in test] == [(0, 0, 0.25), (100, 0.1, 0.25)]

    train, test = parse_log_sh(text)
    assert train == [(str(i), "0.75", "0.00992565") for i in range(0, 100, 20)]
    assert test == [("0", "0", "0.25"), ("100", "0.1", "0.25")]


def test_a_run_that_goes_on_appends(tmp_path):
    path = tmp_path / "train.log"
    write(path)
    path.write_text(path.read_text() + "I1127 23:59:59.123456  7 solver.cpp:239] Iteration 99")  # killed while it wrote
    write(path, first=100, last=160)
    text = path.read_text()
    assert text.count("Solving") == 2
    assert "Iteration 99" not in text
    for train, test in (parse_log_py(text), parse_log_sh(text)):
        iterations = [float(next(iter(row.values())) if isinstance(row, dict) else row[0]) for row in train]
        assert iterations == [0, 20, 40, 60, 80, 100, 120, 140]
        assert len(test) == 4
    train, _ = parse_log_py(text)
    assert {len(row) for row in train} == {5}


def test_a_run_that_begins_puts_an_earlier_log_aside(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("precious\n")
    write(path)
    assert (tmp_path / "train.1.log").read_text() == "precious\n"
    assert "precious" not in path.read_text()


def test_a_link_is_written_to_as_it_is(tmp_path):
    (tmp_path / "target").write_text("first\n")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text().startswith("first\nI")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    for path, problem in ((tmp_path, "Is a directory"), (tmp_path / "file" / "x.log", "(Not a directory|File exists)")):
        with pytest.raises(JaffeError, match=f"{path} cannot be written: {problem}"):
            CaffeLogReporter(path).start(run())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told():
    reporter = CaffeLogReporter("/dev/full")
    with pytest.raises(JaffeError, match="/dev/full cannot be written: No space left on device"):
        reporter.start(run())
    reporter.stop("the disk is full")  # says no more


def test_outside_of_a_run_nothing_is_logged(tmp_path):
    reporter = CaffeLogReporter(tmp_path / "train.log")
    reporter.trained(a_row(0))
    reporter.stop()
    assert not reporter.path.exists()


def test_the_log_of_a_solver(tmp_path):
    """Trained, stopped and gone on with, all as the solver itself tells it."""
    job = Solver(zoo.recipe("logreg"), max_iter=2, display=1, test_interval=2, test_iter=[1], test_compute_loss=True,
                 snapshot_prefix=str(tmp_path / "run"), reporter=CaffeLogReporter(tmp_path / "train.log"))
    job.run()
    job.proto.max_iter = 4
    job.run(tmp_path / "run_snapshots")
    train, test = parse_log_py((tmp_path / "train.log").read_text())
    assert [list(row) for row in train] == [["NumIters", "Seconds", "LearningRate", "loss"]] * 4
    assert [row["NumIters"] for row in train] == [0, 1, 2, 3]
    assert [list(row)[3:] for row in test] == [["accuracy", "loss"]] * 4
    assert [row["NumIters"] for row in test] == [0, 2, 2, 4]
    assert 0 < test[-1]["loss"] < test[0]["loss"] < 3
    log, metrics = read_caffe_log(tmp_path / "train.log"), read_metrics(tmp_path / "run_metrics.jsonl")
    for mine, own in zip(log, metrics, strict=True):
        values = {name: pytest.approx(value, rel=1e-5) for name, value in own.items()  # six digits
                  if name not in ("elapsed", "images_per_second", "outputs")}
        assert {name: value for name, value in mine.items() if name not in ("elapsed", "outputs")} == values


def test_our_log_is_read_back(tmp_path):
    write(tmp_path / "train.log", last=60)
    write(tmp_path / "train.log", first=40, last=80)  # stopped at 60, resumed from 40
    rows = read_caffe_log(tmp_path / "train.log")
    assert [(row["iteration"], "test" in row) for row in rows] == [
        (0, True), (0, False), (20, False), (40, False), (60, False), (80, True)]
    assert rows[0] == {"iteration": 0, "test": 0, "accuracy": 0.0, "loss": 0.25, "elapsed": rows[0]["elapsed"]}
    assert rows[2] == {"iteration": 20, "loss": 0.75, "lr": 0.00992565, "outputs": {"aux": 0.333333, "loss": 0.48},
                       "elapsed": rows[2]["elapsed"]}
    times = [row["elapsed"] for row in rows]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 60


CAFFE = """\
Log file created at: 2015/12/31 23:59:00
I1231 23:59:58.500000  7 solver.cpp:48] Initializing solver from parameters:
base_lr: 0.1
}
I1231 23:59:58.750000  7 solver.cpp:279] Solving net
I1231 23:59:59.500000  7 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:59.500000  7 solver.cpp:404]     Test net output #0: per_class = 0.5
I1231 23:59:59.500000  7 solver.cpp:404]     Test net output #1: per_class = 0.25
I0101 00:00:00.500000  7 solver.cpp:337] Iteration 0, Testing net (#1)
I0101 00:00:00.500000  7 solver.cpp:380] Test loss: 3
I0101 00:00:00.500000  7 solver.cpp:404]     Test net output #0: accuracy = -nan
I0101 00:00:01.500000  7 solver.cpp:228] Iteration 0, loss = 2.5e-05
I0101 00:00:01.500000  7 solver.cpp:244]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I0101 00:00:01.500000  7 sgd_solver.cpp:106] Iteration 0, lr = 0.1
"""


def test_an_old_log_is_read(tmp_path):
    (tmp_path / "old.log").write_text(CAFFE)
    assert read_caffe_log(tmp_path / "old.log") == [
        {"iteration": 0, "test": 0, "elapsed": 1.0, "per_class": [0.5, 0.25]},
        {"iteration": 0, "test": 1, "elapsed": 2.0, "total loss": 3.0, "accuracy": None},
        {"iteration": 0, "loss": 2.5e-05, "lr": 0.1, "outputs": {"loss": 2.5}, "elapsed": 3.0},
    ]
    without = "\n".join(line.partition("] ")[2] or line for line in CAFFE.splitlines())  # GLOG_log_prefix=0
    (tmp_path / "old.log").write_text(without)
    rows = read_caffe_log(tmp_path / "old.log")
    assert [row["iteration"] for row in rows] == [0, 0, 0]
    assert not any("elapsed" in row for row in rows)


@pytest.mark.parametrize("content", [
    b"", b"\x89PNG\r\n\xff\xfe\x00", b"I1340 99:99:99.999999 1 a:1] Train net output #0: a = 1",
])
def test_what_is_no_log_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(JaffeError, match="x is neither a metrics file nor a log of Caffe: expected lines 'Iteration N"):
        read_caffe_log(tmp_path / "x")


def test_the_solver_is_written_whole(tmp_path):
    """What is logged of the settings reads back as they are."""
    reporter = CaffeLogReporter(tmp_path / "train.log")
    reporter.start(run())
    reporter.stop()
    settings = reporter.path.read_text().partition("\n")[2].partition("\nI")[0]
    assert read_solver(settings) == read_solver(SOLVER)
    assert isinstance(read_solver(settings), SolverParameter)
