"""The page in a real browser, from a file: it is laid out, fetches nothing, and nothing in it runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.report.runs import EVIL, Page

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
               None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]


def browse(text: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser makes of a page, and what its console says of it."""
    folder.mkdir(exist_ok=True)
    file = folder / "page.html"
    file.write_text(text)
    assert BROWSER
    done = subprocess.run(
        [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0",
         "--host-resolver-rules=MAP * ~NOTFOUND", *options, file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def test_the_page_is_laid_out(lenet_page, tmp_path):
    dump, console = browse(lenet_page, tmp_path, "--dump-dom", "--virtual-time-budget=2000")
    assert console == []
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", dump)
    assert headings == Page(lenet_page).headings[1:]
    assert dump.count("<td") == lenet_page.count("<td")


@pytest.mark.parametrize("width", [1200, 500])
def test_it_is_seen(lenet_page, width, tmp_path):
    """The style counts (its hash is in the policy), and pictures are shown: the page is neither blank nor black."""
    picture = tmp_path / "page.png"
    _, console = browse(lenet_page, tmp_path, f"--screenshot={picture}", f"--window-size={width},1500")
    assert console == []
    pixels = cv2.imread(str(picture))
    assert pixels.shape[:2] == (1500, width)
    assert 0.8 < (pixels.min(2) > 240).mean() < 0.99  # paper
    assert ((pixels[..., 0] > 150) & (pixels[..., 2] < 100)).mean() > 1e-4  # the blue of links and of a curve


def test_markup_in_names_does_nothing(hostile, tmp_path):
    """A script that ran would have changed the title; what a page may not do, this browser would do without policy."""
    dump, console = browse(hostile, tmp_path, "--dump-dom", "--virtual-time-budget=2000")
    assert console == []
    assert "<script" not in dump
    assert Page(hostile).headings[0] == EVIL
    probe = '<img src="https://example.org/a.png"><script>document.title = "ran"</script></main>'
    dump, console = browse(hostile.replace("</main>", probe), tmp_path / "probe", "--dump-dom",
                           "--virtual-time-budget=2000")
    assert "<title>ran" not in dump
    assert len([line for line in console if "Content Security Policy" in line]) == 2
