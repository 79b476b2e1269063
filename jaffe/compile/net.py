"""compile_net: from a declaration to pure functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile import layers as _layers  # noqa: F401  registers the layer types
from jaffe.compile.backward import Gradients, needed_gradients
from jaffe.compile.cost import Cost, cost
from jaffe.compile.execute import execute, fold
from jaffe.compile.fillers import fill
from jaffe.compile.fused import Program, make_program
from jaffe.compile.infer import Inferred, Stored, infer
from jaffe.compile.layer import Shape
from jaffe.compile.layers.python import trust
from jaffe.compile.lowering import AxisName, Lowering
from jaffe.compile.lowering.choose import lowering_of
from jaffe.compile.lowering.layout import laid_out
from jaffe.compile.partition import Partition, check
from jaffe.compile.passes import BEFORE_LOOPS, PIPELINE, Pass, PassContext, run
from jaffe.compile.precision import blob_dtype, precision_dtype
from jaffe.compile.reader import read_inputs
from jaffe.compile.remat import Remat, remat_of
from jaffe.compile.reroll.find import explain_loops
from jaffe.compile.summary import Summary, summarise
from jaffe.netdef.errors import JaffeError, suggest
from jaffe.netdef.graph import Graph
from jaffe.netdef.resolve import resolve
from jaffe.netdef.rules import NetState
from jaffe.netdef.source import Spec, load
from jaffe.netdef.weights import blob_to_array

if TYPE_CHECKING:
    import onnx
    from flax import linen

    from jaffe.compile.exported import BatchChoice
    from jaffe.compile.stepper import Stepper
    from jaffe.netdef.draw import Drawing

Variables = Mapping[str, Mapping[str, Mapping[str, jax.Array]]]
Blobs = dict[str, jax.Array]
State = dict[str, dict[str, jax.Array]]


def compile_net(
    spec: Spec,
    *,
    phase: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    stages: Sequence[str] = (),
    level: int | None = None,
    dtype: Any = jnp.float32,
    precision: str = "float32",
    python_modules: Sequence[str] = (),
    lowering: str = "auto",
    autotune: bool = False,
    remat: str = "auto",
    memory: int | None = None,
    axis_name: AxisName = None,
    partition: Partition | None = None,
) -> CompiledNet:
    """Compile a declared net into pure functions.

    Args:
        spec: a prototxt path or text, a ``NetParameter`` or a ``NetSpec``.
        phase: ``"TRAIN"`` or ``"TEST"``; by default what the net's ``state`` says, else TEST.
        inputs: shapes of inputs that the net leaves open (data layers), or to override declared ones.
        batch: first axis of every input that ``inputs`` does not name.
        stages, level: what ``include`` and ``exclude`` rules are held against, with the net's own ``state``:
            stages add up, a level replaces.
        dtype: of weights and blobs: float32, or float64 where JAX has it enabled.
        precision: ``"bfloat16"`` or ``"bf16"`` computes matrix products, and what lies between them, in bfloat16, each
            value rounded by up to 0.4 %. Weights, their gradients, state, inputs, losses, metrics and the blobs that
            come out stay float32, and so do sums inside layers (``Layer.arithmetic`` says how each type works).
            Variables fit a net of either precision. Test in float32 what was trained in bfloat16 where accuracy is
            to be exact: rounded scores may tie, which Accuracy counts as wrong.
        python_modules: names of the modules whose code the net's Python layers may run; others are refused
            before anything is imported.
        lowering: ``"auto"`` chooses for every convolution, pooling and normalisation how XLA is told to compute it,
            each pass on its own (``net.summary(lowering=True)`` shows it); such a net has gradients, and gradients of
            gradients, but no forward-mode derivative (``jax.jvp``). ``"plain"`` is XLA's own operations: slower, and
            differentiable in every mode.
        autotune: choose by measuring on this machine, when a shape is first met, in place of the rules; what was
            fastest is remembered on disk.
        remat: ``"none"`` keeps all blobs of a training step until its backward pass has read them. ``"full"`` keeps
            few, and computes the others once more from those: nearly one more forward pass, for memory that grows
            with the square root of the depth. Results are the same; there is no forward-mode derivative. ``"auto"``
            does so if the blobs of the declared shapes, weights, their gradients and one number more a weight would
            not fit into ``memory``.
        memory: bytes; by default those of the device, of a CPU the machine's.
        axis_name: of ``jax.pmap`` or ``jax.shard_map``, in which the net then must run, one name or several: BatchNorm
            takes its statistics from the batches of all devices along it, as if they were one.
        partition: layers whose weights are divided over a mapped axis; see ``jaffe.Partition``. ``loss`` and ``apply``
            then work inside of it, on the parts of weights that a device has; ``init`` makes whole ones. Gradients are
            those of the sum of the losses of the devices along the axis.

    Raises:
        SpecError: the net is wrong; the message names layer, file and line, what was expected and found.
        JaffeError: ``inputs`` names what is not an input, or another argument is wrong.
    """
    source = load(spec)
    own = source.net.state
    if phase is None:
        phase = "TRAIN" if own.HasField("phase") and own.phase == 0 else "TEST"
    if isinstance(stages, str):
        raise JaffeError(f"stages is a list of names; received {stages!r}")
    graph = resolve(source, NetState(phase, own.level if level is None else level, (*own.stage, *stages)))
    graph = trust(graph, python_modules)
    dtype = blob_dtype(dtype)
    how = lowering_of(lowering, autotune)
    net = CompiledNet(graph, infer(graph, inputs, batch), dtype, precision_dtype(precision, dtype), how,
                      remat_of(remat, memory))
    return net.mapped(axis_name, partition)


class CompiledNet:
    """A net as pure functions of ``(variables, inputs, rng)``; made by ``compile_net``.

    Variables are ``{"params": {layer: {"weight": ..., "bias": ...}}, "state": {layer: {...}}}``, in Caffe's
    layouts; a parameter that several layers share stands once, under the first. State that a layer carries from
    call to call, an LSTM's h and c, is in ``"state"`` too, but in no weights file. ``jit``, ``grad``, ``vmap``,
    ``pmap`` and ``jax.export`` work on the methods as on any function.

    Attributes:
        graph: the resolved net.
        inputs: shape and dtype of each input, in the order of the net.
        outputs: names of the blobs that ``apply`` returns, in alphabetical order as Caffe has them.
        dtype: of weights, and of the blobs that go in and come out.
        precision: dtype of matrix products and of what lies between them: ``dtype``, or bfloat16.
        lowering: how operations are told to XLA.
        remat: whether a training step keeps its blobs.
        axis_name: mapped axes over which BatchNorm's batches are one, or None.
        partition: layers whose weights are divided over a mapped axis, or None.
        pipeline: the passes that its programs go through.
    """

    pipeline: tuple[Pass, ...] = PIPELINE

    def __init__(
        self, graph: Graph, inferred: Inferred, dtype: np.dtype, precision: np.dtype | None = None,
        lowering: Lowering = Lowering(), remat: Remat = Remat(),  # noqa: B008  immutable
        axis_name: AxisName = None, partition: Partition | None = None,
    ):
        self.graph = graph
        self.inferred = inferred
        self.dtype = dtype
        self.precision = dtype if precision is None else precision
        self.lowering = lowering
        self.remat = remat
        self.axis_name = axis_name
        self.partition = partition
        self.inputs = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in inferred.inputs.items()}
        self.outputs = graph.outputs
        self._programs: dict[frozenset[str], tuple[Graph, Program]] = {}

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def phase(self) -> str:
        """``"TRAIN"`` or ``"TEST"``."""
        return self.graph.phase

    def __repr__(self) -> str:
        fed = ", ".join(f"{name} {value.shape}" for name, value in self.inputs.items())
        return f"CompiledNet({self.name or 'unnamed'}, {self.phase}, {fed} -> {', '.join(self.outputs)})"

    def mapped(self, axis_name: AxisName = None, partition: Partition | None = None) -> CompiledNet:
        """The same net for other mapped axes, or for none: see ``compile_net``."""
        if partition is not None:
            check(self.graph, self.inferred, partition)
        return CompiledNet(self.graph, self.inferred, self.dtype, self.precision, self.lowering, self.remat, axis_name,
                           partition)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh variables: each weight filled as declared, or as the declaration itself stores it (``blobs``).

        A weight's numbers depend on the key and its own name only, not on the other layers. Carried state is zero.
        """
        variables: dict[str, Any] = {"params": {}, "state": self.fresh_carry()}
        for node in self.graph.nodes:
            for i, stored in enumerate(self.inferred.stored[node.name]):
                name = stored.weight.name
                if stored.owner != (node.name, name):
                    continue
                group = variables["params" if stored.weight.trained else "state"].setdefault(node.name, {})
                if stored.weight.value is not None and not node.proto.blobs:
                    group[name] = jnp.asarray(stored.weight.value, self.dtype)
                elif node.proto.blobs:
                    array = blob_to_array(node.proto.blobs[i]).reshape(stored.weight.shape)
                    group[name] = jnp.asarray(array, self.dtype)
                else:
                    one = fold(key, f"{node.name}/{name}")
                    group[name] = fill(one, stored.weight.shape, stored.weight.filler, self.dtype)
        return variables

    def fresh_carry(self, inputs: Mapping[str, Any] | None = None) -> State:
        """Zeros for the state that layers carry from call to call (h and c of LSTM): the part of ``"state"`` that a
        new sequence starts from, for the declared shapes, or for those of ``inputs``."""
        inferred = self.inferred
        if inputs is not None:
            inferred = infer(self.graph, {name: np.shape(value) for name, value in inputs.items()})
        return {
            node: {weight.name: jnp.zeros(weight.shape, self.dtype) for weight in carried}
            for node, carried in inferred.carried.items() if carried
        }

    def apply(
        self,
        variables: Variables,
        inputs: Mapping[str, Any],
        rng: jax.Array | None = None,
        *,
        blobs: Iterable[str] = (),
    ) -> tuple[Blobs, State]:
        """Run the net forward.

        Args:
            variables: as ``init`` gives them.
            inputs: an array for each of ``self.inputs``. Sizes other than the declared ones are checked anew;
                carried state must have the shape that goes with them.
            rng: key for Dropout and other random layers; not needed when there are none.
            blobs: names of inner blobs wanted beside the outputs.

        Returns:
            The output blobs (and those asked for) by name, and the new state.

        Raises:
            JaffeError: inputs or variables do not fit the net.
        """
        wanted = dict.fromkeys([*self.outputs, *blobs])
        values = {name: self.value_of(name) for name in wanted}
        env, state = self._run(variables, inputs, rng, frozenset(values.values()))
        return {name: env[value] for name, value in values.items()}, state

    def loss(
        self, variables: Variables, inputs: Mapping[str, Any], rng: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Blobs, State]]:
        """The weighted sum of the net's losses; with ``(outputs, new state)`` beside it.

        Use it as ``jax.value_and_grad(net.loss, has_aux=True)(variables, inputs, rng)``. Parameters with
        ``lr_mult: 0`` and bottoms with ``propagate_down: false`` get no gradient.

        Raises:
            JaffeError: the net has no loss, or inputs or variables do not fit it.
        """
        if not self.loss_tops:
            raise JaffeError(f"net {self.name!r} has no loss in phase {self.phase}: "
                             "expected a layer whose type ends in Loss, or a loss_weight")
        values = {name: self.value_of(name) for name in self.outputs}
        keep = frozenset(values.values()) | frozenset(self.loss_tops)
        env, state = self._run(variables, inputs, rng, keep, layout=partial(laid_out, lowering=self.lowering))
        total = jnp.zeros((), self.dtype)
        for weight in dict.fromkeys(self.loss_tops.values()):  # of the many of an unrolled net all have one weight
            tops = [env[top].reshape(-1) for top, own in self.loss_tops.items() if own == weight]
            total += weight * jnp.concatenate(tops).sum()
        return total, ({name: env[value] for name, value in values.items()}, state)

    def stepper(self, inputs: Iterable[str] | None = None, outputs: Iterable[str] | None = None) -> Stepper:
        """The net as a function of one time step, from the same weights: for streams, and to generate sequences.

        Its state is that of LSTM and RNN layers, and what goes from step to step in the loops that unrolled steps
        became. A layer that looks at all steps together sees one.

        Args:
            inputs: names of those that each step gets, one step long; others are given once, at the start (the
                encoder's sentence, an image, a first h). By default all that the outputs need.
            outputs: blobs wanted; by default the net's outputs. Inputs that none of them needs are left out.

        Raises:
            JaffeError: a name is not of the net, or steps of an unrolled net differ, so that there is no one step.
        """
        from jaffe.compile.stepper import Stepper

        return Stepper(self, inputs, outputs)

    @cached_property
    def loss_tops(self) -> dict[str, float]:
        """Values that count in the loss, and their weights."""
        return {
            top: weight
            for node in self.graph.nodes
            for top, weight in zip(node.tops, node.loss_weights, strict=True)
            if weight
        }

    @cached_property
    def carried(self) -> Mapping[str, tuple[str, ...]]:
        """The names of what layers carry from call to call, of those that do."""
        return {layer: tuple(one.name for one in own) for layer, own in self.inferred.carried.items() if own}

    @property
    def stored(self) -> Mapping[str, tuple[Stored, ...]]:
        """The stored arrays of each layer, in the order of Caffe's files, with owners and multipliers."""
        return self.inferred.stored

    def shape(self, blob: str) -> Shape:
        """The shape of a blob. Raises JaffeError for an unknown name."""
        return self.inferred.shapes[self.value_of(blob)]

    def preprocess(
        self,
        images: Any,
        *,
        input: str | None = None,  # noqa: A002  the net's word
        order: str = "RGB",
        layout: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """Images as an input of the net expects them: ``out = (pixel - mean) * scale``, channels BGR, (N, C, H, W).

        What is done is said by the ``transform_param`` of the input's layer, as Caffe's data layers do it: resize,
        subtract the mean at the place in the uncropped image, crop the middle, scale. Nothing is mirrored. Colours
        become grey, and grey three equal channels, where the net expects that.

        Args:
            images: (N, H, W, C) or (N, C, H, W), or one image; bytes, or floats of the range that the net was
                trained on (most nets: 0 to 255).
            input: name of the input, where several are images.
            order: ``"RGB"`` or ``"BGR"``: the channels of ``images``.
            layout: ``"NHWC"`` or ``"NCHW"``, where it cannot be seen from the sizes.
            size: (height, width) to resize to before all else. By default as ``resize`` says; else as large as the
                mean image; else, where nothing is cropped, as the input is declared.

        Raises:
            SpecError: the images do not fit ``transform_param``, or ``mean_file`` cannot be read.
            JaffeError: the net reads no images, or an argument is wrong.
        """
        from jaffe.compile.preprocess import preprocess

        return preprocess(self, images, input=input, order=order, layout=layout, size=size)

    def cost(self) -> Cost:
        """Parameters, output values and floating point operations of each layer, for the declared shapes.

        The operations of its backward pass too, of which frozen parameters, the layers before the first that learns,
        and those that lead to no loss have none.
        """
        return cost(self.graph, self.inferred)

    def summary(self, *, lowering: bool = False) -> Summary:
        """A table of the net: layer, type, inputs, output shape, parameters, FLOPs forward and backward. Prints as
        text. Below it stand the loops that unrolled steps become, and why others do not.

        Args:
            lowering: also how each pass of convolutions and poolings is computed on the default device, and the
                milliseconds that the rules expect of it and of XLA's own way, on two CPU cores.
        """
        keep = frozenset(map(self.value_of, self.outputs)) | frozenset(self.loss_tops)
        context = self.context(keep)
        notes = explain_loops(run(self.graph, BEFORE_LOOPS, context), context)
        return summarise(self.graph, self.inferred, self.lowering if lowering else None, self.precision, notes)

    def draw(self, *, direction: str = "LR", shapes: bool = True) -> Drawing:
        """A picture of the net, left to right or top to bottom (``"TB"``): shown by notebooks, as SVG where Graphviz's
        ``dot`` is on the path, else as Mermaid. ``.save("net.svg")`` writes it, also .png, .pdf, .dot, .mmd.

        Activations, BatchNorm, Scale and Dropout are in the box of the layer before. Modules have a frame, frozen
        layers a dashed border, shared weights one of one colour. Of more than four unrolled steps the first two and
        the last are there. Raises JaffeError for another direction.
        """
        from jaffe.compile.drawing import draw

        return draw(self, direction=direction, shapes=shapes)

    def as_linen(self) -> linen.Module:
        """The net as a Flax Linen module: ``module.init(key, inputs)``, ``module.apply(variables, inputs)``.

        Its ``"params"`` are those of ``self.init``; BatchNorm's statistics are the collection ``"state"``
        (``mutable=["state"]`` to train); random layers take ``rngs={"dropout": key}``.
        """
        from jaffe.compile.linen import as_linen

        return as_linen(self)

    def export(
        self,
        variables: Variables | None = None,
        *,
        outputs: Iterable[str] | None = None,
        batch: BatchChoice = "polymorphic",
        platforms: Sequence[str] = ("cpu", "cuda"),
        rng: jax.Array | None = None,
    ) -> bytes:
        """The forward pass as a serialised StableHLO artefact that needs JAX to run, but not jaffe.

        ``jax.export.deserialize(data).call(inputs)`` returns the dict of outputs; inputs are arrays of the net's
        dtype. Needs a net of phase TEST. State that layers carry from call to call starts from zero in every call.

        Args:
            variables: weights, to stand inside the artefact. ``None`` leaves them outside:
                ``.call(variables, inputs)``.
            outputs: blobs to return; by default the net's outputs. Inputs that none of them needs, such as
                labels, are left out.
            batch: ``"polymorphic"`` takes a batch of any size, the first axis of every input that is there as
                long as the first input; if a layer does not fit that, the declared batch is used and a warning
                names the layer. A number: that batch. ``None``: the declared one.
            platforms: what it is compiled for: cpu, cuda, rocm, tpu.
            rng: key for layers that are random in phase TEST too; it stands inside, so all calls draw the same.

        Raises:
            JaffeError: the phase is TRAIN; or arguments do not fit the net.
        """
        from jaffe.compile.export import export

        return export(self, variables, outputs=outputs, batch=batch, platforms=platforms, rng=rng)

    def export_onnx(
        self,
        variables: Variables,
        path: str | os.PathLike[str] | None = None,
        *,
        outputs: Iterable[str] | None = None,
        batch: BatchChoice = "polymorphic",
    ) -> onnx.ModelProto:
        """The forward pass as an ONNX model (opset 18), written to ``path`` if given. Needs the ``onnx`` package.

        Inputs and outputs are named as the blobs; one that an in-place layer writes over an input of the same name
        is called ``name#1``. Needs a net of phase TEST. Carried state starts from zero in every call. The model
        computes in the net's dtype, whatever its ``precision``. What a runtime makes of a NaN that is max pooled is
        its own; onnxruntime has no convolution, average pooling and resizing of float64, and so runs few nets of that
        dtype.

        Args:
            outputs, batch: as for ``export``; the batch is the symbolic size ``N``.

        Raises:
            SpecError: lists every layer that has no form in ONNX, and outputs before them that do.
            JaffeError: the phase is TRAIN; arguments do not fit the net; or ``path`` cannot be written.
        """
        from jaffe.compile.onnx import export

        return export(self, variables, path, outputs=outputs, batch=batch)

    def program(self, keep: frozenset[str]) -> Graph:
        """The graph that runs when the values ``keep`` are wanted: after all passes."""
        return self._program(keep)[0]

    def _program(self, keep: frozenset[str]) -> tuple[Graph, Program]:
        if keep not in self._programs:
            graph = run(self.graph, self.pipeline, self.context(keep))
            self._programs[keep] = graph, make_program(graph.nodes)
        return self._programs[keep]

    def context(self, keep: frozenset[str]) -> PassContext:
        """What passes may know when the values ``keep`` are wanted."""
        room = self.remat.room(self.inferred, self.dtype, self.precision)
        return PassContext(self.inferred, keep, self._effects, self.gradients, self.lowering, self.partition,
                           self.precision != self.dtype, room)

    @cached_property
    def gradients(self) -> Mapping[str, Gradients]:
        """Which gradients training computes, by layer: see ``needed_gradients``."""
        return needed_gradients(self.graph, self.inferred)

    @cached_property
    def _effects(self) -> frozenset[str]:
        """Nodes that update state."""
        return frozenset(
            node for node, stored in self.inferred.stored.items()
            if self.inferred.carried[node] or any(not one.weight.trained for one in stored)
        )

    def value_of(self, blob: str) -> str:
        """The value that a blob ends up with. Raises JaffeError for an unknown name."""
        try:
            return self.graph.blobs[blob]
        except KeyError:
            raise JaffeError(f"the net has no blob {blob!r}{suggest(blob, self.graph.blobs)}") from None

    def _run(
        self, variables: Variables, inputs: Mapping[str, Any], rng: jax.Array | None, keep: frozenset[str],
        *, anew: bool = False, layout: Callable[[jax.Array], jax.Array] = lambda value: value,
    ) -> tuple[dict[str, jax.Array], State]:
        """The values ``keep``, and the new state. ``anew``: carried state is zero, whatever the variables have.
        ``layout``: as ``execute`` has it."""
        env = read_inputs(self, inputs)
        try:
            env, state = execute(self, self._program(keep)[1], variables, env, rng, anew=anew, layout=layout)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise JaffeError('forward-mode derivatives (jax.jvp, jax.jacfwd) are of nets compiled with '
                             'lowering="plain" and remat="none"; found one whose gradients are written by hand'
                             ) from None
        return {name: env[name].astype(self.dtype) for name in keep}, state
