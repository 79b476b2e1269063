"""Pages that are made from the code are those that the code makes."""

from __future__ import annotations

from docs.layers import CAFFE, reference
from docs.zoo import _spread
from docs.zoo import page as zoo_page
from jaffe.compile import layer_types
from tests.conftest import ROOT

# What published nets need beyond Caffe 1.0.
FORKS = """
    Permute Normalize PriorBox DetectionOutput ReLU6 DepthwiseConvolution ConvolutionDepthwise ShuffleChannel Axpy
    Interp Upsample ROIPooling PSROIPooling SmoothL1Loss PriorBoxClustered BN CReLU Maxout LocallyConnected Correlation
    MultiBoxLoss CTCLoss CTCGreedyDecoder
"""


def test_every_layer_type_of_caffe_and_its_forks():
    assert len(CAFFE.split()) == 61
    assert set(layer_types()) == {*CAFFE.split(), *FORKS.split()}


def test_reference_of_layers_is_up_to_date():
    assert (ROOT / "docs" / "layers.md").read_text() == reference(), "run `make layers`"


def test_page_of_the_zoo_is_up_to_date():
    assert (ROOT / "docs" / "zoo.md").read_text() == zoo_page(), "run `make zoo`"


def test_losses_are_no_shares():
    assert _spread([0.9, 0.8], share=False) == "0.85 ± 0.05"
    assert _spread([0.96, 0.98], share=True) == "97.00 ± 1.00 %"
