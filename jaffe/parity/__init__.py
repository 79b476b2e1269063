"""Where did it go wrong? A net against a reference, layer by layer, and why the first difference is there."""

from jaffe.parity.comparison import Comparison as Comparison
from jaffe.parity.comparison import Row as Row
from jaffe.parity.comparison import compare as compare
from jaffe.parity.explain import Cause as Cause
from jaffe.parity.explain import Explanation as Explanation
from jaffe.parity.measure import Difference as Difference
from jaffe.parity.oracles import in_float64 as in_float64
from jaffe.parity.oracles import random_inputs as random_inputs
from jaffe.parity.oracles import run_net as run_net
from jaffe.parity.oracles import run_onnx as run_onnx
from jaffe.parity.oracles import run_opencv as run_opencv
from jaffe.parity.reference import Reference as Reference
