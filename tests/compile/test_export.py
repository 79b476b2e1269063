"""StableHLO artefacts: batches of any size, weights inside and outside, and what is refused."""

from __future__ import annotations

import re
import warnings

import jax
import numpy as np
import pytest

from jaffe import zoo
from jaffe.compile import compile_net
from jaffe.compile.exported import FixedBatch, Growing, exported_part, growing_shapes
from jaffe.netdef import JaffeError, SpecError
from tests.compile.test_every_layer import KEY, make_inputs, used
from tests.nets import NETS
from tests.nets.case import X, one

# Nets that do not take any batch, and what the warning says.
ONE_BATCH = {
    "parameter": "bottoms have one shape; found (3, 3, 7, 5), (2, 3, 7, 5)",
    "dummy": "bottoms have one shape; found (3, 3, 7, 5), (2, 3, 7, 5)",
    "lstm_unit": "expected a first bottom, c, of shape (1, N, H); found (2, 3, 5)",
}


BATCH_FIRST = """
layer { name: "x" type: "Input" top: "x" top: "cont" input_param { shape { dim: 2 dim: 3 dim: 7 }
                                                                 shape { dim: 2 dim: 3 } } }
layer { name: "steps" type: "Permute" bottom: "x" top: "steps" permute_param { order: 1 order: 0 order: 2 } }
layer { name: "going" type: "Permute" bottom: "cont" top: "going" permute_param { order: 1 order: 0 } }
layer { name: "lstm" type: "LSTM" bottom: "steps" bottom: "going" top: "h"
        recurrent_param { num_output: 5 weight_filler { type: "xavier" } } }
"""


def call(artefact: bytes, *arguments):
    return jax.export.deserialize(bytearray(artefact)).call(*arguments)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("name", NETS)
def test_every_net_takes_any_batch_or_says_why_not(name: str):
    case = NETS[name]
    net = compile_net(case.net, phase="TEST")
    variables = used(KEY, net.init(KEY))
    variables["state"].update(net.fresh_carry())
    part = exported_part(net, None)
    if any(node.type == "Python" for node in part.graph.nodes):
        with pytest.raises(SpecError, match="runs Python code, which an artefact cannot hold"):
            net.export(variables)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        artefact = net.export(variables, platforms=["cpu"], rng=KEY)
    said = [str(warning.message) for warning in caught]
    inputs = make_inputs(net, case)
    if name in ONE_BATCH:
        (reason,) = said
        assert reason.startswith(f"exported for batch {part.length}, as declared, as not every batch fits. layer '")
        assert ONE_BATCH[name] in reason
    else:
        assert not said
        other = make_inputs(net, case, seed=1)
        inputs = {
            key: np.concatenate([value, other[key]])[:3] if value.shape[:1] == (part.length,) else value
            for key, value in inputs.items()
        }
    found = call(artefact, {key: inputs[key] for key in part.inputs})
    expected, _ = jax.jit(net.apply)(variables, inputs, KEY)
    assert set(found) == set(net.outputs)
    for blob in net.outputs:
        np.testing.assert_allclose(found[blob], expected[blob], rtol=1e-5, atol=1e-6)


LENET = compile_net(zoo.lenet(), phase="TEST")


