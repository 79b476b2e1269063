"""Layers whose code is the caller's own Python: ``type: "Python"``."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaffe.compile.fillers import constant
from jaffe.compile.layer import Array, Context, Layer, Shape, Weight, built_in
from jaffe.netdef.errors import JaffeError, SpecError, suggest
from jaffe.netdef.graph import Graph, Node


class Blob:
    """What a Python layer reads and writes: ``data`` and ``diff``, NumPy arrays of one shape, as in pycaffe."""

    def __init__(self, data: np.ndarray):
        self._set(data)

    def _set(self, data: np.ndarray) -> None:
        self._data = data
        self._diff = np.zeros_like(data)

    @property
    def data(self) -> np.ndarray:
        """Values; write with ``blob.data[...] = x``."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """Gradient, zero at first; write with ``blob.diff[...] = x``."""
        return self._diff

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """Number of values."""
        return self._data.size

    @property
    def num(self) -> int:
        """Size of axis 0."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3."""
        return self._legacy(3)

    def reshape(self, *dims: int) -> None:
        """Give it another shape; the values are zero then, unless the shape is the one that it has."""
        shape = tuple(operator.index(dim) for dim in dims)
        if any(dim < 1 for dim in shape):
            raise ValueError(f"sizes are positive; received {shape}")
        if shape != self.shape:
            self._set(np.zeros(shape, self._data.dtype))

    def _legacy(self, axis: int) -> int:
        if self._data.ndim > 4:
            raise ValueError(f"num, channels, height and width are of blobs of at most 4 axes; this has {self.shape}")
        return self.shape[axis] if axis < self._data.ndim else 1


class Blobs(list[Blob]):
    """The learned parameters of a Python layer: ``self.blobs``."""

    def __init__(self, dtype: Any):
        super().__init__()
        self.dtype = dtype

    def add_blob(self, *dims: int) -> None:
        """Another parameter of this shape. It starts with what ``setup`` writes to its ``data``, else 0."""
        self.append(Blob(np.zeros(dims, self.dtype)))


class PythonLayer:
    """Base of the classes that a net's Python layers name, in place of ``caffe.Layer``.

    >>> class Twice(PythonLayer):
    ...     def reshape(self, bottom, top):
    ...         top[0].reshape(*bottom[0].shape)
    ...     def forward(self, bottom, top):
    ...         top[0].data[...] = 2 * bottom[0].data
    ...     def backward(self, top, propagate_down, bottom):
    ...         bottom[0].diff[...] = 2 * top[0].diff

    In prototxt: ``layer { type: "Python" bottom: "x" top: "y" python_param { module: "mine" layer: "Twice" } }``;
    and ``compile_net(net, python_modules=["mine"])``.

    Every call of the net makes a fresh object and calls ``setup``, ``reshape`` and ``forward``; the backward pass
    makes another, and calls ``backward`` after these three. So nothing is left from one call to the next, and what
    ``setup`` does, it does often: read large files when the module is imported instead.

    Attributes:
        param_str: text of ``python_param``.
        phase: 0 in TRAIN, 1 in TEST.
        blobs: learned parameters; ``self.blobs.add_blob(*dims)`` in ``setup`` adds one.
    """

    param_str: str = ""
    phase: int = 1
    blobs: Blobs

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read ``param_str``, check the blobs, add parameters."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes. These depend on the bottoms' shapes, not on their values."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the tops' ``data``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Write ``diff`` of the bottoms that ``propagate_down`` asks for, and of ``self.blobs``."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")


