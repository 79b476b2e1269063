"""What a layer is: shape rule, stored weights, and a pure function; and the registry of layer types."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp

from jaffe.compile.lowering import AxisName, Lowering
from jaffe.compile.lowering.candidates import Pass
from jaffe.netdef.errors import suggest
from jaffe.netdef.graph import Node
from jaffe.netdef.jaffe_pb2 import FillerParameter
from jaffe.netdef.schema import SETTINGS_FIELDS, settings_fields

Array = jax.Array
Shape = tuple[int, ...]
Arithmetic = Literal["products", "elementwise", "sums", "full"]
MOST_VALUES = 2**31 - 1  # Caffe's limit on one blob
BIASES = ("bias", "shift", "output_bias")  # names of weights that are added


@dataclass(frozen=True)
class Weight:
    """One stored array of a layer.

    Attributes:
        name: key in the variables, such as ``"weight"`` or ``"bias"``.
        shape: in Caffe's layout.
        filler: how it starts.
        trained: ``True`` for parameters, ``False`` for state such as BatchNorm's running sums.
        carried: state from one call to the next, such as an LSTM's h: zero at first, no part of a weights file,
            not shared, and its shape may depend on the batch. Such come last in a layer's ``weights``.
        value: what it starts with, in place of what the filler gives.
        frozen: does not learn, whatever ``lr_mult`` and ``decay_mult`` say.
    """

    name: str
    shape: Shape
    filler: FillerParameter
    trained: bool = True
    carried: bool = False
    value: Any = field(default=None, compare=False)
    frozen: bool = False


@dataclass(frozen=True)
class Context:
    """What a layer may know beside its inputs.

    Attributes:
        rng: key of this layer for this call, or ``None``.
        node: the layer as declared, for messages.
        dtype: of the net's blobs.
        lowering: how operations are told to XLA.
        axis_name: mapped axes over which batches are one for batch normalisation, or None.
    """

    node: Node
    rng: Array | None = None
    dtype: Any = jnp.float32
    lowering: Lowering = field(default_factory=Lowering)
    axis_name: AxisName = None

    def key(self) -> Array:
        """The layer's random key. Raises SpecError when the caller gave none."""
        if self.rng is None:
            raise self.node.error(f"{self.node.type} is random in phase {self.node.phase}: "
                                  "expected rng=jax.random.key(...); found none")
        return self.rng


