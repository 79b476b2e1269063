"""Small nets for the tests that hold for every layer: every layer type is in one at least, a module a family."""

from __future__ import annotations

from tests.nets import detection, linear, loss, neuron, normalisation, recurrent, routing, spatial
from tests.nets.case import Case

NETS: dict[str, Case] = {
    **spatial.NETS,
    **normalisation.NETS,
    **linear.NETS,
    **neuron.NETS,
    **routing.NETS,
    **loss.NETS,
    **detection.NETS,
    **recurrent.NETS,
}
