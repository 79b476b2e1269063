"""The zoo by name: list, create, load, card."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaffe.netdef import NetSpec
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.zoo.cards import CARDS, Card
from jaffe.zoo.download import fetch
from jaffe.zoo.weights import WEIGHTS

if TYPE_CHECKING:
    from jaffe.compile import CompiledNet

Names = Sequence[str]


def list(filter: str = "") -> Names:  # noqa: A001, A002  the verb that people know
    """Names of the nets, in alphabetical order, numbers by their value.

    Args:
        filter: a pattern (``"resnet*"``), a task (``"segmentation"``), or a part of the name or title.
    """
    wanted = filter.lower()
    return [name for name, card in sorted(CARDS.items(), key=lambda item: _natural(item[0]))
            if fnmatch.fnmatchcase(name, wanted) or wanted == card.task or wanted in name
            or wanted in card.title.lower()]


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(digits or -1), text) for digits, text in re.findall(r"(\d+)|(\D+)", name))


def card(name: str) -> Card:
    """What is known of a net: prints as text. Raises JaffeError, with the nearest name, when there is none."""
    if name not in CARDS:
        raise JaffeError(f"no net {name!r} in the zoo{suggest(name, CARDS)}; zoo.list() names all {len(CARDS)}")
    return CARDS[name]


def create(name: str, **options: Any) -> NetSpec:
    """The declaration of a net: ``zoo.create("resnet50", classes=10)`` is ``zoo.resnet50(classes=10)``.

    Raises:
        JaffeError: there is no net of that name, or it has no such option.
    """
    build = card(name).build
    known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise JaffeError(f"zoo.{name} has no option {option!r}{suggest(option, known)}; it has {', '.join(known)}")
    return build(**options)


def load(
    name: str, weights: str | os.PathLike[str] = "", *, phase: str = "TEST", **options: Any
) -> tuple[CompiledNet, dict[str, Any]]:
    """A net with weights, ready to use: ``net, variables = zoo.load("squeezenet1_1")``.

    Args:
        weights: a name of published ones (``zoo.card`` lists them; by default the first), which are downloaded once;
            or a file that ``jaffe.load_weights`` reads; or ``URL#DIGEST``, with a digest as ``sha256:...``.
        phase: ``"TEST"`` or ``"TRAIN"``.
        options: of the net's function.

    Raises:
        JaffeError: there is no net or no weights of that name; they cannot be had; or they do not fit, or do not fill
            the net: the message lists the layers.
    """
    import jax

    from jaffe.compile import compile_net, load_weights, weights_report

    net = compile_net(create(name, **options), phase=phase)
    path = weights_file(name, weights)
    report = weights_report(net, path)
    if report.left and not report.problems:
        raise JaffeError(f"{path} has no weights of layers {', '.join(report.left)} of zoo.{name} in phase {phase}; to "
                         "train them anew, use jaffe.load_weights, or jaffe train --weights")
    return net, load_weights(net, net.init(jax.random.key(0)), path)


def weights_file(name: str, weights: str | os.PathLike[str] = "") -> Path:
    """The path of a net's weights, downloaded if need be: see ``load``."""
    published = {one.name: one for one in WEIGHTS.get(name, ())}
    if isinstance(weights, str):
        url, mark, digest = weights.partition("#")
        if "://" in url:
            if not mark:
                raise JaffeError(f"{url}: expected URL#DIGEST, such as ...#sha256:...; without it nobody knows whether "
                                 "it is the file that was meant")
            return fetch(url, digest)
        if weights in published or not weights:
            if not published:
                raise JaffeError(f"no published weights of zoo.{name} are known; expected weights=PATH, or URL#DIGEST")
            one = published[weights] if weights else next(iter(published.values()))
            return fetch(one.url, one.digest, file=one.file, size=one.size)
    path = Path(weights)
    if not path.exists():
        raise JaffeError(f"{path} is not there, and no name of published weights of zoo.{name}"
                         + (f" (there are {', '.join(published)})" if published else " (none are known)"))
    return path
