"""Sequences of symbols from a net that predicts the next one.

``sample`` and ``beam_search`` take a step: ``scores, carry = step(carry, symbols)``, of symbols (N,) and scores (N, C),
logits of the symbol that follows. ``char_step`` makes one of a net such as ``zoo.char_lstm``. All are pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import jax

Step: TypeAlias = "Callable[[Any, jax.Array], tuple[jax.Array, Any]]"


def char_step(net: Any, variables: Any, batch: int = 1, scores: str = "scores") -> tuple[Step, Any]:
    """A step of a net that reads ``data`` and ``cont``, (1, N) each, and gives scores (1, N, C); and the carry that the
    first one takes.

    Args:
        net: what ``jaffe.compile_net`` returns.
        batch: N, how many sequences side by side.
        scores: the blob.
    """
    import jax.numpy as jnp

    stepper = net.stepper(outputs=[scores])

    def step(carry: Any, symbols: jax.Array) -> tuple[jax.Array, Any]:
        inputs = {"data": symbols[None], "cont": jnp.ones((1, len(symbols)))}
        outputs, carry = stepper(variables, carry, {name: inputs[name] for name in stepper.inputs})
        return outputs[scores][0], carry

    return step, stepper.start(variables, batch=batch)


def sample(
    step: Step, carry: Any, start: jax.Array, length: int, key: jax.Array, *, temperature: float = 1.0,
    top_k: int | None = None,
) -> tuple[jax.Array, Any]:
    """Sequences drawn symbol by symbol, each with the probability that the net gives it.

    Args:
        start: the symbols before them, (N,).
        length: L.
        temperature: scores are divided by it: below 1 likely symbols become likelier; 0 takes the likeliest.
        top_k: draw from so many of the likeliest symbols only, and those that are as likely as the last of them.

    Returns:
        Symbols (N, L), and the carry after the last but one of them.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    def choose(scores: jax.Array, key: jax.Array) -> jax.Array:
        if temperature == 0:
            return scores.argmax(-1)
        if top_k is not None:
            least = lax.top_k(scores, top_k)[0][:, -1:]
            scores = jnp.where(scores < least, -jnp.inf, scores)
        return jax.random.categorical(key, scores / temperature)

    def one(state: Any, key: jax.Array) -> Any:
        symbols, carry = state
        scores, carry = step(carry, symbols)
        symbols = choose(scores, key).astype(symbols.dtype)
        return (symbols, carry), symbols

    (_, carry), drawn = lax.scan(one, (jnp.asarray(start), carry), jax.random.split(key, length))
    return drawn.T, carry


def beam_search(
    step: Step, carry: Any, start: jax.Array, length: int, *, beams: int, end: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The likeliest sequences that a search finds which goes on with so many at each symbol.

    It is for one sequence; ``jax.vmap`` searches for several, each with a carry of its own.

    Args:
        carry: of one sequence, N = 1.
        start: the symbol before it, (1,).
        length: L, the most symbols.
        beams: B, how many sequences are kept.
        end: the symbol that ends a sequence; it is repeated up to L, which counts nothing.

    Returns:
        Symbols (B, L), the likeliest sequence first, and the logarithms of the probabilities (B,): -inf where there
        are no more sequences.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    def one(state: Any, place: jax.Array) -> Any:
        symbols, total, carry, written = state
        scores, carry = jax.vmap(step)(carry, symbols[:, None])
        following = jax.nn.log_softmax(scores[:, 0])
        if end is not None:
            only_end = jnp.where(jnp.arange(following.shape[1]) == end, 0.0, -jnp.inf)
            ended = (symbols == end) & (place > 0)
            following = jnp.where(ended[:, None], only_end, following)
        total, best = lax.top_k((total[:, None] + following).reshape(-1), beams)
        parents, symbols = best // following.shape[1], (best % following.shape[1]).astype(symbols.dtype)
        carry = jax.tree.map(lambda x: x[parents], carry)
        return (symbols, total, carry, written[parents].at[:, place].set(symbols)), None

    repeated = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], beams, 0), carry)
    symbols = jnp.repeat(jnp.asarray(start), beams)
    total = jnp.full(beams, -jnp.inf).at[0].set(0)  # all beams are one sequence at first
    begin = (symbols, total, repeated, jnp.zeros((beams, length), symbols.dtype))
    (_, total, _, written), _ = lax.scan(one, begin, jnp.arange(length))
    return written, total
