"""A key of one kind never stands in for a key of another. Every use of a key checks its kind."""

from __future__ import annotations


def expect(kind: type, given: object, what: str) -> None:
    """Check that ``given`` is an instance of this class.

    Raises:
        TypeError: It is not. The message shows only its type.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{what} must be {kind.__name__}, not {type(given).__name__}")
