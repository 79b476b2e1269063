"""What the protobuf schema says of layers: which message holds the settings of which layer type."""

from __future__ import annotations

from typing import Any

from jaffe.netdef.jaffe_pb2 import LayerParameter

# Layer types whose settings live in a message of another name, most specific first.
_BORROWED = {
    "Deconvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "DepthwiseConvolution": ("convolution_param",),
    "ConvolutionDepthwise": ("convolution_param",),
    "LocallyConnected": ("convolution_param",),
    "PriorBoxClustered": ("prior_box_param",),
    "Normalize": ("norm_param",),
    "MultiBoxLoss": ("multibox_loss_param", "loss_param"),
    "CTCLoss": ("ctc_loss_param", "loss_param"),
    "CTCGreedyDecoder": ("ctc_loss_param",),
    "LSTM": ("recurrent_param",),
    "RNN": ("recurrent_param",),
    "SoftmaxWithLoss": ("loss_param", "softmax_param"),
    "SigmoidCrossEntropyLoss": ("loss_param",),
    "InfogainLoss": ("infogain_loss_param", "loss_param"),
    "Data": ("data_param", "transform_param", "sampling_param"),
    "ImageData": ("image_data_param", "transform_param", "sampling_param"),
    "WindowData": ("window_data_param", "transform_param"),
    "HDF5Data": ("hdf5_data_param", "sampling_param"),
    "Input": ("input_param", "sampling_param"),
    "MemoryData": ("memory_data_param", "transform_param", "sampling_param"),
}

# Fields of LayerParameter that hold a layer's settings, by the name of their message type.
_BY_MESSAGE = {
    field.message_type.name: field.name
    for field in LayerParameter.DESCRIPTOR.fields
    if field.message_type is not None and field.name.endswith("_param")
}

# Every *_param field, so that one set on a layer that does not read it can be refused.
SETTINGS_FIELDS = frozenset(_BY_MESSAGE.values())


def settings_fields(layer_type: str) -> tuple[str, ...]:
    """Names of the ``LayerParameter`` fields that a layer of this type reads; empty when unknown.

    >>> settings_fields("Convolution"), settings_fields("SoftmaxWithLoss")
    (('convolution_param',), ('loss_param', 'softmax_param'))
    """
    if layer_type in _BORROWED:
        return _BORROWED[layer_type]
    own = _BY_MESSAGE.get(f"{layer_type}Parameter")
    return (own,) if own else ()


def field_names(message: Any) -> list[str]:
    """The field names of a protobuf message or message class, in schema order."""
    return [field.name for field in message.DESCRIPTOR.fields]
