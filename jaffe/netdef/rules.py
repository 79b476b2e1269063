"""Which layers belong to a net: phase, level and stages against ``include`` and ``exclude``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.jaffe_pb2 import TRAIN, LayerParameter, NetStateRule, Phase

PHASES = ("TRAIN", "TEST")


@dataclass(frozen=True)
class NetState:
    """What a net is resolved for: ``phase`` ("TRAIN" or "TEST"), ``level`` and ``stages``."""

    phase: str = "TEST"
    level: int = 0
    stages: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise SpecError(f"phase is 'TRAIN' or 'TEST'; received {self.phase!r}{suggest(str(self.phase), PHASES)}")


def phase_name(phase: Phase | int) -> str:
    """``"TRAIN"`` or ``"TEST"``."""
    return "TRAIN" if phase == TRAIN else "TEST"


def included(layer: LayerParameter, state: NetState) -> bool:
    """Whether the layer belongs to the net: any ``include`` rule is met, or no ``exclude`` rule is.

    Raises:
        SpecError: the layer has both kinds of rule.
    """
    if layer.include and layer.exclude:
        raise SpecError("has both include and exclude rules; use one kind")
    if layer.include:
        return any(met(rule, state) for rule in layer.include)
    return not any(met(rule, state) for rule in layer.exclude)


def met(rule: NetStateRule, state: NetState) -> bool:
    """Whether every condition that the rule states holds."""
    return (
        (not rule.HasField("phase") or phase_name(rule.phase) == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stages for stage in rule.stage)
        and not any(stage in state.stages for stage in rule.not_stage)
    )
