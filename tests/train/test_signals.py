"""What a run does when it is told to stop, or to save."""

from __future__ import annotations

import signal
import threading

import pytest

from jaffe.train import Reporter
from jaffe.train.signals import Signals, Stopped
from tests.train.test_solver import same, solver


class At(Reporter):
    """Sends signals when so many updates are made, and keeps what it is told."""

    def __init__(self, when: dict[int, signal.Signals]):
        self.when = when
        self.told: list[str] = []

    def advanced(self, iteration):
        if iteration in self.when:
            signal.raise_signal(self.when.pop(iteration))

    def saved(self, path):
        self.told.append(path.name)

    def stop(self, reason=""):
        self.told.append(f"stopped: {reason}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_stop(tmp_path, number):
    """After the iteration under way, with a snapshot; the resumed run is the whole one."""
    before = signal.getsignal(number)
    job = solver(tmp_path, reporter=At({5: number}))
    job.run()
    assert (job.iteration, job.ended) == (5, "interrupted")
    assert job.reporter.told == ["iter_5", "stopped: interrupted"]
    assert signal.getsignal(number) is before
    rest = solver(tmp_path)
    rest.run(tmp_path / "run_snapshots")
    whole = solver()
    whole.run()
    same(rest.state, whole.state)


def test_save_and_go_on(tmp_path):
    job = solver(tmp_path, reporter=At({3: signal.SIGHUP, 7: signal.SIGHUP}))
    job.run()
    assert job.snapshots.iterations() == [3, 7, 12]
    assert job.reporter.told == ["iter_3", "iter_7", "iter_12", "stopped: "]


def test_nowhere_to_save():
    job = solver(reporter=At({3: signal.SIGHUP}))
    job.run()
    assert job.iteration == 12


def test_stop_in_the_middle_of_a_test(tmp_path):
    """The test is given up, not waited for; the snapshot is of the iteration before it, and the test comes again."""
    job = solver(tmp_path, test_iter=[40])
    evaluation, batches = job.tests[0], []
    run = evaluation._step

    def stopping(*arguments):
        batches.append(1)
        if job.iteration == 4 and len(batches) % 40 == 3:
            signal.raise_signal(signal.SIGTERM)
        return run(*arguments)

    evaluation._step = stopping
    job.run()
    assert job.iteration == 4
    assert len(batches) == 40 + 3  # the whole of the first test, a bit of the second
    assert job.snapshots.iterations() == [4]
    rest = solver(tmp_path, test_iter=[40])
    rest.run(tmp_path / "run_snapshots")
    assert [row["iteration"] for row in rest.metrics.tests()] == [0, 4, 8, 12]


def test_the_second_one_stops_at_once():
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(caught.value, Stopped)
        with pytest.raises(Stopped):
            signals.check()


def test_what_is_ignored_stays_ignored():
    """`nohup jaffe train` goes on when the terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.save
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with Signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
