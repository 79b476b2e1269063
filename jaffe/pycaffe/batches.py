"""What data layers of a net in pycaffe's style read, a batch at every forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

from jaffe.compile.layer import Layer, make_layer
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.graph import Graph, Node
from jaffe.pycaffe.runtime import chosen_seed, new_key, on_device

if TYPE_CHECKING:
    from jaffe.train.data import Feed


class BatchSource(Protocol):
    """Fills the tops of a data layer."""

    def next(self) -> Mapping[str, jax.Array]: ...


class FeedSource:
    """Batches of a feed, one after another.

    Attributes:
        position: number of the next batch.
    """

    def __init__(self, feed: Feed):
        self.feed = feed
        self.position = 0
        self._fetch = jax.jit(feed.fetch)
        self._batches: tuple[int, Iterator[Any]] | None = None  # and the number of the one that comes next

    def next(self) -> Mapping[str, jax.Array]:
        """The inputs of the next batch."""
        inputs = self.inputs(self.batch(self.position), new_key())
        self.position += 1
        return inputs

    def batch(self, position: int) -> Any:
        """The batch of that number, as ``feed.fetch`` takes it."""
        if self._batches is None or self._batches[0] != position:
            self._batches = position, self.feed.batches(position)
        batches = self._batches[1]
        with on_device():
            found = next(batches)
        self._batches = position + 1, batches
        return found

    def inputs(self, batch: Any, key: jax.Array) -> Mapping[str, jax.Array]:
        """The inputs of a batch, cropped and mirrored as the key says."""
        with on_device():
            return self._fetch(self.feed.resident, batch, key)


class MemorySource:
    """Arrays in memory, for a MemoryData layer: ``Net.set_input_arrays``."""

    def __init__(self, layer: Layer):
        self.layer = layer
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None
        self._position = 0

    def set(self, data: Any, labels: Any) -> None:
        """The images (n, channels, height, width) and labels (n) or (n, 1, 1, 1), n a multiple of the batch size.

        Raises:
            SpecError: they are not.
        """
        p, error = self.layer.p, self.layer.node.error
        try:
            data, labels = (np.asarray(array, np.float32) for array in (data, labels))
        except (TypeError, ValueError):
            raise error("data and labels are arrays of numbers") from None
        items = (p.channels, p.height, p.width)
        if data.ndim != 4 or data.shape[1:] != items or not len(data) or len(data) % p.batch_size:
            raise error(f"expected data of shape (n, {', '.join(map(str, items))}), n a multiple of {p.batch_size}; "
                        f"received {data.shape}")
        if labels.shape not in ((len(data),), (len(data), 1, 1, 1)):
            raise error(f"expected labels of shape ({len(data)},) or ({len(data)}, 1, 1, 1); received {labels.shape}")
        self._arrays, self._position = (data, labels.ravel()), 0

    def next(self) -> Mapping[str, jax.Array]:
        """The next batch; after the last one the first."""
        if self._arrays is None:
            raise self.layer.node.error("has no data: expected net.set_input_arrays(data, labels) first; found none")
        data, labels = self._arrays
        batch = slice(self._position, self._position + self.layer.p.batch_size)
        self._position = batch.stop % len(data)
        names = self.layer.node.tops
        return {name: jax.device_put(array[batch].copy()) for name, array in zip(names, (data, labels), strict=True)}


def open_sources(graph: Graph) -> dict[str, FeedSource | MemorySource]:
    """The data layers of a net by name, with the files that they name opened.

    Raises:
        JaffeError: a file is missing, or of a kind that is not read.
    """
    return {node.name: _open(graph, node) for node in graph.nodes if node.type != "Input" and make_layer(node).source}


def _open(graph: Graph, node: Node) -> FeedSource | MemorySource:
    if node.type == "MemoryData":
        return MemorySource(make_layer(node))
    from jaffe.train.data import Feed  # with optax: not for nets without data

    try:
        feed = Feed(graph.with_nodes([node]), None, base=node.directory, seed=chosen_seed() or 0)
    except JaffeError as error:
        raise JaffeError(f"{error} (or an Input layer in its place, whose blobs the script fills)") from error
    return FeedSource(feed)
