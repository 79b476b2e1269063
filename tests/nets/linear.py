"""Nets for tests: parameterised linear layers."""

from __future__ import annotations

from tests.nets.case import FILL, Case, X, Y, input_layer, one

NETS = {
    "inner_product": Case(one("InnerProduct", f"inner_product_param {{ num_output: 4 {FILL} }}")),
    "scale": Case(one("Scale", "scale_param { axis: 1 bias_term: true filler { type: 'uniform' } }")),
    "scale_two": Case(one("Scale", "scale_param { axis: 0 }", bottoms="x y", inputs=X + Y)),
    "bias": Case(one("Bias", "bias_param { axis: 1 num_axes: 2 filler { type: 'uniform' } }")),
    "bias_two": Case(one("Bias", "bias_param { axis: 1 }", bottoms="x y", inputs=X + input_layer("y", 3, 7))),
    "embed": Case(
        one("Embed", f"embed_param {{ num_output: 7 input_dim: 11 {FILL} }}", "y", "e",
            input_layer("x", 5, 3, 7) + input_layer("y", 5, 3))
        + 'layer { name: "product" type: "Eltwise" bottom: "x" bottom: "e" top: "t" '
        "eltwise_param { operation: PROD } }",
        integers={"y": 11},
    ),
    "parameter": Case(
        one("Parameter", "parameter_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } }", "", "p")
        + 'layer { name: "product" type: "Eltwise" bottom: "x" bottom: "p" top: "t" '
        "eltwise_param { operation: PROD } }"
    ),
}
