"""Parameters and multiply-adds of the zoo's nets against what was published of them."""

from __future__ import annotations

import inspect
from decimal import Decimal

import pytest

from jaffe.compile import CompiledNet, compile_net
from jaffe.zoo.cards import CARDS, Figure

UNITS = {"": 1, "M": 10**6, "G": 10**9}
PRODUCTS = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution", "InnerProduct",
            "LocallyConnected")
WITH_FIGURES = [name for name, card in CARDS.items() if card.params or card.multiply_adds]


def as_published(value: int, figure: Figure) -> bool:
    """Whether a number is the published one, to its last digit."""
    text, _, unit = figure.value.partition(" ")
    published = Decimal(text.replace(",", ""))
    digit = Decimal(1).scaleb(published.as_tuple().exponent)
    return (Decimal(value) / UNITS[unit] - published).copy_abs() <= digit / 2


def multiply_adds(net: CompiledNet) -> int:
    """Of the layers that multiply by weights; additions of a bias are none."""
    total = 0
    for layer in net.cost().layers:
        if layer.type in PRODUCTS:
            biased = any(one.weight.name == "bias" for one in net.stored[layer.name])
            total += (layer.flops - biased * layer.activations) // 2
    return total


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_figures_are_the_published_ones_or_are_explained(name: str):
    """An explanation that is not needed is a mistake too."""
    card = CARDS[name]
    options = [option for option in ("batch", "test_batch") if option in inspect.signature(card.build).parameters]
    net = compile_net(card.build(**dict.fromkeys(options, 1)), phase="TEST")
    for own, figure in ((net.cost().params, card.params), (multiply_adds(net), card.multiply_adds)):
        if figure:
            assert as_published(own, figure) == (not figure.difference), (own, figure)


def test_figures_are_read_to_their_last_digit():
    assert as_published(60_965_224, Figure("60,965,224", ""))
    assert not as_published(60_965_225, Figure("60,965,224", ""))
    assert as_published(61_049_999, Figure("61.0 M", ""))
    assert not as_published(61_050_001, Figure("61.0 M", ""))
