"""Labelled data with other numbers of records a class: fewer of frequent ones, more of rare ones, some classes only.

Each function takes what ``open_dataset`` takes and returns a ``Dataset``, which ``Solver`` takes in its place; so they
can be combined: ``balance(cap_labels("lmdb:train", 500))``. All labels are read, once: of a database that means every
record, 21 us each for MNIST in an LMDB and 94 us for small images of a TFDS, measured on two busy CPU cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError, listed, suggest
from jaffe.train.data import stream
from jaffe.train.data.dataset import ArraySource, Data, Dataset, View
from jaffe.train.data.sources import open_dataset


def cap_labels(data: Data, most: int, *, split: str = "train", label: str = "label", seed: int = 0) -> Dataset:
    """At most so many records of each class, chosen at random; the order stays.

    Of one seed, a smaller number gives a part of what a larger one gives.

    Args:
        data, split: as for ``open_dataset``.
        most: records of a class to keep, at least 1.
        label: the field that holds the class, one whole number a record.
        seed: of the choice.

    Raises:
        JaffeError: there is no such field, or it holds something else; or ``most`` is not positive.
    """
    _check_positive("most", most)
    dataset = open_dataset(data, split)
    labels = labels_of(dataset, label)
    chosen = [members[:most] for _, members in _shuffled(labels, seed)]
    return _view(dataset, np.sort(np.concatenate(chosen)), label, labels, f"cap_labels({dataset.name}, {most})")


def few_shot(data: Data, per_class: int, *, split: str = "train", label: str = "label", seed: int = 0) -> Dataset:
    """Exactly so many records of each class, chosen at random, the classes in turn.

    Of one seed, a smaller number gives a part of what a larger one gives. Arguments as for ``cap_labels``.

    Raises:
        JaffeError: as ``cap_labels``; or a class has fewer records.
    """
    _check_positive("per_class", per_class)
    dataset = open_dataset(data, split)
    labels = labels_of(dataset, label)
    groups = _shuffled(labels, seed)
    short = [f"{name} has {len(members)}" for name, members in groups if len(members) < per_class]
    if short:
        raise JaffeError(f"{dataset.name}: expected {per_class} records of each class; "
                         f"found fewer: {listed(short, 10)}; "
                         "cap_labels takes what there is")
    chosen = np.stack([members[:per_class] for _, members in groups], axis=1).ravel()
    return _view(dataset, chosen, label, labels, f"few_shot({dataset.name}, {per_class})")


def balance(data: Data, *, split: str = "train", label: str = "label", seed: int = 0) -> Dataset:
    """Every class as often as the most frequent one: an epoch repeats the records of the others.

    Of a class with n records where the most frequent has m, each is there floor(m / n) or ceil(m / n) times; which
    ones once more is random. The classes come in turn, so batches of a database, which is not shuffled, are balanced
    too. Arguments as for ``cap_labels``, which limits how often rare records are repeated when it goes first.

    Raises:
        JaffeError: as ``cap_labels``.
    """
    dataset = open_dataset(data, split)
    labels = labels_of(dataset, label)
    groups = [members for _, members in _shuffled(labels, seed)]
    most = max(map(len, groups))
    # The random order is only for who is repeated once more; within a repetition records keep theirs.
    repeated = [
        np.concatenate([*[np.sort(members)] * (most // len(members)), np.sort(members[: most % len(members)])])
        for members in groups
    ]
    return _view(dataset, np.stack(repeated, axis=1).ravel(), label, labels, f"balance({dataset.name})")


def only_labels(
    data: Data, labels: Iterable[int], *, renumber: bool = False, split: str = "train", label: str = "label"
) -> Dataset:
    """The records of some classes, in their order.

    Args:
        data, split, label: as for ``cap_labels``.
        labels: the classes to keep.
        renumber: whether they become 0, 1, ... in the order of ``labels``, as a net with so many outputs needs them.

    Raises:
        JaffeError: as ``cap_labels``; or a class is named twice, or has no records.
    """
    dataset = open_dataset(data, split)
    found = labels_of(dataset, label)
    wanted = list(labels)
    classes = found.reshape(len(found)).astype(np.int64)
    there = np.unique(classes).tolist()
    missing = [name for name in wanted if name not in there]
    if missing:
        raise JaffeError(f"{dataset.name} has no records of class {listed(missing, 10)}; it has {listed(there, 10)}")
    if not wanted or len(set(wanted)) != len(wanted):
        raise JaffeError(f"labels are classes, at least one and each once; received {listed(wanted, 10) or 'none'}")
    chosen = np.flatnonzero(np.isin(classes, wanted))
    if renumber:
        number = {name: i for i, name in enumerate(wanted)}
        new = [number.get(name, 0) for name in classes.tolist()]  # those not wanted are left out anyway
        found = np.array(new, found.dtype).reshape(found.shape)
    return _view(dataset, chosen, label, found, f"only_labels({dataset.name}, {listed(wanted, 10)})")


def _view(dataset: Dataset, chosen: np.ndarray, field: str, labels: np.ndarray, name: str) -> Dataset:
    """The chosen records with these labels, of which there is one for each record of ``dataset``."""
    records, own = dataset.records, {field: labels}
    if isinstance(records, ArraySource):
        arrays = {**records.arrays, **own}
        # Copied where the feed would keep them on the device anyway: whole arrays, faster than record by record.
        if sum(array.nbytes // len(array) for array in arrays.values()) * len(chosen) <= stream.RESIDENT_BYTES:
            records = ArraySource({key: array[chosen] for key, array in arrays.items()}, name)
            return replace(dataset, records=records, name=name)
    view = records if isinstance(records, View) else View(records, np.arange(len(records)), {})
    own = {key: array[chosen] for key, array in {**view.own, **own}.items()}
    return replace(dataset, records=View(view.records, view.indices[chosen], own), name=name)


def labels_of(dataset: Dataset, field: str = "label") -> np.ndarray:
    """The label of every record, shaped and typed as the records have it: one whole number each."""
    records, first = dataset.records, dataset.fields()
    if field not in first:
        raise JaffeError(f"{dataset.name} has the fields {', '.join(first)}; found no {field!r}"
                         f"{suggest(field, first)}; label=... names the one with the class")
    if first[field].size != 1:
        raise JaffeError(f"{dataset.name}: field {field!r} has shape {first[field].shape}; expected one class a "
                         "record: records of several classes have no single one to choose or balance by")
    if first[field].dtype.kind not in "biuf":
        raise JaffeError(f"{dataset.name}: field {field!r} holds {first[field].dtype}; expected whole numbers")
    labels = records.column(field) if hasattr(records, "column") else None
    if labels is None:
        labels = np.empty((len(records), *first[field].shape), first[field].dtype)
        for i in range(len(records)):
            labels[i] = _label(dataset, i, field, first[field])
    wrong = np.flatnonzero(~(np.isfinite(labels) & (labels == np.trunc(labels))).reshape(len(labels)))
    if len(wrong):
        raise JaffeError(f"{dataset.name}, record {wrong[0]}: {field} is {labels[wrong[0]].item()}; expected whole "
                         "numbers, the classes")
    return labels


def _label(dataset: Dataset, index: int, field: str, first: np.ndarray) -> Any:
    try:
        value = np.asarray(dataset.records[index][field])
    except JaffeError:
        raise
    except Exception as error:  # whatever a user's own source raises
        raise JaffeError(f"{dataset.name}, record {index}: {type(error).__name__}: {error}") from error
    if value.shape != first.shape or value.dtype != first.dtype:
        raise JaffeError(f"{dataset.name}, record {index}: {field} is {value.dtype} {value.shape}; "
                         f"expected {first.dtype} {first.shape}, as record 0")
    return value


def _shuffled(labels: np.ndarray, seed: int) -> list[tuple[int, np.ndarray]]:
    """Each class, and the places of its records in an order that depends on the seed and the class's rank alone."""
    classes = labels.reshape(len(labels)).astype(np.int64)
    return [
        (int(name), np.random.default_rng([seed, rank]).permutation(np.flatnonzero(classes == name)))
        for rank, name in enumerate(np.unique(classes))
    ]


def _check_positive(what: str, number: int) -> None:
    if number < 1:
        raise JaffeError(f"{what} is a number of records, at least 1; received {number}")
