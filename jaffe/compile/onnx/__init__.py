"""Nets as ONNX models: one function a layer type, in a module a family, that adds the layer's nodes."""

from jaffe.compile.onnx import arithmetic as arithmetic
from jaffe.compile.onnx import convolution as convolution
from jaffe.compile.onnx import correlation as correlation
from jaffe.compile.onnx import data as data
from jaffe.compile.onnx import detection as detection
from jaffe.compile.onnx import indexing as indexing
from jaffe.compile.onnx import linear as linear
from jaffe.compile.onnx import neuron as neuron
from jaffe.compile.onnx import normalisation as normalisation
from jaffe.compile.onnx import pooling as pooling
from jaffe.compile.onnx import rearranging as rearranging
from jaffe.compile.onnx import recurrent as recurrent
from jaffe.compile.onnx import regions as regions
from jaffe.compile.onnx import resampling as resampling
from jaffe.compile.onnx import routing as routing
from jaffe.compile.onnx import unfolding as unfolding
from jaffe.compile.onnx.model import export as export
from jaffe.compile.onnx.writer import OPSET as OPSET
