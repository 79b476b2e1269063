"""Graph rewrites, and the lists that say in which order they run."""

from jaffe.compile.passes.bypass_identity import bypass_identity
from jaffe.compile.passes.divide import divide
from jaffe.compile.passes.eliminate_dead import eliminate_dead
from jaffe.compile.passes.fold_batch_norm import fold_batch_norm
from jaffe.compile.passes.join_embed import join_embed
from jaffe.compile.passes.join_scale import join_scale
from jaffe.compile.passes.merge_equal import merge_equal
from jaffe.compile.passes.merge_siblings import merge_siblings
from jaffe.compile.passes.pool_first import pool_first
from jaffe.compile.passes.recompute import recompute
from jaffe.compile.passes.reroll import reroll
from jaffe.compile.passes.run import Pass, PassContext, run

# Every pass keeps what the net computes for the values in PassContext.keep.
SIMPLIFICATIONS: tuple[Pass, ...] = (  # what ONNX models are written from too
    bypass_identity,  # Dropout in TEST, Split, Concat of one: readers take what went in
    eliminate_dead,  # layers that lead to nothing kept
)
BEFORE_LOOPS: tuple[Pass, ...] = (
    *SIMPLIFICATIONS,
    merge_equal,  # layers that compute the same
    divide,  # layers whose weights are divided over devices
    fold_batch_norm,  # BatchNorm and Scale into the product before them, in TEST
    join_scale,  # Scale with the BatchNorm before it, where that normalises by the batch
    join_embed,  # Embed into the LSTM or RNN that reads it, where the table is small
    merge_siblings,  # 1x1 convolutions that read one value into one
    pool_first,  # MAX Pooling before the bias and the ReLU that it alone reads, in TEST
)
PIPELINE: tuple[Pass, ...] = (  # what JAX runs
    *BEFORE_LOOPS,
    reroll,  # the time steps of an unrolled net into loops
    recompute,  # what would not fit into memory until the backward pass
)

__all__ = ["BEFORE_LOOPS", "PIPELINE", "SIMPLIFICATIONS", "Pass", "PassContext", "bypass_identity", "divide",
           "eliminate_dead", "fold_batch_norm", "join_embed", "join_scale", "merge_equal", "merge_siblings",
           "pool_first", "recompute", "reroll", "run"]