def trust(graph: Graph, modules: Sequence[str]) -> Graph:
    """Mark the Python layers whose modules are among ``modules``: their code may run.

    Raises:
        SpecError: a layer's module is not; nothing has been imported then.
        JaffeError: ``modules`` is not a list of names.
    """
    if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
        raise JaffeError(f"python_modules is a list of names; received {modules!r}")
    nodes = [replace(node, trusted=_module(node) in modules) if node.type == "Python" else node
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


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Wanted:
    """For each input, whether a gradient is asked for."""

    inputs: tuple[bool, ...]


@built_in("Python")
class Python(Layer):
    """A layer of the caller's own: a class as ``caffe.Layer`` has them, or a function of NumPy arrays.

    Shapes: what the class's ``reshape`` gives the tops; of a function, found by calling it with zeros.
    Weights: blob0, blob1, ...: what ``setup`` adds to ``self.blobs``, and writes to them.
    The class derives from ``jaffe.PythonLayer``; see there. A function takes the bottoms as arrays, and
    ``param_str`` if it has a parameter of that name, and returns a top or a tuple of tops. It has a gradient if it
    has an attribute ``backward``, a function of the bottoms and the tops' gradients that returns a gradient, or
    ``None``, for each bottom.
    The code runs on the host, whatever the device, by ``jax.pure_callback``: once an item under ``vmap``, and the
    class's ``forward`` again in the backward pass. ``jax.export`` refuses nets with such layers. As in Caffe it is no
    loss unless the net states a loss_weight, and ``backward`` finds that weight in the top's ``diff``.
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
        inputs = [*(weights[f"blob{i}"] for i in range(learned)), *bottoms]
        tops = tuple(jax.ShapeDtypeStruct(shape, ctx.dtype) for shape in self.shapes([x.shape for x in bottoms]))

        def run(*values: Array) -> tuple[Array, ...]:
            host = functools.partial(self._forward, learned)
            return tuple(jax.pure_callback(host, tops, *values, vmap_method="sequential"))

        def forward(*inputs: Any) -> Any:
            values = tuple(x.value for x in inputs)
            return run(*values), (values, _Wanted(tuple(x.perturbed for x in inputs)))

        def backward(kept: Any, d_tops: Any) -> tuple[Array, ...]:
            values, wanted = kept
            self._check_gradient()
            d_tops = [jnp.zeros(d.shape, d.dtype) if isinstance(d, jax.custom_derivatives.SymbolicZero) else d
                      for d in d_tops]
            asked = [jax.ShapeDtypeStruct(x.shape, x.dtype)
                     for x, one in zip(values, wanted.inputs, strict=True) if one]
            host = functools.partial(self._backward, learned, wanted)
            found = iter(jax.pure_callback(host, asked, *values, *d_tops, vmap_method="sequential"))
            return tuple(next(found) if one else jnp.zeros_like(x)
                         for x, one in zip(values, wanted.inputs, strict=True))

        call = jax.custom_vjp(run)
        call.defvjp(forward, backward, symbolic_zeros=True)
        return call(*inputs)

    def flops(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Not known: 0."""
        return 0

    def _probe(self, shapes: Sequence[Shape]) -> tuple[list[Shape], list[np.ndarray]]:
        """Shapes of the tops, and first values of the parameters, for bottoms of these shapes."""
        key = tuple(shapes)
        if key not in self._found:
            self._found[key] = self._tried(key)
        return self._found[key]

    def _tried(self, shapes: tuple[Shape, ...]) -> tuple[list[Shape], list[np.ndarray]]:
        bottoms = [Blob(np.zeros(shape, np.float32)) for shape in shapes]
        try:
            if not inspect.isclass(self.code):
                tops: list[Any] = self._called([blob.data for blob in bottoms])
                values = []
            else:
                layer, tops = self._made(bottoms, np.float32)
                values = [blob.data.copy() for blob in layer.blobs]
                layer.reshape(bottoms, tops)
        except SpecError:
            raise
        except Exception as error:  # whatever the user's code raises is about these shapes
            on = ", ".join(map(str, shapes)) or "none"
            raise self.node.error(f"{self._name} failed on bottoms of shape {on}: "
                                  f"{type(error).__name__}: {error}") from error
        if not shapes and not values:
            raise self.node.error(f"{self._name} has neither bottoms nor parameters: a layer that reads data keeps its "
                                  "place between calls, which is not supported; expected an Input layer, or "
                                  "Solver(data=...), fed by that code")
        if len(tops) != len(self.node.tops):
            raise self.node.error(f"{self._name} returns {len(tops)} tops; found {len(self.node.tops)}")
        return [tuple(np.shape(top.data if isinstance(top, Blob) else top)) for top in tops], values

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
        for blob, value in zip(layer.blobs, arrays[:learned], strict=True):
            blob.data[...] = value
        layer.reshape(bottoms, tops)
        layer.forward(bottoms, tops)
        return layer, bottoms, tops

    def _forward(self, learned: int, *inputs: Any) -> tuple[np.ndarray, ...]:
        """On the host."""
        arrays = [np.array(x) for x in inputs]  # copies: the user's code may write to them
        shapes = self.shapes([x.shape for x in arrays[learned:]])
        if inspect.isclass(self.code):
            tops = [top.data for top in self._ran(arrays, learned)[2]]
        else:
            tops = self._called(arrays)
        if [np.shape(top) for top in tops] != shapes:
            raise ValueError(f"layer {self.node.name!r}: {self._name} gives tops of shape "
                             f"{[np.shape(top) for top in tops]} in forward; expected {shapes}, as found from the "
                             "shapes of the bottoms alone")
        dtype = arrays[0].dtype
        return tuple(np.asarray(top, dtype) for top in tops)

    def _backward(self, learned: int, wanted: _Wanted, *values: Any) -> list[np.ndarray]:
        """On the host: gradients of the wanted inputs."""
        arrays = [np.array(x) for x in values]
        count = len(wanted.inputs)
        inputs, d_tops = arrays[:count], arrays[count:]
        if inspect.isclass(self.code):
            layer, bottoms, tops = self._ran(inputs, learned)
            for top, d_top in zip(tops, d_tops, strict=True):
                top.diff[...] = d_top
            layer.backward(tops, list(wanted.inputs[learned:]), bottoms)
            found: list[Any] = [blob.diff for blob in (*layer.blobs, *bottoms)]
        else:
            found = self.code.backward(*inputs, *d_tops)  # type: ignore[attr-defined]
            found = list(found) if isinstance(found, (tuple, list)) else [found]
            if len(found) != count:
                raise ValueError(f"layer {self.node.name!r}: the backward of {self._name} returns {len(found)} "
                                 f"gradients; expected one for each of {count} bottoms")
        return [
            np.zeros_like(x) if d is None else np.asarray(d, x.dtype).reshape(x.shape)
            for x, d, one in zip(inputs, found, wanted.inputs, strict=True) if one
        ]

    def _check_gradient(self) -> None:
        own = getattr(self.code, "backward", None)
        if own is None or own is PythonLayer.backward:
            what = "class has no method" if inspect.isclass(self.code) else "function has no attribute"
            raise self.node.error(f"{self._name} has no gradient: the {what} backward; expected one, or "
                                  "propagate_down: false")
