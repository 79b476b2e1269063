"""BatchNorm, Scale, LRN, Softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from jaffe.compile.layer import Array
from jaffe.netdef.jaffe_pb2 import LayerParameter, LRNParameter
from jaffe.parity.hypotheses.base import Suspect, Variation, edits, hypothesis, setting
from jaffe.parity.walk import Weights

EPSILONS = (1e-5, 1e-3, 1e-4, 2e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0)  # Caffe and PyTorch; Keras; MXNet; and others


@hypothesis("BatchNorm", check="BatchNorm: are mean and variance divided by the third blob?")
def batch_norm_factor(suspect: Suspect) -> Iterator[Variation]:
    """Stored sums of mean and variance taken as they are, without dividing them by the factor."""
    if "factor" in suspect.weights:
        yield Variation("mean and variance are not divided by the scale factor (the third blob)",
                        suspect.with_weights(lambda w: {"factor": jnp.ones_like(w["factor"])}))


@hypothesis("BatchNorm", check="BatchNorm: is eps the same, and inside the root?")
def batch_norm_eps(suspect: Suspect) -> Iterator[Variation]:
    """Another eps, or one that is added outside the root."""

    own = suspect.p.eps
    yield from edits(suspect, {
        f"eps is {eps:g}": setting("batch_norm_param", "eps", eps)
        for eps in EPSILONS if not abs(eps - own) <= 1e-3 * max(eps, own)
    })
    bare = suspect.edited(setting("batch_norm_param", "eps", 0.0))

    def outside(weights: Weights, bottoms: Sequence[Array]) -> Sequence[Array]:
        root = jnp.sqrt(weights["variance"] / weights["factor"])
        shape = (1, -1, *[1] * (bottoms[0].ndim - 2))
        return [bare(weights, bottoms)[0] * (root / (root + own)).reshape(shape)]

    if suspect.layer.uses_state:  # type: ignore[attr-defined]
        yield Variation("eps is added to the root of the variance, not under it", outside)


@hypothesis("BatchNorm", check="BatchNorm: are the stored statistics used, or the batch's?")
def batch_norm_statistics(suspect: Suspect) -> Iterator[Variation]:
    """The batch's own statistics in place of the stored ones, or the other way."""
    stored = suspect.layer.uses_state  # type: ignore[attr-defined]
    what = "the statistics are those of the batch" if stored else "the stored statistics are used"
    yield from edits(suspect, {what: setting("batch_norm_param", "use_global_stats", not stored)})


@hypothesis("Scale", "Bias", check="Scale, Bias: along which axis is the blob broadcast?")
def broadcast_axis(suspect: Suspect) -> Iterator[Variation]:
    """The multiplier or the bias laid along another axis of the same size."""
    field = "scale_param" if suspect.type == "Scale" else "bias_param"
    ndim = suspect.bottoms[0].ndim
    own = suspect.p.axis % ndim
    yield from edits(suspect, {
        f"the blob lies along axis {axis}": setting(field, "axis", axis)
        for axis in range(ndim) if axis != own
    })


@hypothesis("LRN", check="LRN: is alpha divided by the number of cells, and what is k?")
def lrn_alpha(suspect: Suspect) -> Iterator[Variation]:
    """alpha not divided by the size of the window (as in TensorFlow), or k of another convention."""
    p = suspect.p
    cells = p.local_size ** (2 if p.norm_region == LRNParameter.WITHIN_CHANNEL else 1)

    def use(alpha: float = p.alpha, k: float = p.k) -> Callable[[LayerParameter], None]:
        def edit(proto: LayerParameter) -> None:
            proto.lrn_param.alpha, proto.lrn_param.k = alpha, k

        return edit

    yield from edits(suspect, {
        "alpha is not divided by the number of cells": use(alpha=p.alpha * cells),
        "alpha is divided by the number of cells twice": use(alpha=p.alpha / cells),
        **{f"k is {k:g}": use(k=k) for k in (1.0, 2.0) if k != p.k},
    })


@hypothesis("LRN")
def lrn_region(suspect: Suspect) -> Iterator[Variation]:
    """Sums over channels in place of over the neighbourhood in a channel, or the other way."""
    within = suspect.p.norm_region == LRNParameter.WITHIN_CHANNEL
    other = LRNParameter.ACROSS_CHANNELS if within else LRNParameter.WITHIN_CHANNEL
    what = "the sums run across channels" if within else "the sums run within a channel"
    yield from edits(suspect, {what: setting("lrn_param", "norm_region", other)})


@hypothesis("Softmax", "LogSoftmax", check="Softmax: along which axis?")
def softmax_axis(suspect: Suspect) -> Iterator[Variation]:
    """Softmax along another axis."""
    ndim = suspect.bottoms[0].ndim
    own = suspect.p.axis % ndim
    yield from edits(suspect, {
        f"the softmax runs along axis {axis}": setting("softmax_param", "axis", axis)
        for axis in range(ndim) if axis != own and suspect.bottoms[0].shape[axis] > 1
    })


@hypothesis("Softmax")
def softmax_logarithm(suspect: Suspect) -> Iterator[Variation]:
    """The logarithm of the softmax."""
    axis = suspect.p.axis
    yield Variation("the logarithm of the softmax is taken",
                    lambda weights, bottoms: [jax.nn.log_softmax(bottoms[0], axis=axis)])
