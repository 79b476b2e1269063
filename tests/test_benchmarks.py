"""What the benchmarks make of what their processes print. Nothing is timed here."""

from __future__ import annotations

import jax
import pytest

from benchmarks import breakdown, recurrent, unrolled
from benchmarks.__main__ import PAGE
from benchmarks.growth import steepest
from benchmarks.nets import NETS
from benchmarks.table import Case, Spread, number, replaced, report, speeds
from jaffe import compile_net, zoo


def case(net: str, jaffe: list[float], torch: list[float], mode: str = "train") -> Case:
    """A case of these milliseconds a step."""
    common = {"drawn_s": 1.0, "first_s": 4.0, "cold_s": 8.0, "warm_s": 1.0, "bound_ms": 1.0, "peak_mb": 300.0,
              "import_mb": 200.0}
    other = {**common, "first_s": 2.0, "drawn_s": 6.0, "peak_mb": 400.0}
    rounds = [{"jaffe": {**common, "step_ms": a}, "torch": {**other, "step_ms": b}}
              for a, b in zip(jaffe, torch, strict=True)]
    return Case(net, mode, NETS[net].batch, "channels_last", rounds)


def test_ratios_are_taken_within_rounds():
    # The machine is three times as slow in the second round, and both with it.
    drifting = case("lenet", jaffe=[10, 30, 11], torch=[20, 60, 22])
    assert drifting.speed("torch") == Spread(2, 2, 2)
    # The ratio of the medians, 20 / 11, would be another.
    assert case("lenet", jaffe=[10, 11, 40], torch=[20, 11, 20]).speed("torch") == Spread(1, 0.5, 2)


def test_numbers_have_three_digits():
    assert [number(value) for value in (0.01234, 1, 9.876, 12.34, 123.4, 1234.5)] == [
        "0.0123", "1.00", "9.88", "12.3", "123", "1234"]


def test_table_of_speeds():
    cases = [case("lenet", [4.0], [8.0]), case("resnet18", [100.0], [50.0])]
    assert speeds(cases) == """\
| net, batch | jaffe, ms | PyTorch, ms | variant | against PyTorch | bound, ms | of the bound |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| LeNet, 64 | 4.00 (4.00 to 4.00) | 8.00 (8.00 to 8.00) | channels last | 2.00 (2.00 to 2.00) | 1.00 | 25% |
| ResNet-18, 8 | 100 (100 to 100) | 50.0 (50.0 to 50.0) | channels last | 0.500 (0.500 to 0.500) | 1.00 | 1% |
| geometric mean |  |  |  | 1.00 |  |  |"""


def test_report_has_what_was_timed():
    text = report([case("lenet", [4.0], [8.0])])
    assert ("| LeNet, 64 | 4.00 (4.00 to 4.00) | 2.00 (2.00 to 2.00) | 0.500 (0.500 to 0.500) | 8.00 (8.00 to 8.00) "
            "| 1.00 (1.00 to 1.00) | 12% |") in text
    assert "| LeNet, 64 | 1.00 (1.00 to 1.00) | 6.00 (6.00 to 6.00) | 1.60 (1.60 to 1.60) |" in text
    assert "| LeNet, 64 | 300 (200) | 400 (200) | 0.750 (0.750 to 0.750) |" in text
    assert "Inference" not in text
    inferred = report([case("lenet", [4.0], [8.0], mode="infer")])
    assert "bound" not in inferred
    assert "Memory" not in inferred
    alone = Case("lenet", "infer", 1, "", [{"jaffe": {"step_ms": 4.0}}])
    assert speeds([alone]).splitlines()[2:] == ["| LeNet, 1 | 4.00 (4.00 to 4.00) |"]


def test_tables_are_written_between_marks():
    page = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n<!-- b: begin -->\nkept\n<!-- b: end -->\n"
    assert replaced(page, "a", "new\n") == page.replace("old", "new")
    for broken in ("nothing", "<!-- a: begin -->", "<!-- a: end --> <!-- a: begin -->"):
        with pytest.raises(ValueError, match="expected <!-- a: begin --> and <!-- a: end -->"):
            replaced(broken, "a", "new")
    assert "bench cpu float32" in PAGE.read_text()


def test_growth_is_held_against_linear():
    assert steepest({1: 1.0, 2: 2.0, 4: 6.0}, 1) == 1.5
    assert steepest({10: 1.0, 20: 4.0}, 2) == 1


@pytest.mark.parametrize("name", NETS)
def test_nets_are_those_of_the_zoo(name: str):
    """The declared nets take the data that the benchmarks make."""
    net = zoo.__dict__[name](batch=2).source().net
    (data,) = [layer for layer in net.layer if layer.name == "data" and not (layer.include and layer.include[0].phase)]
    made, labels = NETS[name].data(2)
    if data.type == "Input":
        assert tuple(data.input_param.shape[0].dim) == made.shape == labels.shape
    else:
        own = data.memory_data_param
        assert (own.batch_size, own.channels, own.height, own.width) == made.shape
        assert labels.shape == (2,)
    assert labels.max() < NETS[name].classes


