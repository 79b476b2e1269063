"""Activations and Dropout, and layers that one side does not have."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaffe.parity.hypotheses.base import Suspect, Variation, hypothesis
from jaffe.parity.walk import Function

SLOPES = (0.0, 0.01, 0.1, 0.2, 0.25, 0.3)


@hypothesis("ReLU", "ReLU6", check="ReLU: is it cut off at 6, and is negative_slope the same?")
def relu6(suspect: Suspect) -> Iterator[Variation]:
    """A ReLU cut off at 6, on one side only."""
    if suspect.type == "ReLU6" or suspect.p.relu6:
        yield Variation("the ReLU is not cut off at 6", lambda weights, bottoms: [jax.nn.relu(bottoms[0])])
    else:
        yield Variation("the ReLU is cut off at 6 (relu6)", suspect.with_top(lambda y: jnp.minimum(y, 6)))


@hypothesis("ReLU")
def negative_slope(suspect: Suspect) -> Iterator[Variation]:
    """Another slope below 0."""
    for slope in SLOPES:
        if abs(slope - suspect.p.negative_slope) > 1e-6:
            yield Variation(f"negative_slope is {slope:g}", _leaky(slope))


def _leaky(slope: float) -> Function:
    return lambda weights, bottoms: [jnp.where(bottoms[0] > 0, bottoms[0], slope * bottoms[0])]


@hypothesis("PReLU", check="PReLU: is the slope one a channel, or one for all?")
def prelu_slope(suspect: Suspect) -> Iterator[Variation]:
    """The slopes left out, or one of them used for all channels."""
    yield Variation("the slopes below 0 are 0, as in a ReLU", lambda weights, bottoms: [jax.nn.relu(bottoms[0])])
    (name,) = suspect.weights
    if suspect.weights[name].size > 1:
        yield Variation("the first slope is used for all channels",
                        suspect.with_weights(lambda w: {name: jnp.full_like(w[name], w[name].ravel()[0])}))


@hypothesis("Dropout", check="Dropout: is it the identity, with the scaling done in training?")
def dropout_scaling(suspect: Suspect) -> Iterator[Variation]:
    """Values scaled by the kept share at test time, which Caffe does in training."""
    keep = 1 - suspect.p.dropout_ratio
    yield Variation(f"values are multiplied by 1 - dropout_ratio ({keep:g})", suspect.with_top(lambda y: y * keep))
    yield Variation(f"values are divided by 1 - dropout_ratio ({keep:g})", suspect.with_top(lambda y: y / keep))


@hypothesis("Power")
def power_order(suspect: Suspect) -> Iterator[Variation]:
    """The shift added before the scale is multiplied."""
    p = suspect.p
    if p.scale != 1 and p.shift != 0:
        yield Variation("the shift is added before scaling",
                        lambda weights, bottoms: [(p.scale * (bottoms[0] + p.shift)) ** p.power])


@hypothesis(check="is the recorded value that of this layer, or the blob before an in-place layer?")
def layer_left_out(suspect: Suspect) -> Iterator[Variation]:
    """A layer that the reference does not have, or a value recorded before an in-place layer."""
    one = len(suspect.node.bottoms) == len(suspect.node.tops) == 1
    if one and suspect.layer.shapes([suspect.bottoms[0].shape])[0] == suspect.bottoms[0].shape:
        in_place = suspect.node.proto.bottom[:] == suspect.node.proto.top[:]
        also = ", or the value was recorded before this in-place layer" if in_place else ""
        yield Variation(f"the layer is left out{also}", lambda weights, bottoms: [bottoms[0]])


@hypothesis("Convolution", "Deconvolution", "InnerProduct", "BatchNorm", "Scale", "Eltwise", "DepthwiseConvolution",
            "ConvolutionDepthwise")
def activation_added(suspect: Suspect) -> Iterator[Variation]:
    """A ReLU that the net does not have."""
    yield Variation("a ReLU follows", suspect.with_top(jax.nn.relu))
    yield Variation("a ReLU cut off at 6 follows", suspect.with_top(lambda y: jnp.clip(y, 0, 6)))
