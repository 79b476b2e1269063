"""Fine-tune LeNet: train it on the digits 0 to 4, then on 5 to 9 with few examples. Copy it and change what you need.

    python examples/fine_tune.py                                # the UCI digits
    python examples/fine_tune.py --data idx:mnist               # a folder with the four .gz files of MNIST
    python examples/fine_tune.py --data lmdb:mnist_train_lmdb --test-data lmdb:mnist_test_lmdb

Three ways to learn the new digits are compared, on the same examples and for as many iterations: from scratch;
fine-tuned, the layers from the first net learning a tenth as fast as the new last one (lr_mult 0.1); and with those
layers frozen (lr_mult 0). Every seed has its own first net, examples and initial weights. The learning rate is chosen
for each way and number of examples, on a seed of its own, by training images of the new digits that no run learns
from: so scratch has its best rate too. docs/fine-tuning.md has the results: on MNIST it gains much, on the UCI digits
next to nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaffe
from jaffe import zoo
from jaffe.train import Feed, open_dataset
from jaffe.train.data import few_shot, only_labels
from jaffe.train.evaluate import Evaluation

OLD, NEW = range(5), range(5, 10)
# How fast the layers from the first net learn; None: there are none.
WAYS = {"from scratch": None, "fine-tuned": 0.1, "frozen": 0.0}
RATES = (0.003, 0.01, 0.03, 0.1)
Arrays = dict[str, np.ndarray]


def read(source: str, split: str) -> Arrays:
    """Images (N, C, H, W) and labels (N) of a data set that fits into memory."""
    if source.startswith("idx:"):
        stem = Path(source[4:]) / {"train": "train", "test": "t10k"}[split]
        pixels = gzip.decompress(Path(f"{stem}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress(Path(f"{stem}-labels-idx1-ubyte.gz").read_bytes())
        return {"data": np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28),
                "label": np.frombuffer(labels, np.uint8, offset=8).astype(np.int32)}
    records = open_dataset(source, split).records
    every = [dict(records[i]) for i in range(len(records))]
    labels = np.array([record.pop("label") for record in every])
    return {"data": np.stack([image for record in every for image in record.values()]), "label": labels}


def lenet(images: np.ndarray, batch: int, *, last: str = "ip2", old_lr: float | None = None):
    """LeNet for five classes.

    Args:
        last: name of the last layer. One that the weights do not have starts afresh.
        old_lr: factor on the learning rate of all other layers; 0 freezes them, and no gradient is computed for them.
    """
    largest = 16 if images.shape[-1] == 8 else 256  # UCI digits have 8x8 pixels of 0 to 16
    # In training images are moved about a little: of 32x32 pixels 28x28 at random; in tests the middle.
    net = zoo.lenet(classes=5, batch=batch, transform=dict(resize=32, crop_size=28, scale=1 / largest)).to_proto()
    for layer in net.layer:
        if layer.name == "ip2":
            layer.name = last
        elif old_lr is not None:
            for param in layer.param:
                param.lr_mult *= old_lr
    return net


def solver_of(net, data, iterations: int, rate: float, seed: int, weights: str = "") -> jaffe.Solver:
    """Caffe's SGD at a fixed rate."""
    return jaffe.Solver(net=net, data=data, weights=weights, base_lr=rate, momentum=0.9, weight_decay=0.0005,
                        lr_policy="fixed", max_iter=iterations, random_seed=seed)


def tester(images: Arrays) -> Evaluation:
    """What tells a net's accuracy over all of these images. One for all runs: it is compiled once."""
    net = lenet(images["data"], batch=64, last="new")
    feed = Feed(jaffe.compile_net(net, phase="TEST").graph, images)
    return Evaluation(jaffe.compile_net(net, phase="TEST", inputs=feed.shapes), feed, None, jax.random.key(0))


