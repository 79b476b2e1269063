"""coord_map: places of blobs in one another, and the crop of fully convolutional nets."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import jaffe.pycaffe as caffe
from jaffe.netdef import JaffeError
from jaffe.pycaffe import layers as L  # noqa: N812
from jaffe.pycaffe import params as P  # noqa: N812
from jaffe.pycaffe.coord_map import AxisMismatchException, compose, coord_map_from_to, crop, inverse


def net() -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 40, 50]))
    n.aux = L.Input(shape=dict(dim=[1, 3]))
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=3, stride=2, pad=1)
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, kernel_size=2, stride=2)
    n.deconv = L.Deconvolution(n.pool, convolution_param=dict(num_output=1, kernel_size=8, stride=4, pad=0))
    return n


def test_maps():
    n = net()
    whole = (Fraction(1),), (Fraction(0),)
    assert coord_map_from_to(n.data, n.data) == (None, *whole)
    assert coord_map_from_to(n.relu, n.conv)[1:] == whole
    assert coord_map_from_to(n.conv, n.data) == (1, (2,), (0,))  # x_data = 2 x_conv
    assert coord_map_from_to(n.pool, n.data) == (1, (4,), (1,))  # the middle of pixels 0 and 2 of data
    assert coord_map_from_to(n.deconv, n.data) == (1, (1,), (Fraction(1) - Fraction(7, 2),))
    assert coord_map_from_to(n.data, n.pool) == inverse(coord_map_from_to(n.pool, n.data))
    dilated = L.Convolution(n.data, num_output=1, kernel_size=[3, 5], dilation=2)
    assert coord_map_from_to(n.data, dilated) == (1, (1, 1), (-2, -4))


def test_pads_move_places():
    """As in pycaffe's own tests: a pool and a deconvolution of stride 2 cancel out, pads shift."""
    def shift(pad: int = 0, deconv_pad: int = 0) -> Fraction:
        data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
        conv = L.Convolution(data, num_output=10, kernel_size=3, pad=pad)
        pool = L.Pooling(conv, kernel_size=2, stride=2)
        axis, scale, (found,) = coord_map_from_to(
            L.Deconvolution(pool, num_output=10, kernel_size=4, stride=2, pad=deconv_pad), data)
        assert (axis, scale) == (1, (1,))
        return found

    assert shift() == 0
    assert shift(pad=5) == -5
    assert shift(deconv_pad=5) == 5
    assert shift(4, 4) == 0


def test_crop_as_in_fcn():
    """By hand: the convolution moves x to x + 9, the pooling to (x + 9) / 2, the deconvolution to x + 10.

    And a bright pixel comes out where it was.
    """
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 1, 21, 25]))
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=3, pad=10)
    n.pool = L.Pooling(n.conv, kernel_size=1, stride=2, pool=P.Pooling.AVE)
    n.up = L.Deconvolution(n.pool, convolution_param=dict(num_output=1, kernel_size=3, stride=2))
    n.score = crop(n.up, n.data)
    layer = n.to_proto().layer[-1]
    assert (layer.type, layer.crop_param.axis, list(layer.crop_param.offset)) == ("Crop", 2, [10])
    made = caffe.Net(n, caffe.TEST)
    made.params["conv"][0].data[0, 0, 1, 1] = 1
    made.params["up"][0].data[0, 0, 1, 1] = 1
    for y, x in ((3, 5), (11, 7)):  # places that the stride keeps
        image = np.zeros((1, 1, 21, 25))
        image[0, 0, y, x] = 1
        found = made.forward(data=image)["score"]
        assert found.shape == (1, 1, 21, 25)
        assert [int(i) for i in np.argwhere(found[0, 0])[0]] == [y, x]
    again = crop(L.Convolution(n.score, num_output=1, kernel_size=1), n.data)
    assert list(again.call.proto.crop_param.offset) == [0]


def test_wrong():
    n = net()
    with pytest.raises(JaffeError, match="the two tops come from no blob that both share"):
        coord_map_from_to(n.data, n.aux)
    with pytest.raises(JaffeError, match=r"crop: expected tops of one scale; found 2"):
        crop(n.conv, n.data)
    with pytest.raises(JaffeError, match=r"crop: expected an offset of whole numbers of 0 and above; found 5/2"):
        crop(n.deconv, n.data)
    with pytest.raises(JaffeError, match=r"crop: expected an offset of whole numbers of 0 and above; found -1"):
        crop(L.Convolution(n.data, num_output=1, kernel_size=3), n.data)
    with pytest.raises(JaffeError, match=r"Pooling \(test_coord_map.py:\d+\): .*; found kernel_h, kernel_w"):
        crop(L.Pooling(n.data, kernel_h=2, kernel_w=2), n.data)
    with pytest.raises(JaffeError, match="expected kernel_size; found none"):
        crop(L.Pooling(n.data, global_pooling=True), n.data)
    with pytest.raises(JaffeError, match="by layers that keep the plane"):
        crop(L.InnerProduct(n.data, num_output=2), n.data)
    one, other = ((axis, (Fraction(1),), (Fraction(0),)) for axis in (1, 2))
    with pytest.raises(AxisMismatchException, match="maps along the axes from 1 and from 2 on"):
        compose(one, other)


def test_net_spec_has_the_names_of_ssd():
    n = net()
    assert list(n.tops) == n.keys() == ["data", "aux", "conv", "relu", "pool", "deconv"]
    n.update({"more": L.ReLU(n.pool)})
    assert n.vals()[-1] is n["more"]
    del n["more"]
    assert "more" not in n
    with pytest.raises(AttributeError, match="the net has no blob 'more'"):
        del n["more"]
