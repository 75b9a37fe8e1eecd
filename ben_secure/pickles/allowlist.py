"""The names that a pickled patch may ask for, and what kind of thing each is; data only.

The key is the exact (module, name) pair of the payload. Nothing here is imported by name, nothing matches by prefix
or pattern, and there is no way to add a pair at run time. A subclass that the *caller* declares is looked up beside
this table, never in it (see ``ben_secure.pickles.unpickler``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class Kind(IntEnum):
    """What a payload may do with an admitted name; ``opcodes`` enforces it without resolving the name."""

    CLASS = 1
    """Instantiated by NEWOBJ with no arguments, then given one state by BUILD."""
    BUILDER = 2
    """Called by REDUCE; the result is then given one state by BUILD."""
    CALL = 3
    """Called by REDUCE; the result is complete."""
    NAME = 4
    """Only ever an argument of a call."""


class Declared(frozenset[tuple[str, str]]):
    """Pairs that name the caller's own classes; equal to itself only, because two classes can have one name."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


NONE_DECLARED = Declared()

_INTERFACE = "bigearthnet_patch_interface"

BAND_CLASSES: tuple[str, ...] = ("Band", "BenS1_Band", "BenS2_10mBand", "BenS2_20mBand", "BenS2_60mBand")
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

KINDS: Mapping[tuple[str, str], Kind] = MappingProxyType(
    {
        # The canonical value (docs/format.md).
        ("ben_secure.patches", "rebuild_patch"): Kind.CALL,
        ("ben_secure.metadata", "rebuild_array"): Kind.CALL,
        ("ben_secure.metadata", "rebuild_scalar"): Kind.CALL,
        # numpy 1 and numpy 2 (numpy.core became numpy._core in 2.0).
        ("numpy", "ndarray"): Kind.NAME,
        ("numpy", "dtype"): Kind.BUILDER,
        ("numpy.core.multiarray", "_reconstruct"): Kind.BUILDER,
        ("numpy._core.multiarray", "_reconstruct"): Kind.BUILDER,
        ("numpy.core.multiarray", "scalar"): Kind.CALL,
        ("numpy._core.multiarray", "scalar"): Kind.CALL,
        # What pickle protocol 5 writes for an array (the default from Python 3.14 on).
        ("numpy.core.numeric", "_frombuffer"): Kind.CALL,
        ("numpy._core.numeric", "_frombuffer"): Kind.CALL,
        # The original package.
        **{(f"{_INTERFACE}.band_interface", name): Kind.CLASS for name in BAND_CLASSES},
        **{(module, name): Kind.CLASS for name, module in PATCH_MODULES.items()},
    }
)
"""Every admitted (module, name) pair."""
