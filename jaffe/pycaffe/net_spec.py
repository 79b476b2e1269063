"""Nets written in Python, as pycaffe's scripts write them: ``NetSpec``, ``layers``, ``params``, ``to_proto``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaffe.netdef import builder
from jaffe.netdef.builder import to_proto as to_proto

layers, params = builder.L, builder.P


class NetSpec(builder.NetSpec):
    """``jaffe.NetSpec``, with the names that pycaffe and SSD's fork have for what it holds: ``tops``, ``keys()``,
    ``vals()``, ``update(tops)`` and ``del n["x"]``."""

    @property
    def tops(self) -> dict[str, Any]:
        """What was assigned, by name."""
        return self._named

    def keys(self) -> list[str]:
        """The names."""
        return list(self._named)

    def vals(self) -> list[Any]:
        """What was assigned."""
        return list(self._named.values())

    def update(self, name_tops: Mapping[str, Any]) -> None:
        """Assign several."""
        for name, top in name_tops.items():
            self[name] = top

    def __delitem__(self, name: str) -> None:
        self[name]
        del self._named[name]
