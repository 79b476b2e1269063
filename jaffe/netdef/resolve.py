"""From a declaration to a Graph: rules, in-place blobs, shared parameters, loss weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.graph import Graph, Node
from jaffe.netdef.jaffe_pb2 import LayerParameter, NetParameter
from jaffe.netdef.rules import NetState, included, phase_name
from jaffe.netdef.source import Spec, load

Error = Callable[[str], SpecError]


def resolve(spec: Spec, state: NetState | None = None) -> Graph:
    """Resolve a net declaration for one phase, level and set of stages.

    Args:
        spec: whatever ``load`` reads.
        state: defaults to the declaration's own ``state`` field, which defaults to phase TEST.

    Raises:
        SpecError: naming the layer, where it stands, what was expected and what was found.
    """
    source = load(spec)
    if state is None:
        own = source.net.state
        state = NetState(phase_name(own.phase), own.level, tuple(own.stage))
    builder = _Builder(state, {top for layer in source.net.layer for top in layer.top}, source.directory)
    for i, layer in enumerate(source.net.layer):
        location = source.location(i)
        try:
            keep = included(layer, state)
        except SpecError as error:
            raise SpecError(str(error), layer=layer.name, location=location or None) from None
        if keep:
            builder.add(layer, location)
    return builder.graph(source.net)


class _Builder:
    """Adds layers one by one, keeping the values that blob names stand for at that point of the file."""

    def __init__(self, state: NetState, declared: set[str], directory: Path):
        self.state = state
        self.directory = directory
        self.declared = declared  # names of all blobs that some layer declares
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.current: dict[str, str] = {}  # blob name -> its value so far
        self.writers: dict[str, str] = {}  # blob name -> layer that first wrote it
        self.versions: dict[str, int] = {}  # blob name -> times written
        self.read: set[str] = set()  # values that some layer has read
        self.owners: dict[str, tuple[str, int]] = {}  # parameter name -> (layer, index)

    def add(self, layer: LayerParameter, location: str) -> None:
        name = self._unique(layer.name or f"{layer.type}{len(self.nodes) + 1}")

        def error(problem: str) -> SpecError:
            return SpecError(problem, layer=name, location=location or None)

        if not layer.type:
            raise error("has no type")
        bottoms = []
        for blob in layer.bottom:
            if blob not in self.current:
                near = suggest(blob, self.current)
                raise error(f"bottom {blob!r} is not produced by any earlier layer{near}")
            bottoms.append(self.current[blob])
        if layer.propagate_down and len(layer.propagate_down) != len(bottoms):
            raise error(f"expected as many propagate_down as bottoms ({len(bottoms)}); "
                        f"found {len(layer.propagate_down)}")
        self.read.update(bottoms)
        tops = list(layer.top)
        if layer.type.endswith("Loss") and not tops:
            tops = [self._automatic(name)]
        values = tuple(self._write(top, i, layer, name, error) for i, top in enumerate(tops))
        self.nodes.append(Node(
            name=name,
            type=layer.type,
            proto=layer,
            bottoms=tuple(bottoms),
            tops=values,
            phase=phase_name(layer.phase) if layer.HasField("phase") else self.state.phase,
            loss_weights=self._loss_weights(layer, len(values), error),
            shared=MappingProxyType(self._shared(layer, name)),
            location=location,
            directory=self.directory,
        ))

    def _unique(self, name: str) -> str:
        """Caffe lets two layers have one name; here the second is called ``name#2``."""
        candidate, count = name, 1
        while candidate in self.names:
            count += 1
            candidate = f"{name}#{count}"
        self.names.add(candidate)
        return candidate

    def _automatic(self, name: str) -> str:
        """The top that a loss layer has without declaring it: named as the layer, where no declared blob is."""
        while name in self.declared:
            name += "_automatic"
        return name

    def _write(self, blob: str, index: int, layer: LayerParameter, name: str, error: Error) -> str:
        in_place = index < len(layer.bottom) and layer.bottom[index] == blob
        if blob in self.current and not in_place:
            raise error(f"top {blob!r} is already produced by layer {self.writers[blob]!r}; "
                        f"give it another name, or make it bottom {index} too (in place)")
        version = self.versions.get(blob, -1) + 1
        while version and f"{blob}#{version}" in self.declared:  # a blob may be called so
            version += 1
        self.versions[blob] = version
        self.writers.setdefault(blob, name)
        self.current[blob] = f"{blob}#{version}" if version else blob
        return self.current[blob]

    def _loss_weights(self, layer: LayerParameter, tops: int, error: Error) -> tuple[float, ...]:
        """As declared; else 1 for the first top of a layer whose type ends in Loss, and 0."""
        if layer.loss_weight:
            if len(layer.loss_weight) != tops:
                raise error(f"expected as many loss_weight as tops ({tops}); found {len(layer.loss_weight)}")
            return tuple(layer.loss_weight)
        first = 1.0 if layer.type.endswith("Loss") else 0.0
        return (first,) + (0.0,) * (tops - 1) if tops else ()

    def _shared(self, layer: LayerParameter, name: str) -> dict[int, tuple[str, int]]:
        shared = {}
        for i, param in enumerate(layer.param):
            if param.name:
                owner = self.owners.setdefault(param.name, (name, i))
                if owner != (name, i):
                    shared[i] = owner
        return shared

    def graph(self, net: NetParameter) -> Graph:
        if not self.nodes:
            raise SpecError(f"net {net.name!r} has no layers in phase {self.state.phase}")
        outputs = sorted(blob for blob, value in self.current.items() if value not in self.read)
        return Graph(
            name=net.name,
            phase=self.state.phase,
            nodes=tuple(self.nodes),
            outputs=tuple(outputs),
            blobs=MappingProxyType(dict(self.current)),
            force_backward=net.force_backward,
        ).verify()
