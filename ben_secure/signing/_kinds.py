"""Keys of one kind never stand in for keys of another; checked wherever a key is used."""

from __future__ import annotations


def expect(kind: type, given: object, what: str) -> None:
    """Let ``given`` pass if it is of this kind.

    Raises:
        TypeError: It is something else; only its type is told.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{what} must be {kind.__name__}, not {type(given).__name__}")
