"""``lazily``: names that a package gives out and imports when they are first used; nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Make the ``__getattr__`` of a package (PEP 562).

    Args:
        package: Its name, for which it must be a module already.
        homes: Module in which each name lives.

    Returns:
        The function. It raises AttributeError for other names.
    """

    def of(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)  # the next time it is found without asking
        return value

    return of
