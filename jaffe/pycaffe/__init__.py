"""pycaffe over jaffe: scripts for Caffe run when they import this in its place.

``import jaffe.pycaffe as caffe``. What works, what differs and why: docs/pycaffe.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaffe.compile.layer import layer_types
from jaffe.compile.pycaffe import Blob as Blob
from jaffe.compile.pycaffe import PythonLayer
from jaffe.pycaffe import io as io
from jaffe.pycaffe.classifier import Classifier as Classifier
from jaffe.pycaffe.detector import Detector as Detector
from jaffe.pycaffe.features import FeatureExtractor as FeatureExtractor
from jaffe.pycaffe.net import TEST as TEST
from jaffe.pycaffe.net import TRAIN as TRAIN
from jaffe.pycaffe.net import Net as Net
from jaffe.pycaffe.net_spec import NetSpec as NetSpec
from jaffe.pycaffe.net_spec import layers as layers
from jaffe.pycaffe.net_spec import params as params
from jaffe.pycaffe.net_spec import to_proto as to_proto
from jaffe.pycaffe.proto import caffe_pb2 as _caffe_pb2  # noqa: F401  scripts say caffe.proto.caffe_pb2
from jaffe.pycaffe.runtime import NCCL as NCCL
from jaffe.pycaffe.runtime import Timer as Timer
from jaffe.pycaffe.runtime import has_nccl as has_nccl
from jaffe.pycaffe.runtime import init_log as init_log
from jaffe.pycaffe.runtime import log as log
from jaffe.pycaffe.runtime import set_device as set_device
from jaffe.pycaffe.runtime import set_mode_cpu as set_mode_cpu
from jaffe.pycaffe.runtime import set_mode_gpu as set_mode_gpu
from jaffe.pycaffe.runtime import set_multiprocess as set_multiprocess
from jaffe.pycaffe.runtime import set_random_seed as set_random_seed
from jaffe.pycaffe.runtime import set_solver_count as set_solver_count
from jaffe.pycaffe.runtime import set_solver_rank as set_solver_rank
from jaffe.pycaffe.runtime import solver_count as solver_count
from jaffe.pycaffe.runtime import solver_rank as solver_rank

if TYPE_CHECKING:
    from jaffe.pycaffe.solvers import AdaDeltaSolver as AdaDeltaSolver
    from jaffe.pycaffe.solvers import AdaGradSolver as AdaGradSolver
    from jaffe.pycaffe.solvers import AdamSolver as AdamSolver
    from jaffe.pycaffe.solvers import NesterovSolver as NesterovSolver
    from jaffe.pycaffe.solvers import RMSPropSolver as RMSPropSolver
    from jaffe.pycaffe.solvers import SGDSolver as SGDSolver
    from jaffe.pycaffe.solvers import get_solver as get_solver

Layer, layer_type_list = PythonLayer, layer_types
__version__ = "1.0.0"  # of the pycaffe whose interface this is

_SOLVERS = ("AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "NesterovSolver", "RMSPropSolver", "SGDSolver",
            "get_solver")


def __getattr__(name: str) -> Any:
    """The solvers are loaded when they are first used: with them comes optax."""
    if name not in _SOLVERS:
        raise AttributeError(f"module 'jaffe.pycaffe' has no attribute {name!r}")
    return getattr(importlib.import_module("jaffe.pycaffe.solvers"), name)
