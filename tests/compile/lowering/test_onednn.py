"""oneDNN's calls: what XLA is told, and all that JAX does with an operation beside running it on the CPU.

Their values are tested as candidates of convolution (test_convolution.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaffe.compile.lowering import ConvGeometry, Lowering, conv_plain, onednn, product
from jaffe.compile.lowering.candidates import Problem, fitting

pytestmark = pytest.mark.skipif(not onednn.available(), reason="jaxlib's oneDNN is not used on this machine")

RANDOM = np.random.default_rng(0)
GEOMETRY = ConvGeometry((2, 1), ((1, 2), (0, 1)), (1, 2), 2)


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def arrays():
    return normal(2, 6, 9, 11), normal(8, 3, 3, 2)


def calls(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text().count("__onednn")


def tuned(x, weight):
    return onednn.forward(x, weight, GEOMETRY)


def plain(x, weight):
    return conv_plain.plain(x, weight, GEOMETRY)


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), found, expected)


def test_it_is_what_runs():
    x, weight = arrays()
    assert calls(tuned, x, weight) == 1
    close(tuned(x, weight), plain(x, weight))  # outside of jit too


def test_differentiable_in_every_mode():
    x, weight = arrays()
    tangents = normal(*x.shape), normal(*weight.shape)
    close(jax.jvp(tuned, (x, weight), tangents), jax.jvp(plain, (x, weight), tangents))
    cost = lambda function: lambda x, weight: jnp.sum(function(x, weight) ** 2)  # noqa: E731
    close(jax.grad(cost(tuned), (0, 1))(x, weight), jax.grad(cost(plain), (0, 1))(x, weight))
    twice = lambda function: jax.grad(lambda w: jnp.sum(jax.grad(cost(function), 1)(x, w) ** 2) * 1e-4)(weight)  # noqa: E731
    np.testing.assert_allclose(twice(tuned), twice(plain), rtol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_batched(axes):
    x, weight = arrays()
    stacked = [jnp.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip((x, weight), axes, strict=True)]
    close(jax.vmap(tuned, axes)(*stacked), jax.vmap(plain, axes)(*stacked))


@pytest.mark.parametrize("transposed", [False, True])
def test_product_and_its_gradients(transposed):
    x, weight = normal(3, 4, 5), normal(*((7, 5) if transposed else (5, 7)))
    other = weight.T if transposed else weight
    chosen = lambda x, w: product(x, w, Lowering(), transposed)  # noqa: E731
    assert calls(chosen, x, weight) == 1
    assert calls(lambda x, w: product(x, w, Lowering(plain=True), transposed), x, weight) == 0
    found, pull = jax.vjp(chosen, x, weight)
    expected, pull_plain = jax.vjp(lambda x, w: x @ (w.T if transposed else w), x, weight)
    close(found, expected)
    np.testing.assert_allclose(found, x @ other, atol=1e-5)
    gradient = normal(3, 4, 7)
    close(pull(gradient), pull_plain(gradient))
    assert calls(lambda g: jax.vjp(chosen, x, weight)[1](g), gradient) == 2
    tangents = normal(*x.shape), normal(*weight.shape)
    close(jax.jvp(chosen, (x, weight), tangents)[1],
          jax.jvp(lambda x, w: x @ (w.T if transposed else w), (x, weight), tangents)[1])


def test_float64_is_xlas_own():
    """Also when it is the first that a process asks for."""
    with jax.enable_x64(True):
        assert onednn._works.__wrapped__()
        a = jnp.asarray(RANDOM.normal(size=(3, 3)))
        assert a.dtype == jnp.float64
        assert calls(onednn.product, a, a) == 0
        np.testing.assert_allclose(onednn.product(a, a), a @ a, rtol=1e-12)


def test_exported_programs_have_no_call():
    x, weight = arrays()
    exported = jax.export.export(jax.jit(tuned))(x, weight)
    assert "__onednn" not in exported.mlir_module()
    close(exported.call(x, weight), plain(x, weight))


def test_other_platforms_get_xlas_own():
    x, weight = arrays()
    text = jax.jit(tuned).trace(x, weight).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in text
    assert "__onednn" not in text


@pytest.mark.parametrize(("version", "known"), [("0.10.1", False), ("0.10.2", True), ("0.12.0.1", True),
                                                ("0.12.1.dev3", True), ("0.13.0", False), ("1.0", False)])
def test_only_known_versions(version, known, monkeypatch):
    monkeypatch.setattr(onednn, "version", lambda name: version)
    assert onednn._works.__wrapped__() == known


def test_not_where_programs_are_stored(monkeypatch, tmp_path):
    """XLA reads memory as what it is not when it stores such a program."""
    x, weight = arrays()
    monkeypatch.setattr(onednn, "_stored", lambda: True)
    assert not onednn.available()
    assert not Lowering().onednn
    assert calls(lambda x, w: onednn.forward(x, w, GEOMETRY), x, weight) == 0


def test_stored_is_what_jax_does(tmp_path):
    script = ("import jax; from jaffe.compile.lowering import onednn; found = [onednn.available()]\n"
              "jax.config.update('jax_compilation_cache_dir', 'x'); found += [onednn.available()]\n"
              "jax.config.update('jax_enable_compilation_cache', False); found += [onednn.available()]\nprint(found)")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=kept,
                          cwd=tmp_path)
    assert done.stdout == "[True, False, True]\n"


def test_not_where_jaxlib_has_none(monkeypatch):
    def refused(a, b):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such custom call")

    monkeypatch.setattr(onednn, "product", refused)
    assert not onednn._works.__wrapped__()


def test_not_for_float64_nor_many_axes():
    problem = Problem("forward", (2, 3, 5, 5), (4, 3, 3, 3), ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1)))
    assert "onednn" in fitting(problem)
    assert not any("onednn" in name for name in fitting(Problem(*[
        "forward", problem.x, problem.weight, problem.geometry, "float64"])))
    four = ConvGeometry((1,) * 4, ((0, 0),) * 4, (1,) * 4)
    assert "onednn" not in fitting(Problem("forward", (2, 3, 5, 5, 5, 5), (4, 3, 1, 1, 1, 1), four))


def test_batch_split_between_devices():
    """XLA cannot split the call: it computes its own convolution where a program is for several devices; within pmap
    each device has a program of its own."""
    script = textwrap.dedent("""
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from jaffe.compile.lowering import ConvGeometry, conv_plain, onednn
        geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
        random = np.random.default_rng(0)
        x, weight = random.normal(size=(4, 3, 8, 8)).astype("f"), random.normal(size=(5, 3, 3, 3)).astype("f")
        expected = conv_plain.plain(x, weight, geometry)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        function = jax.jit(lambda x: onednn.forward(x, weight, geometry))
        found = function(split)
        assert found.sharding.spec[0] == "data", found.sharding
        np.testing.assert_allclose(found, expected, atol=1e-5)
        each = jax.pmap(lambda x: onednn.forward(x, weight, geometry))(x.reshape(2, 2, 3, 8, 8))
        np.testing.assert_allclose(each.reshape(expected.shape), expected, atol=1e-5)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False,
                          env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    assert done.returncode == 0, done.stderr
