"""jaffe plan"""

from __future__ import annotations

from tests.cli.test_cli import jaffe


def test_plan():
    output = jaffe("plan", "--model", "lenet", "--devices", "4", "--model-parallel", "2", "--machine", "a100",
                   "--batch", "32")
    assert output.startswith("LeNet, 4 x a100, a mesh of 2 x 2, 32 items on each (weak scaling)\n")
    assert "recommended: ip1 by output, ip2 by input, divided over 2 devices; the others data parallel" in output
    assert "8 items on each (strong scaling)" in jaffe("plan", "--model", "lenet", "--scaling", "strong")


def test_what_is_wrong_is_said_in_a_line():
    assert jaffe("plan", status=1).startswith("jaffe: expected --model")
    assert "no machine 'h200'; did you mean 'h100'?" in jaffe("plan", "--model", "lenet", "--machine", "h200", status=1)
    assert "scaling is weak or strong; found 'none'" in jaffe("plan", "--model", "lenet", "--scaling", "none", status=1)
    assert "divides all 8; found 3" in jaffe("plan", "--model", "lenet", "--model-parallel", "3", status=1)
