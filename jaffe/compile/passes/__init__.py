"""Graph rewrites, and the one list that says in which order they run."""

from jaffe.compile.passes.bypass_identity import bypass_identity
from jaffe.compile.passes.eliminate_dead import eliminate_dead
from jaffe.compile.passes.run import Pass, PassContext, run

# Every pass keeps what the net computes for the values in PassContext.keep.
PIPELINE: tuple[Pass, ...] = (
    bypass_identity,  # Dropout in TEST, Split, Concat of one: readers take what went in
    eliminate_dead,  # layers that lead to nothing kept
)

__all__ = ["PIPELINE", "Pass", "PassContext", "bypass_identity", "eliminate_dead", "run"]