def test_weights_inside_or_outside():
    variables = LENET.init(KEY)
    inputs = {"data": np.random.default_rng(0).random((5, 1, 28, 28), np.float32)}  # no label: ip2 does not need it
    expected = LENET.apply(variables, {**inputs, "label": np.zeros(5)}, blobs=["ip2"])[0]["ip2"]
    inside, outside = LENET.export(variables, outputs=["ip2"]), LENET.export(outputs=["ip2"])
    assert len(inside) > 431_080 * 4 > len(outside) * 100
    np.testing.assert_allclose(call(inside, inputs)["ip2"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call(outside, variables, inputs)["ip2"], expected, rtol=1e-5, atol=1e-6)
    exported = jax.export.deserialize(bytearray(inside))
    assert exported.platforms == ("cpu", "cuda")
    assert [str(size) for size in exported.in_avals[0].shape] == ["N", "1", "28", "28"]


def test_batches():
    net = compile_net(one("ReLU"))
    for batch, size in ((7, 7), (None, 2)):
        exported = jax.export.deserialize(bytearray(net.export({}, batch=batch, platforms=["cpu"])))
        assert exported.in_avals[0].shape == (size, 3, 7, 5)
    fixed = compile_net(X + 'layer { name: "r" type: "Reshape" bottom: "x" top: "t" '
                        "reshape_param { shape { dim: 6 dim: 35 } } }")
    with pytest.raises(SpecError, match=r"layer 'r' .*: cannot reshape \(7, 3, 7, 5\), 735 values, to \(6, 35\)"):
        fixed.export({}, batch=7)
    with pytest.warns(UserWarning, match="not every batch fits") as caught:
        fixed.export({}, platforms=["cpu"])
    assert str(caught[0].message) == (
        "exported for batch 2, as declared, as not every batch fits. "
        "layer 'r' (<text>:2): cannot reshape (3, 3, 7, 5), 315 values, to (6, 35), 210 values")
    assert caught[0].filename == __file__
    weights = compile_net(X + 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "t" '
                          "inner_product_param { axis: 0 num_output: 2 } }")
    reason = r"layer 'ip' .*: with batch 3 its weight would be \(2, 315\); expected \(2, 210\), as compiled"
    with pytest.warns(UserWarning, match=reason):
        weights.export(weights.init(KEY), platforms=["cpu"])


def test_what_jax_cannot_trace_is_named():
    from jaffe.compile import register_layer, temporary_layers

    with temporary_layers():
        @register_layer("Counted")
        def counted(x):
            return x * int(x.shape[0])

        net = compile_net(one("Counted"))
        with pytest.warns(UserWarning, match=r"layer 'l' \(<text>:2\): Counted cannot be traced with a batch of any "
                                             r"size \(.+\)$"):
            artefact = net.export({}, platforms=["cpu"])
    x = np.ones((2, 3, 7, 5), np.float32)
    np.testing.assert_array_equal(call(artefact, {"x": x})["t"], 2 * x)


def test_every_call_is_a_sequence_of_its_own():
    net = compile_net(NETS["lstm"].net)
    variables, inputs = net.init(KEY), make_inputs(net, NETS["lstm"])
    expected, state = net.apply(variables, inputs)
    later = {**variables, "state": state}
    artefact = net.export(later, platforms=["cpu"])
    for blob in net.outputs:
        np.testing.assert_allclose(call(artefact, inputs)[blob], expected[blob], rtol=1e-5, atol=1e-6)


def test_recurrent_layers_take_any_batch():
    net = compile_net(BATCH_FIRST)
    variables = net.init(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artefact = net.export(variables, platforms=["cpu"])
    for batch in (2, 5):
        random = np.random.default_rng(batch)
        inputs = {"x": random.normal(size=(batch, 3, 7)).astype(np.float32), "cont": np.ones((batch, 3), np.float32)}
        expected, _ = net.apply({**variables, "state": net.fresh_carry(inputs)}, inputs)
        np.testing.assert_allclose(call(artefact, inputs)["h"], expected["h"], rtol=1e-5, atol=1e-6)


def test_random_layers_take_a_key():
    net = compile_net(NETS["dummy"].net, phase="TEST")
    with pytest.raises(SpecError, match=r"DummyData is random in phase TEST: expected rng=jax.random.key\(...\)"):
        net.export({}, batch=None)


def test_wrong_calls():
    variables = LENET.init(KEY)
    with pytest.raises(JaffeError) as caught:
        compile_net(zoo.lenet(), phase="TRAIN").export(variables)
    assert str(caught.value) == (
        "net 'LeNet' is in phase TRAIN; expected TEST: what is exported is the forward pass that a trained net is "
        'used for; compile it with phase="TEST"')
    with pytest.raises(JaffeError, match="platforms is a list of cpu, cuda, rocm, tpu; received 'cpu'"):
        LENET.export(variables, platforms="cpu")
    with pytest.raises(JaffeError, match=r"platforms is a list of cpu, cuda, rocm, tpu; received \['gpu'\]"):
        LENET.export(variables, platforms=["gpu"])
    with pytest.raises(JaffeError, match="the net has no blob 'ip3'; did you mean 'ip2'"):
        LENET.export(variables, outputs=["ip3"])
    for outputs in ([3], 3):
        with pytest.raises(JaffeError, match="outputs is a list of blobs; received 3"):
            LENET.export(variables, outputs=outputs)
    for batch in (0, True):
        with pytest.raises(JaffeError, match=rf"batch: sizes are positive whole numbers; received \[{batch}\]"):
            LENET.export(variables, batch=batch)
    for wrong in ([1], {"params": 1}):
        with pytest.raises(JaffeError, match=re.escape(f"as net.init(key) makes them; received {wrong}")):
            LENET.export(wrong)
    with pytest.raises(SpecError, match="the variables have no 'params' 'conv1' 'weight'"):
        LENET.export({}, outputs=["ip2"])


def test_sizes_that_grow():
    n = Growing(1)
    assert [str(size) for size in (n, 3 * n, 3 * n + 1, n - 2, (6 * n + 4) // 2)] == [
        "N", "3*N", "3*N + 1", "N - 2", "3*N + 2"]
    assert n + n == Growing(2)
    assert n - n == 0
    for wrong in (lambda: n * n, lambda: int(n), lambda: n < 3, lambda: n // 2, lambda: range(n)):
        with pytest.raises(FixedBatch):
            wrong()
    net = compile_net(one("Flatten", "flatten_param { axis: 0 end_axis: 1 }"))
    assert growing_shapes(net, exported_part(net, None))["t"] == (Growing(3), 7, 5)
