"""LSTM, RNN and LSTMUnit: layers that go through a sequence step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.lowering import Lowering, product
from jaffe.compile.lowering.gates import lstm_unit, tuned_lstm_unit
from jaffe.compile.lowering.recurrence import Hidden, recur


class Recurrent(Layer):
    """What LSTM and RNN have in common; ``H`` is ``num_output``.

    Subclasses say what is kept from step to step (``hidden``), how many values the input product gives for each of
    the H units (``gates``), and one step.
    """

    hidden: ClassVar[tuple[str, ...]] = ()
    gates: ClassVar[int] = 1
    arithmetic = "products"

    @property
    def exposed(self) -> int:
        """How many hidden blobs are bottoms and tops."""
        return len(self.hidden) if self.p.expose_hidden else 0

    def counts(self) -> tuple[tuple[int, int | None], tuple[int, int | None]]:
        return (2 + self.exposed, 3 + self.exposed), (1 + self.exposed, 1 + self.exposed)

    def has_static(self, bottoms: Sequence[object]) -> bool:
        """Whether there is a static input."""
        return len(bottoms) > 2 + self.exposed

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, cont = bottoms[:2]
        if not self.p.num_output:
            raise self.node.error("expected num_output > 0; found none")
        if len(x) < 3:
            raise self.node.error(f"expected a first bottom of at least 3 axes (T, N, ...); found {x}")
        if cont != x[:2]:
            raise self.node.error(f"expected the second bottom, cont, to be (T, N) = {x[:2]}; found {cont}")
        if self.has_static(bottoms) and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise self.node.error(f"expected a static input of at least 2 axes (N = {x[1]}, ...); found {bottoms[2]}")
        if self.p.hidden_gradient and not self.exposed:
            raise self.node.error("hidden_gradient is for the blobs of expose_hidden: true; found it without")
        state = (1, x[1], self.p.num_output)
        for name, shape in zip(self.hidden, bottoms[len(bottoms) - self.exposed :], strict=False):
            if self.exposed and shape != state:
                raise self.node.error(f"expected the first {name} to be (1, N, num_output) = {state}; found {shape}")
        return [(*x[:2], self.p.num_output), *[state] * self.exposed]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        units, rows = self.p.num_output, self.gates * self.p.num_output
        weight, bias = self.p.weight_filler, self.p.bias_filler
        weights = [
            Weight("input_weight", (rows, math.prod(bottoms[0][2:])), weight),
            Weight("bias", (rows,), bias),
        ]
        if self.has_static(bottoms):
            weights.append(Weight("static_weight", (rows, math.prod(bottoms[2][1:])), weight))
        weights.append(Weight("hidden_weight", (rows, units), weight))
        weights += self.output_weights()
        if not self.exposed:
            state = (1, bottoms[0][1], units)
            weights += [Weight(name, state, constant(0), trained=False, carried=True) for name in self.hidden]
        return weights

    def output_weights(self) -> list[Weight]:
        """What else the layer stores."""
        return []

    def step(self, hidden: Hidden, product: Array, cont: Array) -> Hidden:
        """The next hidden blobs (N, H), the output h first.

        Args:
            hidden: those of the step before, h already multiplied by cont.
            product: (N, gates H), the sum of all products and the bias.
            cont: (N, 1).
        """
        raise NotImplementedError

    def tuned_step(self, hidden: Hidden, product: Array, cont: Array) -> Hidden:
        """``step`` as it is fast on the CPU; perhaps without a forward-mode derivative."""
        return self.step(hidden, product, cont)

    def apply_with_state(
        self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        x = bottoms[0]
        products = self.input_products(weights, x.reshape(*x.shape[:2], -1), ctx.lowering)
        return self.apply_to_products(weights, products, x.dtype, bottoms, ctx)

    def input_products(self, weights: Mapping[str, Array], x: Array, lowering: Lowering) -> Array:
        """(..., D) -> (..., gates H): the bias is in it. Of all steps at once; only the hidden state's product has to
        wait for the step before."""
        return _product(x, weights["input_weight"], x.dtype, lowering) + weights["bias"]

    def apply_to_products(
        self, weights: Mapping[str, Array], products: Array, dtype: Any, bottoms: Sequence[Array], ctx: Context
    ) -> tuple[Sequence[Array], dict[str, Array]]:
        """``apply_with_state`` from the input's products (T, N, gates H) on. ``dtype``: of further products."""
        cont = lax.stop_gradient(bottoms[1])[..., None]
        first = bottoms[len(bottoms) - self.exposed :] if self.exposed else [weights[name] for name in self.hidden]
        multiply = partial(_product, dtype=dtype, lowering=ctx.lowering)
        if self.has_static(bottoms):
            static = bottoms[2]
            products = products + multiply(static.reshape(static.shape[0], -1), weights["static_weight"])
        keep = (lambda value: value) if self.p.hidden_gradient else lax.stop_gradient
        start = tuple(keep(value)[0].astype(products.dtype) for value in first)
        recurrent = weights["hidden_weight"].T
        step = self.tuned_step if _tuned(ctx.lowering) else self.step
        last, steps = recur(step, start, products, cont, recurrent, dtype, ctx.lowering)
        after = [keep(value)[None] for value in last]
        output = self.output(weights, steps, multiply)
        if self.exposed:
            return [output, *after], {}
        return [output], {name: lax.stop_gradient(value) for name, value in zip(self.hidden, after, strict=True)}

    def output(self, weights: Mapping[str, Array], steps: Array, multiply: Callable[[Array, Array], Array]) -> Array:
        """The first top, of h at every step (T, N, H). ``multiply``: the product with a weight (O, H)."""
        return steps

    def differentiable(self) -> tuple[list[bool], list[bool]]:
        hidden = [self.p.hidden_gradient] * self.exposed
        static = [True] * self.has_static(self.node.bottoms)
        return [True, False, *static, *hidden], [True, *hidden]

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        steps, batch, units = tops[0]
        rows = self.gates * units
        # of one step and one item: input product and bias, recurrent product and its sum, cont, the step itself
        once = rows * (2 * math.prod(bottoms[0][2:]) + 1) + rows * (2 * units + 1) + units + self.step_flops()
        static = 0
        if self.has_static(bottoms):  # once an item, and added at every step
            static = batch * rows * 2 * math.prod(bottoms[2][1:]) + steps * batch * rows
        return steps * batch * once + static

    def gradient_flops(
        self, bottoms: Sequence[Shape], tops: Sequence[Shape], learned: Collection[str], wanted: Sequence[bool]
    ) -> tuple[int, int]:
        """As many as its forward product for each weight and bottom, one a sum for each bias; and the way back through
        the steps, as many as forward through them, counted with the weights if any learns, else with the bottoms."""
        items, rows = math.prod(tops[0][:2]), self.gates * self.p.num_output
        products = {"input_weight": 2 * items * rows * math.prod(bottoms[0][2:]), "bias": items * rows,
                    "hidden_weight": 2 * items * rows * self.p.num_output,
                    "output_weight": 2 * math.prod(tops[0]) * self.p.num_output, "output_bias": math.prod(tops[0])}
        inputs = [products["input_weight"], 0]
        if self.has_static(bottoms):
            inputs.append(bottoms[2][0] * rows * 2 * math.prod(bottoms[2][1:]))
            products["static_weight"] = inputs[2]
        weights = sum(products[name] for name in learned)
        back = sum(one for one, asked in zip(inputs, wanted, strict=False) if asked)
        through = products["hidden_weight"] + items * self.step_flops()
        return (weights + through, back) if learned else (0, back + through)

    def step_flops(self) -> int:
        """Operations of ``step`` and ``output`` for one step and one item."""
        raise NotImplementedError


