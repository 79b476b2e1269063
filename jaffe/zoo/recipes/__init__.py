"""Recipes: a net, a solver and data that together give a stated result."""

from __future__ import annotations

from jaffe.netdef.errors import JaffeError, suggest
from jaffe.zoo.recipes import cifar, digits, imagenet, scenes, sequences, tasks, vectors  # noqa: F401  (they enter)
from jaffe.zoo.recipes.base import RECIPES as RECIPES
from jaffe.zoo.recipes.base import Recipe as Recipe


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises JaffeError, with the nearest name, when there is none."""
    if name not in RECIPES:
        raise JaffeError(f"no recipe {name!r}{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
