"""docs/seeing.md: its code runs, its table is right, its pictures are there."""

from __future__ import annotations

import re
import shutil

import jax
import numpy as np
import pytest

from jaffe import compile_net, inspect, zoo
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "seeing.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's dot is not here")
def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = compile_net(zoo.lenet(), phase="TEST", batch=2)
    images = np.random.default_rng(0).uniform(size=(8, 1, 28, 28))
    x = images[:2].astype(np.float32)
    names = dict(net=net, variables=net.init(jax.random.key(0)), x=x, key=jax.random.key(0), inspect=inspect,
                 images_of_all=images, labels=np.arange(8) % 2)
    training, *blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "Solver" in training
    assert len(blocks) >= 7
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "lenet.svg").exists()


def test_the_table_of_receptive_fields():
    table = str(inspect.receptive_fields(compile_net(zoo.lenet(), phase="TEST")))
    assert PAGE.count(table.strip("\n")) == 1


def test_pictures():
    named = [ROOT / "docs" / path for path in re.findall(r"\]\((\S+?\.(?:png|svg))\)", PAGE)]
    assert len(named) >= 11
    for path in named:
        assert path.stat().st_size < 150_000, path
    assert {path for path in named if path.suffix == ".png"} == set((ROOT / "docs" / "seeing").iterdir())
