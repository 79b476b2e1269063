"""What commands write."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from jaffe.netdef.atomic import write_file
from jaffe.netdef.errors import JaffeError


def check_target(path: str, force: bool) -> None:
    """Raises JaffeError where ``write`` would, as far as it can be told before there is a content."""
    target = Path(path)
    if target.exists() and not force:
        raise JaffeError(f"{path} is there already; --force overwrites it")
    problem = errno.EISDIR if target.is_dir() else 0 if target.parent.is_dir() else errno.ENOENT
    if problem:
        raise JaffeError(f"{path}: cannot be written: {os.strerror(problem)}")


def write(path: str, content: str | bytes, force: bool) -> None:
    """Write a file that the user names.

    Raises:
        JaffeError: it is there already and ``force`` is not given; or it cannot be written, and what was there stays.
    """
    check_target(path, force)
    write_file(Path(path), content)


def show(text: str) -> None:
    """Print a file's content. Raises JaffeError where the output is a file on a full disk, or its like."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left, at the end of the program
        raise JaffeError(f"the output cannot be written: {error.strerror}") from None
