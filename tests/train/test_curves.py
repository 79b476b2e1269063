"""Pictures of curves: what is drawn, and that nothing is cut or hidden."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from jaffe.netdef.errors import JaffeError
from jaffe.train.curves import draw_curves, figure_of, plot_runs


def rows(shift: float = 0.0, tests: int = 1) -> list[dict]:
    """A run of 100 iterations as the metrics file has it, with a NaN on the way."""
    found: list[dict] = []
    for i in range(0, 101, 10):
        if i % 50 == 0:
            found += [{"iteration": i, "test": k, "loss": 2 - i / 100 + shift + k, "accuracy": i / 200 + 0.1 * k,
                       "scores": [0.1, 0.2 + i], "elapsed": i * 2.0} for k in range(tests)]
        found.append({"iteration": i, "loss": None if i == 30 else 2 - i / 60 + shift, "lr": 0.01, "elapsed": i * 2.0,
                      "images_per_second": 10.0, "outputs": {"loss": 9.0, "aux": float(i)}})
    return found


def points(line) -> list[tuple[float, float]]:
    return [tuple(map(float, point)) for point in line.get_xydata()]


def lines(figure, panel: int = 0) -> list:
    return figure.axes[panel].get_lines()


def boxes_of(figure):
    """The boxes of the figure, its legend, and all that is drawn, labels included, in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    (legend,) = figure.legends
    parts = [legend, *legend.get_texts(), *figure.texts]
    drawn = [part.get_window_extent(renderer) for part in parts]
    drawn += [axes.get_tightbbox(renderer) for axes in figure.axes]
    return figure.bbox, legend.get_window_extent(renderer), drawn


def test_one_run():
    figure = figure_of({"LeNet": rows()})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert figure.axes[-1].get_xlabel() == "iteration"
    assert figure.get_suptitle() == "LeNet"
    training, test = lines(figure)
    assert [x for x, _ in points(training)] == list(range(0, 101, 10))
    assert math.isnan(points(training)[3][1])
    assert points(training)[6] == (60, 1)
    assert points(test) == [(0, 2), (50, 1.5), (100, 1)]
    assert (training.get_marker(), test.get_marker()) == ("None", "o")
    assert points(*lines(figure, 1)) == [(0, 0), (50, 0.25), (100, 0.5)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "test"]


def test_several_runs_and_test_nets():
    figure = figure_of({"a": rows(tests=2), "b": rows(1), "_c": []})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a", "b", "_c", "training", "test", "test 1"]
    assert figure.get_suptitle() == ""
    drawn = [(line.get_color(), line.get_marker()) for line in lines(figure)]
    assert drawn == [("C0", "None"), ("C0", "o"), ("C0", "s"), ("C1", "None"), ("C1", "o")]
    handles = figure.legends[0].legend_handles
    assert [handle.get_color() for handle in handles] == ["C0", "C1", "C2", "black", "black", "black"]


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("name", ["run", "2026-03-11_resnet50 $lr_$ 0.1, weights decay a bit, twice_", "x" * 200])
def test_nothing_is_cut_or_hidden(count, name):
    figure = figure_of({f"{name}{i}": rows(i) for i in range(count)})
    whole, legend, drawn = boxes_of(figure)
    for box in drawn:
        assert box.x0 >= whole.x0
        assert box.x1 <= whole.x1
        assert box.y0 >= whole.y0
        assert box.y1 <= whole.y1
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_tightbbox())
        assert axes.bbox.height > 150  # pixels: large enough to see something
    colours = [line.get_color() for line in lines(figure)[::2]]
    assert len({str(colour) for colour in colours}) == count


def test_by_seconds_and_of_any_output():
    figure = figure_of({"a": rows()}, "seconds", ["aux", "scores[1]", "lr", "aux"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["aux", "scores[1]", "lr"]
    assert figure.axes[-1].get_xlabel() == "seconds"
    assert points(lines(figure)[0])[1] == (20, 10)
    assert points(lines(figure, 1)[0]) == [(0, 0.2), (100, 50.2), (200, 100.2)]


def test_the_loss_of_a_test_is_the_total_where_it_is_known():
    row = {"iteration": 0, "test": 0, "loss": 1.0, "total loss": 3.0, "elapsed": 0.0}
    assert points(*lines(figure_of({"a": [row]}))) == [(0, 3)]


@pytest.mark.parametrize(("outputs", "drawn"), [
    ({"accuracy": 0.5, "accuracy_top5": 0.9}, "accuracy"),
    ({"loss1/top-1": 0.4, "loss3/top-1": 0.5}, "loss3/top-1"),
    ({"scores": 0.5}, None),
])
def test_which_accuracy_is_drawn(outputs, drawn):
    figure = figure_of({"a": [{"iteration": 0, "test": 0, **outputs, "elapsed": 0.0}]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", *([drawn] if drawn else [])]


def test_numbers_beyond_any_axis_leave_gaps(tmp_path):
    run = [{"iteration": x, "loss": y, "elapsed": 0.0} for x, y in ((0, 1.0), (1, 1e308), (10**300, 1.0), (2, -1e308))]
    assert points(*lines(figure_of({"a": run})))[0] == (0, 1)
    draw_curves(run, tmp_path / "curves.png")


def test_a_loss_below_zero_is_seen():
    figure = figure_of({"a": [{"iteration": i, "loss": -1.0 - i, "elapsed": 0.0} for i in range(3)]})
    assert figure.axes[0].get_ylim()[0] < -3
    assert figure_of({"a": rows()}).axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("suffix", ["png", "SVG", "pdf"])
def test_formats(tmp_path, suffix):
    path = draw_curves(rows(), tmp_path / "new" / f"curves.{suffix}", "net")
    content = path.read_bytes()
    if suffix == "SVG":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix])
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_run_without_numbers_is_drawn_too(tmp_path):
    draw_curves([{"iteration": 0, "loss": None, "lr": None, "images_per_second": None, "elapsed": 0.0}],
                tmp_path / "curves.png")


def test_what_is_wrong_is_told(tmp_path):
    runs = {"a": rows()}
    with pytest.raises(JaffeError, match=r"x\.jpg: expected a name that ends in .png, .svg or .pdf"):
        plot_runs(runs, tmp_path / "x.jpg")
    with pytest.raises(JaffeError, match="x is iteration or seconds; found 'second'; did you mean 'seconds'"):
        plot_runs(runs, tmp_path / "x.png", x="second")
    with pytest.raises(JaffeError, match=r"no run has 'acuracy' \(there is: loss, accuracy, scores\[0\], scores\[1\], "
                                         r"aux, lr, images_per_second\); did you mean 'accuracy'\?"):
        plot_runs(runs, tmp_path / "x.png", y=["loss", "acuracy"])
    with pytest.raises(JaffeError, match="no run says its seconds"):
        plot_runs({"a": [{"iteration": 0, "loss": 1.0}]}, tmp_path / "x.png", x="seconds")
    with pytest.raises(JaffeError, match=r"no/x\.png: cannot be written: No such file or directory"):
        plot_runs(runs, tmp_path / "no" / "x.png")
    assert not list(tmp_path.iterdir())
