"""Inert records and unread blocks: the objects that the machine makes in addition to plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ben_secure.pickles.names import Name, Use

BLOCK_BYTES = 512
"""A bytes object or bytearray of this size or more becomes a ``Block``."""


@dataclass(slots=True, eq=False)
class Record:
    """The description of one object in a pickle. Nothing of it was executed.

    Attributes:
        name: The row of the table that was called or instantiated.
        arguments: Its arguments. Empty for NEWOBJ.
        state: The state that BUILD stored, or None.
    """

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None

    @property
    def is_complete(self) -> bool:
        """Whether BUILD is no longer allowed."""
        return self.state is not None or self.name.use is Use.CALL


@dataclass(slots=True, eq=False)
class Block:
    """A large bytes object, or a bytearray if ``mutable``: the bytes of the payload from ``start`` to ``stop``."""

    start: int
    stop: int
    mutable: bool

    def __len__(self) -> int:
        return self.stop - self.start


def kind_of(item: object) -> str:
    """Name the kind of an object, for a message."""
    if type(item) is Block:
        return "bytearray" if item.mutable else "bytes"
    return item.name.name if type(item) is Record else type(item).__name__


def is_record(item: Any, *names: str) -> bool:
    """Whether an item is a record with one of these names of the interface or numpy. Declared classes do not count."""
    return type(item) is Record and item.name.name in names and item.name.patch_class is None
