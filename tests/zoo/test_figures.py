"""Parameters and multiply-adds of the zoo's nets against what was published of them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from jaffe.zoo.cards import CARDS, Figure
from jaffe.zoo.described import counted

UNITS = {"": 1, "M": 10**6, "G": 10**9}
WITH_FIGURES = [name for name, card in CARDS.items() if card.params or card.multiply_adds]


def as_published(value: int, figure: Figure) -> bool:
    """Whether a number is the published one, to its last digit."""
    text, _, unit = figure.value.partition(" ")
    published = Decimal(text.replace(",", ""))
    digit = Decimal(1).scaleb(published.as_tuple().exponent)
    return (Decimal(value) / UNITS[unit] - published).copy_abs() <= digit / 2


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_are_the_published_ones_or_are_explained(name: str):
    """An explanation that is not needed is a mistake too."""
    card = CARDS[name]
    own = counted(card)
    for value, figure in ((own.params, card.params), (own.multiply_adds, card.multiply_adds)):
        if figure:
            assert as_published(value, figure) == (not figure.difference), (value, figure)


def test_figures_are_read_to_their_last_digit():
    assert as_published(60_965_224, Figure("60,965,224", ""))
    assert not as_published(60_965_225, Figure("60,965,224", ""))
    assert as_published(61_049_999, Figure("61.0 M", ""))
    assert not as_published(61_050_001, Figure("61.0 M", ""))
