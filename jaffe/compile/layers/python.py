"""Layers whose code is the caller's own Python: ``type: "Python"``."""

from __future__ import annotations

import functools
import importlib
import inspect
import random
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.compile.pycaffe import Blob, Blobs, PythonLayer
from jaffe.netdef.errors import JaffeError, SpecError, suggest
from jaffe.netdef.graph import Graph, Node


def trust(graph: Graph, modules: Sequence[str]) -> Graph:
    """Mark the Python layers whose modules are among ``modules``: their code may run.

    Raises:
        SpecError: a layer's module is not; nothing has been imported then.
        JaffeError: ``modules`` is not a list of names.
    """
    names = tuple(modules) if isinstance(modules, Iterable) and not isinstance(modules, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise JaffeError(f"python_modules is a list of names; received {modules!r}")
    nodes = [replace(node, trusted=_module(node) in names) if node.type == "Python" else node
             for node in graph.nodes]
    for node in nodes:
        if node.type == "Python" and not node.trusted:
            raise _refusal(node)
    return graph.with_nodes(nodes)


def _module(node: Node) -> str:
    p = node.proto.python_param
    if not p.module or not p.layer:
        raise node.error("expected module and layer in python_param; found none")
    return p.module


def _refusal(node: Node) -> SpecError:
    module = _module(node)
    return node.error(f"runs Python code, {node.proto.python_param.layer!r} of module {module!r}: to allow it, give "
                      f"python_modules=[{module!r}] (--python-module {module}); found it in no such list")


def _load(node: Node) -> Callable[..., Any]:
    """The class or function that the layer names. Raises SpecError when it cannot be had, or must not."""
    if not node.trusted:
        raise _refusal(node)
    module, name = node.proto.python_param.module, node.proto.python_param.layer
    adapt = "expected `import jaffe` in place of `import caffe`, and jaffe.PythonLayer in place of caffe.Layer"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == "caffe":
            raise node.error(f"module {module!r} imports caffe: {adapt}") from error
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise node.error(f"there is no module {error.name!r}: expected it on Python's path "
                             "(PYTHONPATH=FOLDER)") from error
        raise node.error(f"module {module!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever the user's module raises
        raise node.error(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    code = getattr(found, name, None)
    if code is None:
        raise node.error(f"module {module!r} has no {name!r}{suggest(name, vars(found))}")
    if inspect.isclass(code) and not issubclass(code, PythonLayer):
        raise node.error(f"class {name!r} of module {module!r} does not derive from jaffe.PythonLayer: {adapt}")
    if not callable(code):
        raise node.error(f"{name!r} of module {module!r}: expected a class that derives from jaffe.PythonLayer, or a "
                         f"function; found {type(code).__name__}")
    return code


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, the generators of ``np.random`` and ``random`` start from this number; afterwards they are as before."""
    with _ONE_AT_A_TIME:
        before, before_python = np.random.get_state(), random.getstate()
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
            random.setstate(before_python)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Wanted:
    """For each input, whether a gradient is asked for."""

    inputs: tuple[bool, ...]


@built_in("Python")
class Python(Layer):
    """A layer of the caller's own: a class as ``caffe.Layer`` has them, or a function of NumPy arrays.

    Shapes: what the class's ``reshape`` gives the tops; of a function, found by calling it with zeros.
    Weights: blob0, blob1, ...: what ``setup`` and the first ``reshape`` add to ``self.blobs``, and write to them.
    The class derives from ``jaffe.PythonLayer``; see there. A function takes the bottoms as arrays, and
    ``param_str`` if it has a parameter of that name, and returns a top or a tuple of tops. It has a gradient if it
    has an attribute ``backward``, a function of the bottoms and the tops' gradients that returns a gradient, or
    ``None``, for each bottom.
    The code runs on the host, whatever the device, by ``jax.pure_callback``: once an item under ``vmap``, and the
    class's ``forward`` again in the backward pass. There ``np.random`` and ``random`` draw the same numbers again;
    they are seeded by the key of the call, else by the layer's name. ``jax.export`` refuses nets with such layers.
    As in Caffe it is no loss unless the net states a loss_weight, and ``backward`` finds that weight in the top's
    ``diff``.
    It runs only if the caller names the module (``python_modules``). ``share_in_parallel`` has no effect, as in
    Caffe. Layers that read data, without bottoms and parameters, are refused: they keep their place between calls.
    Source: Caffe 1.0, ``python_layer.hpp``.
    """

    bottoms = (0, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)

    @property
    def foreign(self) -> bool:
        return True

    def __init__(self, node: Node):
        super().__init__(node)
        self._found: dict[tuple[Shape, ...], tuple[list[Shape], list[np.ndarray]]] = {}

    @functools.cached_property
    def code(self) -> Callable[..., Any]:
        """The class or function. Raises SpecError when it cannot be had, or must not."""
        return _load(self.node)

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return self._probe(bottoms)[0]

    def weights(self, bottoms: Sequence[Shape]) -> list[Weight]:
        return [
            Weight(f"blob{i}", value.shape, constant(0), value=value)
            for i, value in enumerate(self._probe(bottoms)[1])
        ]

    def apply(self, weights: Mapping[str, Array], bottoms: Sequence[Array], ctx: Context) -> Sequence[Array]:
        learned = len(weights)
        inputs = [*(weights[f"blob{i}"] for i in range(learned)), *(x.astype(ctx.dtype) for x in bottoms)]
        seed = jnp.uint32(self._seed) if ctx.rng is None else jax.random.bits(ctx.rng, dtype=jnp.uint32)
        tops = tuple(jax.ShapeDtypeStruct(shape, ctx.dtype) for shape in self.shapes([x.shape for x in bottoms]))

        def run(seed: Array, *values: Array) -> tuple[Array, ...]:
            host = functools.partial(self._forward, learned)
            return tuple(jax.pure_callback(host, tops, seed, *values, vmap_method="sequential"))

        def forward(seed: Any, *inputs: Any) -> Any:
            values = tuple(x.value for x in inputs)
            return run(seed.value, *values), (seed.value, values, _Wanted(tuple(x.perturbed for x in inputs)))

        def backward(kept: Any, d_tops: Any) -> tuple[Array | None, ...]:
            seed, values, wanted = kept
            self._check_gradient()
            d_tops = [jnp.zeros(d.shape, d.dtype) if isinstance(d, jax.custom_derivatives.SymbolicZero) else d
                      for d in d_tops]
            asked = [jax.ShapeDtypeStruct(x.shape, x.dtype)
                     for x, one in zip(values, wanted.inputs, strict=True) if one]
            host = functools.partial(self._backward, learned, wanted)
            found = iter(jax.pure_callback(host, asked, seed, *values, *d_tops, vmap_method="sequential"))
            return None, *(next(found) if one else jnp.zeros_like(x)
                           for x, one in zip(values, wanted.inputs, strict=True))

        call = jax.custom_vjp(run)
        call.defvjp(forward, backward, symbolic_zeros=True)
        return call(seed, *inputs)

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Not known: 0."""
        return 0

    def gradient_flops(
        self, bottoms: Sequence[Shape], tops: Sequence[Shape], learned: Collection[str], wanted: Sequence[bool]
    ) -> tuple[int, int]:
        """Not known: 0."""
        return 0, 0

    def _probe(self, shapes: Sequence[Shape]) -> tuple[list[Shape], list[np.ndarray]]:
        """Shapes of the tops, and first values of the parameters, for bottoms of these shapes."""
        key = tuple(shapes)
        if key not in self._found:
            self._found[key] = self._tried(key)
        return self._found[key]

    def _tried(self, shapes: tuple[Shape, ...]) -> tuple[list[Shape], list[np.ndarray]]:
        if not shapes and not inspect.isclass(self.code):
            raise self._feeding()
        bottoms = [Blob(np.zeros(shape)) for shape in shapes]  # float64: no parameter loses digits
        values: list[np.ndarray] = []
        with self._blamed("", shapes), _seeded(self._seed):
            if inspect.isclass(self.code):
                layer, found = self._made(bottoms, np.float64)
                layer.reshape(bottoms, found)
                values = [blob.data.copy() for blob in layer.blobs]
                tops = [top.shape for top in found]
            else:
                tops = [np.shape(top) for top in self._called([blob.data for blob in bottoms])]
        if not shapes and not values:
            raise self._feeding()
        if len(tops) != len(self.node.tops):
            raise self.node.error(f"{self._name} returns {len(tops)} tops; found {len(self.node.tops)}")
        return tops, values

    def _feeding(self) -> SpecError:
        return self.node.error(f"{self._name} has neither bottoms nor parameters: a layer that reads data keeps its "
                               "place between calls, which is not supported; expected an Input layer, or "
                               "Solver(data=...), fed by that code")

    @contextmanager
    def _blamed(self, where: str, shapes: Sequence[Shape]) -> Iterator[None]:
        """Whatever the user's code raises inside, as an error that names the layer."""
        try:
            yield
        except SpecError:
            raise
        except Exception as error:
            on = ", ".join(map(str, shapes)) or "none"
            raise self.node.error(f"{self._name} failed {where}on bottoms of shape {on}: "
                                  f"{type(error).__name__}: {error}") from error

    @property
    def _seed(self) -> int:
        """Of the random numbers in a call without a key."""
        return zlib.crc32(self.node.name.encode())

    @property
    def _name(self) -> str:
        p = self.node.proto.python_param
        return f"{p.module}.{p.layer}"

    def _made(self, bottoms: list[Blob], dtype: Any) -> tuple[PythonLayer, list[Blob]]:
        """A fresh layer after ``setup``, and its tops. A layer in place has one blob as bottom and top, as in Caffe."""
        declared = list(self.node.proto.bottom)
        tops = [bottoms[declared.index(name)] if name in declared else Blob(np.zeros((), dtype))
                for name in self.node.proto.top]
        layer: PythonLayer = self.code()
        layer.param_str = self.p.param_str
        layer.phase = 0 if self.train else 1
        layer.blobs = Blobs(dtype)
        layer.setup(bottoms, tops)
        return layer, tops

    def _called(self, bottoms: list[np.ndarray]) -> list[np.ndarray]:
        """The tops of a function."""
        try:
            named = "param_str" in inspect.signature(self.code).parameters
        except ValueError:  # NumPy's own functions have no signature
            named = False
        tops = self.code(*bottoms, **({"param_str": self.p.param_str} if named else {}))
        return list(tops) if isinstance(tops, (tuple, list)) else [tops]

    def _ran(self, arrays: list[np.ndarray], learned: int) -> tuple[PythonLayer, list[Blob], list[Blob]]:
        """A layer after ``forward``, its bottoms and its tops."""
        bottoms = [Blob(array) for array in arrays[learned:]]
        layer, tops = self._made(bottoms, arrays[0].dtype)
        for blob, value in zip(layer.blobs, arrays, strict=False):  # what setup added: reshape may read it
            blob.data[...] = value
        layer.reshape(bottoms, tops)
        for blob, value in zip(layer.blobs, arrays[:learned], strict=True):
            blob.data[...] = value
        layer.forward(bottoms, tops)
        return layer, bottoms, tops

    def _forward(self, learned: int, seed: Any, *inputs: Any) -> tuple[np.ndarray, ...]:
        """On the host."""
        arrays = [np.array(x) for x in inputs]  # copies: the user's code may write to them
        given, dtype = [x.shape for x in arrays[learned:]], arrays[0].dtype
        with self._blamed("in forward ", given), _seeded(int(seed)):
            if inspect.isclass(self.code):
                found: list[Any] = [top.data for top in self._ran(arrays, learned)[2]]
            else:
                found = self._called(arrays)
            tops = tuple(np.asarray(top, dtype) for top in found)
        shapes = self.shapes(given)
        if [top.shape for top in tops] != shapes:
            raise self.node.error(f"{self._name} gives tops of shape {[top.shape for top in tops]} in forward; "
                                  f"expected {shapes}, as found from the shapes of the bottoms alone")
        return tops

    def _backward(self, learned: int, wanted: _Wanted, seed: Any, *values: Any) -> list[np.ndarray]:
        """On the host: gradients of the wanted inputs."""
        arrays = [np.array(x) for x in values]
        count = len(wanted.inputs)
        inputs, d_tops = arrays[:count], arrays[count:]
        given = [x.shape for x in inputs]
        with self._blamed("in backward ", given[learned:]), _seeded(int(seed)):
            if inspect.isclass(self.code):
                layer, bottoms, tops = self._ran(inputs, learned)
                for top, d_top in zip(tops, d_tops, strict=True):
                    top.diff[...] = d_top
                layer.backward(tops, list(wanted.inputs[learned:]), bottoms)
                found: list[Any] = [blob.diff for blob in (*layer.blobs, *bottoms)]
            else:
                found = self.code.backward(*inputs, *d_tops)  # type: ignore[attr-defined]
                found = list(found) if isinstance(found, (tuple, list)) else [found]
            dtype = arrays[0].dtype
            gradients = [None if d is None else np.asarray(d, dtype) for d in found]
        if len(gradients) != count:
            raise self.node.error(f"the backward of {self._name} returns {len(gradients)} gradients; expected one for "
                                  f"each of {count} bottoms")
        names = [*(f"blob{i}" for i in range(learned)), *(f"bottom {name!r}" for name in self.node.proto.bottom)]
        for name, shape, d, one in zip(names, given, gradients, wanted.inputs, strict=True):
            if one and d is not None and d.shape != shape:
                raise self.node.error(f"the backward of {self._name} gives {name} a gradient of shape {d.shape}; "
                                      f"expected {shape}")
        return [np.zeros_like(x) if d is None else d
                for x, d, one in zip(inputs, gradients, wanted.inputs, strict=True) if one]

    def _check_gradient(self) -> None:
        own = getattr(self.code, "backward", None)
        if own is None or own is PythonLayer.backward:
            what = "class has no method" if inspect.isclass(self.code) else "function has no attribute"
            raise self.node.error(f"{self._name} has no gradient: the {what} backward; expected one, or "
                                  "propagate_down: false")
