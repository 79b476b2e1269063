"""Every message and enum of Caffe's schema, with those of forks that jaffe reads."""

from jaffe.netdef.jaffe_pb2 import *  # noqa: F403
