"""Which way each pass of a convolution goes: by rules, or by measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaffe.compile.lowering import onednn
from jaffe.compile.lowering.candidates import Pass, Problem, fitting, shared_bytes
from jaffe.compile.lowering.costs import cheapest, predicted
from jaffe.compile.lowering.geometry import ConvGeometry
from jaffe.netdef.errors import JaffeError

PASSES: tuple[Pass, ...] = ("forward", "input", "weight")


class Ways(NamedTuple):
    """The names of the candidates for the three passes of a convolution.

    Attributes:
        alone: of the forward pass where no gradient is asked for.
        shared: the weight gradient uses the patches or tiles of the forward pass, which are kept for it.
    """

    forward: str
    input: str
    weight: str
    alone: str
    shared: bool = False


@dataclass(frozen=True)
class Lowering:
    """How operations are told to XLA.

    Attributes:
        plain: everything by XLA's own operations in the declared layout: the reference. Differentiable in every mode.
        autotune: measure the candidates for a shape that is new, and remember the fastest (``autotune.remembered``).
        looped: for layers inside of a loop, whose products are small.
    """

    plain: bool = False
    autotune: bool = False
    looped: bool = False

    @cached_property
    def on_cpu(self) -> bool:
        """Whether JAX computes on the CPU; elsewhere XLA's own convolution is the way."""
        return jax.default_backend() == "cpu"

    @property
    def onednn(self) -> bool:
        """Whether oneDNN is called where it can be."""
        return not self.plain and onednn.available()

    def ways(
        self, x: Sequence[Any], weight: Sequence[int], geometry: ConvGeometry, dtype: Any
    ) -> Ways | None:
        """The ways for a convolution of these shapes; None where XLA's own is the choice for all passes.

        A batch of symbolic size is taken for one of 1, for which nothing is made for some images at a time.
        """
        name = np.dtype(dtype).name
        if name not in ("float32", "float64"):
            return None  # sums of many products lose digits in less, which XLA's own convolution knows about
        if not self.on_cpu and not self.autotune:
            return None
        shape = (x[0] if isinstance(x[0], int) else 1, *x[1:])
        forward, back, late = (Problem(one, shape, tuple(weight), geometry, name) for one in PASSES)
        alone = self.choose(forward)
        ways = Ways(alone, self.choose(back), self.choose(late), alone)
        chosen = ways if self.autotune else sharing(forward, late, ways)  # what was measured is not overruled
        return None if {chosen.forward, chosen.input, chosen.weight} == {"xla"} else chosen

    def choose(self, problem: Problem) -> str:
        """The name of the candidate for one pass."""
        if self.autotune:
            from jaffe.compile.lowering.autotune import tuned

            return tuned(problem)
        return cheapest(problem)


MOST_SHARED = 2**23  # bytes of patches kept for the backward pass, a convolution
WORTH = 0.85  # of what the ways take without; the model is no more exact than that
SHARED_PER_MS = 6e6  # bytes of patches that are made in a millisecond


def sharing(forward: Problem, weight: Problem, ways: Ways) -> Ways:
    """The ways, or others whose forward pass and weight gradient see the same patches, where that is better."""
    best, found = WORTH * (predicted(forward, ways.forward) + predicted(weight, ways.weight)), ways
    for name in {*fitting(forward)} & {*fitting(weight)}:
        kept = shared_bytes(forward, name)
        cost = predicted(forward, name) + predicted(weight, name) - kept / SHARED_PER_MS
        if 0 < kept <= MOST_SHARED and cost < best:
            best, found = cost, Ways(name, ways.input, name, ways.alone, shared=True)
    return found


def lowering_of(name: str, autotune: bool) -> Lowering:
    """What ``compile_net`` is told as an object. Raises JaffeError."""
    if name not in ("auto", "plain"):
        raise JaffeError(f'lowering is "auto" or "plain"; received {name!r}')
    if autotune and name == "plain":
        raise JaffeError('lowering "plain" leaves nothing to tune; expected lowering "auto", or no autotune')
    return Lowering(name == "plain", autotune)
