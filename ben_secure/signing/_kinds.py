"""Every use of a key checks its kind, so a key of one kind is never used as another."""

from __future__ import annotations


def expect(kind: type, argument: object, name: str) -> None:
    """Check that an argument is an instance of this class.

    Raises:
        TypeError: The argument is not an instance. The message shows only its type.
    """
    if not isinstance(argument, kind):
        raise TypeError(f"{name} must be {kind.__name__}, not {type(argument).__name__}")
