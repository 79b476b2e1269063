"""Data sets of TFDS, without TensorFlow."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaffe.netdef.errors import JaffeError, suggest
from jaffe.train.data.dataset import Record

_NOT_BLOBS = {"id", "file_name", "image/filename", "coarse_label"}


class TfdsSource:
    """A TFDS split, prepared in a random-access format. Images (H, W, C) become (C, H, W); their colours stay RGB."""

    def __init__(self, name: str, split: str):
        self.name, self.split = name, split
        try:
            builder = _prepared(name)
            splits = list(builder.info.splits)
            if split in splits:
                self.records = builder.as_data_source(split=split)
        except Exception as error:  # downloads, disks and damaged files, each with errors of its own
            problem = (str(error).strip().splitlines() or [""])[0]
            raise JaffeError(f"tfds:{name} cannot be had: {type(error).__name__}: {problem}") from error
        if split not in splits:
            raise JaffeError(f"tfds:{name} has no split {split!r}{suggest(split, splits)}; it has {', '.join(splits)}")
        shapes = [getattr(feature, "shape", ()) for feature in builder.info.features.values()]
        self.ragged = any(len(shape) == 3 and None in shape for shape in shapes)

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.split)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        if index >= len(self):
            raise IndexError(index)  # what ends a for loop; array_record raises another error
        record = self.records[index].items()
        fields = {key: np.asarray(value) for key, value in record}
        fields = {key: x for key, x in fields.items() if key not in _NOT_BLOBS or x.dtype.kind in "biuf"}
        return {key: np.moveaxis(x, -1, 0) if x.ndim == 3 else x for key, x in _images_first(fields).items()}


def _images_first(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fields that a net's inputs take in order: those with most axes first, and what names a record last."""
    order = sorted(fields, key=lambda name: (name in _NOT_BLOBS, -fields[name].ndim))
    return {name: fields[name] for name in order}


def _prepared(name: str) -> Any:
    """A TFDS builder whose data are on disk: made from scikit-learn (digits), found, or downloaded."""
    import tensorflow_datasets as tfds

    if name != "digits":
        folder = data_folder() if "JAFFE_DATA" in os.environ else None  # else where TFDS keeps its own
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        if not builder.info.splits:
            builder.download_and_prepare()
        return builder
    from jaffe.train.data.digits import Digits

    tfds.disable_progress_bar()
    for attempt in range(2):
        builder = Digits(data_dir=data_folder(), file_format="array_record")
        try:
            with contextlib.redirect_stdout(None):  # it would speak of a download, and there is none
                builder.download_and_prepare()
            break
        except FileExistsError:  # another process has just done the same
            if attempt:
                raise
    return builder


def data_folder() -> Path:
    """Where prepared data sets are kept: ``$JAFFE_DATA``, else ``jaffe`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("JAFFE_DATA") or cache / "jaffe") / "tensorflow_datasets"
