"""Caffe's messages: ``from jaffe.pycaffe.proto import caffe_pb2``."""
