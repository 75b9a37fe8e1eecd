"""The patch that the one call of a canonical value describes (docs/format.md)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.patches.parts import rebuild
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.patches.standard import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch
from ben_secure.pickles.arrays import Source
from ben_secure.pickles.names import Name
from ben_secure.pickles.records import Block, Record

ALIGNMENT = 16
"""Bytes. The largest item of pixels is a complex128."""

_ALL = (BigEarthNetPatch, BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch)
PATCH_CLASSES: Mapping[str, type[BigEarthNetPatch]] = MappingProxyType({cls.__name__: cls for cls in _ALL})
"""The patch classes of the interface by name."""


def canonical_patch(record: Record, source: Source, limits: Limits, aligned: int | None) -> BigEarthNetPatch:
    """Build a patch from a record of ``rebuild_patch(version, kind, layout, pixels, stored, extras)``.

    Raises:
        PatchFormatError: An argument is not one of a whole, valid patch.
        TypeError: As ``patches.rebuild``.
        ValueError: See there.
    """
    version, kind, layout, pixels, stored, extras = record.arguments
    if type(version) is not int or version != 1:
        raise PatchFormatError(
            f"version {printable(version)} of the canonical value is unknown, this package reads version 1; "
            "a newer ben_secure may read it",
            rule=Rule.PATCH,
        )
    cls: type[BigEarthNetPatch] | None = kind.patch_class if type(kind) is Name else None
    if type(kind) is str:
        cls = PATCH_CLASSES.get(kind)
    if cls is None:
        raise PatchFormatError(f"no patch class is called {printable(kind)}", rule=Rule.PATCH)
    if type(pixels) is Block:
        pixels = take(source.view, pixels, aligned)
    return rebuild(cls, layout, pixels, source.metadata(stored), source.metadata(extras), limits)


def take(view: memoryview, block: Block, aligned: int | None) -> bytearray | memoryview:
    """Pixels where they lie, if the patch may keep them there and they are aligned; else a copy.

    Args:
        view: The bytes of the value.
        block: Where the pixels are.
        aligned: As for ``Loader.load``.
    """
    part = view[block.start : block.stop]
    return part if aligned is not None and block.start % ALIGNMENT == aligned else bytearray(part)
