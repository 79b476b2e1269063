"""Files of weights, read and written as NumPy arrays by layer name. Imports no JAX."""

from jaffe.netdef.weights.blob import array_to_blob as array_to_blob
from jaffe.netdef.weights.blob import blob_shape as blob_shape
from jaffe.netdef.weights.blob import blob_size as blob_size
from jaffe.netdef.weights.blob import blob_to_array as blob_to_array
from jaffe.netdef.weights.blob import numbers as numbers
from jaffe.netdef.weights.blob import same_values as same_values
from jaffe.netdef.weights.difference import Difference as Difference
from jaffe.netdef.weights.difference import differences as differences
from jaffe.netdef.weights.files import Layers as Layers
from jaffe.netdef.weights.files import by_name as by_name
from jaffe.netdef.weights.files import check_suffix as check_suffix
from jaffe.netdef.weights.files import read_entries as read_entries
from jaffe.netdef.weights.files import read_weights as read_weights
from jaffe.netdef.weights.files import write_weights as write_weights
