"""HTML from the standard library: whatever is put into a template is escaped, unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Markup that is put into other markup as it is."""


def fill(template: str, **values: Any) -> Html:
    """The template, in the way of ``str.format``; values are escaped but those that are ``Html``.

    >>> fill("<td>{name}</td>", name="<b>")
    '<td>&lt;b&gt;</td>'
    """
    return Html(template.format(**{name: escaped(value) for name, value in values.items()}))


def escaped(value: Any) -> Html:
    """Text as markup; ``Html`` as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "\n") -> Html:
    """Parts one after another, escaped like the values of ``fill``."""
    return Html(between.join(escaped(part) for part in parts))


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, text: int = 1) -> Html:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        columns: their heads. The first cell of a row is its head.
        text: how many columns, from the first, hold text; the others hold numbers, and stand to the right.
    """
    def cells(row: Sequence[Any], tag: str) -> Html:
        kinds = [f"{tag if i else 'th'}{'' if i < text else ' class=n'}" for i in range(len(row))]
        scopes = [" scope=col" if tag == "th" else " scope=row" if i == 0 else "" for i in range(len(row))]
        return join((fill("<{kind}{scope}>{cell}</{tag}>", kind=Html(kind), scope=Html(scope), cell=cell,
                          tag=Html(kind.split()[0]))
                     for kind, scope, cell in zip(kinds, scopes, row, strict=True)), "")

    return fill(
        '<div class=scroll tabindex=0 role=region aria-label="{caption}"><table><caption>{caption}</caption>'
        "<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>",
        caption=caption, head=cells(columns, "th"),
        body=join(Html(f"<tr>{cells(row, 'td')}</tr>") for row in rows),
    )
