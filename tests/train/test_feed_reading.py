"""Who reads, and from where on: processes, shards, runs that go on, damaged records."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

import jaffe
from jaffe.netdef import JaffeError
from jaffe.train.data import Feed
from tests.train.data_files import raw, write_lmdb
from tests.train.feeding import DATA, MEMORY, batches, labels, make, same


def test_any_number_of_processes_reads_the_same(streamed, pictures, twenty):
    text = DATA.format(source=pictures[0], batch=3, more="", transform="crop_size: 5 mirror: true")
    expected = batches(make(text, seed=5), 8)
    for workers in (1, 3):
        assert same(batches(make(text, seed=5, workers=workers), 8), expected)
        assert same(batches(make(text, seed=5, workers=workers), 3, start=5), batches(make(text, seed=5), 3, start=5))
    assert not same(batches(make(text, seed=6), 8), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_at_every_position(streamed, pictures, workers):
    """The images that a run sees from an iteration on are those that the uninterrupted run sees."""
    text = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5")
    whole = batches(make(text), 11)
    for start in range(0, 11, 1 if workers == 0 else 5):  # two epochs of five images
        found = [batch["data"] for batch in batches(make(text, workers=workers), 11 - start, start)]
        assert all(np.array_equal(a, b["data"]) for a, b in zip(found, whole[start:], strict=True))


def test_runs_go_on_with_the_next_image(tmp_path, pictures):
    """From every iteration of a small set on, to the weights of the run that was never stopped."""
    net = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5 mirror: true scale: 0.01") + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5
        weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    settings = dict(net=net, base_lr=0.01, momentum=0.9, lr_policy="fixed", max_iter=6, random_seed=2, snapshot_keep=10)
    whole = jaffe.Solver(**settings, snapshot=1, snapshot_prefix=str(tmp_path / "whole"))
    whole.run()
    for iteration in range(1, 6):
        other = jaffe.Solver(**settings, snapshot_prefix=str(tmp_path / f"from_{iteration}"),
                             snapshot_after_train=False, workers=iteration % 2)
        other.run(tmp_path / "whole_snapshots" / f"iter_{iteration}")
        assert jax.tree.all(jax.tree.map(np.array_equal, other.variables, whole.variables))


def test_shards_take_each_record_once_an_epoch(where_held, twenty):
    data = {"data": np.zeros((24, 1, 2, 3), np.uint8), "label": np.arange(24)}
    for given in (data, twenty):
        shards = [labels(make(MEMORY, data=given, shard=(i, 2)), 8) for i in range(2)]
        count = 24 if given is data else 20
        seen = [one for pair in zip(*(itertools.chain(*shard) for shard in shards), strict=True) for one in pair]
        alone = list(itertools.chain(*labels(make(MEMORY, data=given), 16)))
        assert seen == alone
        assert sorted(seen[:count]) == list(range(count))


def test_crops_do_not_depend_on_groups_or_shards(streamed, pictures):
    text = DATA.format(source=pictures[0], batch=2, more="", transform="crop_size: 5")
    alone = [batch["data"] for batch in batches(make(text), 12)]
    grouped = [one for batch in batches_of_two(make(text)) for one in batch]
    assert all(np.array_equal(a, b) for a, b in zip(alone, grouped, strict=True))
    # Shard i of 2 takes places i, i + 2, ...: of the whole stream every second image, cropped as there.
    whole = np.concatenate(alone)
    for number in range(2):
        found = np.concatenate([batch["data"] for batch in batches(make(text, shard=(number, 2)), 6)])
        np.testing.assert_array_equal(found, whole[number::2])


def batches_of_two(one: Feed) -> list[np.ndarray]:
    text = one.batches(0, 2)
    found = [np.stack([np.asarray(one.fetch(one.resident, jax.tree.map(lambda x, i=i: x[i], batch), jax.random.key(0))
                                  ["data"]) for i in range(2)]) for batch in itertools.islice(text, 6)]
    text.close()
    return found


class Fatal:
    """Records of which one ends the process that reads it."""

    def __init__(self, owner: int):
        self.owner = owner

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        if index == 20 and os.getpid() != self.owner:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"data": np.full((1, 2, 3), index, np.uint8), "label": np.array(index)}


@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_a_process_that_dies_is_reported(streamed):
    with pytest.raises(JaffeError, match=r"Fatal: a process that reads the data ended with exit code -9 .* workers=0"):
        labels(make(MEMORY, data=Fatal(os.getpid()), workers=2), 20)


class Wrong:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        if index == 20:
            raise KeyError("gone")
        return {"data": np.full((1, 2, 3), index, np.uint8), "label": np.array(index)}


def test_an_error_in_a_process_names_the_record(streamed):
    with pytest.raises(JaffeError, match="Wrong, record 20: KeyError: 'gone'"):
        labels(make(MEMORY, data=Wrong(), workers=2), 20)


ORPHANS = """
import sys, time
import numpy as np
from jaffe.netdef import NetState, resolve
from jaffe.train.data import Feed, stream

