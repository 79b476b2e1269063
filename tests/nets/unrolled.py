"""Nets unrolled over time, each written in one of the many ways in which people do it."""

from __future__ import annotations

from tests.nets.case import FILL, input_layer

N, D, H = 3, 2, 7  # sequences, inputs, units


def layer(kind: str, name: str, bottoms: str, tops: str = "", more: str = "") -> str:
    """``bottoms`` and ``tops`` are names with spaces between; the top is called as the layer by default."""
    below = "".join(f' bottom: "{one}"' for one in bottoms.split())
    above = "".join(f' top: "{one}"' for one in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}"{below}{above} {more} }}\n'


def product(name: str, bottom: str, weight: str, outputs: int = H, more: str = "") -> str:
    """An InnerProduct over the last axis of (1, N, ...), without bias."""
    shared = f'param {{ name: "{weight}" }}' if weight else ""
    return layer("InnerProduct", name, bottom, more=f"{shared} {more} inner_product_param {{ num_output: {outputs} "
                                                    f"axis: 2 bias_term: false {FILL} }}")


def pieces(name: str, bottom: str, steps: int, points: bool = False, axis: int = 0) -> str:
    """A Slice into name_1 ... name_T."""
    cut = "".join(f"slice_point: {t} " for t in range(1, steps)) if points else ""
    return layer("Slice", f"{name}_slice", bottom, " ".join(f"{name}_{t}" for t in range(1, steps + 1)),
                 f"slice_param {{ axis: {axis} {cut}}}")


def together(name: str, steps: range, top: str = "") -> str:
    return layer("Concat", top or f"{name}_all", " ".join(f"{name}_{t}" for t in steps),
                 more="concat_param { axis: 0 }")


def zeros(*names: str) -> str:
    """Blobs (1, N, H) of zeros."""
    shapes = f"shape {{ dim: 1 dim: {N} dim: {H} }} " * len(names)
    return layer("DummyData", f"{names[0]}_zeros", "", " ".join(names), f"dummy_data_param {{ {shapes} }}")


def inputs(steps: int, *more: str) -> str:
    return input_layer("x", steps, N, D) + "".join(more) + pieces("x", "x", steps)


def simple_step(
    t: int, *, x: str = "x", h: str = "h", before: str = "", name: str = "", weights: str | None = None, more: str = ""
) -> str:
    """h_t = tanh(W_x x_t + W_h h_(t-1)); without the second product where ``before`` is "-"."""
    weights = name if weights is None else weights
    text = product(f"{name}x2h_{t}", f"{x}_{t}", f"{weights}W_x")
    if before == "-":
        return text + layer("TanH", f"{name}tanh_{t}", f"{name}x2h_{t}", f"{h}_{t}")
    return (text + product(f"{name}h2h_{t}", before or f"{h}_{t - 1}", f"{weights}W_h", more=more)
            + layer("Eltwise", f"{name}sum_{t}", f"{name}x2h_{t} {name}h2h_{t}")
            + layer("TanH", f"{name}tanh_{t}", f"{name}sum_{t}", f"{h}_{t}"))


def simple(steps: int = 5) -> str:
    return (inputs(steps) + zeros("h_0") + "".join(simple_step(t) for t in range(1, steps + 1))
            + together("h", range(1, steps + 1)))


def first_differs() -> str:
    """The first step has no recurrent product."""
    return inputs(6) + "".join(simple_step(t, before="-" if t == 1 else "") for t in range(1, 7)) + together(
        "h", range(1, 7))


def lstm(steps: int = 5, masked: bool = True) -> str:
    """As Caffe's LSTM layer unrolls itself: one product with the input of all steps, LSTMUnit, cont."""
    text = input_layer("x", steps, N, D) + input_layer("cont", steps, N) + zeros("h_0", "c_0")
    text += product("x2g", "x", "", 4 * H) + pieces("x2g", "x2g", steps) + pieces("cont", "cont", steps)
    for t in range(1, steps + 1):
        text += layer("Scale", f"masked_{t}", f"h_{t - 1} cont_{t}", more="scale_param { axis: 0 }") if masked else ""
        text += product(f"h2g_{t}", f"masked_{t}" if masked else f"h_{t - 1}", "W_h", 4 * H)
        text += layer("Eltwise", f"gates_{t}", f"x2g_{t} h2g_{t}")
        text += layer("LSTMUnit", f"unit_{t}", f"c_{t - 1} gates_{t} cont_{t}", f"c_{t} h_{t}")
    return text + together("h", range(1, steps + 1))


