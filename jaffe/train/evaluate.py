"""Test nets: their weights come from the training net, by layer name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.infer import infer
from jaffe.compile.net import CompiledNet
from jaffe.netdef.errors import JaffeError
from jaffe.train.class_report import ClassReport
from jaffe.train.confusion import Head, find_head, fresh_counts, make_counting_step
from jaffe.train.data.feed import Feed
from jaffe.train.step import make_test_step

IN_FLIGHT = 4  # batches that may be under way at once: enough to keep the device busy, few enough to bound memory
MOST_COUNTED = 2**31 - 1  # labels that are counted on the device, in int32, before the host adds them up


class Evaluation:
    """Runs a net over batches and averages what it puts out.

    What the net carries from batch to batch (h and c of LSTM) is its own, and zero when an evaluation begins.

    Args:
        net: in phase TEST.
        feed: its data.
        iterations: batches in one evaluation, always the first ones of the feed. ``None``: the whole data set, each
            record once. Its last batch may be smaller then, and counts by its items: the mean of a metric that is
            the mean over the items of a batch is the mean over all items. Outputs with a value or a row for each
            item are averaged over the items.
        key: for layers that are random in phase TEST too, and for weights that no one gives.
        with_loss: whether to put out the net's loss, the weighted sum, too.

    Raises:
        JaffeError: the whole data set is wanted, and there is none, there are several of different sizes, or the net
            does not take the smaller batch.
    """

    def __init__(
        self, net: CompiledNet, feed: Feed, iterations: int | None, key: jax.Array, with_loss: bool = False
    ):
        self.net = net
        self.feed = feed
        self.key = key
        self.with_loss = with_loss and bool(net.loss_tops)
        self._rest = 0  # items of the last batch, where it is a smaller one
        self._by_item: frozenset[str] = frozenset()  # outputs that are averaged over a batch's items first
        if iterations is None:
            items = self._items()
            iterations, self._rest = -(-items // feed.images), items % feed.images
            self._by_item = self._outputs_by_item(items)
        self.iterations = iterations
        self._step = jax.jit(make_test_step(net, feed.fetch, with_loss=self.with_loss))
        self._counting: dict[tuple[Head, tuple[int, ...]], Any] = {}

    @property
    def repeats(self) -> bool:
        """Whether an evaluation takes records more than once: the data set ends before the batches do."""
        asked = self.iterations * self.feed.images
        return not self._rest and any(asked > records for records, _ in self.feed.sizes)

    @cached_property
    def own(self) -> Any:
        """Variables for layers that the other net does not have."""
        return self.net.init(self.key)

    def alone(self, net: CompiledNet) -> list[str]:
        """Layers with weights that another net does not have."""
        return [layer for layer, stored in self.net.stored.items() if stored and layer not in net.stored]

    def run(
        self, variables: Any, from_net: CompiledNet | None = None, poll: Callable[[], None] | None = None
    ) -> dict[str, float | list[float]]:
        """Mean of each output over the batches; a vector stays a list.

        Args:
            variables: the net's own, or those of ``from_net``, whose layers of the same names are taken.
            poll: called before each batch; what it raises ends the evaluation.
        """
        return self.summarise(self.start(variables, from_net, poll))

    def start(
        self, variables: Any, from_net: CompiledNet | None = None, poll: Callable[[], None] | None = None
    ) -> dict[str, jax.Array]:
        """Begin: dispatch every batch and return the sums, still being computed."""
        variables = self._variables(variables, from_net)
        totals: dict[str, jax.Array] = {}
        carry = self.net.fresh_carry()
        pending: deque[Any] = deque()
        for batch, key, weight in self._batches():
            if poll:
                poll()
            outputs, carry = self._step(variables, carry, self.feed.resident, batch, key)
            self._add(totals, outputs, weight)
            _bound(pending, outputs)
        return totals

    def summarise(self, totals: dict[str, jax.Array]) -> dict[str, float | list[float]]:
        """Wait for the sums and divide them."""
        batches = self.iterations - 1 + self._rest / self.feed.images if self._rest else self.iterations
        means = {name: np.asarray(total) / batches for name, total in totals.items()}
        return {name: mean.item() if mean.size == 1 else mean.ravel().tolist() for name, mean in means.items()}

    def blobs(self, variables: Any, blobs: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Blobs of the net, inner ones too, batch by batch, on the host.

        Raises:
            JaffeError: there is no such blob.
        """
        step = jax.jit(make_test_step(self.net, self.feed.fetch, blobs=blobs))
        carry = self.net.fresh_carry()
        for batch, key, _ in self._batches():
            found, carry = step(variables, carry, self.feed.resident, batch, key)
            yield {name: np.asarray(found[name]) for name in blobs}

    def class_report(
        self, variables: Any, from_net: CompiledNet | None = None, *, scores: str = "", labels: str = "",
        top_k: Sequence[int] = (), ignore_label: int | None = None,
    ) -> ClassReport:
        """Run as ``run`` does, and count which classes are taken for which, exactly.

        >>> report = solver.tests[0].class_report(solver.variables, solver.net)  # doctest: +SKIP
        >>> print(report); report.save("confusion.png")                          # doctest: +SKIP

        Args:
            variables, from_net: as for ``run``.
            scores, labels: blobs to compare; by default what the net's last Accuracy layer reads, else its last loss
                of labels.
            top_k: how many classes of highest score a label may be among; by default 1, and 5 where there are more.
            ignore_label: in place of what that layer says.

        Raises:
            JaffeError: the net has no scores and labels, or the arguments do not fit them.
        """
        head = find_head(self.net, scores, labels, ignore_label)
        classes, positions = head.classes(self.net), head.positions(self.net)
        ks = tuple(top_k) or ((1, 5) if classes > 5 else (1,))
        if not all(1 <= k <= classes for k in ks):
            raise JaffeError(f"top_k are from 1 to the number of classes, {classes}; received "
                             f"{', '.join(map(str, ks))}")
        if (head, ks) not in self._counting:
            step = make_counting_step(self.net, self.feed.fetch, head, ks, with_loss=self.with_loss)
            self._counting[head, ks] = jax.jit(step, donate_argnums=0)
        step, variables = self._counting[head, ks], self._variables(variables, from_net)
        totals: dict[str, jax.Array] = {}
        carry, counts, on_device = self.net.fresh_carry(), fresh_counts(classes, ks), 0
        sums = {name: np.zeros(np.shape(value), np.int64) for name, value in counts.items()}
        pending: deque[Any] = deque()
        for batch, key, weight in self._batches():
            if on_device + positions > MOST_COUNTED:
                sums = {name: sums[name] + np.asarray(counts[name]) for name in sums}
                counts, on_device = fresh_counts(classes, ks), 0
            outputs, carry, counts = step(counts, variables, carry, self.feed.resident, batch, key)
            on_device += positions
            self._add(totals, outputs, weight)
            _bound(pending, outputs)
        sums = {name: sums[name] + np.asarray(counts[name]) for name in sums}
        return ClassReport(
            scores=head.scores, labels=head.labels, layer=head.layer, confusion=sums["confusion"],
            hits=dict(zip(ks, sums["hits"].tolist(), strict=True)), counted=sums["counted"].item(),
            outside=sums["outside"].item(), nan=sums["nan"].item(), spatial=head.spatial(self.net),
            outputs=self.summarise(totals),
        )

    def _variables(self, variables: Any, from_net: CompiledNet | None) -> Any:
        return variables if from_net is None else share(from_net, variables, self.net, self.own)

    def _batches(self) -> Iterator[tuple[Any, jax.Array, float]]:
        """The batches, with a key and a weight each: 1, or of a smaller one the share of items that it has."""
        batches = self.feed.batches()
        for i in range(self.iterations):
            batch, weight = next(batches), 1.0
            if self._rest and i == self.iterations - 1:
                batch, weight = jax.tree.map(lambda x: x[: self._rest], batch), self._rest / self.feed.images
            yield batch, jax.random.fold_in(self.key, i), weight

    def _add(self, totals: dict[str, jax.Array], outputs: dict[str, jax.Array], weight: float) -> None:
        for name, value in outputs.items():
            if name in self._by_item:
                value = value.mean(0)
            if weight != 1:
                value = value * weight
            totals[name] = totals[name] + value if name in totals else value

    def _items(self) -> int:
        """Records of the data set. Raises JaffeError when there is no one number."""
        sizes = self.feed.sizes
        if len(sizes) == 1:
            return sizes.pop()[0]
        found = " and ".join(f"{items} records in batches of {batch}" for items, batch in sorted(sizes)) or "no data"
        raise JaffeError(f"net {self.net.name!r} has {found}: there is no whole data set to run over; "
                         "give a number of batches (--iterations)")

    def _outputs_by_item(self, items: int) -> frozenset[str]:
        """Outputs whose first axis follows that of the batch. Raises JaffeError when the net takes no smaller batch."""
        graph, batch = self.net.graph, self.feed.images
        try:
            if self._rest and any(self.net.fresh_carry().values()):
                raise JaffeError("it carries state from batch to batch, which has a place for each item of a batch")
            shapes = {name: (self._rest or batch + 1, *shape[1:]) for name, shape in self.feed.shapes.items()}
            smaller = infer(graph, shapes).shapes
            pairs = {name: (smaller[graph.blobs[name]], self.net.shape(name)) for name in graph.outputs}
            for name, (one, other) in pairs.items():
                if one[1:] != other[1:]:
                    raise JaffeError(f"output {name!r} has the batch on another axis than the first, {other}")
        except JaffeError as error:
            if not self._rest:
                return frozenset()
            raise JaffeError(
                f"the data set has {items} records, {items // batch} batches of {batch} and one of {self._rest}, "
                f"which net {self.net.name!r} does not take: {error}; choose a batch size that divides {items}, or "
                "give a number of batches (--iterations)"
            ) from error
        return frozenset(name for name, (one, other) in pairs.items() if one != other)


