"""Pages for all tests: of a run of LeNet, and of one with names that want to be markup."""

from __future__ import annotations

import pytest

import jaffe
from jaffe.netdef import L
from jaffe.report import report
from tests.report.runs import EVIL, train


@pytest.fixture(scope="package")
def lenet(tmp_path_factory):
    """The prefix of a run of LeNet on digits, with a best snapshot at iteration 30 or 60."""
    return train("lenet", tmp_path_factory.mktemp("lenet") / "lenet", monitor="accuracy")


@pytest.fixture(scope="package")
def lenet_page(lenet) -> str:
    return report(lenet)


@pytest.fixture(scope="package")
def hostile(tmp_path_factory) -> str:
    """A page of a run in which every name is one that wants to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    n = jaffe.NetSpec(EVIL)
    n.data, n.label = L.MemoryData(ntop=2, memory_data_param=dict(batch_size=4, channels=1, height=8, width=8))
    proto = n.to_proto()
    proto.layer.add(name=EVIL, type="InnerProduct", bottom=["data"], top=[EVIL]).inner_product_param.num_output = 10
    proto.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[EVIL, "label"], top=[f"{EVIL} loss"])
    jaffe.Solver(net=proto, data="tfds:digits", base_lr=0.001, lr_policy="fixed", max_iter=2, test_iter=[2],
                 test_interval=1, display=1, snapshot_prefix=str(folder / "<b>run")).run()
    return report(folder)