def lstm_of_gates(steps: int = 5) -> str:
    """Every gate by layers of its own, some in place."""
    text = inputs(steps) + zeros("h_0", "c_0")
    for t in range(1, steps + 1):
        text += product(f"x2g_{t}", f"x_{t}", "W_x", 4 * H) + product(f"h2g_{t}", f"h_{t - 1}", "W_h", 4 * H)
        text += layer("Eltwise", f"sums_{t}", f"x2g_{t} h2g_{t}")
        text += layer("Slice", f"gates_{t}", f"sums_{t}", f"i_{t} f_{t} o_{t} g_{t}", "slice_param { axis: 2 }")
        text += "".join(layer("Sigmoid", f"sigmoid_{one}_{t}", f"{one}_{t}", f"{one}_{t}") for one in "ifo")
        text += layer("TanH", f"tanh_g_{t}", f"g_{t}", f"g_{t}")
        text += layer("Eltwise", f"ig_{t}", f"i_{t} g_{t}", more="eltwise_param { operation: PROD }")
        text += layer("Eltwise", f"fc_{t}", f"f_{t} c_{t - 1}", more="eltwise_param { operation: PROD }")
        text += layer("Eltwise", f"c_{t}", f"ig_{t} fc_{t}") + layer("TanH", f"tanh_c_{t}", f"c_{t}")
        text += layer("Eltwise", f"h_{t}", f"o_{t} tanh_c_{t}", more="eltwise_param { operation: PROD }")
    return text + together("h", range(1, steps + 1))


def layer_major() -> str:
    """All products with the input before the recurrence, each with its own layer; two recurrences on each other."""
    steps = range(1, 6)
    text = inputs(5) + zeros("h_0", "g_0") + "".join(product(f"x2h_{t}", f"x_{t}", "W_x") for t in steps)
    for below, name in (("x2h", "h"), ("h", "g")):
        for t in steps:
            text += product(f"{name}2{name}_{t}", f"{name}_{t - 1}", f"W_{name}")
            text += layer("Eltwise", f"sum_{name}_{t}", f"{below}_{t} {name}2{name}_{t}")
            text += layer("TanH", f"{name}_{t}", f"sum_{name}_{t}")
    return text + together("g", steps)


def both_ways() -> str:
    """Forwards and backwards through time, put together at each step, and scored."""
    text = inputs(5) + zeros("h_0", "b_6") + "".join(simple_step(t, name="f_") for t in range(1, 6))
    text += "".join(simple_step(t, h="b", before=f"b_{t + 1}", name="b_") for t in range(5, 0, -1))
    for t in range(1, 6):
        text += layer("Concat", f"both_{t}", f"h_{t} b_{t}", more="concat_param { axis: 2 }")
        text += product(f"y_{t}", f"both_{t}", "W_y", 5)
    return text + together("y", range(1, 6))


def skip_two() -> str:
    """h_t also gets h_(t-2)."""
    text = inputs(7) + zeros("h_0", "h_-1")
    for t in range(1, 8):
        text += product(f"x2h_{t}", f"x_{t}", "W_x") + product(f"h2h_{t}", f"h_{t - 1}", "W_h")
        text += layer("Eltwise", f"sum_{t}", f"x2h_{t} h2h_{t} h_{t - 2}", more="eltwise_param { coeff: 1 coeff: 1 "
                                                                                 "coeff: 0.5 }")
        text += layer("TanH", f"h_{t}", f"sum_{t}")
    return text + together("h", range(1, 8))


def one_differs() -> str:
    """Step 6 of 11 scales its sum otherwise."""
    text = inputs(11) + zeros("h_0")
    for t in range(1, 12):
        text += product(f"x2h_{t}", f"x_{t}", "W_x") + product(f"h2h_{t}", f"h_{t - 1}", "W_h")
        text += layer("Eltwise", f"sum_{t}", f"x2h_{t} h2h_{t}",
                      more=f"eltwise_param {{ coeff: 1 coeff: {0.5 if t == 6 else 1} }}")
        text += layer("TanH", f"h_{t}", f"sum_{t}")
    return text + together("h", range(1, 12))


