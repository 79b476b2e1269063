"""Snapshots on the disk: which are kept, and that nothing is lost whenever a process dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaffe.netdef import JaffeError
from jaffe.train.snapshots import Snapshots, read_about, restore, restore_variables


def save(snapshots: Snapshots, iteration: int, value: float | None = None, *, best: bool = False) -> None:
    state = {"w": jnp.full((3,), iteration if value is None else value, jnp.float32)}
    snapshots.save(iteration, state, {"iteration": iteration}, best=best)


def value_of(path: Path) -> float:
    state, about = restore(path, {"w": jnp.zeros(3)})
    assert about["iteration"] == read_about(path)["iteration"]
    assert len(set(state["w"].tolist())) == 1
    return float(state["w"][0])


def test_written_beside_training(tmp_path):
    """The arrays may change as soon as save returns; errors and paths come when they are asked for."""
    snapshots = Snapshots(tmp_path / "s")
    state = {"w": jnp.arange(3.0)}
    snapshots.save(5, state, {"iteration": 5})
    state["w"].delete()
    assert snapshots.written() == tmp_path / "s" / "iter_5"
    assert snapshots.written() is None
    restored, _ = restore(tmp_path / "s", {"w": jnp.zeros(3)})
    assert restored["w"].tolist() == [0, 1, 2]


def test_the_latest_and_the_best_are_kept(tmp_path):
    snapshots = Snapshots(tmp_path, keep=2)
    for iteration in (1, 2, 3, 4, 5):
        save(snapshots, iteration, best=iteration == 2)
    snapshots.written()
    assert snapshots.iterations() == [2, 4, 5]
    assert value_of(tmp_path / "best") == 2
    snapshots.mark_best(5)
    save(snapshots, 6)
    snapshots.written()
    assert snapshots.iterations() == [5, 6]
    assert value_of(tmp_path / "best") == 5
    assert {path.name for path in tmp_path.iterdir()} == {"iter_5", "iter_6", "best"}


def test_later_ones_of_a_run_that_went_further_are_left_alone(tmp_path):
    """Going on from iteration 2 of a run that came to 9: its 8 and 9 are neither counted nor removed."""
    before = Snapshots(tmp_path)
    for iteration in (2, 8, 9):
        save(before, iteration)
    before.written()
    again = Snapshots(tmp_path, keep=2)
    for iteration in (3, 4):
        save(again, iteration)
    again.written()
    assert again.iterations() == [3, 4, 8, 9]


def test_variables_of_a_net_that_carries_all_of_its_state(tmp_path):
    """The training net's carry, of its own batch size, is neither taken nor in the way."""
    weights = {"lstm": {"weight": jnp.ones(3)}}
    snapshots = Snapshots(tmp_path)
    snapshots.save(1, {"params": weights, "net_state": {"lstm": {"h": jnp.ones((1, 2))}}}, {})
    snapshots.written()
    carry = {"lstm": {"h": jnp.zeros((1, 5))}}
    found = restore_variables(tmp_path, {"params": weights, "state": carry}, carry)
    assert found["params"]["lstm"]["weight"].tolist() == [1, 1, 1]
    assert found["state"]["lstm"]["h"].shape == (1, 5)


class Killed(BaseException):
    """What no handler takes for an error."""


OPERATIONS = ((Path, "rename"), (shutil, "rmtree"), (os, "replace"), (Path, "symlink_to"))


def kill_before(monkeypatch, count: int) -> None:
    """Let the process 'die' before its count-th change of names on the disk, and at every later one."""
    done = 0

    def dying(operation):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done > count:
                raise Killed
            return operation(*args, **kwargs)
        return call

    for owner, name in OPERATIONS:
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.parametrize("again", [False, True], ids=["a new iteration", "the same iteration again"])
def test_killed_at_every_step(tmp_path, again):
    """Wherever it dies, the latest snapshot is a whole one, no older than before; the next save tidies up."""
    survived = 0
    for count in range(30):
        directory = tmp_path / str(count)
        first = Snapshots(directory, keep=1)
        save(first, 1)
        save(first, 2, best=True)
        first.written()
        with pytest.MonkeyPatch.context() as patch:
            kill_before(patch, count)
            dying = Snapshots(directory, keep=1)
            save(dying, 2 if again else 3, 30, best=True)
            try:
                dying.written()
                survived += 1
            except Killed:
                pass
        assert value_of(directory) in (2, 30)
        if survived:
            assert value_of(directory) == value_of(directory / "best") == 30
        assert value_of(directory / "best") in (2, 30)
        last = Snapshots(directory, keep=1)
        save(last, 4, best=True)
        last.written()
        assert value_of(directory) == 4
        assert {path.name for path in directory.iterdir()} == {"iter_4", "best"}
        if survived:
            break
    assert survived  # the whole of it has been tried
    assert count >= 4


def test_a_save_that_fails_is_told_and_the_others_stay(tmp_path, monkeypatch):
    snapshots = Snapshots(tmp_path)
    save(snapshots, 1)
    snapshots.written()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", full)
        save(snapshots, 2)
        with pytest.raises(JaffeError) as caught:
            snapshots.written()
    assert str(caught.value) == (
        f"snapshot {tmp_path / 'iter_2'} cannot be written: OSError: [Errno 28] No space left on device")
    save(snapshots, 3)
    snapshots.written()
    assert value_of(tmp_path) == 3
    assert snapshots.iterations() == [1, 2, 3]  # 2 was whole but for its name


def test_a_folder_that_is_no_snapshot_stays(tmp_path):
    (tmp_path / "iter_7_of_mine").mkdir()
    (tmp_path / "iter_8").mkdir()
    snapshots = Snapshots(tmp_path, keep=1)
    save(snapshots, 9)
    snapshots.written()
    assert snapshots.iterations() == [9]
    assert {path.name for path in tmp_path.iterdir()} == {"iter_7_of_mine", "iter_8", "iter_9"}
