"""Sampling and beam search, of small models whose every sequence can be tried."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe import compile_net, unroll, zoo
from jaffe.netdef import L, NetSpec, cells

C = 3
CHAIN = np.random.default_rng(0).dirichlet(np.ones(C), size=(C, C))  # of two symbols, the one that follows


def step(carry, symbols):
    """A chain in which a symbol depends on the two before it."""
    return jnp.log(jnp.asarray(CHAIN))[carry, symbols], symbols


def probability(sequence, start=0):
    before, last, total = 0, start, 0.0
    for symbol in sequence:
        total += np.log(CHAIN[before, last, symbol])
        before, last = last, symbol
    return total


def test_samples_have_the_frequencies_of_the_chain():
    many = 4000
    zeros = jnp.zeros(many, jnp.int32)
    drawn, _ = zoo.sample(step, zeros, zeros, 3, jax.random.key(0))
    assert drawn.shape == (many, 3)
    for sequence in product(range(C), repeat=3):
        share = float((np.asarray(drawn) == sequence).all(1).mean())
        expected = np.exp(probability(sequence))
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / many) + 1e-9


def test_temperature_and_top():
    zeros = jnp.zeros(50, jnp.int32)
    likeliest, _ = zoo.sample(step, zeros, zeros, 4, jax.random.key(0), temperature=0)
    before, last, expected = 0, 0, []
    for _ in range(4):
        before, last = last, int(CHAIN[before, last].argmax())
        expected.append(last)
    np.testing.assert_array_equal(likeliest, [expected] * 50)
    for settings in ({"temperature": 1e-3}, {"top_k": 1}):
        np.testing.assert_array_equal(zoo.sample(step, zeros, zeros, 4, jax.random.key(1), **settings)[0], likeliest)
    two, _ = zoo.sample(step, zeros, zeros, 1, jax.random.key(2), top_k=2)
    assert set(np.unique(two)) == set(np.argsort(CHAIN[0, 0])[1:])


@pytest.mark.parametrize("length", [1, 4])
def test_beam_search_with_room_for_all_is_exact(length):
    beams = C**length
    found, total = jax.jit(lambda: zoo.beam_search(
        step, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), length, beams=beams))()
    assert {tuple(one) for one in found.tolist()} == set(product(range(C), repeat=length))
    np.testing.assert_allclose(total, [probability(one) for one in found.tolist()], rtol=1e-5)
    assert (np.diff(total) <= 0).all()


def test_beam_search_with_one_beam_is_greedy():
    zeros = jnp.zeros(1, jnp.int32)
    found, total = zoo.beam_search(step, zeros, zeros, 4, beams=1)
    np.testing.assert_array_equal(found, zoo.sample(step, zeros, zeros, 4, jax.random.key(0), temperature=0)[0])
    np.testing.assert_allclose(total[0], probability(found[0].tolist()), rtol=1e-5)


def test_frequencies_with_a_temperature_and_the_likeliest_two():
    """Probabilities to the power of 1 / temperature, over what is drawn from, make one."""
    many = 4000
    zeros = jnp.zeros(many, jnp.int32)
    drawn, _ = zoo.sample(step, zeros, zeros, 1, jax.random.key(3), temperature=0.5, top_k=2)
    expected = CHAIN[0, 0] ** 2 * (CHAIN[0, 0] > CHAIN[0, 0].min())
    expected /= expected.sum()
    found = np.bincount(np.asarray(drawn[:, 0]), minlength=C) / many
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / many))


def test_draws_depend_on_the_key_alone():
    zeros = jnp.zeros(20, jnp.int32)
    one, again, other = (zoo.sample(step, zeros, zeros, 6, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len({tuple(row) for row in one.tolist()}) > 1  # sequences of a batch are drawn apart


def test_beam_search_finds_more_than_the_greedy_one():
    """As many beams as a greedy search needs to be wrong: here the likeliest first symbol is a bad start."""
    scores = jnp.log(jnp.array([[0.1, 0.5, 0.4], [0.34, 0.33, 0.33], [0.02, 0.08, 0.9]]))
    zeros = jnp.zeros(1, jnp.int32)
    found = [zoo.beam_search(lambda carry, symbols: (scores[symbols], carry), zeros, zeros, 2, beams=beams)
             for beams in (1, 2)]
    assert [symbols[0].tolist() for symbols, _ in found] == [[1, 0], [2, 2]]
    np.testing.assert_allclose([np.exp(total[0]) for _, total in found], [0.5 * 0.34, 0.4 * 0.9], rtol=1e-5)


def test_beam_searches_side_by_side():
    """vmap: each from its own start and carry, as alone."""
    starts = jnp.array([[0], [1], [2], [2]])
    carries = jnp.array([[0], [0], [1], [2]])
    found, total = jax.jit(jax.vmap(lambda carry, start: zoo.beam_search(step, carry, start, 3, beams=2, end=1)))(
        carries, starts)
    assert (found.shape, total.shape) == ((4, 2, 3), (4, 2))
    for i in range(4):
        alone = zoo.beam_search(step, carries[i], starts[i], 3, beams=2, end=1)
        np.testing.assert_array_equal(found[i], alone[0])
        np.testing.assert_allclose(total[i], alone[1], rtol=1e-5)


def test_a_sequence_may_begin_with_the_end():
    """The mark that begins a caption is the one that ends it: only what is written ends a sequence."""
    ends = jnp.full(1, 2, jnp.int32)
    found, total = zoo.beam_search(step, ends, ends, 1, beams=C, end=2)
    np.testing.assert_array_equal(found[:, 0], np.argsort(-CHAIN[2, 2]))
    np.testing.assert_allclose(total, np.log(np.sort(CHAIN[2, 2])[::-1]), rtol=1e-5)


def test_sequences_that_end():
    """After symbol 2 a sequence costs nothing; sequences of all lengths compete."""
    zeros = jnp.zeros(1, jnp.int32)
    found, total = zoo.beam_search(step, zeros, zeros, 4, beams=C**4, end=2)
    expected = {}
    for sequence in product(range(C), repeat=4):
        length = sequence.index(2) + 1 if 2 in sequence else 4
        expected[(*sequence[:length], *[2] * (4 - length))] = probability(sequence[:length])
    best = [tuple(one) for one in found[: len(expected)].tolist()]
    assert set(best) == set(expected)
    np.testing.assert_allclose(total[: len(best)], [expected[one] for one in best], rtol=1e-5)
    assert np.isneginf(total[len(best):]).all()


def char_net(unrolled: bool):
    n = NetSpec()
    n.data = L.Input(shape={"dim": [4, 2]})
    wide = {"type": "uniform", "min": -1, "max": 1}
    n.embed = L.Embed(n.data, input_dim=5, num_output=3, bias_term=False, weight_filler=wide)
    if unrolled:
        n.add(unroll(cells.lstm(6, wide), 4, inputs={"x": (4, 2, 3)}), x=n.embed)
    else:
        n.cont = L.Input(shape={"dim": [4, 2]})
        n.h = L.LSTM(n.embed, n.cont, num_output=6, weight_filler=wide)
    n.scores = L.InnerProduct(n.h, num_output=5, axis=2, weight_filler=wide)
    return compile_net(n)


@pytest.mark.parametrize("unrolled", [False, True], ids=["layer", "unrolled"])
def test_of_a_net(unrolled):
    """Greedy sequences, each symbol from the scores of the whole sequence before it."""
    net = char_net(unrolled)
    variables = net.init(jax.random.key(1))
    step, carry = zoo.char_step(net, variables, batch=2)
    drawn, _ = jax.jit(lambda: zoo.sample(step, carry, jnp.array([1, 4]), 4, jax.random.key(0), temperature=0))()
    symbols = np.zeros((4, 2))
    symbols[0] = [1, 4]
    for t in range(4):
        inputs = {"data": symbols, "cont": np.ones((4, 2))}
        outputs, _ = net.apply(variables, {name: inputs[name] for name in net.inputs}, blobs=["scores"])
        following = outputs["scores"][t].argmax(-1)
        np.testing.assert_array_equal(drawn[:, t], following)
        if t < 3:
            symbols[t + 1] = following


def test_beam_search_of_a_net():
    """All 25 sequences of two symbols, against the scores of the whole sequences."""
    net = char_net(False)
    variables = net.init(jax.random.key(1))
    step, carry = zoo.char_step(net, variables)
    found, total = zoo.beam_search(step, carry, jnp.array([1]), 2, beams=25)
    for sequence, logarithm in zip(np.asarray(found), np.asarray(total), strict=True):
        data = np.array([[1, 1], [sequence[0], 0], [0, 0], [0, 0]])
        scores = jax.nn.log_softmax(net.apply(variables, {"data": data, "cont": np.ones((4, 2))})[0]["scores"])
        np.testing.assert_allclose(logarithm, scores[0, 0, sequence[0]] + scores[1, 0, sequence[1]], rtol=1e-5)
    assert len({tuple(one) for one in np.asarray(found).tolist()}) == 25
