"""The layer types of Caffe, one module a family. Importing this package registers them."""

from jaffe.compile.layers import arithmetic as arithmetic
from jaffe.compile.layers import batch_norm as batch_norm
from jaffe.compile.layers import convolution as convolution
from jaffe.compile.layers import correlation as correlation
from jaffe.compile.layers import ctc as ctc
from jaffe.compile.layers import data as data
from jaffe.compile.layers import detection as detection
from jaffe.compile.layers import distance_loss as distance_loss
from jaffe.compile.layers import indexing as indexing
from jaffe.compile.layers import label_loss as label_loss
from jaffe.compile.layers import linear as linear
from jaffe.compile.layers import loss as loss
from jaffe.compile.layers import multibox as multibox
from jaffe.compile.layers import neuron as neuron
from jaffe.compile.layers import normalisation as normalisation
from jaffe.compile.layers import pooling as pooling
from jaffe.compile.layers import python as python
from jaffe.compile.layers import rearranging as rearranging
from jaffe.compile.layers import recurrent as recurrent
from jaffe.compile.layers import regions as regions
from jaffe.compile.layers import resampling as resampling
from jaffe.compile.layers import routing as routing
from jaffe.compile.layers import unfolding as unfolding
