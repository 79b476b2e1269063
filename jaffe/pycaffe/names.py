"""What a net in pycaffe's style has by name, and errors for what it has not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from jaffe.netdef.errors import JaffeError, suggest


class MissingName(JaffeError, KeyError):
    """A net has no blob or layer of that name."""

    __str__ = Exception.__str__


class Named(OrderedDict[str, Any]):
    """What a net has by name; ``what`` it is, for messages."""

    what = "name"

    @classmethod
    def of(cls, what: str, items: Iterable[tuple[str, Any]]) -> Named:
        """The items by name."""
        made = cls(items)
        made.what = what
        return made

    def __missing__(self, name: str) -> Any:
        raise MissingName(f"the net has no {self.what} {name!r}{suggest(str(name), self)}")
