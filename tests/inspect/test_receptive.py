"""Receptive fields, held against the pixels that have a gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe import compile_net, zoo
from jaffe.inspect import receptive_fields
from jaffe.netdef import JaffeError, L, NetSpec

FILL = {"type": "constant", "value": 0.5}


def conv(x, kernel_size, **settings):
    return L.Convolution(x, num_output=1, kernel_size=kernel_size, weight_filler=FILL, **settings)


def start(height=23, width=25):
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, height, width]))
    return n, n.data


def seen(net, blob):
    """For each unit of a blob, the first and last row and column with a gradient: (h, w, 4), -1 for none."""
    variables = net.init(jax.random.key(0))

    def maps(x):
        return net.apply(variables, {"data": x}, blobs=[blob])[0][blob][0].sum(0)

    x = jnp.ones(net.inputs["data"].shape)
    reached = np.abs(np.asarray(jax.jit(jax.jacrev(maps))(x)))[:, :, 0].sum(2) > 0
    found = np.full((*reached.shape[:2], 4), -1)
    for p in np.ndindex(*reached.shape[:2]):
        rows, columns = np.flatnonzero(reached[p].any(1)), np.flatnonzero(reached[p].any(0))
        if len(rows):
            found[p] = rows[0], rows[-1], columns[0], columns[-1]
    return found


def plain():
    n, x = start()
    n.a = conv(x, 5, stride=2, pad=1)
    n.pool = L.Pooling(n.a, pool="AVE", kernel_size=3, stride=2)
    n.out = conv(n.pool, 3, pad=1)
    return n


def dilated():
    n, x = start()
    n.a = L.Convolution(x, num_output=1, kernel_h=3, kernel_w=5, stride_h=1, stride_w=2, weight_filler=FILL)
    n.out = conv(n.a, 3, dilation=3)
    return n


def branches():
    n, x = start()
    n.a = conv(x, 3, pad=1, stride=2)
    n.wide = conv(n.a, 7, pad=3)
    n.out = L.Eltwise(n.a, L.Concat(n.wide, name="j"), L.ReLU(conv(n.a, 3, pad=1), in_place=False))
    return n


def local():
    n, x = start()
    n.a = conv(x, 3, stride=2)
    n.norm = L.LRN(n.a, local_size=5, norm_region="WITHIN_CHANNEL", alpha=1)
    n.out = L.Crop(n.norm, conv(n.norm, 5), offset=[3, 1])
    return n


@pytest.mark.parametrize("make", [plain, dilated, branches, local])
def test_every_unit_sees_what_the_table_says(make):
    net = compile_net(make(), phase="TEST", lowering="plain")
    row = receptive_fields(net)["out"]
    found = seen(net, "out")
    for axis, (size, stride, offset) in enumerate(zip(row.size, row.stride, row.offset, strict=True)):
        pixels, units = net.shape("data")[2 + axis], net.shape("out")[2 + axis]
        middle = offset + stride * np.arange(units)
        low, high = middle - (size - 1) / 2, middle + (size - 1) / 2
        seen_here = found.take(found.shape[1 - axis] // 2, 1 - axis)[:, 2 * axis : 2 * axis + 2]
        np.testing.assert_array_equal(seen_here, np.stack([low.clip(0), high.clip(max=pixels - 1)], 1))


def up():
    n, x = start()
    n.a = conv(x, 3, stride=2, pad=1)
    n.b = conv(n.a, 3, pad=1)
    settings = dict(num_output=1, kernel_size=4, stride=2, pad=1, weight_filler=FILL)
    n.out = L.Deconvolution(n.b, convolution_param=settings)
    return n


def up_and_on():
    n = up()
    n.next = conv(n.out, 3, stride=3)
    n.out2 = conv(n.next, 2)
    return n


def interpolated():
    n, x = start()
    n.a = conv(x, 3, stride=3)
    n.out = L.Interp(n.a, zoom_factor=2)
    return n


def repeated():
    n, x = start()
    n.a = conv(x, 3, stride=2)
    n.out = conv(L.Upsample(n.a, scale=2), 3, pad=1)
    return n


@pytest.mark.parametrize(("make", "blob"), [(up, "out"), (up_and_on, "out2"), (interpolated, "out"), (repeated, "out")])
def test_the_largest_field_where_units_differ(make, blob):
    net = compile_net(make(), phase="TEST", lowering="plain")
    row = receptive_fields(net)[blob]
    found = seen(net, blob)
    inner = found[(found[..., 0] > 0) & (found[..., 1] < 22) & (found[..., 2] > 0) & (found[..., 3] < 24)]
    assert row.size == ((inner[:, 1] - inner[:, 0]).max() + 1, (inner[:, 3] - inner[:, 2]).max() + 1)


def test_published_nets():
    """Sizes and strides of VGG-16 and of Caffe's AlexNet: Araujo et al. 2019; pool5 of VGG-16 sees 212 pixels."""
    fields = receptive_fields(compile_net(zoo.vgg16(), phase="TEST", batch=1))
    assert (fields["pool5"].size, fields["pool5"].stride) == ((212, 212), (32, 32))
    assert fields["fc6"].size is None
    fields = receptive_fields(compile_net(zoo.caffenet(), phase="TEST", batch=1))
    assert (fields["pool5"].size, fields["pool5"].stride) == ((195, 195), (32, 32))


def test_what_sees_all():
    n, x = start()
    n.a = conv(x, 3)
    n.glob = L.Pooling(n.a, pool="AVE", global_pooling=True)
    n.mvn = L.MVN(n.a)
    n.gated = L.Eltwise(n.a, n.mvn)
    n.constant = L.DummyData(shape=dict(dim=[1, 2, 3, 3]))
    n.rows = L.Softmax(n.a, axis=2)
    n.classes = L.Softmax(n.a, axis=-3)
    fields = receptive_fields(compile_net(n, phase="TEST"))
    assert {name: row.size for name, row in fields.items()} == {"a": (3, 3), "glob": None, "mvn": None, "gated": None,
                                                               "rows": None, "classes": (3, 3)}


def test_strides_that_do_not_fit_see_all():
    n, x = start(8, 8)
    n.a = conv(x, 2, stride=2)
    n.b = conv(x, 5)
    n.out = L.Eltwise(n.a, n.b)
    assert receptive_fields(compile_net(n, phase="TEST"))["out"].size is None


def test_table_and_errors():
    net = compile_net(plain(), phase="TEST")
    assert str(receptive_fields(net)) == """\

  value   layer   type          shape       size   stride   offset
 ──────────────────────────────────────────────────────────────────
  a       a       Convolution   1x1x11x12      5        2        1
  pool    pool    Pooling       1x1x5x6        9        4        3
  out     out     Convolution   1x1x5x6       17        4        3
"""
    with pytest.raises(JaffeError, match="the net has no input 'dat'; did you mean 'data'"):
        receptive_fields(net, "dat")
    n = NetSpec()
    n.x = L.Input(shape=dict(dim=[2, 3]))
    n.y = L.InnerProduct(n.x, num_output=2)
    with pytest.raises(JaffeError, match=r"reads no images \(N, C, H, W\), but x \(2, 3\)"):
        receptive_fields(compile_net(n))
