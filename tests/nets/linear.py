"""Nets for tests: parameterised linear layers."""

from __future__ import annotations

from tests.nets.case import FILL, Case, X, Y, one

NETS = {
    "inner_product": Case(one("InnerProduct", f"inner_product_param {{ num_output: 4 {FILL} }}")),
    "scale": Case(one("Scale", "scale_param { axis: 1 bias_term: true filler { type: 'uniform' } }")),
    "scale_two": Case(one("Scale", "scale_param { axis: 0 }", bottoms="x y", inputs=X + Y)),
}
