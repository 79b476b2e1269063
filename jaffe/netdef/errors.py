"""Errors that name the layer, where it stands, what was expected and what was found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class JaffeError(ValueError):
    """Base of every error that jaffe raises for a wrong net, file or setting."""


class SpecError(JaffeError):
    """A net or solver declaration is wrong.

    The message reads ``layer 'conv2' (lenet.prototxt:41): bottom 'pool' is not produced by any
    earlier layer; did you mean 'pool1'?``.

    Attributes:
        layer: name of the layer at fault, or ``None`` when the whole file is.
        location: ``file:line`` of that layer, or ``None`` when the net was not read from a file.
    """

    def __init__(self, problem: str, *, layer: str | None = None, location: str | None = None):
        self.layer = layer
        self.location = location
        super().__init__(f"{describe(layer, location)}: {problem}" if layer or location else problem)


@contextmanager
def of_callbacks() -> Iterator[None]:
    """Inside, a SpecError that a callback raised comes out as such, where JAX makes a RuntimeError of its text."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition("\n--------------------\n")[0]  # what follows is JAX's, about its tracebacks
        found = re.search(r"""SpecError: layer (['"])(.*?)\1(?: \((.*?)\))?: (.*)""", text, re.DOTALL)
        if found is None:
            raise
        _, layer, location, problem = found.groups()
        raise SpecError(problem.rstrip(), layer=layer, location=location) from error


def describe(layer: str | None, location: str | None) -> str:
    """``layer 'conv2' (lenet.prototxt:41)``, without the parts that are not known."""
    if layer is None:
        return location or ""
    return f"layer {layer!r} ({location})" if location else f"layer {layer!r}"


def suggest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'pool1'?"`` for the known name nearest to ``name``, or ``""``."""
    candidates = sorted(set(known))
    by_lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
    if name.lower() in by_lower:
        return f"; did you mean {by_lower[name.lower()]!r}?"
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def listed(items: Iterable[object], most: int = 8) -> str:
    """``"a, b and 7 more"``: so many of the items, and how many there are beyond."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
