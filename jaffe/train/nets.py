"""The nets of a solver, compiled, with their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaffe.compile.layers.python import trust
from jaffe.compile.net import CompiledNet, compile_net
from jaffe.compile.partition import Partition, Way
from jaffe.netdef.errors import JaffeError, SpecError
from jaffe.netdef.jaffe_pb2 import INPUT, OUTPUT
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.train.config import SolverConfig
from jaffe.train.data import Feed
from jaffe.train.data.dataset import Data
from jaffe.train.devices import MODEL, Devices
from jaffe.train.evaluate import Evaluation, check_shared
from jaffe.train.report import Run, row_name

WAYS: Mapping[int, Way] = {OUTPUT: "output", INPUT: "input"}


def build_nets(
    config: SolverConfig, data: Data | Mapping[str, Data] | None, seed: int, dtype: Any, python_modules: Sequence[str],
    workers: int = 0, skip_damaged: bool = False, devices: Devices | None = None,
) -> tuple[CompiledNet, Feed, list[Evaluation]]:
    """The training net, its feed, and the test nets with theirs.

    Args:
        data, dtype, python_modules, workers, skip_damaged: as ``Solver`` takes them.
        devices: those that the training net runs on, together; None: on one, as test nets do.

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
        graph = trust(resolve(role.source, state), python_modules)
        feed = Feed(graph, own, base=role.source.directory, seed=seed, workers=0 if i else workers,
                    skip_damaged=skip_damaged, devices=None if i else devices)
        try:
            built.append((compile_net(
                role.source, phase=role.phase, level=role.level, stages=role.stages, inputs=feed.shapes, dtype=dtype,
                # Tests are in float32: scores that are rounded to bfloat16 tie, and Accuracy counts ties as wrong.
                precision="float32" if i else proto.precision, python_modules=python_modules,
                remat="none" if i else proto.remat,
            ), feed))
        except SpecError as error:
            if i or devices is None or not devices.strong:
                raise
            raise JaffeError(f"{error}\nthe net was compiled for one of {devices.count} parts of its batch (strong "
                             "scaling): where the net states the batch itself, expected weak scaling") from error
    (net, feed), *tests = built
    if devices is not None:
        axis_name = devices.axes if proto.sync_bn else None
        net = net.mapped(axis_name, partition_of(net, devices) if devices.parallel.model_parallel > 1 else None)
    for test, _ in tests:
        check_shared(net, test)
    key = jax.random.key(seed)
    return net, feed, [
        Evaluation(net, feed, iterations, key, with_loss=proto.test_compute_loss)
        for (net, feed), iterations in zip(tests, proto.test_iter, strict=True)
    ]


def partition_of(net: CompiledNet, devices: Devices) -> Partition:
    """The layers whose weights the devices along the model axis share: as the caller, or the net, or the plan says.

    Raises:
        SpecError, JaffeError: they cannot be divided so.
    """
    stated = {node.name: WAYS[node.proto.divide] for node in net.graph.nodes if node.proto.divide}
    layers = devices.parallel.layers
    if layers is None:
        layers = stated or recommended(net, devices)
    return Partition(MODEL, devices.parallel.model_parallel, layers)


def recommended(net: CompiledNet, devices: Devices) -> Mapping[str, Way]:
    """What ``jaffe plan`` would divide."""
    from jaffe.plan import plan

    try:
        found = plan(net, devices.count, model_parallel=devices.parallel.model_parallel).partition
    except JaffeError as error:
        raise JaffeError(f"net {net.name!r}: {error}; or train without model_parallel") from None
    if found is None:
        raise JaffeError(f"no layer of net {net.name!r} is worth dividing; name some (divide: OUTPUT in the net), or "
                         "train without model_parallel")
    return found.layers


def describe(config: SolverConfig, net: CompiledNet, tests: Sequence[Evaluation], iteration: int) -> Run:
    """What reporters are told of a run that begins."""
    def weights(one: CompiledNet) -> dict[str, float]:
        return {name: one.loss_tops.get(one.graph.blobs[name], 0.0) for name in one.outputs}

    tested = tuple({row_name(name): weight for name, weight in weights(one.net).items()} for one in tests)
    return Run(net.name, config.proto, iteration, weights(net), tested, config.prefix)
