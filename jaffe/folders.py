"""Where jaffe keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/jaffe``, by default ``~/.cache/jaffe``; as XDG has it, a relative path does not count.

    Raises RuntimeError where there is no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "jaffe"
