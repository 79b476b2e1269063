"""Which layers to divide."""

from __future__ import annotations

from jaffe.compile.partition import Partition, Way, ways
from jaffe.netdef.errors import JaffeError
from jaffe.plan.prices import AXIS, Prices

WINDOW = 2
_Key = tuple[tuple[Way | None, ...], frozenset[int]]


def best(prices: Prices, size: int, *, divide: bool = False) -> tuple[float, Partition | None]:
    """The division over ``size`` devices with the shortest step, and its seconds; None where none is the best.

    Dynamic programming over the layers that may be divided, in the order of the net: of all choices so far that agree
    in those of the last ``WINDOW`` layers, the best is kept, with the others undivided. What a layer sends depends on
    whether it and its neighbours are divided, so this is exact for chains; in a net where more than ``WINDOW`` of such
    layers read one value, or stand between a layer and its reader, it may miss the best.

    Args:
        divide: at least one layer, though none be better.

    Raises:
        JaffeError: ``divide``, and no layer can be.
    """
    able = {name: ways(node, prices.net.inferred, size) for name, node in prices.nodes.items()} if size > 1 else {}
    candidates = {name: found for name, found in able.items() if found}
    if divide and not candidates:
        raise JaffeError(f"no layer of this net can be divided over {size} devices; expected an InnerProduct, Embed or "
                         f"Convolution of one group with a number of outputs or inputs that is a multiple of {size}")
    nothing = prices.total(None)
    if not divide:
        candidates = {name: worth for name, found in candidates.items()
                      if (worth := tuple(way for way in found if _may_pay(prices, size, name, way, nothing)))}
    # By the last choices, and the groups that average gradients so far, for which layers share latencies.
    kept: dict[_Key, tuple[float, dict[str, Way]]] = {((), frozenset()): (nothing, {})}
    decided: set[str] = set()
    for name, found in candidates.items():
        decided.add(name)
        better: dict[_Key, tuple[float, dict[str, Way]]] = {}
        for (last, _), (seconds, layers) in kept.items():
            for way in (None, *found):
                chosen = layers if way is None else {**layers, name: way}
                partition = Partition(AXIS, size, chosen)
                groups = frozenset(one.members for one in prices.gradients(partition) if one.layer in decided)
                key = ((*last, way)[-WINDOW:], groups)
                price = seconds if way is None else prices.total(partition)
                if key not in better or price < better[key][0]:
                    better[key] = (price, chosen)
        kept = better
    seconds, layers = min((one for one in kept.values() if one[1] or not divide), key=lambda one: one[0])
    return seconds, Partition(AXIS, size, layers) if layers else None


def _may_pay(prices: Prices, size: int, name: str, way: Way, nothing: float) -> bool:
    """Whether a layer divided so can be worth it next to any others.

    A gather before it, or a scatter behind it, it has in any case. What neighbours may spare it are exchanges, and
    latencies that it shares with them; what it may spare its neighbours are exchanges of the same values: one, where it
    reads what another gives, and one for each reader of what it gives.
    """
    partition = Partition(AXIS, size, {name: way})
    sends = prices.sends(partition)
    exchanges = sum(second for one, second in zip(sends, prices.seconds_of(sends), strict=True)
                    if one.kind == "all-to-all")
    spared = (1 + (prices.most_readers if way == "output" else 1)) * exchanges
    spared += sum(prices.machine.link_seconds("all-reduce", 0, members) for members in
                  (prices.devices, prices.devices // size))
    return prices.total(partition) - spared < nothing
