"""Eltwise, Concat, Crop, and the normalisation of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaffe.netdef.jaffe_pb2 import EltwiseParameter, LayerParameter, LossParameter
from jaffe.parity.hypotheses.base import Suspect, Variation, edits, hypothesis

LOSSES = ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "MultinomialLogisticLoss", "InfogainLoss")


@hypothesis("Eltwise", check="Eltwise: are operation and coeff the same?")
def eltwise_coeff(suspect: Suspect) -> Iterator[Variation]:
    """A plain sum, without the coefficients."""
    if any(coeff != 1 for coeff in suspect.p.coeff):
        yield from edits(suspect, {"coeff is left out": lambda proto: proto.eltwise_param.ClearField("coeff")})


@hypothesis("Eltwise")
def eltwise_operation(suspect: Suspect) -> Iterator[Variation]:
    """A product, sum or maximum in place of another."""

    def use(operation: int) -> Callable[[LayerParameter], None]:
        def edit(proto: LayerParameter) -> None:
            proto.eltwise_param.ClearField("coeff")
            proto.eltwise_param.operation = operation  # type: ignore[assignment]

        return edit

    words = {EltwiseParameter.PROD: "the product", EltwiseParameter.SUM: "the sum", EltwiseParameter.MAX: "the maximum"}
    yield from edits(suspect, {
        f"{word} is taken": use(number) for number, word in words.items() if number != suspect.p.operation
    })


@hypothesis("Concat", check="Concat: along which axis, and in which order?")
def concat_order(suspect: Suspect) -> Iterator[Variation]:
    """The bottoms the other way round, or along another axis."""
    if len(suspect.bottoms) > 1:
        yield Variation("the bottoms come in the opposite order",
                        lambda weights, bottoms: suspect.function(weights, bottoms[::-1]))

    def use(axis: int) -> Callable[[LayerParameter], None]:
        def edit(proto: LayerParameter) -> None:
            proto.concat_param.ClearField("concat_dim")
            proto.concat_param.axis = axis

        return edit

    own = suspect.p.concat_dim if suspect.p.HasField("concat_dim") else suspect.p.axis
    ndim = suspect.bottoms[0].ndim
    yield from edits(suspect, {
        f"the bottoms are joined along axis {axis}": use(axis) for axis in range(ndim) if axis != own % ndim
    })


@hypothesis("Crop", check="Crop: are axis and offset the same?")
def crop_offset(suspect: Suspect) -> Iterator[Variation]:
    """The corner or the middle of the blob."""
    x, like = (bottom.shape for bottom in suspect.bottoms)
    start = suspect.p.axis % len(x)
    offsets = {
        "the crop is taken from the corner (offset 0)": [0] * (len(x) - start),
        "the crop is taken from the middle": [(a - b) // 2 for a, b in zip(x[start:], like[start:], strict=True)],
    }

    def use(values: list[int]) -> Callable[[LayerParameter], None]:
        def edit(proto: LayerParameter) -> None:
            proto.crop_param.offset[:] = values

        return edit

    yield from edits(suspect, {what: use(values) for what, values in offsets.items()})


@hypothesis(*LOSSES, check="loss: by what is the sum divided (normalization), and is there an ignore_label?")
def loss_normalization(suspect: Suspect) -> Iterator[Variation]:
    """The sum divided by another count."""

    def use(mode: int) -> Callable[[LayerParameter], None]:
        def edit(proto: LayerParameter) -> None:
            proto.loss_param.ClearField("normalize")
            proto.loss_param.normalization = mode  # type: ignore[assignment]

        return edit

    yield from edits(suspect, {
        f"normalization is {name}": use(mode) for name, mode in LossParameter.NormalizationMode.items()
    })
