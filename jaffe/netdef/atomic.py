"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaffe.netdef.errors import SpecError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to; the file takes the name ``path`` when the block ends without error.

    A link stays one, and a file that is replaced hands on its permissions. Devices and pipes are written to directly.

    Raises:
        SpecError: it cannot be written; what was at ``path`` stays.
    """
    new = None
    try:
        if path.is_fifo() or path.is_char_device():
            yield path
            return
        target = path.resolve()
        new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        if target.is_file():
            new.touch()
            new.chmod(stat.S_IMODE(target.stat().st_mode))
        yield new
        os.replace(new, target)
    except SpecError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the name; HDF5 at a full disk
        problem = (isinstance(error, OSError) and error.strerror) or error
        raise SpecError(f"cannot be written: {problem}", location=str(path)) from None
    finally:
        if new:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, text in UTF-8. Raises SpecError as ``replacing`` does."""
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def free_names(paths: Sequence[Path]) -> list[Path]:
    """Names beside the paths that are free: ``x.1.png`` for a file, ``folder.1`` for a folder, one number for all."""
    number = 1
    while any(_numbered(path, number).exists() for path in paths):
        number += 1
    return [_numbered(path, number) for path in paths]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}" if path.is_dir() else f"{path.stem}.{number}{path.suffix}")
