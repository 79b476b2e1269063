"""Small nets, one a layer type, for tests that hold for every layer. Sizes are different primes on each axis."""

from __future__ import annotations

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } } }\n'
Y = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } } }\n'
LABELS = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 7 dim: 5 } } }\n'


def one(kind: str, settings: str = "", bottoms: str = "x", tops: str = "t", inputs: str = X) -> str:
    """A net of inputs and one layer named ``l``."""
    blobs = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return f'{inputs}layer {{ name: "l" type: "{kind}"{blobs} {settings} }}\n'


_FILL = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 }'

# name: net. Every layer type is here at least once.
NETS = {
    "convolution": one("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 stride: 2 {_FILL} }}"),
    "convolution_dilated": one(
        "Convolution", f"convolution_param {{ num_output: 6 kernel_size: 2 dilation: 2 group: 3 {_FILL} }}"
    ),
    "convolution_1d": one(
        "Convolution", f"convolution_param {{ axis: -2 num_output: 2 kernel_size: 3 stride: 2 {_FILL} }}"
    ),
    "convolution_3d": one(
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 1 pad: 1 {_FILL} }}",
        inputs='layer { name: "x" type: "Input" top: "x" input_param { shape '
        '{ dim: 2 dim: 3 dim: 5 dim: 7 dim: 11 } } }\n',
    ),
    "pooling_max": one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }"),
    "pooling_mask": one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops="t mask"),
    "pooling_ave": one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
    "pooling_stochastic": one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"),
    "pooling_global": one("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    "inner_product": one("InnerProduct", f"inner_product_param {{ num_output: 4 {_FILL} }}"),
    "lrn": one("LRN", "lrn_param { local_size: 3 alpha: 2 }"),
    "lrn_within": one("LRN", "lrn_param { local_size: 3 alpha: 2 norm_region: WITHIN_CHANNEL }"),
    "relu": one("ReLU", "relu_param { negative_slope: 0.1 }"),
    "sigmoid": one("Sigmoid"),
    "tanh": one("TanH"),
    "power": one("Power", "power_param { power: 3 scale: 0.5 shift: 1 }"),
    "dropout": one("Dropout", "dropout_param { dropout_ratio: 0.3 }"),
    "flatten": one("Flatten", "flatten_param { axis: 1 end_axis: 2 }"),
    "reshape": one("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }"),
    "concat": one("Concat", "concat_param { axis: 2 }", bottoms="x y", inputs=X + Y),
    "slice": one("Slice", "slice_param { axis: 2 slice_point: 3 slice_point: 4 }", tops="t u v"),
    "split": one("Split", tops="t u"),
    "silence": one("Silence", bottoms="y", tops="", inputs=X + Y)
    + 'layer { name: "r" type: "ReLU" bottom: "x" top: "t" }',
    "eltwise_sum": one("Eltwise", "eltwise_param { coeff: 2 coeff: -1 }", bottoms="x y", inputs=X + Y),
    "eltwise_prod": one("Eltwise", "eltwise_param { operation: PROD }", bottoms="x y", inputs=X + Y),
    "eltwise_max": one("Eltwise", "eltwise_param { operation: MAX }", bottoms="x y", inputs=X + Y),
    "softmax": one("Softmax"),
    "softmax_loss": one("SoftmaxWithLoss", bottoms="x y", tops="t p", inputs=X + LABELS),
    "sigmoid_loss": one("SigmoidCrossEntropyLoss", bottoms="x y", inputs=X + Y),
    "euclidean_loss": one("EuclideanLoss", bottoms="x y", inputs=X + Y),
    "accuracy": one("Accuracy", "accuracy_param { top_k: 2 }", bottoms="x y", tops="t u", inputs=X + LABELS),
    "batch_norm": one("BatchNorm"),
    "scale": one("Scale", "scale_param { axis: 1 bias_term: true filler { type: 'uniform' } }"),
    "scale_two": one("Scale", "scale_param { axis: 0 }", bottoms="x y", inputs=X + Y),
    "dummy": X
    + 'layer { name: "l" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } '
    'data_filler { type: "gaussian" } } }\nlayer { name: "s" type: "Eltwise" bottom: "x" bottom: "d" top: "t" }\n',
}
