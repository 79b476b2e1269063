"""Compiled programs are kept from run to run, in a folder that is the user's own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaffe.cli.cache import check_own, trim
from jaffe.compile.lowering import onednn
from tests.cli.test_cli import COMMAND

TIME = [*COMMAND, "time", "--model", "logreg", "--iterations", "1"]
SETTINGS = [sys.executable, "-c", """
from jaffe.cli.cache import use_cache
use_cache()
import jax
print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""]

PROGRAMS = [sys.executable, "-c", """
from jaffe.cli.cache import use_cache
use_cache()
import jax
from jaffe.train.compilation import compiling
with compiling() as compilation:
    jax.numpy.sort(jax.random.normal(jax.random.key(0), 5)).sum()
assert compilation.requests > 3
print(["none", "some", "all"][(compilation.hits > 0) + (compilation.hits == compilation.requests)])
"""]


def run(command: list[str], home: Path, file_size: int = -1, **variables: str) -> tuple[str, list[str]]:
    """Standard output, and the lines of standard error, of a command whose caches are in this folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    limit = [] if file_size < 0 else ["sh", "-c", f'ulimit -f {file_size // 512} && exec "$@"', "sh"]
    done = subprocess.run(
        [*limit, *command], capture_output=True, text=True, timeout=300, check=True,
        env={**kept, "XDG_CACHE_HOME": str(home), **variables})
    return done.stdout, done.stderr.splitlines()


def compiled(output: str) -> str:
    """What ``jaffe time`` says of compiling."""
    return output.partition("compiled in ")[2].splitlines()[0]


def entries(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "jaffe" / "xla").iterdir()}


def test_second_run_takes_the_programs_of_the_first(tmp_path: Path):
    assert run(PROGRAMS, tmp_path) == ("none\n", [])
    assert stat.S_IMODE((tmp_path / "jaffe" / "xla").stat().st_mode) == 0o700
    first = entries(tmp_path)
    assert len(first) > 3  # small programs too
    assert run(PROGRAMS, tmp_path) == ("all\n", [])
    assert entries(tmp_path) == first


def test_in_a_folder_of_the_users_choice(tmp_path: Path):
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    output, said = run(TIME, tmp_path, **kept)
    assert said == []
    assert compiled(output)
    assert "cache" not in compiled(output)
    output, said = run(TIME, tmp_path, **kept)
    assert said == []
    assert compiled(output).endswith("s, from the cache.")


@pytest.mark.skipif(not onednn.available(), reason="jaxlib's oneDNN is not used on this machine")
def test_programs_that_call_onednn_are_not_kept(tmp_path: Path):
    output, said = run(TIME, tmp_path)
    assert said == []
    assert "cache" not in compiled(output)
    assert not (tmp_path / "jaffe" / "xla").exists()


def test_what_fails_later_is_one_line(tmp_path: Path):
    """Entries that cannot be written whole, and entries cut short: the next run but one finds nothing amiss."""
    failed = f"jaffe: the compilation cache in {tmp_path}/jaffe/xla failed: "
    found, (line,) = run(PROGRAMS, tmp_path, file_size=1000)
    assert found == "none\n"
    assert line == f"{failed}OSError: [Errno 27] File too large"
    run(PROGRAMS, tmp_path)
    assert run(PROGRAMS, tmp_path) == ("all\n", [])
    for name, content in entries(tmp_path).items():
        (tmp_path / "jaffe" / "xla" / name).write_bytes(content[:100])
    found, (line,) = run(PROGRAMS, tmp_path)
    assert found == "none\n"
    assert line.startswith(failed)
    assert run(PROGRAMS, tmp_path) == ("all\n", [])


def test_settings(tmp_path: Path):
    """The folder, and the least seconds of compiling that are worth storing; JAX's own variables come first."""
    folder = tmp_path / "jaffe" / "xla"
    assert run(SETTINGS, tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == ("None 1.0\n", [])
    assert run(SETTINGS, tmp_path, JAX_COMPILATION_CACHE_DIR="/own") == ("/own 1.0\n", [])
    assert not folder.exists()
    assert run(SETTINGS, tmp_path) == (f"{folder} 0.0\n", [])
    assert run(SETTINGS, tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="2") == (f"{folder} 2.0\n", [])
    assert run(SETTINGS, Path(), HOME=str(tmp_path)) == (f"{tmp_path}/.cache/jaffe/xla 0.0\n", [])


def test_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    assert run(SETTINGS, tmp_path / "file") == (
        "None 1.0\n", [f"jaffe: no compilation cache: [Errno 20] Not a directory: '{tmp_path}/file/jaffe/xla'"])


def test_folder_that_others_may_write_to(tmp_path: Path):
    folder = tmp_path / "jaffe" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "planted-cache").touch()
    output, (line,) = run(SETTINGS, tmp_path)
    assert output == "None 1.0\n"
    assert line.startswith(f"jaffe: no compilation cache: {folder} would hold programs to run: expected a folder of ")
    assert "found drwxrwxrwx of user " in line
    assert list(folder.iterdir()) == [folder / "planted-cache"]


def test_folder_of_ones_own(tmp_path: Path, monkeypatch):
    folder, link, file = tmp_path / "folder", tmp_path / "link", tmp_path / "file"
    folder.mkdir(mode=0o700)
    check_own(folder)
    link.symlink_to(folder)
    with pytest.raises(PermissionError, match="found lrwxrwxrwx"):
        check_own(link)
    file.touch(mode=0o600)
    with pytest.raises(PermissionError, match="found -rw-------"):
        check_own(file)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match=f"of user {owner + 1} with mode 0700; found drwx------ of user {owner}"):
        check_own(folder)


def test_what_was_not_read_longest_goes_first(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    paths = [tmp_path / "newest", inner / "newer", tmp_path / "older", inner / "oldest", tmp_path / "empty"]
    for i, path in enumerate(paths):
        path.write_bytes(bytes(10) if path.name != "empty" else b"")
        os.utime(path, (1000 - i, 2000 + i))
    trim(tmp_path, 41)
    assert [path.exists() for path in paths] == [True] * 5
    trim(tmp_path, 30)
    assert [path.exists() for path in paths] == [True, True, False, False, False]
    trim(tmp_path, 0)
    assert list(tmp_path.rglob("*")) == [inner]
