"""Feeds over small data, for tests."""

from __future__ import annotations

import itertools

import jax
import numpy as np

from jaffe.netdef import NetState, resolve
from jaffe.train.data import Feed

DATA = """
layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} {more}
        data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }} }}
"""
MEMORY = """
layer { name: "d" type: "MemoryData" top: "data" top: "label" include { phase: TRAIN }
        memory_data_param { batch_size: 3 channels: 1 height: 2 width: 3 } }
"""


def make(text: str, phase: str = "TRAIN", **settings) -> Feed:
    return Feed(resolve(text, NetState(phase)), settings.pop("data", None), **settings)


def batches(one: Feed, count: int, start: int = 0, group: int = 1) -> list[dict[str, np.ndarray]]:
    found = []
    stream = one.batches(start, group)
    for i, batch in enumerate(itertools.islice(stream, count)):
        found.append(jax.device_get(one.fetch(one.resident, batch, jax.random.key(start + i))))
    stream.close()
    return found


def labels(one: Feed, count: int, start: int = 0) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches(one, count, start)]


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)
