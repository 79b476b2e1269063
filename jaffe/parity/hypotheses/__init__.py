"""What is known to go wrong between Caffe and its conversions: one function each, which says how to compute it."""

from jaffe.parity.hypotheses import activation as _activation  # noqa: F401  registers
from jaffe.parity.hypotheses import inputs as _inputs  # noqa: F401
from jaffe.parity.hypotheses import linear as _linear  # noqa: F401
from jaffe.parity.hypotheses import normalisation as _normalisation  # noqa: F401
from jaffe.parity.hypotheses import pooling as _pooling  # noqa: F401
from jaffe.parity.hypotheses import routing as _routing  # noqa: F401
from jaffe.parity.hypotheses.base import HYPOTHESES as HYPOTHESES
from jaffe.parity.hypotheses.base import Hypothesis as Hypothesis
from jaffe.parity.hypotheses.base import Suspect as Suspect
from jaffe.parity.hypotheses.base import Variation as Variation
