"""Runs of a few seconds, and the page of one taken apart."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import jaffe
from jaffe.zoo import recipe

EVIL = "</table><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{0}"
VOID = {"meta", "img", "br", "link", "input", "hr", "path"}


def train(name: str, prefix: Path, **settings) -> Path:
    """Train a recipe of the zoo."""
    defaults = dict(max_iter=60, test_interval=30, display=10, snapshot=0, random_seed=1)
    jaffe.Solver(recipe(name), snapshot_prefix=str(prefix), **{**defaults, **settings}).run()
    return prefix


class Page(HTMLParser):
    """What a page holds: headings, texts of table cells by caption, attributes of all elements, all text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append("")
        elif tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings[-1] += data
        elif "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._caption][-1][-1] += data

    def images(self) -> list[str]:
        """The addresses of all images."""
        return [attributes["src"] or "" for tag, attributes in self.elements if tag == "img"]
