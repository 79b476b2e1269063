"""The sections on what a classifier gets wrong. Each is markup, or nothing."""

from __future__ import annotations

import math

import numpy as np

from jaffe.report.markup import Html, fill, join, table
from jaffe.report.pictures import figure_svg, image, png
from jaffe.report.results import Item, Results
from jaffe.train.class_report import MOST_SHOWN, ClassReport

MOST_MISTAKES = 15
SHADES = 9  # classes of the style sheet, s1 to s9


def classes(results: Results) -> Html:
    """Top-k, and recall and precision of each class; of many those of least recall."""
    found = results.classes
    shown = range(found.classes)
    caption = "Classes"
    if found.classes > MOST_SHOWN:
        there = np.flatnonzero(found.of_class)
        shown = there[np.argsort(found.recall[there], kind="stable")][:MOST_SHOWN].tolist()
        caption = f"{len(shown)} classes of least recall, of {found.classes}"
    columns = ["class", "items", "recall", "precision", *(["IoU"] if found.spatial else []), "most often taken for"]
    rows = []
    for i in shown:
        others = found.confusion[i].copy()
        others[i] = 0
        worst = int(others.argmax())
        rows.append([i, f"{found.of_class[i]:,}", _percent(found.recall[i]), _percent(found.precision[i]),
                     *([_percent(found.iou[i])] if found.spatial else []),
                     f"{worst} ({others[worst]:,}×)" if others[worst] else ""])
    return fill("<p>{head}</p>{table}", head=_head(found), table=table(caption, columns, rows))


def _head(found: ClassReport) -> str:
    ranks = ", ".join(f"{share:.2%} among the first {k}" if k > 1 else f"{share:.2%} right"
                      for k, share in found.top_k.items())
    text = f"Of {found.counted:,} labels ({found.labels}, against the scores {found.scores}): {ranks}."
    if found.outside:
        text += f" {found.outside:,} labels are none of the classes, and count as wrong."
    if found.nan:
        text += f" {found.nan:,} labels have a NaN among their scores."
    return text


def confusion(results: Results) -> Html:
    """The matrix: number by number for a few classes, a picture and the most frequent mistakes for many."""
    found = results.classes
    if found.classes <= MOST_SHOWN:
        return _matrix(found)
    rows = [[i, j, f"{times:,}", f"{times / found.of_class[i]:.2%}"]
            for i, j, times in found.confusions(MOST_MISTAKES)]
    picture = image(figure_svg(found.draw()), "svg+xml", "The confusion matrix: rows are labels, columns what they "
                    "were taken for. The most frequent mistakes are in the table below.", "figure")
    return fill("{picture}{table}", picture=picture, table=table(
        "Most frequent mistakes", ["class", "taken for", "times", "of the class"], rows) if rows else Html())


def _matrix(found: ClassReport) -> Html:
    shares = np.divide(found.confusion, found.of_class[:, None], out=np.zeros(found.confusion.shape),
                       where=found.of_class[:, None] != 0)
    rows = []
    for i, row in enumerate(found.confusion.tolist()):
        # A root, so that rare mistakes are seen.
        shades = [math.ceil(SHADES * math.sqrt(share)) for share in shares[i]]
        cells = join((Html(f"<td class=s{shade}>{number}</td>" if number else "<td>·</td>")
                      for number, shade in zip(row, shades, strict=True)), "")
        rows.append(Html(f"<tr><th scope=row>{i}</th>{cells}</tr>"))
    heads = join((Html(f"<th scope=col>{i}</th>") for i in range(found.classes)), "")
    return fill(
        '<div class=scroll tabindex=0 role=region aria-label="Confusion matrix"><table class=matrix>'
        "<caption>Rows are labels, columns what they were taken for; colours are shares of a row</caption>"
        "<thead><tr><th scope=col>label</th>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>",
        heads=heads, rows=join(rows))


def worst(results: Results) -> Html:
    """The test items of the highest loss."""
    if not results.worst:
        return Html()
    wrong = sum(item.label != item.taken_for for item in results.worst)
    return fill("<p>{count} test items of the highest loss, {wrong} of them wrong; the highest first.</p>"
                "<ol class=items>{items}</ol>", count=len(results.worst), wrong=wrong,
                items=join(map(_item, results.worst)))


def _item(item: Item) -> Html:
    right = item.label == item.taken_for
    verdict = f"{item.label}, rightly" if right else f"{item.label} taken for {item.taken_for}"
    sure = "" if item.probability is None or math.isnan(item.probability) else f", {item.probability:.1%}"
    return fill(
        '<li class={kind}><figure>{image}<figcaption><b>{verdict}</b>{sure}<br>item {number}, loss {loss}'
        "</figcaption></figure></li>", kind="right" if right else "wrong", verdict=verdict, sure=sure,
        image=image(png(item.picture), "png", f"Test item {item.number}", "pixels"), number=item.number,
        loss=f"{item.loss:.3g}" if math.isfinite(item.loss) else "not finite")


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"
