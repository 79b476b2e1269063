"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from jaffe.netdef.errors import SpecError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside ``path`` to write to; the file takes the name ``path`` when the block ends without error.

    Raises:
        SpecError: it cannot be written; what was at ``path`` stays.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield new
        os.replace(new, path)
    except SpecError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the name; HDF5 at a full disk
        problem = (isinstance(error, OSError) and error.strerror) or error
        raise SpecError(f"cannot be written: {problem}", location=str(path)) from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            new.unlink(missing_ok=True)