def _product(x: Array, weight: Array, dtype: Any, lowering: Lowering) -> Array:
    return product(x.astype(dtype), weight.astype(dtype), lowering, transposed=True)


def _tuned(lowering: Lowering) -> bool:
    """Whether gates are computed as it is fast on the CPU, without a forward-mode derivative."""
    return lowering.on_cpu and not lowering.plain


@built_in("LSTM")
class LSTM(Recurrent):
    """Long short-term memory, without peepholes: for t = 1 ... T

    ``(i, f, o, g) = W_x x_t + b + W_h (cont_t h_(t-1)) [+ W_s s]``, then i, f, o = sigmoid, g = tanh of those,
    ``c_t = cont_t f c_(t-1) + i g``, ``h_t = o tanh(c_t)``. H is ``num_output``.

    Shapes: x (T, N, ...), cont (T, N), optionally a static input s (N, ...) -> h (T, N, H). cont is 0 at the first
    step of a sequence and 1 where one goes on; it gets no gradient.
    Weights: input_weight (4H, D), bias (4H), [static_weight (4H, Ds)], hidden_weight (4H, H).
    State: h and c (1, N, H), where the next call goes on; zero at first. No gradient flows from call to call, and no
    weights file has them. With ``expose_hidden`` there is no state: the last bottoms are h_0 and c_0, the last tops
    h_T and c_T. In Caffe, and here, no gradient flows through these unless ``hidden_gradient: true`` asks for it.
    T may be another one at every call.
    Source: Hochreiter and Schmidhuber 1997; Caffe 1.0, ``lstm_layer.cpp``, ``recurrent_layer.cpp``.
    """

    hidden = ("h", "c")
    gates = 4

    def step(self, hidden: Hidden, product: Array, cont: Array) -> Hidden:
        c, h = lstm_unit(hidden[1], product, cont)
        return h, c

    def tuned_step(self, hidden: Hidden, product: Array, cont: Array) -> Hidden:
        c, h = tuned_lstm_unit(hidden[1], product, cont)
        return h, c

    def step_flops(self) -> int:
        return 10 * self.p.num_output


