"""An Embed behind which a recurrent layer multiplies: the graphs, and numbers against the two layers one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile import compile_net
from jaffe.compile.passes import join_embed
from tests.compile.programs import after, assert_as_traced
from tests.nets.case import input_layer

STEPS, ITEMS, ROWS = 5, 3, 7
INPUTS = input_layer("words", STEPS, ITEMS) + input_layer("cont", STEPS, ITEMS)
FILLER = '{ type: "uniform" min: -1 max: 1 }'
EMBED = f"""layer {{ name: "embed" type: "Embed" bottom: "words" top: "e" embed_param {{
    input_dim: {ROWS} num_output: 11 weight_filler {FILLER} bias_filler {FILLER} }} }}\n"""
LSTM = f"""layer {{ name: "lstm" type: "LSTM" bottom: "e" bottom: "cont" top: "h" recurrent_param {{
    num_output: 4 weight_filler {FILLER} bias_filler {FILLER} }} }}\n"""
LOSS = """layer { name: "loss" type: "Reduction" bottom: "h" top: "loss" loss_weight: 1
    reduction_param { operation: SUMSQ } }"""
RNN = LSTM.replace("LSTM", "RNN")
STATIC = INPUTS + input_layer("still", ITEMS, 2) + EMBED + LSTM.replace('bottom: "cont"',
                                                                        'bottom: "cont" bottom: "still"')
EXPOSED = (INPUTS + input_layer("h0", 1, ITEMS, 4) + input_layer("c0", 1, ITEMS, 4) + EMBED + LSTM.replace(
    'bottom: "cont"', 'bottom: "cont" bottom: "h0" bottom: "c0"').replace(
    'top: "h"', 'top: "h" top: "h1" top: "c1"').replace("num_output: 4", "num_output: 4 expose_hidden: true"))


SEVERAL = INPUTS.replace(f"dim: {STEPS} dim: {ITEMS}", f"dim: {STEPS} dim: {ITEMS} dim: 2", 1) + EMBED + LSTM


def joined(text: str, *keep: str) -> list[str]:
    return [line for line in after(join_embed, text, *keep) if "Input<" not in line]


def test_a_pair_becomes_one():
    assert joined(INPUTS + EMBED + LSTM) == ["h = Embedded<embed, lstm>(words, cont)"]


@pytest.mark.parametrize(("text", "keep"), [
    (INPUTS + EMBED + LSTM, ("e",)),
    (INPUTS + EMBED + LSTM + 'layer { name: "r" type: "ReLU" bottom: "e" top: "r" }', ()),
    (INPUTS + EMBED + LSTM.replace('top: "h"', 'top: "h" propagate_down: false propagate_down: false'), ()),
    (INPUTS + EMBED.replace(f"input_dim: {ROWS}", f"input_dim: {STEPS * ITEMS}") + LSTM, ()),
    (SEVERAL, ()),
])
def test_what_stays_two(text, keep):
    assert joined(text, *keep)[:2] == ["e = Embed<embed>(words)", "h = LSTM<lstm>(e, cont)"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("text", [INPUTS + EMBED + LSTM, INPUTS + EMBED + RNN, STATIC, EXPOSED],
                         ids=["LSTM", "RNN", "static", "exposed"])
def test_the_numbers_are_those_of_two(text, bias):
    text = text if bias else text.replace("num_output: 11", "num_output: 11 bias_term: false")
    net = compile_net(text + LOSS, phase="TRAIN")
    random = np.random.default_rng(0)
    inputs = {name: random.normal(size=value.shape).astype(np.float32) for name, value in net.inputs.items()}
    inputs["words"] = random.integers(0, ROWS - 1, (STEPS, ITEMS)).astype(np.float32)  # one row is never read
    inputs["cont"] = np.float32(random.random((STEPS, ITEMS)) < 0.7)
    gradients = assert_as_traced(net, inputs, rtol=1e-5, atol=1e-6, loss_rtol=1e-6)
    assert set(gradients["embed"]) == ({"weight", "bias"} if bias else {"weight"})


def test_words_outside_of_the_table_are_nan():
    net = compile_net(INPUTS + EMBED + LSTM, phase="TEST")
    words = jnp.zeros((STEPS, ITEMS)).at[:, 1].set(ROWS)
    outputs, _ = net.apply(net.init(jax.random.key(0)), {"words": words, "cont": jnp.ones((STEPS, ITEMS))})
    assert np.isnan(outputs["h"][:, 1]).all()
    assert np.isfinite(outputs["h"][:, [0, 2]]).all()


def test_products_in_bfloat16_stay_so():
    """The rows of the table are float32 numbers, as all weights; what is looked up is not."""
    net = compile_net(INPUTS + EMBED + LSTM, phase="TRAIN", precision="bfloat16")
    assert [node.type for node in net.program(frozenset(["h"])).nodes][-2:] == ["Embed", "LSTM"]
