"""The solver's declaration: read, checked, and its nets found."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from google.protobuf.message import Message

from jaffe.compile.precision import PRECISIONS
from jaffe.compile.remat import REMATS
from jaffe.netdef.builder import assign
from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.jaffe_pb2 import NetParameter, NetState, SolverParameter
from jaffe.netdef.source import NetSource, Spec, decode, find, load, read_bytes
from jaffe.netdef.text import read_solver
from jaffe.netdef.upgrade import upgrade_solver
from jaffe.train.schedules import POLICIES

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam", "AdamW", "Lion", "LARS", "LAMB")
# What the update alone reads.
OF_THE_UPDATE = (
    "type", "base_lr", "lr_policy", "gamma", "power", "stepsize", "stepvalue", "warmup_iter", "momentum", "momentum2",
    "delta", "rms_decay", "weight_decay", "regularization_type", "clip_gradients", "trust_coefficient",
)


@runtime_checkable
class Recipe(Protocol):
    """A solver with its net, and the data that they are meant for: those of ``jaffe.zoo`` are such."""

    @property
    def data(self) -> str: ...

    def solver_proto(self) -> SolverParameter: ...


@dataclass(frozen=True)
class NetRole:
    """A net of the solver: its declaration, and the state it is resolved for."""

    source: NetSource
    phase: str
    level: int
    stages: tuple[str, ...]


@dataclass(frozen=True)
class SolverConfig:
    """A solver as declared, with its nets read.

    Attributes:
        proto: every setting.
        train: the net that is trained.
        tests: the nets that it is tested with, one for each ``test_iter``.
        directory: where the solver file is; relative paths are looked for there too.
        prefix: path under which snapshots, metrics and curves are written; ``None``: nothing is written.
    """

    proto: SolverParameter
    train: NetRole
    tests: tuple[NetRole, ...]
    directory: Path
    prefix: Path | None


def read_config(
    solver: str | os.PathLike[str] | SolverParameter | None, net: Spec | None, settings: dict[str, Any],
    *, own_optimizer: bool = False,
) -> SolverConfig:
    """Read a solver from a prototxt (path or text), a message, or settings alone.

    Args:
        net: used in place of the nets that the solver names.
        settings: fields of ``SolverParameter`` that override those of ``solver``.
        own_optimizer: whether the caller brings the update: then those settings that are about it are not needed, and
            refused among ``settings``, since nothing would read them.

    Raises:
        SpecError: a file cannot be read, or a setting contradicts another.
    """
    proto, directory, stem, where = _read(solver)
    unread = [key for key in settings if own_optimizer and key in OF_THE_UPDATE]
    if unread:
        raise SpecError(f"optimizer= replaces the solver's update: {', '.join(unread)} would not be read; "
                        "say it to the optimizer")
    for key, value in settings.items():
        try:
            if proto.DESCRIPTOR.fields_by_name[key].is_repeated:
                proto.ClearField(key)  # settings replace, they do not append
            assign(proto, key, value)
        except KeyError:
            known = [field.name for field in SolverParameter.DESCRIPTOR.fields]
            raise SpecError(f"a solver has no setting {key!r}{suggest(key, known)}") from None
        except (TypeError, ValueError) as error:
            raise SpecError(f"solver setting {key}={value!r}: {error}") from None
    proto = upgrade_solver(proto, where)
    if own_optimizer and not proto.lr_policy:
        proto.lr_policy = "fixed"
    _check(proto, where)
    train, tests = _nets(proto, net, directory, where)
    return SolverConfig(proto, train, tests, directory, _prefix(proto, stem))


def _read(solver: Any) -> tuple[SolverParameter, Path, Path | None, str | None]:
    """The message; the folder and stem of its file; and how to name it in errors."""
    if solver is None:
        return SolverParameter(), Path(), None, None
    if isinstance(solver, SolverParameter):
        proto = SolverParameter()
        proto.CopyFrom(solver)
        return proto, Path(), None, None
    if isinstance(solver, str) and ("\n" in solver or (":" in solver and not os.path.exists(solver))):
        return read_solver(solver), Path(), None, "<text>"
    path = Path(solver)
    return read_solver(decode(read_bytes(path), path), path.name), path.parent, path.with_suffix(""), path.name


def _check(proto: SolverParameter, where: str | None) -> None:
    def error(problem: str) -> SpecError:
        return SpecError(problem, location=where)

    for described, value in proto.ListFields():
        if isinstance(value, float) and not math.isfinite(value):
            raise error(f"{described.name} is a finite number; found {value:g}")
    if proto.type not in SOLVER_TYPES:
        near = suggest(proto.type, SOLVER_TYPES) or f"; expected one of {', '.join(SOLVER_TYPES)}"
        raise error(f"solver type {proto.type!r} is not known{near}")
    if not proto.lr_policy:
        raise error(f"expected lr_policy; found none; known: {', '.join(POLICIES)}")
    if proto.lr_policy not in POLICIES:
        raise error(f"unknown lr_policy {proto.lr_policy!r}"
                    f"{suggest(proto.lr_policy, POLICIES) or '; known: ' + ', '.join(POLICIES)}")
    if proto.lr_policy in ("step", "sigmoid") and proto.stepsize <= 0:
        raise error(f"lr_policy {proto.lr_policy!r} needs stepsize > 0; found {proto.stepsize}")
    if proto.type in ("AdaGrad", "RMSProp") and proto.momentum:
        raise error(f"{proto.type} has no momentum; expected 0; found {proto.momentum:g}")
    if proto.type == "RMSProp" and not 0 <= proto.rms_decay < 1:
        raise error(f"rms_decay is in [0, 1); found {proto.rms_decay:g}")
    if proto.type == "AdaDelta" and not 0 <= proto.momentum < 1:
        raise error(f"AdaDelta's momentum is in [0, 1); found {proto.momentum:g}")
    if proto.type in ("Adam", "AdamW", "Lion", "LAMB") and not (0 <= proto.momentum < 1 and 0 <= proto.momentum2 < 1):
        raise error(f"{proto.type}'s momentum and momentum2 are in [0, 1); found {proto.momentum:g} and "
                    f"{proto.momentum2:g}")
    if not 0 <= proto.ema_decay < 1:
        raise error(f"ema_decay is in [0, 1); found {proto.ema_decay:g}")
    if proto.precision not in PRECISIONS:
        raise error(f"precision is float32 or bfloat16; found {proto.precision!r}")
    if proto.remat not in REMATS:
        raise error(f"remat is auto, none or full; found {proto.remat!r}")
    if proto.trust_coefficient <= 0:
        raise error(f"trust_coefficient is positive; found {proto.trust_coefficient:g}")
    if proto.lr_policy == "cosine" and proto.warmup_iter >= proto.max_iter > 0:
        raise error(f"the warm-up ends before max_iter ({proto.max_iter}); found warmup_iter {proto.warmup_iter}")
    if proto.patience and not proto.monitor:
        raise error("patience needs monitor, the output of the test net to watch; found none")
    if proto.monitor and not (proto.test_iter and proto.test_interval > 0):
        raise error("monitor needs a test net: expected test_iter and test_interval; found none")
    if proto.delta < 0:
        raise error(f"delta is not negative; found {proto.delta:g}")
    if proto.gamma < 0:
        raise error(f"gamma is not negative; found {proto.gamma:g}")
    if proto.regularization_type not in ("L1", "L2"):
        raise error(f"regularization_type is 'L1' or 'L2'; found {proto.regularization_type!r}")
    for field in ("iter_size", "average_loss"):
        if getattr(proto, field) < 1:
            raise error(f"{field} is at least 1; found {getattr(proto, field)}")
    if any(count < 1 for count in proto.test_iter):
        raise error(f"test_iter is at least 1; found {list(proto.test_iter)}")
    for field in ("max_iter", "display", "snapshot", "test_interval", "warmup_iter", "snapshot_keep", "patience"):
        if getattr(proto, field) < 0:
            raise error(f"{field} is not negative; found {getattr(proto, field)}")


def _nets(
    proto: SolverParameter, net: Spec | None, base: Path, where: str | None
) -> tuple[NetRole, tuple[NetRole, ...]]:
    if net is not None:
        source = load(net)
        tests = [source] * len(proto.test_iter)
        train = source
    else:
        named = [f for f in ("net", "net_param", "train_net", "train_net_param") if proto.HasField(f)]
        if len(named) != 1:
            raise SpecError("expected one of net, net_param, train_net, train_net_param; found "
                            + (" and ".join(named) if named else "none"), location=where)
        train = _load(getattr(proto, named[0]), base, where)
        tests = [_load(one, base, where) for one in proto.test_net_param]
        tests += [_load(one, base, where) for one in proto.test_net]
        if named[0].startswith("net"):
            if len(proto.test_iter) < len(tests):
                raise SpecError(f"expected a test_iter for each of {len(tests)} test nets; "
                                f"found {len(proto.test_iter)}", location=where)
            tests += [train] * (len(proto.test_iter) - len(tests))
    if len(tests) != len(proto.test_iter):
        raise SpecError(f"expected a test_iter for each of {len(tests)} test nets; found {len(proto.test_iter)}",
                        location=where)
    if proto.test_state and len(proto.test_state) != len(tests):
        raise SpecError(f"expected no test_state, or one for each of {len(tests)} test nets; "
                        f"found {len(proto.test_state)}", location=where)
    if tests and proto.test_interval <= 0:
        raise SpecError(f"{len(tests)} test nets need test_interval > 0; found {proto.test_interval}", location=where)
    states = list(proto.test_state) or [NetState()] * len(tests)
    roles = tuple(_role(one, "TEST", state) for one, state in zip(tests, states, strict=True))
    return _role(train, "TRAIN", proto.train_state), roles


def _role(source: NetSource, phase: str, extra: NetState) -> NetRole:
    """Caffe's merge: the phase, then the net file's own state, then the solver's; stages add up."""
    own = source.net.state
    level = extra.level if extra.HasField("level") else own.level
    return NetRole(source, phase, level, (*own.stage, *extra.stage))


def _load(what: str | NetParameter, base: Path, where: str | None) -> NetSource:
    return NetSource(what, directory=base) if isinstance(what, Message) else load(find(what, base, where))


def _prefix(proto: SolverParameter, stem: Path | None) -> Path | None:
    """``snapshot_prefix``; else the solver file without its suffix; a folder stands for folder/stem."""
    if not proto.HasField("snapshot_prefix"):
        return stem
    prefix = Path(proto.snapshot_prefix)
    if prefix.is_dir() or proto.snapshot_prefix.endswith("/"):
        return prefix / (stem.name if stem else "solver")
    return prefix


def named_files(named: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names of files, from one, several separated by commas, or a list of such."""
    several = [named] if isinstance(named, (str, os.PathLike)) else named
    return [file.strip() for one in several for file in os.fspath(one).split(",") if file.strip()]
