"""Wrong nets of layers that look up, move, cut or add, and the exact message that each gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaffe.compile import compile_net
from jaffe.netdef import SpecError
from tests.nets.case import input_layer, one

X = input_layer("x", 2, 6, 5)
Y = input_layer("y", 2, 6, 3)
L = "layer 'l' (net.prototxt:2): "
L3 = "layer 'l' (net.prototxt:3): "
L4 = "layer 'l' (net.prototxt:4): "

# name: (net, message)
WRONG = {
    "bias_shape": (
        one("Bias", bottoms="x y", inputs=X + Y),
        L3 + "the bias's shape (2, 6, 3) is not that of the bottom (2, 6, 5) from axis 1, (6, 5)",
    ),
    "bias_num_axes": (
        one("Bias", "bias_param { num_axes: 3 }", inputs=X),
        L + "num_axes 3 from axis 1 is out of range for a blob of shape (2, 6, 5)",
    ),
    "embed_num_output": (
        one("Embed", "embed_param { input_dim: 5 }", inputs=X),
        L + "expected num_output > 0; found none",
    ),
    "embed_input_dim": (
        one("Embed", "embed_param { num_output: 5 }", inputs=X),
        L + "expected input_dim > 0; found none",
    ),
    "parameter_without": (
        'layer { name: "l" type: "Parameter" top: "t" }',
        "layer 'l' (net.prototxt:1): expected a shape; found none",
    ),
    "parameter_size": (
        'layer { name: "l" type: "Parameter" top: "t" parameter_param { shape { dim: 2 dim: 0 } } }',
        "layer 'l' (net.prototxt:1): sizes are positive; found (2, 0)",
    ),
    "parameter_bottom": (
        one("Parameter", "parameter_param { shape { dim: 2 } }", inputs=X),
        L + "Parameter takes 0 bottoms; found 1 (x)",
    ),
    "tile_without": (
        one("Tile", inputs=X),
        L + "expected tiles > 0; found none",
    ),
    "tile_zero": (
        one("Tile", "tile_param { tiles: 0 }", inputs=X),
        L + "expected tiles > 0; found 0",
    ),
    "tile_negative": (
        one("Tile", "tile_param { tiles: -2 }", inputs=X),
        L + "expected tiles > 0; found -2",
    ),
    "tile_axis": (
        one("Tile", "tile_param { tiles: 2 axis: -4 }", inputs=X),
        L + "axis -4 is out of range for a blob of 3 axes; expected -3 to 2",
    ),
    "tile_huge": (
        one("Tile", "tile_param { tiles: 2147483647 }", inputs=X),
        L + "top 't' of shape (2, 12884901882, 5) has 128849018820 values; expected at most 2147483647",
    ),
    "crop_axes": (
        one("Crop", bottoms="x y", inputs=X + input_layer("y", 2, 6)),
        L3 + "bottoms have as many axes; found (2, 6, 5) and (2, 6)",
    ),
    "crop_outside": (
        one("Crop", "crop_param { offset: 3 }", "x y", inputs=X + Y),
        L3 + "on axis 2 expected offset + size of at most 5; found 3 + 3",
    ),
    "crop_larger": (
        one("Crop", "crop_param { axis: 0 }", "y x", inputs=X + Y),
        L3 + "on axis 2 expected offset + size of at most 3; found 0 + 5",
    ),
    "crop_offsets": (
        one("Crop", "crop_param { axis: 0 offset: 1 offset: 1 }", "x y", inputs=X + Y),
        L3 + "expected no offset, one, or one for each of 3 axes; found 2",
    ),
    "reduction_axis": (
        one("Reduction", "reduction_param { axis: 3 }", inputs=X),
        L + "axis 3 is out of range for a blob of 3 axes; expected -3 to 2",
    ),
    "axis_of_a_number": (
        one("Softmax", inputs=input_layer("x")),
        L + "axis 1 is out of range; the blob is a single number, without axes",
    ),
    "concat_dim": (
        one("Concat", "concat_param { concat_dim: 4294967295 }", bottoms="x x", inputs=X),
        L + "concat_dim 4294967295 is out of range for a blob of 3 axes; expected 0 to 2",
    ),
    "eltwise_coeff": (
        one("Eltwise", "eltwise_param { coeff: 1 coeff: nan }", bottoms="x x", inputs=X),
        L + "coeff is a finite number; found nan",
    ),
    "reduction_coeff": (
        one("Reduction", "reduction_param { coeff: nan }", inputs=X),
        L + "coeff is a finite number; found nan",
    ),
    "argmax_top_k": (
        one("ArgMax", "argmax_param { axis: 1 top_k: 7 }", inputs=X),
        L + "expected top_k from 1 to the number of values, 6; found 7",
    ),
    "argmax_top_k_of_items": (
        one("ArgMax", "argmax_param { top_k: 31 }", inputs=X),
        L + "expected top_k from 1 to the number of values, 30; found 31",
    ),
    "argmax_top_k_zero": (
        one("ArgMax", "argmax_param { top_k: 0 }", inputs=X),
        L + "expected top_k from 1 to the number of values, 30; found 0",
    ),
    "argmax_axis": (
        one("ArgMax", "argmax_param { axis: 3 }", inputs=X),
        L + "axis 3 is out of range for a blob of 3 axes; expected -3 to 2",
    ),
    "argmax_scalar": (
        one("Reduction", inputs=X) + 'layer { name: "m" type: "ArgMax" bottom: "t" top: "u" }',
        "layer 'm' (net.prototxt:3): expected a blob of at least 1 axis; found ()",
    ),
    "batch_reindex": (
        one("BatchReindex", bottoms="x y", inputs=X + input_layer("y", 2, 1)),
        L3 + "expected items (N, ...) and indices (M,); found (2, 6, 5) and (2, 1)",
    ),
    "filter_tops": (
        one("Filter", bottoms="x y s", inputs=X + Y + input_layer("s", 2)),
        L4 + "expected as many tops as bottoms before the selector (2); found 1",
    ),
    "filter_selector": (
        one("Filter", bottoms="x y", inputs=X + Y),
        L3 + "expected a selector of shape (N,), or (N, 1, ...); found (2, 6, 3)",
    ),
    "filter_items": (
        one("Filter", bottoms="x s", inputs=X + input_layer("s", 3)),
        L3 + "expected 3 items, as there are selectors; found (2, 6, 5)",
    ),
    "permute_twice": (
        one("Permute", "permute_param { order: 0 order: 2 order: 0 }", inputs=X),
        L + "order names axes from 0 to 2, each once; found [0, 2, 0]",
    ),
    "permute_axis": (
        one("Permute", "permute_param { order: 0 order: 3 }", inputs=X),
        L + "order names axes from 0 to 2, each once; found [0, 3]",
    ),
    "shuffle_group": (
        one("ShuffleChannel", "shuffle_channel_param { group: 4 }", inputs=X),
        L + "expected a group that divides 6 channels; found 4",
    ),
    "shuffle_group_zero": (
        one("ShuffleChannel", "shuffle_channel_param { group: 0 }", inputs=X),
        L + "expected a group that divides 6 channels; found 0",
    ),
    "shuffle_one_axis": (
        one("ShuffleChannel", inputs=input_layer("x", 6)),
        L + "expected a blob of at least 2 axes; found (6,)",
    ),
    "axpy_scale": (
        one("Axpy", bottoms="a x x", inputs=input_layer("a", 2, 5) + X),
        L3 + "expected a first bottom of shape (2, 6), and ones; found (2, 5)",
    ),
    "axpy_ones": (
        one("Axpy", bottoms="x x x", inputs=X),
        L + "expected a first bottom of shape (2, 6), and ones; found (2, 6, 5)",
    ),
    "axpy_shapes": (
        one("Axpy", bottoms="a x y", inputs=input_layer("a", 2, 6) + X + Y),
        L4 + "the second and third bottom have one shape, (N, C, ...); found (2, 6, 5) and (2, 6, 3)",
    ),
    "hdf5_output_file": (
        one("HDF5Output", bottoms="x y", tops="", inputs=X + Y),
        L3 + "expected a file_name; found none",
    ),
    "hdf5_output_batch": (
        one("HDF5Output", "hdf5_output_param { file_name: 'out.h5' }", "x y", "", X + input_layer("y", 3)),
        L3 + "bottoms have one first axis (the batch); found (2, 6, 5) and (3,)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str, tmp_path: Path):
    text, message = WRONG[name]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        compile_net(path)
    assert str(caught.value) == message
