"""The nets of a solver, compiled, with their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaffe.compile.net import CompiledNet, compile_net
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.train.config import SolverConfig
from jaffe.train.data import Feed
from jaffe.train.data.dataset import Data
from jaffe.train.evaluate import Evaluation, check_shared
from jaffe.train.report import Run, row_name


def build_nets(
    config: SolverConfig, data: Data | Mapping[str, Data] | None, seed: int, dtype: Any, python_modules: Sequence[str],
    workers: int = 0, skip_damaged: bool = False,
) -> tuple[CompiledNet, Feed, list[Evaluation]]:
    """The training net, its feed, and the test nets with theirs.

    Args:
        data, dtype, python_modules, workers, skip_damaged: as ``Solver`` takes them.

    Raises:
        SpecError: a net is wrong.
        JaffeError: the data are missing or do not fit the nets.
    """
    proto = config.proto
    both = {"train": data, "test": data}
    by_split: Mapping[str, Any] = data if isinstance(data, Mapping) and set(data) <= set(both) else both
    built = []
    for i, role in enumerate((config.train, *config.tests)):
        state = NetState(role.phase, role.level, role.stages)
        own = by_split.get("test" if i else "train")
        feed = Feed(resolve(role.source, state), own, base=role.source.directory, seed=seed,
                    workers=0 if i else workers, skip_damaged=skip_damaged)
        built.append((compile_net(
            role.source, phase=role.phase, level=role.level, stages=role.stages, inputs=feed.shapes, dtype=dtype,
            # Tests are in float32: scores that are rounded to bfloat16 tie, and Accuracy counts ties as wrong.
            precision="float32" if i else proto.precision, python_modules=python_modules,
            remat="none" if i else proto.remat,
        ), feed))
    (net, feed), *tests = built
    for test, _ in tests:
        check_shared(net, test)
    key = jax.random.key(seed)
    return net, feed, [
        Evaluation(net, feed, iterations, key, with_loss=proto.test_compute_loss)
        for (net, feed), iterations in zip(tests, proto.test_iter, strict=True)
    ]


def describe(config: SolverConfig, net: CompiledNet, tests: Sequence[Evaluation], iteration: int) -> Run:
    """What reporters are told of a run that begins."""
    def weights(one: CompiledNet) -> dict[str, float]:
        return {name: one.loss_tops.get(one.graph.blobs[name], 0.0) for name in one.outputs}

    tested = tuple({row_name(name): weight for name, weight in weights(one.net).items()} for one in tests)
    return Run(net.name, config.proto, iteration, weights(net), tested, config.prefix)
