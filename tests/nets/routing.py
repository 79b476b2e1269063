"""Nets for tests: shapes, copies and sums."""

from __future__ import annotations

from tests.nets.case import Case, X, Y, one

NETS = {
    "flatten": Case(one("Flatten", "flatten_param { axis: 1 end_axis: 2 }")),
    "reshape": Case(one("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 5 } }")),
    "concat": Case(one("Concat", "concat_param { axis: 2 }", bottoms="x y", inputs=X + Y)),
    "slice": Case(one("Slice", "slice_param { axis: 2 slice_point: 3 slice_point: 4 }", tops="t u v")),
    "split": Case(one("Split", tops="t u")),
    "silence": Case(one("Silence", bottoms="y", tops="", inputs=X + Y)
    + 'layer { name: "r" type: "ReLU" bottom: "x" top: "t" }'),
    "eltwise_sum": Case(one("Eltwise", "eltwise_param { coeff: 2 coeff: -1 }", bottoms="x y", inputs=X + Y)),
    "eltwise_prod": Case(one("Eltwise", "eltwise_param { operation: PROD }", bottoms="x y", inputs=X + Y)),
    "eltwise_max": Case(one("Eltwise", "eltwise_param { operation: MAX }", bottoms="x y", inputs=X + Y)),
    "dummy": Case(X
    + 'layer { name: "l" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } '
    'data_filler { type: "gaussian" } } }\nlayer { name: "s" type: "Eltwise" bottom: "x" bottom: "d" top: "t" }\n'),
}
