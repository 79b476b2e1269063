"""Pictures inside a page: as ``data:`` addresses, which nothing is fetched for and no script runs in."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from jaffe.report.markup import Html, fill

BINS = 32


def image(data: bytes, kind: str, alt: str, style: str = "") -> Html:
    """An ``img``; ``kind``: ``"svg+xml"`` or ``"png"``; ``style``: classes."""
    return fill('<img class="{style}" src="data:image/{kind};base64,{data}" alt="{alt}">', style=style, kind=kind,
                data=base64.b64encode(data).decode(), alt=alt)


def figure_svg(figure: Any) -> bytes:
    """A matplotlib figure, without margin colour and date: the same for the same figure."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "jaffe"}):
        figure.savefig(file, format="svg", facecolor="none", metadata={"Date": None})
    return file.getvalue()


def png(pixels: np.ndarray, shown: np.ndarray | None = None) -> bytes:
    """Pixels (H, W) or (H, W, RGB) in [0, 1]; ``shown`` (H, W) is 0 where the page shows through."""
    import cv2

    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    channels = [pixels[..., ::-1], *([] if shown is None else [shown[..., None]])]
    x = np.nan_to_num(np.concatenate(channels, 2)).clip(0, 1)
    return bytes(cv2.imencode(".png", (x * 255).round().astype(np.uint8))[1])


def histogram(values: np.ndarray) -> Html:
    """The histogram of finite values as a small drawing, in the colour of the text; the numbers stand beside it."""
    x = values.astype(np.float64) / 2  # so that no difference overflows
    low, high = x.min(), x.max()
    shares = (x - low) / (high - low) if high > low else np.full(x.shape, 0.5)
    counts, _ = np.histogram(shares, BINS, (0, 1))
    heights = 20 * counts / max(counts.max(), 1)
    bars = "".join(f"M{i} 20v{-height:.1f}h1V20z" for i, height in enumerate(heights) if height)
    return Html(f'<svg class=bars viewBox="0 0 {BINS} 20" preserveAspectRatio=none aria-hidden=true>'
                f'<path d="{bars}"/></svg>')