@built_in("RNN")
class RNN(Recurrent):
    """A plain recurrent network: for t = 1 ... T

    ``h_t = tanh(W_x x_t + b + W_h (cont_t h_(t-1)) [+ W_s s])``, ``o_t = tanh(W_o h_t + b_o)``. H is ``num_output``.

    Shapes: x (T, N, ...), cont (T, N), optionally a static input s (N, ...) -> o (T, N, H). cont is 0 at the first
    step of a sequence and 1 where one goes on; it gets no gradient.
    Weights: input_weight (H, D), bias (H), [static_weight (H, Ds)], hidden_weight (H, H), output_weight (H, H),
    output_bias (H).
    State: h (1, N, H), as LSTM has it; with ``expose_hidden`` the last bottom is h_0 and the last top h_T, with a
    gradient if ``hidden_gradient: true`` asks for it.
    Source: Caffe 1.0, ``rnn_layer.cpp``, ``recurrent_layer.cpp``.
    """

    hidden = ("h",)

    def output_weights(self) -> list[Weight]:
        units = self.p.num_output
        return [
            Weight("output_weight", (units, units), self.p.weight_filler),
            Weight("output_bias", (units,), self.p.bias_filler),
        ]

    def step(self, hidden: Hidden, product: Array, cont: Array) -> Hidden:
        return (jnp.tanh(product),)

    def output(self, weights: Mapping[str, Array], steps: Array, multiply: Callable[[Array, Array], Array]) -> Array:
        return jnp.tanh(multiply(steps, weights["output_weight"]) + weights["output_bias"])

    def step_flops(self) -> int:
        return self.p.num_output * (1 + 2 * self.p.num_output + 2)


@built_in("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM, from the sums of its products: ``c = cont f c_before + i g``, ``h = o tanh(c)``.

    Shapes: c_before (1, N, H), gates (1, N, 4H) in the order i, f, o, g, cont (1, N) -> c, h (1, N, H).
    i, f, o are sigmoids and g the tanh of the gates; cont gets no gradient. Source: Caffe 1.0, ``lstm_unit_layer.cpp``.
    """

    bottoms = (3, 3)
    tops = (2, 2)
    constant_bottoms = (2,)
    arithmetic = "sums"

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        c, gates, cont = bottoms
        if len(c) != 3 or c[0] != 1:
            raise self.node.error(f"expected a first bottom, c, of shape (1, N, H); found {c}")
        if gates != (*c[:2], 4 * c[2]):
            raise self.node.error(f"expected gates of shape (1, N, 4H) = {(*c[:2], 4 * c[2])}; found {gates}")
        if cont != c[:2]:
            raise self.node.error(f"expected cont to be (1, N) = {c[:2]}; found {cont}")
        return [c, c]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        c, gates, cont = bottoms
        unit = tuned_lstm_unit if _tuned(ctx.lowering) else lstm_unit
        return unit(c, gates, lax.stop_gradient(cont)[..., None])

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return 10 * math.prod(tops[0])
