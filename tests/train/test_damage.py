"""Damaged data: each kind is refused by name, or passed over, and no file is changed by being read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.damage import DAMAGES, PAGE, said


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if not file.name.startswith("lock")]
    return {str(file): (file.lstat().st_size, file.lstat().st_mtime_ns) for file in files}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage(tmp_path, kind):
    damage = DAMAGES[kind]
    if kind.startswith("leveldb"):
        pytest.importorskip("plyvel", reason="plyvel, which writes LevelDBs, has no wheel for this Python")
    made = []

    def make(folder: Path) -> str:
        name = damage.make(folder)
        made.append(contents(folder))
        return name

    message, goes_on = said(type(damage)(damage.title, make, damage.message), tmp_path)
    assert damage.message in message
    assert goes_on == damage.goes_on
    assert contents(tmp_path) == made[0]


def test_the_docs_have_every_kind():
    page = PAGE.read_text()
    for damage in DAMAGES.values():
        assert f"| {damage.title} | `" in page
