"""Times reading in a process of its own, and prints what it found.

    python -m benchmarks.data_worker jaffe encoded FOLDER --workers 0
    python -m benchmarks.data_worker torch encoded FOLDER --workers 2
    python -m benchmarks.data_worker opencv encoded FOLDER
    python -m benchmarks.data_worker training lenet FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.data_files import SOURCES, Source, small

SECONDS = 3.0  # of reading that are timed
WARM = 8  # batches that are not: threads and processes start, buffers fill
STEPS = {"lenet": 200, "cifar10_quick": 40}  # of a round of training
ROUNDS = 9


def rate(batches: Generator[Any], batch: int) -> float:
    """Records a second."""
    for _ in range(WARM):
        next(batches)
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        next(batches)
        count += batch
    return count / passed


def by_jaffe(source: Source, folder: Path, workers: int) -> Generator[Any]:
    """Batches as NumPy arrays on the host, cropped; mean, mirror and scale are the step's."""
    from jaffe.netdef import NetState, resolve
    from jaffe.train.data import Feed, open_dataset, stream

    stream.RESIDENT_BYTES = 0  # these files are small, so that they would be read once
    crop = f"transform_param {{ crop_size: {source.crop} }}" if source.crop else ""
    net = f"""layer {{ name: "data" type: "Data" top: "data" top: "label" {crop}
                       data_param {{ source: "-" batch_size: {source.batch} }} }}"""
    dataset = open_dataset(source.name.format(folder))
    feed = Feed(resolve(net, NetState("TRAIN")), dataset, workers=workers)
    return feed._iterate(0, 0, 1)


def by_torch(source: Source, folder: Path, workers: int) -> Generator[Any]:
    """A Dataset as a user would write it, in a DataLoader."""
    import h5py
    import lmdb
    import torch
    from torch.utils.data import DataLoader, Dataset

    from jaffe.netdef.jaffe_pb2 import Datum  # the generated schema: caffe_pb2

    kind, _, name = source.name.format(folder).partition(":")

    class Records(Dataset):
        opened: Any = None  # in each process anew

        def __init__(self) -> None:
            if kind == "images":
                self.lines = [line.split() for line in Path(name).read_text().splitlines()]
                self.count = len(self.lines)
            elif kind == "lmdb":
                with lmdb.open(name, readonly=True, lock=False) as env, env.begin() as transaction:
                    self.keys = list(transaction.cursor().iternext(values=False))
                self.count = len(self.keys)
            else:
                with h5py.File(name) as file:
                    self.count = len(file["data"])

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if kind == "hdf5":
                self.opened = self.opened or h5py.File(name)
                return torch.from_numpy(self.opened["data"][index]), int(self.opened["label"][index])
            if kind == "images":
                image, label = cv2.imread(str(folder / self.lines[index][0])), int(self.lines[index][1])
            else:
                self.opened = self.opened or lmdb.open(name, readonly=True, lock=False, readahead=False).begin()
                datum = Datum.FromString(self.opened.get(self.keys[index]))
                label = datum.label
                pixels = np.frombuffer(datum.data, np.uint8)
                image = (cv2.imdecode(pixels, cv2.IMREAD_COLOR) if datum.encoded
                         else pixels.reshape(datum.channels, datum.height, datum.width))
            planar = image.shape[0] in (1, 3)
            if crop := source.crop:
                spare = (image.shape[1 if planar else 0] - crop, image.shape[2 if planar else 1] - crop)
                top, left = (int(np.random.randint(n + 1)) for n in spare)
                rows, columns = slice(top, top + crop), slice(left, left + crop)
                image = image[:, rows, columns] if planar else image[rows, columns]
            image = image if planar else image.transpose(2, 0, 1)
            return torch.from_numpy(np.ascontiguousarray(image).copy()), label

    def endless() -> Generator[Any]:
        loader = DataLoader(Records(), source.batch, shuffle=source.shuffle, num_workers=workers, drop_last=True,
                            persistent_workers=workers > 0)
        while True:
            yield from loader

    return endless()


def by_opencv(source: Source, folder: Path, workers: int) -> Generator[Any]:
    """Decoding alone, of files that are in memory: a thread for each core."""
    images = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def decode(content: bytes) -> int:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).size

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while True:
            for start in range(0, len(images) - source.batch + 1, source.batch):
                yield list(pool.map(decode, images[start : start + source.batch]))


def training(net: str, folder: Path) -> dict[str, Any]:
    """Milliseconds of a step from memory, from an LMDB that is read once, and from one that is read all the time."""
    import jaffe
    from jaffe import zoo
    from jaffe.train.data import stream

    shape, name = ((1, 28, 28), "mnist") if net == "lenet" else ((3, 32, 32), "cifar")
    make = {"lenet": lambda: zoo.lenet(transform={"scale": 1 / 256}),
            "cifar10_quick": lambda: zoo.cifar10_quick(transform={"mean_value": [125.3, 123.0, 113.9]})}[net]
    data: dict[str, Any] = {"memory": small(shape), "read once": f"lmdb:{folder / name}",
                            "read always": f"lmdb:{folder / name}"}
    runs = {}
    for way, source in data.items():
        stream.RESIDENT_BYTES = 0 if way == "read always" else 2**29
        runs[way] = jaffe.Solver(net=make(), data=source, base_lr=0.001, momentum=0.9, lr_policy="fixed",
                                 max_iter=10**6, random_seed=1)
        runs[way].step(20)
    times: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(ROUNDS):
        for way, solver in runs.items():
            began = time.perf_counter()
            solver.step(STEPS[net])
            times[way].append(1e3 * (time.perf_counter() - began) / STEPS[net])
    return times


BY: dict[str, Callable[[Source, Path, int], Generator[Any]]] = {
    "jaffe": by_jaffe, "torch": by_torch, "opencv": by_opencv}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*BY, "training"])
    parser.add_argument("source")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    if options.what == "training":
        times = training(options.source, options.folder)
        print(json.dumps({"times": times, "median": {way: statistics.median(each) for way, each in times.items()}}))
        return
    source = SOURCES[options.source]
    cv2.setNumThreads(1)  # the threads and processes are what runs side by side
    batches = BY[options.what](source, options.folder, options.workers)
    print(json.dumps({"rate": rate(batches, source.batch)}), flush=True)
    batches.close()


if __name__ == "__main__":
    main()