def test_breakdown_by_layer_type():
    program = """\
  %onednn.1 = f32[5]{0} custom-call(%a), metadata={op_name="jit(step)/jvp(conv1)/onednn" stack_frame_id=1}, more="x"
  %copy.2 = f32[5]{0} copy(%onednn.1), metadata={op_name="jit(step)/transpose(jvp(conv2))/transpose"}
  ROOT %onednn.3 = f32[5]{0} custom-call(%a), metadata={op_name="jit(step)/transpose(jvp(conv2))/onednn"}
  %add.4 = f32[5]{0} add(%a, %b), metadata={op_name="jit(step)/add"}
"""
    scopes = breakdown.scopes_of(program)
    assert scopes == {"onednn.1": ("conv1", False), "copy.2": ("conv2", True), "onednn.3": ("conv2", True)}
    times = {"onednn.1": 1.0, "copy.2": 0.25, "onednn.3": 2.0, "add.4": 0.5}
    assert breakdown.table(compile_net(zoo.lenet(batch=1), phase="TRAIN"), times, scopes) == """\
| ms a step | forward, products | forward, around | backward, products | backward, around | all |
| --- | ---: | ---: | ---: | ---: | ---: |
| Convolution | 1.00 |  | 2.00 | 0.250 | 3.25 |
| outside |  | 0.500 |  |  | 0.500 |
| all | 1.00 | 0.500 | 2.00 | 0.250 | 3.75 |"""


def test_time_side_by_side_is_shared():
    events = [(0.0, 4.0, "a"), (1.0, 3.0, "b"), (1.0, 3.0, "b"), (5.0, 6.0, "c")]
    found = breakdown.shared(events)
    assert found == pytest.approx({"a": 2 + 2 / 3, "b": 4 / 3, "c": 1})


def found(compiling: float, step: float) -> dict[str, float]:
    return {"declared_s": 0.5, "compiling_s": compiling, "compile_mb": 60.0, "step_ms": step}


def test_growth_of_recurrent_nets():
    loop = {steps: [found(compiling, steps / 10) for compiling in (1.0, 3.0, 2.0)] for steps in recurrent.STEPS}
    loop[2000] = [found(3.0, 200.0)] * 3
    graph = {5: [found(4.0, 1.0)], 20: [], 100: [], 500: [], 2000: []}
    lines = recurrent.growth_table({"loop": loop, "graph": graph}, limit=400).splitlines()
    assert lines[2] == ("| 5 | 0.500 (0.500 to 0.500) | 2.00 (1.00 to 3.00) | 60.0 (60.0 to 60.0) | "
                        "0.500 (0.500 to 0.500) | 4 | 60 | 1 |")
    assert lines[3].endswith("| - | - | - |")
    assert lines[-1] == 'From 20 to 2000 steps compiling grows 1.50 times. "-": not tried, or not done within 400 s.'


def test_steps_of_recurrent_nets_are_held_against_the_layer():
    text = recurrent.steps_table({
        "layer": [found(1, 40.0), found(1, 80.0)], "loop": [found(1, 44.0), found(1, 84.0)],
        "graph": [found(250, 400.0)], "torch": []})
    assert text.splitlines()[2:] == [
        "| LSTM layer | 60.0 (40.0 to 80.0) | 1.00 (1.00 to 1.00) |",
        "| written out, as a loop | 64.0 (44.0 to 84.0) | 1.08 (1.05 to 1.10) |",
        "| written out, as written | 400 | 10.0 (10.0 to 10.0) |"]


def test_recurrent_nets_as_timed_are_what_they_are_called():
    """The layer, and the same written out, which becomes one loop, or stays as it is, with equal losses."""
    losses = {}
    for form in ("layer", "loop", "graph"):
        spec, data = unrolled.declared("lstm", form, 5)
        net = compile_net(spec, phase="TRAIN")
        if form == "graph":
            net = unrolled.Unrolled(net.graph, net.inferred, net.dtype, net.precision, net.lowering, net.remat)
        loops = [line for line in str(net.program(frozenset(net.loss_tops))).splitlines() if "Steps<5 x" in line]
        assert len(loops) == (form == "loop")
        params = jax.tree.map(lambda weight: 0.1 * jax.numpy.ones(weight.shape), net.init(jax.random.key(0))["params"])
        variables = {"params": params, "state": net.fresh_carry()}
        losses[form] = float(net.loss(variables, {name: data[name] for name in net.inputs})[0])
    assert losses["layer"] == pytest.approx(losses["loop"], rel=1e-6)
    assert losses["loop"] == pytest.approx(losses["graph"], rel=1e-6)