def _bound(pending: deque[Any], outputs: Any) -> None:
    """Note a batch that is under way, and wait for an earlier one if there are too many."""
    pending.append(outputs)
    if len(pending) > IN_FLIGHT:
        jax.block_until_ready(pending.popleft())


def check_shared(from_net: CompiledNet, net: CompiledNet) -> None:
    """See that layers of the same name have weights of the same shapes in both nets. Raises JaffeError."""
    for layer, mine in net.stored.items():
        theirs = from_net.stored.get(layer, mine)
        shapes = [[one.weight.shape for one in stored] for stored in (theirs, mine)]
        if shapes[0] != shapes[1]:
            raise JaffeError(f"layer {layer!r} has weights of shapes {shapes[0]} in phase {from_net.phase} and "
                             f"{shapes[1]} in phase {net.phase}; expected the same")


def share(from_net: CompiledNet, variables: Any, net: CompiledNet, own: Any) -> dict[str, Any]:
    """Variables for ``net`` from those of another net, for every layer that both have.

    Raises:
        JaffeError: a layer's weights have other shapes in the two nets.
    """
    check_shared(from_net, net)
    result = {group: {layer: dict(arrays) for layer, arrays in own[group].items()} for group in own}
    for layer, mine in net.stored.items():
        for one, other in zip(mine, from_net.stored.get(layer, ()), strict=False):
            group = "params" if one.weight.trained else "state"
            owner, name = one.owner
            value = variables[group][other.owner[0]][other.owner[1]]
            result[group][owner][name] = jnp.reshape(value, jnp.shape(own[group][owner][name]))
    return result
