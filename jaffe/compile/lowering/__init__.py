"""How XLA is told to compute an op: one function per candidate, and what chooses among them."""

from jaffe.compile.lowering.batch_statistics import AxisName as AxisName
from jaffe.compile.lowering.batch_statistics import normalise_batch as normalise_batch
from jaffe.compile.lowering.channels import scale_channels as scale_channels
from jaffe.compile.lowering.channels import shift_channels as shift_channels
from jaffe.compile.lowering.choose import Lowering as Lowering
from jaffe.compile.lowering.convolution import convolution as convolution
from jaffe.compile.lowering.convolution import deconvolution as deconvolution
from jaffe.compile.lowering.geometry import ConvGeometry as ConvGeometry
from jaffe.compile.lowering.pooling import PoolGeometry as PoolGeometry
from jaffe.compile.lowering.pooling import average_pool as average_pool
from jaffe.compile.lowering.pooling import max_places as max_places
from jaffe.compile.lowering.pooling import max_pool as max_pool
from jaffe.compile.lowering.pooling import stochastic_pool as stochastic_pool
from jaffe.compile.lowering.products import product as product
from jaffe.compile.lowering.resampling import interpolate as interpolate
from jaffe.compile.lowering.resampling import repeat as repeat
from jaffe.compile.lowering.resampling import unpool as unpool
from jaffe.compile.lowering.response import normalise_response as normalise_response
from jaffe.compile.lowering.unfold import unfold as unfold
