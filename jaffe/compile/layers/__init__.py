"""The layer types of Caffe, one module a family. Importing this package registers them."""

from jaffe.compile.layers import convolution as convolution
from jaffe.compile.layers import data as data
from jaffe.compile.layers import linear as linear
from jaffe.compile.layers import loss as loss
from jaffe.compile.layers import neuron as neuron
from jaffe.compile.layers import normalisation as normalisation
from jaffe.compile.layers import pooling as pooling
from jaffe.compile.layers import routing as routing
