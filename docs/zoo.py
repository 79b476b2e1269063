"""Writes docs/zoo.md, the nets of the zoo and what their recipes reach: `make zoo`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from docs.quality import RESULTS
from jaffe.zoo import RECIPES
from jaffe.zoo.cards import CARDS, Card, Figure
from jaffe.zoo.catalogue import list as names_of
from jaffe.zoo.described import Counted, counted
from jaffe.zoo.weights import WEIGHTS

HERE = Path(__file__).parent
TASKS = {
    "classification": "Classification", "segmentation": "Segmentation", "detection": "Detection", "faces": "Faces",
    "regression": "Dense regression", "embedding": "Embeddings", "autoencoder": "Autoencoders",
    "sequences": "Sequences",
}
HEAD = """# The zoo

Made by `make zoo` from the nets themselves and their cards. Each net is a function of `jaffe.zoo` that returns a
declaration: text, to be read, drawn, changed, trained.

```python
from jaffe import zoo

zoo.list("resnet*")                                 # names: a pattern, a task, a part of a name
print(zoo.card("squeezenet1_1"))                    # source, input, published figures, options, weights
spec = zoo.create("resnet18", classes=10)           # or zoo.resnet18(classes=10)
net, variables = zoo.load("squeezenet1_1")          # with published weights, downloaded once
```

From the command line: `jaffe zoo`, `jaffe zoo resnet50`, `jaffe zoo squeezenet1_1 --fetch`,
`jaffe train --recipe lenet`; wherever a command takes `--model`, the name of a net does.

Parameters are those that are trained, of the net as it is used (phase TEST); multiply-adds are those of products with
weights, for one item of the size stated. Both are counted here, from the declaration. What was published of them stands
beside each net's name on its card (`jaffe zoo NAME`), and tests hold every figure against the net: it is equal to the
last digit that was published, or the card says why not. *Accuracy is quoted* from the source given; it was not measured
here.
"""
DIFFERENT = """
## Where published figures differ

| net | figure | published | here | why |
|---|---|---|---:|---|
"""
MEASURED = """
## Measured here

`jaffe train --recipe NAME`, by `python -m docs.quality`: three seeds each, the test set's figure after the last
iteration, mean ± half of the range; seconds on two CPU cores (the median; other work ran beside them), compiling
included.

| recipe | net and data | measure | result | seconds |
|---|---|---|---:|---:|
"""
PUBLISHED = """
## Other recipes

Their data cannot be had without a network, or three runs of them take longer than the table's; the last column says
what was published, or seen in single runs.

| recipe | data | what to expect |
|---|---|---|
"""


def nets(task: str) -> str:
    """A table of the nets of a task."""
    rows = [(card, counted(card)) for name in names_of() if (card := CARDS[name]).task == task]
    if not rows:
        return ""
    lines = [f"\n## {TASKS[task]}\n",
             "| net | source | input | parameters | multiply-adds | accuracy (quoted) | weights |",
             "|---|---|---|---:|---:|---|---|"]
    return "\n".join([*lines, *(_net(card, own) for card, own in rows)]) + "\n"


def _net(card: Card, own: Counted) -> str:
    accuracy = "; ".join(f"{figure.value} ({figure.source})" for figure in card.accuracy)
    weights = ", ".join(one.name for one in WEIGHTS.get(card.name, ()))
    return _row(f"`{card.name}` {card.title}", card.paper, card.input, f"{own.params:,}", _short(own.multiply_adds),
                accuracy, weights)


def _short(count: int) -> str:
    return f"{count / 1e9:.3g} G" if count >= 1e9 else f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def differences() -> str:
    """A table of the published figures that are not those of the nets here, and why."""
    lines = []
    for name in names_of():
        card, own = CARDS[name], counted(CARDS[name])
        pairs: Sequence[tuple[str, Figure | None, int]] = (
            ("parameters", card.params, own.params), ("multiply-adds", card.multiply_adds, own.multiply_adds))
        lines += [_row(f"`{name}`", what, f"{figure.value} ({figure.source})", f"{value:,}", figure.difference)
                  for what, figure, value in pairs if figure and figure.difference]
    return DIFFERENT + "\n".join(lines) + "\n"


def results() -> str:
    """The tables of recipes: what they reached here, and those that were not run."""
    found = json.loads(RESULTS.read_text())
    run, others = [], []
    for name in RECIPES:
        recipe = RECIPES[name]()
        if name in found:
            values = [one["value"] for one in found[name]]
            seconds = statistics.median(one["seconds"] for one in found[name])
            run.append(_row(f"`{name}`", f"{recipe.net.to_proto().name}, `{recipe.data}`", found[name][0]["measure"],
                            _spread(values, share=found[name][0]["share"]), f"{seconds:.0f}"))
        else:
            others.append(_row(f"`{name}`", f"`{recipe.data}`", recipe.about))
    return MEASURED + "\n".join(run) + "\n" + (PUBLISHED + "\n".join(others) + "\n" if others else "")


def _spread(values: Iterable[float], *, share: bool) -> str:
    """Mean and half of the range; a share in percent."""
    ordered = sorted(values)
    mean, half = statistics.fmean(ordered), (ordered[-1] - ordered[0]) / 2
    if share:
        return f"{100 * mean:.2f} ± {100 * half:.2f} %"
    return f"{mean:.3g} ± {half:.2g}"


def page() -> str:
    """The whole page."""
    return HEAD + "".join(nets(task) for task in TASKS) + differences() + results()


if __name__ == "__main__":
    (HERE / "zoo.md").write_text(page())
