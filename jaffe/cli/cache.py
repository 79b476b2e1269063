"""JAX's persistent compilation cache, for the commands that compile.

What is stored are programs: whoever can write to the folder can run code as the user.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaffe.folders import cache_folder

LIMIT = 2 << 30  # bytes


def use_cache() -> None:
    """Keep compiled programs from run to run, in ``~/.cache/jaffe/xla`` (``$XDG_CACHE_HOME/jaffe/xla``).

    JAX's own variables come first: with ``JAX_COMPILATION_CACHE_DIR`` its settings are left alone, with
    ``JAX_ENABLE_COMPILATION_CACHE=false`` there is no cache. The folder must be the user's own and closed to others
    (mode 0700). One that cannot be used, or fails later, is told in one line on stderr; the command goes on without.
    """
    import jax

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return
    try:
        folder = cache_folder() / "xla"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(folder)
        trim(folder, LIMIT)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        print(f"jaffe: no compilation cache: {error}", file=sys.stderr)
        return
    tell_failures(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A net starts with dozens of programs that compile in 0.01 to 0.3 s; JAX's default leaves out those below 1 s.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_own(folder: Path) -> None:
    """Refuse a folder that is not the user's, or that others can read or write; also a link to one.

    Raises:
        PermissionError: says what was expected and found.
    """
    about = folder.lstat()
    mode = stat.S_IMODE(about.st_mode)
    if about.st_uid != os.geteuid() or mode & 0o077 or not stat.S_ISDIR(about.st_mode):
        raise PermissionError(f"{folder} would hold programs to run: expected a folder of user {os.geteuid()} with "
                              f"mode 0700; found {stat.filemode(about.st_mode)} of user {about.st_uid}")


def trim(folder: Path, limit: int) -> None:
    """Remove the files that were not read longest, until those left have fewer bytes than the limit.

    JAX has a limit of its own, which needs the package filelock, and after a kill between its two writes of an entry
    refuses every later one.
    """
    files = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # removed by another process
            about = path.lstat()
            if not stat.S_ISDIR(about.st_mode):
                files.append((about.st_atime_ns, about.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total >= limit:
            path.unlink(missing_ok=True)


def tell_failures(folder: Path) -> None:
    """Say JAX's first warning about the cache in one line, and empty the folder at each.

    An entry that a full disk or a kill cut short stays as it is: JAX would stumble over it at every start.
    """
    shown = warnings.showwarning
    told: list[str] = []

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        program, _, error = str(message).partition("\n")[0].partition("': ")
        if "persistent compilation cache" not in program:
            shown(message, *where, **more)
            return
        with suppress(OSError):
            trim(folder, 0)
        if not told:
            told.append(error)
            print(f"jaffe: the compilation cache in {folder} failed: {error}", file=sys.stderr)

    warnings.showwarning = show
