"""What is known of each net of the zoo: its paper, what was published of it, and where weights are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaffe.netdef import NetSpec

Build = TypeVar("Build", bound=Callable[..., NetSpec])


@dataclass(frozen=True)
class Figure:
    """A published number, and who published it.

    Attributes:
        value: as published, with its unit: ``"60,965,224"``, ``"61.0 M"``, ``"0.72 G"``, ``"57.4 %"``.
        source: a paper, a file, a page.
        difference: why the net's own number is another one; empty where it is that one, to the last digit published.
    """

    value: str
    source: str
    difference: str = ""


@dataclass(frozen=True)
class Weights:
    """A published file of weights.

    Attributes:
        name: short, unique among those of a net.
        url: of the ``.caffemodel``.
        digest: as ``jaffe.zoo.download.fetch`` takes it.
        file: its name, where the URL does not end with it.
        size: bytes, where it is known.
        licence: as its authors name it.
    """

    name: str
    url: str
    digest: str
    file: str = ""
    size: int | None = None
    licence: str = ""


@dataclass(frozen=True)
class Card:
    """What is known of a net.

    Attributes:
        name: of the function in ``jaffe.zoo``.
        build: that function.
        title: as people call it.
        task: ``"classification"``, ``"segmentation"``, ``"detection"``, ``"faces"``, ``"regression"``,
            ``"embedding"``, ``"autoencoder"`` or ``"sequences"``.
        paper: authors, year, and where to find it.
        input: size, order of channels, and what is done to pixels before.
        accuracy: as published.
        params: trained parameters of the net that is used (phase TEST), as published.
        multiply_adds: of its convolutions and inner products, for one item, as published.
    """

    name: str
    build: Callable[..., NetSpec]
    title: str
    task: str
    paper: str
    input: str
    accuracy: tuple[Figure, ...] = ()
    params: Figure | None = None
    multiply_adds: Figure | None = None

    @property
    def about(self) -> str:
        """The first paragraph of the function's docstring."""
        return " ".join((self.build.__doc__ or "").split("\n\n")[0].split())

    def declared(self, items: int) -> NetSpec:
        """The net with its own options, for so many items in both phases."""
        known = inspect.signature(self.build).parameters
        return self.build(**{name: items for name in ("batch", "test_batch") if name in known})

    def __str__(self) -> str:
        from jaffe.zoo.described import described

        return described(self)

    def _repr_markdown_(self) -> str:
        return f"```\n{self}\n```"


CARDS: dict[str, Card] = {}


def published(
    *, title: str, task: str, paper: str, input: str, accuracy: Sequence[Figure] = (),  # noqa: A002
    params: Figure | None = None, multiply_adds: Figure | None = None,
) -> Callable[[Build], Build]:
    """Enter a function that returns a spec into the zoo, under its own name: see ``Card``."""

    def enter(build: Build) -> Build:
        name = build.__name__
        assert name not in CARDS, name
        CARDS[name] = Card(name, build, title, task, paper, input, tuple(accuracy), params, multiply_adds)
        return build

    return enter
