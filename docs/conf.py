"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no GPU's memory is taken, and pages are the same everywhere

import jaffe  # noqa: E402

project = "jaffe"
author = "the authors of jaffe"
project_copyright = author
version = release = jaffe.__version__

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design", "public_names",
]
root_doc = "index"
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
nitpicky = True

html_theme = "furo"
html_title = "jaffe"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
if "JAFFE_SQUEEZENET" not in os.environ:
    nb_execution_excludepatterns = ["02-classification.ipynb"]  # needs published weights, in that folder

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style"), ("Class attributes", "params_style")]
nitpick_ignore_regex = [  # annotations: of other projects, whose sites a build does not ask, and of what is not public
    ("py:.*", r"(?!jaffe\.).*"),
    ("py:(class|data|obj)", r"jaffe\..*"),
]


def _links(app: Sphinx, page: str, source: list[str]) -> None:
    """Pages and notebooks link to each other, and to other files, as they lie in the repository."""
    away, near = ("../docs/", "../") if page.startswith("notebooks/") else ("../notebooks/", "notebooks/")
    source[0] = source[0].replace(f"]({away}", f"]({near}").replace("](../examples/", "](path:../examples/")


def _prose(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon for a type, in attributes and below Returns, and docutils what stands
    between bars for a name; here these are sentences, and absolute values."""
    lines[:] = [re.sub(r"``.*?``|\|", lambda found: r"\|" if found[0] == "|" else found[0], line) for line in lines]
    if what in ("attribute", "property") and lines:
        lines[0] = f": {lines[0]}"
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            text = lines[i + 1].lstrip()
            lines[i + 1] = lines[i + 1][: -len(text)] + ": " + text


def _no_factories(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Defaults of data classes that are made anew have a form that is no Python, and so would not be laid out."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    app.connect("source-read", _links)
    app.connect("autodoc-process-docstring", _prose, priority=0)
    app.connect("autodoc-process-signature", _no_factories)
