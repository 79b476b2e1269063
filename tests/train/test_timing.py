"""jaffe time: what the profiler saw of each layer, and the picture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from jaffe import compile_net, zoo
from jaffe.cli import app
from jaffe.netdef.errors import JaffeError
from jaffe.train.profile import Operation, Profile, _alone, attribute, layer_of, read_operations
from jaffe.train.timing import Timing, time_layers, time_net, timing_table
from jaffe.train.timing_picture import draw_timing, timing_figure

PROGRAM = r"""HloModule jit_step, is_scheduled=true

%body.1 (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %copy.3 = f32[2]{0} copy(%x)
  ROOT %tanh.1 = f32[2]{0} tanh(%copy.3), metadata={op_name="jit(step)/jvp(rnn)/while/body/tanh"}
}

%fused.2 (p: f32[2]) -> f32[2] {
  ROOT %add.7 = f32[2]{0} add(%p, %p), metadata={op_name="jit(step)/jvp(conv1)/add"}
}

ENTRY %main (a: f32[2]) -> (f32[2], f32[2]) {
  %while.9 = (s32[], f32[2]{0}) while(%t), condition=%cond, body=%body.1, metadata={op_name="jit(step)/jvp(rnn)/while"}
  %onednn.4 = f32[2]{0} custom-call(%a), custom_call_target="__onednn$matmul", metadata={op_name="jit(step)/transpose(jvp(a.b))/onednn" stack_frame_id=2}
  %add_fusion = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused.2, metadata={op_name="jit(step)/jvp(\"q\\\303\251\")/add"}
  %copy.5 = f32[2]{0} copy(%a)
  ROOT %tuple = (f32[2]{0}) tuple(%copy.5)
}
"""  # noqa: E501  as XLA writes it


def test_operations_of_a_program():
    found = read_operations(PROGRAM)
    assert found["while.9"] == Operation("while", "jit(step)/jvp(rnn)/while")
    assert found["copy.3"] == Operation("copy", "jit(step)/jvp(rnn)/while")  # of the loop that it is in
    assert found["onednn.4__onednn$matmul"].scope == "jit(step)/transpose(jvp(a.b))/onednn"
    assert found["add_fusion"].scope == 'jit(step)/jvp("q\\é")/add'
    assert found["copy.5"] == Operation("copy", "")


def test_time_goes_to_layers_by_their_scopes():
    spent = {"while.9": 9e6, "copy.3": 1e6, "tanh.1": 2e6, "onednn.4__onednn$matmul": 4e6, "add_fusion": 8e6,
             "copy.5": 0.5e6, "unknown.1": 0.25e6}
    found = attribute(spent, read_operations(PROGRAM), ["rnn", "a/b", 'q\\é', '"q\\é"', "add", "copy"])
    assert found == Profile({"rnn": 3.0, '"q\\é"': 8.0}, {"a/b": 4.0}, 0.75)  # the loop is what runs in it
    assert found.total == 15.75


@pytest.mark.parametrize(("scope", "layer"), [
    ("jit(step)/jvp(conv)/mul", ("conv", False)),
    ("jit(step)/transpose(jvp(conv))/mul", ("conv", True)),
    ("jit(step)/transpose(jvp(vmap(conv)))/mul", ("conv", True)),
    ("jit(step)/conv/jit(relu)/max", ("conv", False)),
    ("jit(step)/jvp(jvp(odd))/max", ("jvp(odd)", False)),  # a layer of such a name
    ("jit(step)/mul", ("", False)),  # the operation, not the layer mul
    ("", ("", False)),
])
def test_the_layer_of_a_scope(scope, layer):
    names = ("conv", "relu", "jvp(odd)", "mul")
    assert layer_of(scope, dict(zip(names, names, strict=True))) == layer


def test_what_runs_within_another_operation_counts_once():
    def event(name: str, start: float, end: float, **stats) -> SimpleNamespace:
        return SimpleNamespace(name=name, start_ns=start, duration_ns=end - start, stats=stats.items())

    own = dict(hlo_module="m", run_id=1)
    line = SimpleNamespace(events=[
        event("inner", 2, 5, hlo_op="inner", **own), event("outer", 1, 9, hlo_op="outer", **own),
        event("inner", 6, 7, hlo_op="inner", **own), event("end: outer", 9, 10, hlo_op="outer", **own),
        event("alien", 3, 4, hlo_op="alien", hlo_module="other"), event("python", 0, 20),
    ])
    found: dict[str, float] = {}
    for (name, run), time in _alone(line, "m"):
        assert run == 1
        found[name] = found.get(name, 0) + time
    assert found == {"outer": 4, "inner": 4}


@pytest.fixture(scope="module")
def lenet() -> tuple[list[Timing], Timing]:
    net = compile_net(zoo.lenet(), phase="TRAIN")
    return time_layers(net, 1), time_net(net, 5)


def test_a_net_from_the_profiler(lenet):
    """conv2 has most of the operations of LeNet, a ReLU next to none; next to nothing is of no layer."""
    _, whole = lenet
    found = whole.profile
    assert found
    assert set(found.forward) | set(found.backward) <= {"conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2",
                                                        "loss"}
    assert min([*found.forward.values(), *found.backward.values(), found.other]) >= 0
    assert found.other < 0.2 * found.total
    assert max(found.backward, key=found.backward.__getitem__) == "conv2"
    assert found.of("conv2") > 10 * found.of("relu1")


def test_the_table(lenet):
    from rich.console import Console

    layers, whole = lenet
    console = Console(width=160, record=True)
    console.print(timing_table(layers, whole))
    lines = console.export_text().splitlines()
    shares = [float(line.split()[-1].rstrip("%")) for line in lines if line.rstrip().endswith("%")]
    assert len(shares) >= 6
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))  # each rounded to 0.1
    alone = Timing("net", "TEST", 1.0, None)
    assert [column.header for column in timing_table(layers, alone).columns] == ["layer", "type", "forward", "backward"]


def test_the_picture(lenet, tmp_path):
    layers, whole = lenet
    figure = timing_figure(layers, whole)
    assert [axis.get_title() for axis in figure.axes] == ["each layer alone", "within the whole program"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "loss", "of no layer"]
    assert draw_timing(layers, whole, tmp_path / "t.svg").read_text().startswith("<?xml")
    with pytest.raises(JaffeError, match=r"expected a name that ends in \.png, \.svg or \.pdf"):
        draw_timing(layers, whole, tmp_path / "t.txt")


def test_a_picture_of_another_kind_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text("no net")
    found = CliRunner().invoke(app, ["time", "--model", "net.prototxt", "-o", "t.txt"])
    assert isinstance(found.exception, JaffeError)
    assert str(found.exception) == "t.txt: expected a name that ends in .png, .svg or .pdf"


def test_of_many_layers_the_longest_are_drawn():
    layers = [Timing(f"l${i}", "ReLU", float(i), None) for i in range(50)]
    figure = timing_figure(layers, Timing("net", "TEST", 1.0, None))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [rf"l\${i}" for i in range(10, 50)] + ["10 others"]
    assert figure.axes[0].patches[40].get_width() == sum(range(10))