def own_input_weights() -> str:
    """The recurrent weight is shared, those of the inputs are not."""
    text = inputs(5) + zeros("h_0")
    for t in range(1, 6):
        text += simple_step(t).replace('param { name: "W_x" }', "")
    return text + together("h", range(1, 6))


def nothing_shared() -> str:
    return simple().replace('param { name: "W_x" }', "").replace('param { name: "W_h" }', "")


def alternating() -> str:
    """Every other step is a ReLU's."""
    text = inputs(8) + zeros("h_0")
    for t in range(1, 9):
        text += simple_step(t) if t % 2 else simple_step(t).replace('"TanH"', '"ReLU"')
    return text + together("h", range(1, 9))


def losses() -> str:
    """A loss and scores at every step, the labels cut from one blob; weights differ from those of the gradient's."""
    text = inputs(5, input_layer("label", 5, N)) + zeros("h_0") + pieces("label", "label", 5)
    for t in range(1, 6):
        text += simple_step(t) + product(f"y_{t}", f"h_{t}", "W_y", 5)
        text += layer("SoftmaxWithLoss", f"loss_{t}", f"y_{t} label_{t}",
                      more="loss_weight: 0.5 softmax_param { axis: 2 }")
    return text


def last_only() -> str:
    """Scores of the last step."""
    return simple().rsplit("layer", 1)[0] + product("y", "h_5", "", 5)


def dropped() -> str:
    """Dropout in place between two steps."""
    text = inputs(5) + zeros("h_0")
    for t in range(1, 6):
        text += simple_step(t) + layer("Dropout", f"drop_{t}", f"h_{t}", f"h_{t}")
    return text + together("h", range(1, 6))


def truncated() -> str:
    """No gradient flows back through the recurrent product."""
    return inputs(5) + zeros("h_0") + "".join(simple_step(t, more="propagate_down: false") for t in range(1, 6)) + (
        together("h", range(1, 6)))


def frozen() -> str:
    return simple().replace('param { name: "W_h" }', 'param { name: "W_h" lr_mult: 0 }')


def back_to_the_first() -> str:
    """Each later step reads the first one's h too."""
    text = inputs(7) + zeros("h_0") + simple_step(1)
    for t in range(2, 8):
        text += product(f"x2h_{t}", f"x_{t}", "W_x") + product(f"h2h_{t}", f"h_{t - 1}", "W_h")
        text += layer("Eltwise", f"sum_{t}", f"x2h_{t} h2h_{t} h_1") + layer("TanH", f"tanh_{t}", f"sum_{t}", f"h_{t}")
    return text + together("h", range(1, 8))


def encoder_decoder() -> str:
    """A decoder of other weights and another length goes on from the encoder's last step, and reads all of them."""
    text = inputs(5, input_layer("y", 4, N, D)) + zeros("h_0") + "".join(simple_step(t) for t in range(1, 6))
    text += together("h", range(1, 6)) + pieces("y", "y", 4)
    text += layer("Reduction", "mean", "h_all", more="reduction_param { operation: MEAN axis: 2 }")
    text += layer("Reshape", "seen", "mean", more="reshape_param { shape { dim: 1 dim: 3 dim: -1 } }")
    text += layer("Power", "d_0", "h_5")
    for t in range(1, 5):
        text += product(f"y2d_{t}", f"y_{t}", "V_y") + product(f"d2d_{t}", f"d_{t - 1}", "V_d")
        text += product(f"seen2d_{t}", "seen", "V_s")
        text += layer("Eltwise", f"sum_d_{t}", f"y2d_{t} d2d_{t} seen2d_{t}") + layer("TanH", f"d_{t}", f"sum_d_{t}")
    return text + together("d", range(1, 5))


def siamese() -> str:
    """Two sequences through one recurrence, step by step in turn, and their distance."""
    text = inputs(5, input_layer("z", 5, N, D)) + pieces("z", "z", 5) + zeros("h_0", "k_0")
    for t in range(1, 6):
        text += simple_step(t) + simple_step(t, x="z", h="k", name="other_", weights="")
    return text + layer("Eltwise", "away", "h_5 k_5", more="eltwise_param { coeff: 1 coeff: -1 }")


