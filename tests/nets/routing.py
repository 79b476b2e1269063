"""Nets for tests: shapes, copies and sums."""

from __future__ import annotations

from tests.nets.case import Case, X, Y, input_layer, one

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
    "hdf5_output": Case(
        one("HDF5Output", "hdf5_output_param { file_name: 'out.h5' }", "x y", "", X + Y)
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "t" }'
    ),
    "axpy": Case(one("Axpy", bottoms="a x y", inputs=input_layer("a", 2, 3, 1, 1) + X + Y)),
    "reduction_sum": Case(one("Reduction", "reduction_param { axis: 2 coeff: 0.5 }")),
    "reduction_asum": Case(one("Reduction", "reduction_param { operation: ASUM axis: -1 }")),
    "reduction_sumsq": Case(one("Reduction", "reduction_param { operation: SUMSQ coeff: 2 }")),
    "reduction_mean": Case(one("Reduction", "reduction_param { operation: MEAN axis: 1 }")),
    "tile": Case(one("Tile", "tile_param { axis: 2 tiles: 3 }")),
    "crop": Case(one("Crop", "crop_param { offset: 2 offset: 1 }", "x y", inputs=X + input_layer("y", 2, 3, 5, 3))),
    "permute": Case(one("Permute", "permute_param { order: 0 order: 2 order: 3 }")),
    "shuffle_channel": Case(
        one("ShuffleChannel", "shuffle_channel_param { group: 3 }", inputs=input_layer("x", 2, 15, 5, 7))
    ),
    "argmax": Case(one("ArgMax", "argmax_param { top_k: 5 }"), no_gradient=("t",)),
    "argmax_pairs": Case(one("ArgMax", "argmax_param { top_k: 5 out_max_val: true }")),
    "argmax_axis": Case(one("ArgMax", "argmax_param { axis: -2 top_k: 2 }"), no_gradient=("t",)),
    "argmax_values": Case(one("ArgMax", "argmax_param { axis: 1 top_k: 2 out_max_val: true }")),
    "batch_reindex": Case(
        one("BatchReindex", bottoms="x i", inputs=input_layer("x", 5, 3, 2) + input_layer("i", 7)), integers={"i": 5}
    ),
    "filter": Case(
        one("Filter", bottoms="x y s", tops="t u",
            inputs=input_layer("x", 7, 3, 2) + input_layer("y", 7) + input_layer("s", 7, 1)),
        integers={"s": 2},
    ),
    "dummy": Case(X
    + 'layer { name: "l" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } '
    'data_filler { type: "gaussian" } } }\nlayer { name: "s" type: "Eltwise" bottom: "x" bottom: "d" top: "t" }\n'),
}