class Layer:
    """Base of the layer types. A subclass states its blob counts and overrides what differs.

    Class attributes:
        bottoms, tops: least and most number of blobs (``None``: no limit).
        constant_bottoms, constant_tops: by index, those that get no gradient (labels, indices, masks) and those that
            have none (places of maxima).
        arithmetic: how it works in a net of ``precision="bfloat16"``. Weights are float32 for all.
            ``"products"``: matrix products, of which nearly all its operations are. Bottoms and tops are bfloat16; the
            layer brings the weights that multiply to the bottoms' dtype, and leaves those that are added.
            ``"elementwise"``: moves or combines values, gradients likewise, a few at a time. Bottoms of the widest
            dtype among them.
            ``"sums"``: values or gradients add up many, or magnify rounding. Bottoms are float32; tops become what
            the widest bottom was.
            ``"full"``: losses, metrics, indices, and what a user's layer may be. Bottoms and tops are float32.
            Bottoms without a gradient keep their dtype in the first two; tops without one keep theirs.
        source: its tops are fed from outside: they are inputs of the net.
        infinite: its settings may be infinite.
        attributes: names and defaults of the settings of a user's own layer (``attribute { ... }``).

    An instance belongs to one node of a graph: ``self.node``, and ``self.p``, its settings message.
    """

    type: ClassVar[str] = ""
    bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    tops: ClassVar[tuple[int, int | None]] = (1, 1)
    constant_bottoms: ClassVar[tuple[int, ...]] = ()
    constant_tops: ClassVar[tuple[int, ...]] = ()
    arithmetic: Arithmetic = "full"
    source: ClassVar[bool] = False
    infinite: ClassVar[bool] = False
    attributes: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, node: Node):
        self.node = node
        fields = settings_fields(node.type)
        self.p: Any = getattr(node.proto, fields[0]) if fields else None
        self.settings = _attributes(node, self.attributes)
        self._check_counts()
        self._check_settings(fields)

    @property
    def foreign(self) -> bool:
        """Whether the layer type was registered by a user rather than shipped."""
        return self.node.type not in _BUILT_IN

    @property
    def random(self) -> bool:
        """Whether it may draw random numbers: two such layers differ, be they written the same."""
        return self.foreign

    @property
    def train(self) -> bool:
        """Whether the layer is in phase TRAIN."""
        return self.node.phase == "TRAIN"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Shapes of the tops, from those of the bottoms. Raises SpecError when they do not fit."""
        return [bottoms[0]]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        """The arrays that the layer stores, in the order of Caffe's files."""
        return []

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        """The tops. Pure."""
        raise NotImplementedError

    def apply_with_state(
        self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        """The tops, and the new values of untrained weights. For layers that keep state."""
        return self.apply(weights, bottoms, ctx), {}

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Floating point operations of a forward pass; a multiply-add is two. Default: one an output element."""
        return sum(math.prod(top) for top in tops)

    def gradient_flops(
        self, bottoms: Sequence[Shape], tops: Sequence[Shape], learned: Collection[str], wanted: Sequence[bool]
    ) -> tuple[int, int]:
        """Operations of the gradients of the weights named in ``learned``, and of those of the bottoms ``wanted``.

        The forward pass's, without adding biases, for all bottoms that can have a gradient, shared out evenly; as many
        for the weights of a layer of products; two an output element for another weight, one for a bias.
        """
        outputs = sum(math.prod(top) for top in tops)
        biases = sum(weight.name in BIASES for weight in self.weights(bottoms))
        forward = max(self.flops(bottoms, tops) - biases * outputs, 0)
        summed = sum(name in BIASES for name in learned)
        multiplied = len(learned) - summed
        weights = min(multiplied, 1) * forward if self.arithmetic == "products" else 2 * multiplied * outputs
        able = sum(self.differentiable()[0])
        return weights + summed * outputs, forward * sum(wanted) // max(able, 1)

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        """For each bottom whether it can get a gradient, and for each top whether it can have one.

        As ``constant_bottoms`` and ``constant_tops`` say; overridden where the settings decide about them.
        """
        return ([i not in self.constant_bottoms for i in range(len(self.node.bottoms))],
                [i not in self.constant_tops for i in range(len(self.node.tops))])

    def lowered(self, bottoms: Sequence[Shape], lowering: Lowering, dtype: Any) -> Mapping[Pass, str]:
        """How the passes (``"forward"``, ``"input"``, ``"weight"``) are computed, where there is a choice."""
        return {}

    def itemwise(self, bottoms: Sequence[Shape]) -> bool:
        """Whether each item of the first axis is computed on its own, and many at once are faster than one by one."""
        return False

    def channelwise(self, axis: int) -> bool:
        """Whether each index of this axis of its one top is computed from that index of its one bottom alone, without
        weights."""
        return False

    def is_identity(self, bottoms: Sequence[Shape]) -> bool:
        """Whether every top is the first bottom, unchanged."""
        return False

    def is_channel_affine(self, bottoms: Sequence[Shape]) -> bool:
        """Whether the top is the bottom times one number a channel (axis 1), plus another, neither of which depends on
        the bottom: ``channel_affine`` gives them."""
        return False

    def channel_affine(self, weights: Mapping[str, Array]) -> tuple[Array, Array]:
        """Factor (C) and shift (C) of a layer that ``is_channel_affine``."""
        raise NotImplementedError

    def axis(self, value: int, ndim: int, field: str = "axis", signed: bool = True) -> int:
        """A possibly negative axis as an index in [0, ndim). Raises SpecError when out of range."""
        if ndim == 0:
            raise self.node.error(f"{field} {value} is out of range; the blob is a single number, without axes")
        if not -ndim <= value < ndim:
            raise self.node.error(f"{field} {value} is out of range for a blob of {ndim} axes; "
                                  f"expected {-ndim if signed else 0} to {ndim - 1}")
        return value % ndim

    def counts(self) -> tuple[tuple[int, int | None], tuple[int, int | None]]:
        """``bottoms`` and ``tops``, where the settings decide about them."""
        return self.bottoms, self.tops

    def _check_counts(self) -> None:
        bottoms, tops = self.counts()
        for kind, values, (least, most) in (
            ("bottom", self.node.bottoms, bottoms),
            ("top", self.node.tops, tops),
        ):
            if len(values) < least or (most is not None and len(values) > most):
                if most is None:
                    expected = f"at least {least} {kind}{'s' * (least != 1)}"
                elif least == most:
                    expected = f"{least} {kind}{'s' * (least != 1)}"
                else:
                    expected = f"{least} to {most} {kind}s"
                found = f"{len(values)} ({', '.join(values)})" if values else "none"
                raise self.node.error(f"{self.node.type} takes {expected}; found {found}")

    def _check_settings(self, own: Sequence[str]) -> None:
        """Settings of another layer type would be ignored without a word: refuse them; and infinity and NaN."""
        if self.node.type not in _BUILT_IN:
            return
        for stated, message in self.node.proto.ListFields():
            if stated.name not in SETTINGS_FIELDS:
                continue
            if stated.name not in own and stated.name not in _SHARED_SETTINGS:
                near = f"; expected {own[0]}" if own else ""
                raise self.node.error(f"{self.node.type} does not read {stated.name}{near}")
            if stated.name == "loss_param" and message.label_smoothing and self.node.type != "SoftmaxWithLoss":
                raise self.node.error(f"{self.node.type} does not read label_smoothing; SoftmaxWithLoss does")
            if not self.infinite:
                self._check_finite(message)

    def _check_finite(self, settings: Any) -> None:
        for stated, value in settings.ListFields():
            if stated.cpp_type == stated.CPPTYPE_FLOAT:
                for number in [value] if isinstance(value, float) else value:
                    if not math.isfinite(number):
                        raise self.node.error(f"{stated.name} is a finite number; found {number:g}")


_SHARED_SETTINGS = {"transform_param", "loss_param"}  # Caffe's nets carry these where nothing reads them
_BUILT_IN: set[str] = set()
_REGISTRY: dict[str, type[Layer]] = {}

L = TypeVar("L", bound="type[Layer] | Callable[..., Any]")


def register_layer(type_name: str, **attributes: Any) -> Callable[[L], L]:
    """Make a layer type known to ``compile_net``: a decorator for a class or a function.

    A function takes the bottoms, and the settings as keywords, and returns a top or a tuple of tops; its
    shapes are found by tracing it. A class derives from ``Layer`` and may have weights, state and randomness.

    >>> @register_layer("Mish", beta=1.0)
    ... def mish(x, *, beta):
    ...     return x * jnp.tanh(jax.nn.softplus(beta * x))

    In prototxt: ``layer { type: "Mish" bottom: "x" top: "y" attribute { name: "beta" number: 1.5 } }``;
    in Python: ``n.y = L.Mish(n.x, beta=1.5)``.

    Args:
        type_name: what ``type`` is in the net. Caffe's own types cannot be replaced.
        attributes: the settings and their defaults (numbers, booleans, texts, or lists of one kind).

    Raises:
        ValueError: the type is registered already.
    """

    def register(layer: L) -> L:
        if type_name in _REGISTRY:
            raise ValueError(f"layer type {type_name!r} is registered already; choose another name")
        if inspect.isclass(layer):
            if not issubclass(layer, Layer):
                raise TypeError(f"a layer class derives from jaffe.Layer; received {layer.__name__}")
            layer.type = type_name
            if attributes:
                layer.attributes = attributes
            _REGISTRY[type_name] = layer
        else:
            _REGISTRY[type_name] = _from_function(type_name, layer, attributes)
        return layer

    return register


def built_in(type_name: str) -> Callable[[L], L]:
    """``register_layer`` for the types that jaffe ships: their settings are checked against the schema."""
    _BUILT_IN.add(type_name)
    return register_layer(type_name)


@contextmanager
def temporary_layers() -> Iterator[None]:
    """Layer types registered inside are forgotten at the end: for tests and notebooks."""
    saved = dict(_REGISTRY)
    try:
        yield
    finally:
        _REGISTRY.clear()
        _REGISTRY.update(saved)


def layer_types() -> list[str]:
    """The names of all registered layer types, sorted."""
    return sorted(_REGISTRY)


def make_layer(node: Node) -> Layer:
    """The layer of a node. Raises SpecError for an unknown type, wrong blob counts or foreign settings."""
    return _REGISTRY[node.type](node)


def check_types(nodes: Sequence[Node]) -> None:
    """Refuse a net with unknown layer types, naming all of them at once.

    Raises:
        SpecError: located at the first; lists every other one.
    """
    unknown = [node for node in nodes if node.type not in _REGISTRY]
    if not unknown:
        return
    first, names = unknown[0], list(dict.fromkeys(node.type for node in unknown))
    if len(names) == 1:
        near = suggest(first.type, _REGISTRY) or "; jaffe.register_layer adds types of your own"
        raise first.error(f"unknown layer type {first.type!r}{near}")
    guesses = {name: suggest(name, _REGISTRY).removeprefix("; ") for name in names}
    listed = ", ".join(f"{name!r} ({guess})" if guess else repr(name) for name, guess in guesses.items())
    raise first.error(f"unknown layer types in this net: {listed}; jaffe.register_layer adds types of your own")


def _from_function(type_name: str, function: Callable[..., Any], defaults: Mapping[str, Any]) -> type[Layer]:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    least = sum(p.default is p.empty for p in positional)

    def call(layer: Layer, bottoms: Sequence[Array]) -> tuple[Array, ...]:
        tops = function(*bottoms, **layer.settings)
        return tuple(tops) if isinstance(tops, (tuple, list)) else (tops,)

    class FunctionLayer(Layer):
        __doc__ = function.__doc__
        type = type_name
        bottoms = (least, None if variadic else len(positional))
        tops = (1, None)
        attributes = defaults

        def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
            arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in bottoms]
            try:
                tops = jax.eval_shape(lambda *xs: call(self, xs), *arrays)
            except Exception as error:  # whatever the user's function raises is about these shapes
                shapes = ", ".join(map(str, bottoms))
                raise self.node.error(f"{type_name} failed on bottoms of shape {shapes}: {error}") from error
            if len(tops) != len(self.node.tops):
                raise self.node.error(f"{type_name} returns {len(tops)} tops; found {len(self.node.tops)}")
            return [tuple(top.shape) for top in tops]

        def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
            return call(self, bottoms)

    FunctionLayer.__name__ = FunctionLayer.__qualname__ = type_name
    return FunctionLayer


def _attributes(node: Node, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The layer's ``attribute`` entries over their defaults, converted to the defaults' types."""
    settings = dict(defaults)
    for attribute in node.proto.attribute:
        name = attribute.name
        if name not in defaults:
            known = f"; expected {', '.join(sorted(defaults))}" if defaults else "; expected none"
            raise node.error(f"{node.type} has no attribute {name!r}{suggest(name, defaults) or known}")
        values: list[Any] = list(attribute.text) or list(attribute.number)
        default = defaults[name]
        one = default[0] if isinstance(default, (list, tuple)) and default else default
        if bool(attribute.text) != isinstance(one, str):
            raise node.error(f"attribute {name!r}: expected {'text' if isinstance(one, str) else 'number'}; "
                             f"found {values}")
        if isinstance(one, (bool, int)):
            values = [type(one)(value) for value in values]
        if isinstance(default, (list, tuple)):
            settings[name] = values
        elif len(values) == 1:
            settings[name] = values[0]
        else:
            raise node.error(f"attribute {name!r}: expected one value; found {values}")
    return settings
