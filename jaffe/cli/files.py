"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from jaffe.netdef.errors import JaffeError


def write(path: str, content: str | bytes, force: bool) -> None:
    """Write a file that the user names.

    Raises:
        JaffeError: it is there already and ``force`` is not given; or it cannot be written.
    """
    target = Path(path)
    if target.exists() and not force:
        raise JaffeError(f"{path} is there already; --force overwrites it")
    try:
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise JaffeError(f"{path} cannot be written: {error.strerror}") from None
