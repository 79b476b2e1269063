"""What a layer stores, as far as its declaration says: the names of its weights, in the order of Caffe's files."""

from __future__ import annotations

from jaffe.netdef.jaffe_pb2 import LayerParameter
from jaffe.netdef.schema import settings_fields

_PRODUCTS = {"Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise", "InnerProduct", "Embed",
             "LocallyConnected"}
_FIXED = {
    "PReLU": ("slope",), "Normalize": ("scale",), "Parameter": ("weight",), "BatchNorm": ("mean", "variance", "factor"),
}


def stored_names(layer: LayerParameter) -> tuple[str, ...]:
    """Names of the arrays that a layer stores: none for a layer without, and for a type that Caffe and its published
    forks do not have. A test holds them against what the compiler finds."""
    kind, bottoms = layer.type, len(layer.bottom)
    if kind in _PRODUCTS:
        return ("weight", "bias") if getattr(layer, settings_fields(kind)[0]).bias_term else ("weight",)
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "Scale":
        return (("scale",) if bottoms == 1 else ()) + (("bias",) if layer.scale_param.bias_term else ())
    if kind == "Bias":
        return ("bias",) if bottoms == 1 else ()
    if kind == "BN":
        segnet = any(layer.bn_param.HasField(name) for name in ("scale_filler", "shift_filler", "bn_mode"))
        return ("scale", "shift") if segnet else ("slope", "bias", "mean", "variance")
    if kind in ("LSTM", "RNN"):
        exposed = (2 if kind == "LSTM" else 1) if layer.recurrent_param.expose_hidden else 0
        static = ("static_weight",) if bottoms > 2 + exposed else ()
        output = ("output_weight", "output_bias") if kind == "RNN" else ()
        return ("input_weight", "bias", *static, "hidden_weight", *output)
    return ()
