"""From a resolved graph to pure, jit-able JAX functions."""

from jaffe.compile.layer import Context as Context
from jaffe.compile.layer import Layer as Layer
from jaffe.compile.layer import Weight as Weight
from jaffe.compile.layer import layer_types as layer_types
from jaffe.compile.layer import register_layer as register_layer
from jaffe.compile.layer import temporary_layers as temporary_layers
from jaffe.compile.net import CompiledNet as CompiledNet
from jaffe.compile.net import compile_net as compile_net
from jaffe.compile.partition import Partition as Partition
from jaffe.compile.pycaffe import PythonLayer as PythonLayer
from jaffe.compile.tracing import Trace as Trace
from jaffe.compile.tracing import trace as trace
from jaffe.compile.weights import WeightsReport as WeightsReport
from jaffe.compile.weights import load_weights as load_weights
from jaffe.compile.weights import save_weights as save_weights
from jaffe.compile.weights import weights_report as weights_report
