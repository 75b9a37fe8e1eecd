"""The names that a pickled patch may ask for, and the permitted use of each; data only.

The key is the exact (module, name) pair of the payload. No name is imported, no name is matched by prefix or pattern,
and no pair can be added at run time. A subclass declared by the *caller* becomes a row in the caller's own copy of the
table (``declared``), never in this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeAlias


class Use(IntEnum):
    """The permitted use of an admitted name."""

    CLASS = 1  # NEWOBJ without arguments, then BUILD once
    BUILDER = 2  # REDUCE, then BUILD once
    CALL = 3  # REDUCE; the result is complete
    NAME = 4  # only as an argument


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """One row of the table. STACK_GLOBAL pushes only rows, which cannot be called.

    Attributes:
        name: The last part of the pair.
        use: Its permitted use.
        arity: Number of arguments, if it is called.
        patch_class: The class that the caller declared under this pair. It is never called.
    """

    name: str
    use: Use
    arity: int = 0
    patch_class: Any = None


Table: TypeAlias = Mapping[tuple[str, str], Name]
_INTERFACE = "bigearthnet_patch_interface"
_NUMPY = ("numpy.core", "numpy._core")  # numpy 1 and numpy 2
BAND_CLASSES = ("Band", "BenS1_Band", "BenS2_10mBand", "BenS2_20mBand", "BenS2_60mBand")
"""Band classes of bigearthnet_patch_interface, all in its ``band_interface``."""

PATCH_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "BigEarthNetPatch": f"{_INTERFACE}.patch_interface",
        "BigEarthNet_S1_Patch": f"{_INTERFACE}.s1_interface",
        "BigEarthNet_S2_Patch": f"{_INTERFACE}.s2_interface",
        "BigEarthNet_S1_S2_Patch": f"{_INTERFACE}.merged_interface",
    }
)
"""Patch classes of bigearthnet_patch_interface 0.1.0 and 0.1.2, and the module that pickles name."""

TABLE: Table = MappingProxyType(
    {
        # The canonical value (docs/format.md).
        ("ben_secure.patches", "rebuild_patch"): Name("rebuild_patch", Use.CALL, 6),
        ("ben_secure.metadata", "rebuild_array"): Name("rebuild_array", Use.CALL, 3),
        ("ben_secure.metadata", "rebuild_scalar"): Name("rebuild_scalar", Use.CALL, 2),
        ("numpy", "ndarray"): Name("ndarray", Use.NAME),
        ("numpy", "dtype"): Name("dtype", Use.BUILDER, 3),
        **{(f"{core}.multiarray", "_reconstruct"): Name("_reconstruct", Use.BUILDER, 3) for core in _NUMPY},
        **{(f"{core}.multiarray", "scalar"): Name("scalar", Use.CALL, 2) for core in _NUMPY},
        # Pickle protocol 5 writes these for an array (the default from Python 3.14 on).
        **{(f"{core}.numeric", "_frombuffer"): Name("_frombuffer", Use.CALL, 4) for core in _NUMPY},
        # The original package.
        **{(f"{_INTERFACE}.band_interface", name): Name(name, Use.CLASS) for name in BAND_CLASSES},
        **{(module, name): Name(name, Use.CLASS) for name, module in PATCH_MODULES.items()},
    }
)
"""Every admitted (module, name) pair."""


def declared(classes: tuple[Any, ...]) -> Table:
    """Return the table with the caller's patch classes added, by module and qualified name.

    Raises:
        ValueError: Two classes have one name, or one has a name of the interface itself.
    """
    table = dict(TABLE)
    for cls in classes:
        pair = (cls.__module__, cls.__qualname__)
        if pair in table:
            raise ValueError(f"{pair[0]}.{pair[1]} is declared twice or is a class of the interface itself")
        table[pair] = Name(cls.__qualname__, Use.CLASS, patch_class=cls)
    return MappingProxyType(table)