def twice_a_step() -> str:
    """One weight is used twice in each step."""
    text = input_layer("x", 8, N, H) + pieces("x", "x", 8) + zeros("h_0")
    for t in range(1, 9):
        text += product(f"a_{t}", f"h_{t - 1}", "W") + layer("TanH", f"ta_{t}", f"a_{t}")
        text += product(f"b_{t}", f"ta_{t}", "W") + layer("Eltwise", f"h_{t}", f"b_{t} x_{t}")
    return text + together("h", range(1, 9))


def some_steps() -> str:
    """Only steps 3 to 8 of 10 are used, and the outputs of some."""
    text = inputs(10) + zeros("h_2") + "".join(simple_step(t) for t in range(3, 9))
    return text + layer("Concat", "some", "h_4 h_5 h_6 x2h_3 h_8", more="concat_param { axis: 0 }") + layer(
        "Silence", "rest", "x_1 x_2 x_9 x_10", " ").replace(' top: " "', "")


def convolutional() -> str:
    """A convolution of what goes from step to step, and one of the images."""
    text = input_layer("x", 5 * N, 2, 5, 3) + pieces("x", "x", 5)
    text += layer("DummyData", "zero", "", "h_0", f"dummy_data_param {{ shape {{ dim: {N} dim: 4 dim: 5 dim: 3 }} }}")
    for t in range(1, 6):
        for name, below, weight in (("x2h", f"x_{t}", "W_x"), ("h2h", f"h_{t - 1}", "W_h")):
            text += layer("Convolution", f"{name}_{t}", below, more=f'param {{ name: "{weight}" }} convolution_param '
                          f"{{ num_output: 4 kernel_size: 3 pad: 1 bias_term: false {FILL} }}")
        text += layer("Eltwise", f"sum_{t}", f"x2h_{t} h2h_{t}") + layer("TanH", f"h_{t}", f"sum_{t}")
    return text + together("h", range(1, 6))


def normalised() -> str:
    """Batch normalisation at every step, whose statistics are shared: state, in phase TRAIN."""
    text = inputs(5) + zeros("h_0")
    for t in range(1, 6):
        text += simple_step(t) + layer("BatchNorm", f"norm_{t}", f"h_{t}", f"h_{t}",
                                       'param { name: "m" } param { name: "v" } param { name: "f" }')
    return text + together("h", range(1, 6))


def around_the_loop() -> str:
    """Each step also depends on the one before by a layer that is like no other."""
    text = inputs(6) + zeros("h_0")
    for t in range(1, 7):
        text += layer("Power", f"own_{t}", f"h_{t - 1}", more=f"power_param {{ scale: {1 + t / 10:g} }}")
        text += product(f"x2h_{t}", f"x_{t}", "W_x") + product(f"h2h_{t}", f"h_{t - 1}", "W_h")
        text += layer("Eltwise", f"sum_{t}", f"x2h_{t} h2h_{t} own_{t}") + layer("TanH", f"h_{t}", f"sum_{t}")
    return text + together("h", range(1, 7))


# Each net, and how often its program has a loop (phase TRAIN).
UNROLLED: dict[str, tuple[str, int]] = {
    "simple": (simple(), 1),
    "first differs": (first_differs(), 1),
    "lstm": (lstm(), 1),
    "lstm of gates": (lstm_of_gates(), 1),
    "layer major": (layer_major(), 2),
    "both ways": (both_ways(), 2),
    "skip two": (skip_two(), 1),
    "one differs": (one_differs(), 2),
    "own input weights": (own_input_weights(), 1),
    "nothing shared": (nothing_shared(), 0),
    "alternating": (alternating(), 1),
    "losses": (losses(), 1),
    "last only": (last_only(), 1),
    "dropped": (dropped(), 1),
    "truncated": (truncated(), 1),
    "frozen": (frozen(), 1),
    "back to the first": (back_to_the_first(), 1),
    "encoder, decoder": (encoder_decoder(), 2),
    "siamese": (siamese(), 2),
    "twice a step": (twice_a_step(), 1),
    "some steps": (some_steps(), 1),
    "convolutional": (convolutional(), 0),
    "normalised": (normalised(), 0),
    "around the loop": (around_the_loop(), 0),
}
