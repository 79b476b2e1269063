"""What a snapshot says of the nets and data of its run, so that they can be found again without the run's files."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaffe import __version__
from jaffe.compile.net import CompiledNet, compile_net
from jaffe.netdef.errors import JaffeError
from jaffe.netdef.jaffe_pb2 import NetParameter
from jaffe.netdef.rules import NetState
from jaffe.netdef.source import NetSource, from_text
from jaffe.netdef.text import format_text
from jaffe.train.config import NetRole, SolverConfig
from jaffe.train.data import Feed


def declare(config: SolverConfig, feeds: Sequence[Feed]) -> dict[str, Any]:
    """The training net and the test nets with their data, and what ran them, as JSON.

    Args:
        feeds: of the training net, then of each test net.
    """
    nets = [_declare(role, feed) for role, feed in zip((config.train, *config.tests), feeds, strict=True)]
    device = jax.devices()[0]
    ran = {"jaffe": __version__, "jax": jax.__version__, "python": platform.python_version(),
           "device": f"{device.platform} ({device.device_kind})"}
    return {"nets": nets, "ran": ran}


def _declare(role: NetRole, feed: Feed) -> dict[str, Any]:
    net = NetParameter()
    net.CopyFrom(role.source.net)
    for layer in net.layer:
        layer.ClearField("blobs")  # of a net from a file with weights
    return {
        "net": format_text(net), "phase": role.phase, "level": role.level, "stages": list(role.stages),
        "directory": str(role.source.directory.absolute()), "data": feed.source, "order": feed.order,
        "inputs": {name: list(shape) for name, shape in feed.shapes.items()},
    }


@dataclass(frozen=True)
class Declared:
    """A net of a run, and its data.

    Attributes:
        source, phase, level, stages: as ``compile_net`` takes them.
        data: by name; ``""``: the data layers name their own; ``None``: given as objects, which are gone.
        order: of the channels of colour images, ``"BGR"`` or ``"RGB"``.
        inputs: shapes of the inputs that the data feed.
    """

    source: NetSource
    phase: str
    level: int
    stages: tuple[str, ...]
    data: str | None
    order: str
    inputs: Mapping[str, tuple[int, ...]]

    def compile(self, python_modules: Sequence[str] = ()) -> CompiledNet:
        """The net, for the shapes that it was run with. Raises SpecError as ``compile_net`` does."""
        return compile_net(self.source, phase=self.phase, level=self.level, stages=self.stages, inputs=self.inputs,
                           python_modules=python_modules)

    @property
    def state(self) -> NetState:
        """What its rules ask for."""
        return NetState(self.phase, self.level, self.stages)


def declared_nets(about: Mapping[str, Any]) -> list[Declared]:
    """The nets of a run from what its snapshot says: the training net first; none of a snapshot that says nothing.

    Raises:
        JaffeError: it is damaged.
    """
    try:
        return [_read(one) for one in about["declared"]["nets"]] if "declared" in about else []
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JaffeError(f"what the snapshot says of its nets is damaged: {type(error).__name__}: {error}") from None


def _read(one: Mapping[str, Any]) -> Declared:
    return Declared(
        from_text(one["net"], directory=Path(one["directory"])), str(one["phase"]), int(one["level"]),
        tuple(one["stages"]), one["data"], one["order"],
        {name: tuple(shape) for name, shape in one["inputs"].items()},
    )
