"""The site builds without a warning, its code runs, its commands exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import jaffe
from docs.cli import reference
from jaffe.cli import app
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NEEDED = ("sphinx", "myst_nb", "furo", "sphinx_copybutton", "sphinx_design")

# Pages whose Python runs, and what it finds: files that the page's own commands or text give.
RUN = {
    "index": "",
    "faq": "",
    "from-flax-keras": "",
    "quickstart": """
import jax, jaffe
from jaffe import zoo
net = jaffe.netdef.deploy(zoo.lenet(transform=dict(resize=32, crop_size=28, scale=1 / 16)))
jaffe.netdef.write_text(net, "deploy.prototxt")
compiled = jaffe.compile_net(net, phase="TEST")
jaffe.save_weights(compiled, compiled.init(jax.random.key(0)), "lenet.caffemodel")
""",
    "from-caffe": """
import jax, jaffe
net = jaffe.netdef.deploy("digits_train_test.prototxt", {"data": (1, 1, 8, 8)})
jaffe.netdef.write_text(net, "deploy.prototxt")
compiled = jaffe.compile_net(net, phase="TEST")
jaffe.save_weights(compiled, compiled.init(jax.random.key(0)), "digits.caffemodel")
""",
}
QUICKER = ("max_iter=300", "max_iter=5")


def test_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install 'jaffe[docs]'")
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-D", "nb_execution_mode=off", "-d",
         tmp_path / "doctrees", DOCS, site],
        capture_output=True, text=True, timeout=300,
    )
    assert built.returncode == 0, built.stderr  # also for a page in no table of contents, and a link that leads nowhere
    assert [page.stem for page in PAGES if not (site / f"{page.stem}.html").is_file()] == []
    shown = (site / "api" / "jaffe.html").read_text()
    assert [name for name in jaffe.__all__ if f'id="jaffe.{name}"' not in shown] == ["cells", "__version__"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Of what is read in the repository; the site's own links are Sphinx's to check."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_code_of_pages_runs(tmp_path: Path) -> None:
    script = []
    for page, before in RUN.items():
        folder = tmp_path / page
        folder.mkdir()
        text = (DOCS / f"{page}.md").read_text()
        for name, content in re.findall(r"^```text\n# (\S+\.prototxt)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            (folder / name).write_text(content)
        script.append(f"os.chdir({str(folder)!r}); names = {{'__name__': {page!r}}}; exec({before!r}, names)")
        for place, block in _blocks(text, "python"):
            if "<!-- not run" not in text[:place].splitlines()[-1]:
                where = f"docs/{page}.md, line {text[:place].count(chr(10)) + 2}"
                script.append(f"exec(compile({block.replace(*QUICKER)!r}, {where!r}, 'exec'), names)")
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # most of it is compiling
    ran = subprocess.run([sys.executable, "-c", "\n".join(["import os", *script])], capture_output=True, text=True,
                         timeout=300, cwd=tmp_path, env=os.environ | {"XLA_FLAGS": quick})
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_commands_of_pages_exist(page: Path) -> None:
    """Names and options of commands; what they read is not there."""
    for _, block in _blocks(page.read_text(), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:  # settings of the environment
                words = words[1:]
            if words[:1] == ["jaffe"]:
                _parse(words[1:])


def test_reference_of_commands_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text() == reference(), "run `make cli`"


def _blocks(text: str, language: str) -> list[tuple[int, str]]:
    """Where each block of the language begins, and what is in it."""
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(block.start(), block[1]) for block in found]


def _parse(words: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context("jaffe", list(words))
