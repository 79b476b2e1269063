"""The frame of the page: head, style, list of contents."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence

from jaffe.report.markup import Html, fill, join

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #59636e; --line: #d1d9e0; --tint: #f6f8fa;
  --blue: #0969da; --red: #cf222e; --shade: 9, 105, 218; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --line: #3d444d; --tint: #151b23; --blue: #6cb6ff;
    --red: #ff7b72; --shade: 56, 139, 253; }
  img.figure, img.drawing { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: .5rem 0; line-height: 1.2; } h2 { margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
a { color: var(--blue); } nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0;
  list-style: none; }
.skip:not(:focus) { position: absolute; left: -99rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0 0 1.25rem; }
dt { color: var(--faint); } dd { margin: 0; }
.scroll { overflow-x: auto; margin: .75rem 0; } .scroll:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--faint); padding-bottom: .35rem; }
th, td { padding: .2rem 1.25rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; max-width: 24rem; overflow-wrap: anywhere; min-width: 6rem; } td { max-width: 40rem; }
thead th { color: var(--faint); font-weight: 500; } .n { text-align: right; white-space: nowrap; }
.matrix th, .matrix td { min-width: 2.2rem; padding: .25rem .4rem; text-align: right; border: 1px solid var(--line); }
.matrix td:nth-child(n) { color: var(--faint); } .matrix td[class] { color: var(--ink); }
SHADES
img { max-width: 100%; height: auto; } img.drawing { max-width: none; } img.figure { display: block; width: 46rem; }
img.pixels { image-rendering: pixelated; }
figure { margin: 0; } figcaption { font-size: .85rem; color: var(--faint); }
figure > img.pixels { width: min(100%, 30rem); }
.items { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: 1rem; margin: 1rem 0;
  padding: 0; list-style: none; }
.items img.pixels { display: block; width: 100%; max-height: 9rem; object-fit: contain; object-position: left; }
.items b { color: var(--ink); } .wrong b { color: var(--red); }
.bars { display: block; width: 8rem; height: 1.25rem; margin-left: auto; } .bars path { fill: currentColor; }
""".replace("SHADES", "\n".join(
    f".matrix td.s{i} {{ background: rgba(var(--shade), {0.07 * i:.2f}); }}" for i in range(1, 10)))

# No address is fetched, no script runs, and no style but this one counts.
POLICY = ("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-"
          + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode() + "'")


def page(title: str, about: str, sections: Mapping[str, Html], notes: Sequence[str]) -> str:
    """The whole page.

    Args:
        about: a line below the title.
        sections: by heading; those that are empty are left out.
        notes: what is missing, a paragraph each.
    """
    shown = {heading: content for heading, content in sections.items() if content}
    if notes:
        shown["Not shown"] = fill("<ul>{notes}</ul>", notes=join(fill("<li>{note}</li>", note=note) for note in notes))
    ids = {heading: heading.lower().replace(" ", "-") for heading in shown}
    return fill(
        """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy content="{policy}">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<meta name=referrer content=no-referrer>
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class=skip href="#run">To the content</a>
<header>
<h1>{title}</h1>
<p>{about}</p>
<nav aria-label=Contents><ul>{contents}</ul></nav>
</header>
<main>
{sections}
</main>
</body>
</html>
""",
        title=title, about=about, policy=POLICY, style=Html(STYLE),
        contents=join(fill('<li><a href="#{id}">{heading}</a></li>', id=ids[heading], heading=heading)
                      for heading in shown),
        sections=join(fill('<section aria-labelledby="{id}"><h2 id="{id}">{heading}</h2>\n{content}\n</section>',
                           id=ids[heading], heading=heading, content=content) for heading, content in shown.items()),
    )