class Records:
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"data": np.zeros((1, 2, 3), np.uint8), "label": np.array(index)}

if __name__ == "__main__":
    stream.RESIDENT_BYTES = 0
    batches = Feed(resolve(sys.argv[1], NetState("TRAIN")), Records(), workers=2).batches()
    next(batches)
    print("reading", flush=True)
    time.sleep(60)
"""


def test_processes_end_with_the_one_that_is_killed(tmp_path):
    (tmp_path / "reads.py").write_text(ORPHANS)
    process = subprocess.Popen([sys.executable, str(tmp_path / "reads.py"), MEMORY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reading\n"
    workers = [one for one in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in
               " ".join(one.cmdline())]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_batches_stay_as_they_were_handed_out(streamed, twenty, tmp_path: Path):
    """The memory of an earlier batch is not that of a later one, also where processes read."""
    for workers in (0, 1):
        one = make(MEMORY, data=twenty, workers=workers)
        kept = list(itertools.islice(one.batches(), 10))
        assert [np.asarray(batch[0]["label"]).tolist() for batch in kept] == labels(one, 10)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_record_takes_the_place_of_a_damaged_one(where_held, damaged, workers):
    one = make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged, skip_damaged=True,
               workers=workers)
    assert labels(one, 4) == [[0, 1, 2], [5, 5, 5], [6, 7, 8], [0, 0, 1]]
    assert labels(one, 1, start=1) == [[5, 5, 5]]
    assert len(one.damaged) == 3  # once each
    for message, key in zip(sorted(one.damaged), ("00000003", "00000004", "00000009"), strict=True):
        assert key in message
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        labels(make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged), 4)


def test_nothing_but_damage(tmp_path):
    name = write_lmdb(tmp_path / "db", [raw(0), *[b"\x0a\xff"] * 300])
    with pytest.raises(JaffeError, match=r"100 records in a row cannot be read; the first: LMDB .*record 1 \(key 0"):
        make(MEMORY, data=name, skip_damaged=True)


def test_a_first_record_that_is_damaged(tmp_path):
    name = write_lmdb(tmp_path / "db", [b"\x0a\xff", raw(1)])
    assert labels(make(MEMORY, data=name, skip_damaged=True), 1) == [[1, 1, 1]]


def test_batches_before_damage_come_first(streamed, damaged):
    one = make(MEMORY.replace("include { phase: TRAIN }", ""), "TEST", data=damaged)
    stream = one.batches()
    assert np.asarray(next(stream)[0]["label"]).tolist() == [0, 1, 2]
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        next(stream)


def test_whatever_a_source_raises(streamed):
    class Lying:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int):
            return {"data": np.zeros((1, 2, 3), np.uint8), "label": np.array(index)}

        def gather(self, indices):
            raise ZeroDivisionError

    assert sorted(itertools.chain(*labels(make(MEMORY, data=Lying()), 5))) == sorted([*range(5)] * 3)


def test_a_run_warns_of_what_it_skips(where_held, damaged, tmp_path):
    class Told(jaffe.train.Reporter):
        def __init__(self):
            self.said: list[str] = []

        def warned(self, text: str) -> None:
            self.said.append(text)

    net = MEMORY + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    told = Told()
    settings = dict(net=net, data=damaged, base_lr=0.0, lr_policy="fixed", max_iter=8)
    jaffe.Solver(**settings, skip_damaged=True, reporter=told).run()
    assert [text.partition("(key ")[2][:8] for text in sorted(told.said) if "(key" in text] == ["00000003", "00000004"]
    assert len(told.said) == 3
    assert all(text.startswith("skipped: ") for text in told.said)
    with pytest.raises(JaffeError, match=r"record 3 \(key 00000003\)"):
        jaffe.Solver(**settings).run()