class Study:
    """The data, the first nets (made when needed), and single runs."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.first = only_labels(read(options.data, "train"), OLD)
        new = only_labels(read(options.data, "train"), NEW, renumber=True).records.arrays
        held = min(1000, len(new["label"]) // 3)
        self.pool = {name: array[:-held] for name, array in new.items()}
        self.validation = tester({name: array[-held:] for name, array in new.items()})
        test = only_labels(read(options.test_data or options.data, "test"), NEW, renumber=True).records.arrays
        self.test = tester(test)
        self.about = {"pool": len(new["label"]) - held, "validation": held, "test": len(test["label"])}

    def first_net(self, seed: int) -> str:
        """Weights of a net trained on the old digits."""
        path = self.folder / f"old_digits_{seed}.caffemodel"
        if not path.exists():
            images = self.first.records.arrays["data"]
            solver = solver_of(lenet(images, batch=64), self.first, self.options.first_iterations, 0.01, seed)
            solver.run()
            jaffe.save_weights(solver.net, solver.variables, path)
        return str(path)

    def run(self, way: str, examples: int, rate: float, seed: int, on: Evaluation) -> float:
        """Accuracy of one net, trained on so many examples of each new digit."""
        few = few_shot(self.pool, examples, seed=seed)
        old_lr = WAYS[way]
        weights = "" if old_lr is None else self.first_net(seed)
        net = lenet(self.pool["data"], min(5 * examples, 50), last="new", old_lr=old_lr)
        solver = solver_of(net, few, self.options.iterations, rate, seed, weights)
        try:
            solver.run()
        except jaffe.JaffeError:  # the loss became infinite: too high a rate
            return 0.0
        return float(on.run(solver.variables, solver.net)["accuracy"])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="tfds:digits", help="idx:FOLDER, tfds:, lmdb: or npz: (default: digits)")
    arguments.add_argument("--test-data", default="", help="the same for testing, where it is not --data")
    arguments.add_argument("--examples", type=int, nargs="+", default=[1, 5, 10, 20], help="of each new digit")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--iterations", type=int, default=150, help="with the new digits")
    arguments.add_argument("--first-iterations", type=int, default=1000, help="with the old digits, batches of 64")
    arguments.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    arguments.add_argument("--output", default="", help="a JSON file for all numbers")
    options = arguments.parse_args()
    if min(options.seeds, options.iterations, options.first_iterations, *options.examples) < 1:
        arguments.error("expected positive numbers")

    with tempfile.TemporaryDirectory() as folder:
        study = Study(options, Path(folder))
        print(f"{options.data}: accuracy on {study.about['test']} test images of 5 to 9, in %; mean and standard "
              f"deviation of {options.seeds} seeds; in brackets the learning rate")
        print(f"{'examples':>8}" + "".join(f"{way:>22}" for way in WAYS) + f"{'gain':>8} (seeds better)")
        results = []
        for examples in options.examples:
            accuracies = {}
            cells = []
            for way in WAYS:
                tried = {}
                if len(options.rates) > 1:
                    tried = {rate: study.run(way, examples, rate, 0, study.validation) for rate in options.rates}
                rate = max(options.rates, key=lambda rate: tried.get(rate, 0))
                found = [study.run(way, examples, rate, seed, study.test) for seed in range(1, options.seeds + 1)]
                accuracies[way] = 100 * np.array(found)
                spread = accuracies[way].std(ddof=1) if options.seeds > 1 else 0.0
                cells.append(f"{accuracies[way].mean():.1f} ± {spread:.1f} ({rate:g})")
                results.append({"examples": examples, "way": way, "rate": rate, "accuracies": found,
                                "validation": {f"{rate:g}": accuracy for rate, accuracy in tried.items()}})
            gain = accuracies["fine-tuned"] - accuracies["from scratch"]
            print(f"{examples:>8}" + "".join(f"{cell:>22}" for cell in cells)
                  + f"{gain.mean():>+8.1f} ({(gain > 0).sum()} of {options.seeds})", flush=True)
    if options.output:
        Path(options.output).write_text(json.dumps({**vars(options), **study.about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
