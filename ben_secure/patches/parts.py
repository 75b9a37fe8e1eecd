"""``rebuild``: makes a patch from the parts of a value; and the rules on the names that a patch may use.

The parts are hostile. They are checked before a patch exists, so no patch is half built. No method of a subclass is
called, and no name from a payload is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ben_secure.errors import printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.metadata import check_name, check_value
from ben_secure.patches.buffer import BandBuffer
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Layout

PatchT = TypeVar("PatchT", bound=BandBuffer)

FORMAT_VERSION = 1
"""Version of the canonical value."""

KINDS: dict[str, type[BandBuffer]] = {}
"""The four patch classes by their name in a canonical value. Each class adds itself."""


def kind_of(cls: type[BandBuffer]) -> str:
    """Return the name of the standard class whose rules on bands apply: the class itself or its base."""
    return cls._kind


def names_used_by(cls: type) -> frozenset[str]:
    """Names that metadata of a class may not have: bands, methods, properties, and names that start with an underscore.

    Other class attributes are defaults, which metadata may override.
    """
    kind = cls._kind  # type: ignore[attr-defined]
    bands = [spec for group in STANDARD_KINDS.get(kind, ()) for spec in group]
    used = {"_bands", *(spec.name for spec in bands), *(spec.attribute for spec in bands)}
    for base in cls.__mro__:
        used.update(
            name
            for name, member in vars(base).items()
            if name.startswith("_") or callable(member) or hasattr(member, "__get__")
        )
    return frozenset(used)


def check_attributes(cls: type[BandBuffer], layout: Layout) -> None:
    """Refuse a generic band's attribute that the class defines, even as a default, because it would hide the band."""
    for attribute in layout.by_attribute if layout.kind == GENERIC else ():
        if any(attribute in vars(base) for base in cls.__mro__):
            raise ValueError(f"band attribute {printable(attribute)!r} is defined by {cls.__name__} itself; rename it")


def names_taken(cls: type[BandBuffer], layout: Layout) -> frozenset[str]:
    """Names that metadata of a patch may not have. The reserved names include those of fixed bands."""
    return cls._reserved if layout.kind != GENERIC else cls._reserved | layout.names


def check_metadata(
    cls: type[BandBuffer],
    layout: Layout,
    stored: Mapping[str, object],
    extras: Mapping[str, object] | None,
    limits: Limits,
) -> None:
    """Check names and values of all metadata of a patch, with one bound on the number of objects."""
    taken = names_taken(cls, layout)
    nodes = 0
    for part in (stored, extras) if extras else (stored,):
        for name, value in part.items():
            check_name(name, taken, limits)
            nodes = check_value(name, value, limits, nodes)


def rebuild(
    cls: type[PatchT],
    layout: object,
    pixels: object,
    stored: object,
    extras: object,
    limits: Limits = DEFAULT_LIMITS,
) -> PatchT:
    """Make a patch from the parts of a canonical value. All of them are hostile.

    For every patch ``p``: ``rebuild(type(p), layout.encoded, bytes(pixels), stored, extras) == p`` with its own parts.

    Args:
        cls: The patch class, chosen by the caller, never by the data.
        layout: See ``Layout.parse``.
        pixels: Exactly a bytearray, used without a copy; exactly bytes, which are copied; or exactly a memoryview of
            bytes that the caller gives to the patch, used without a copy (not in ``rebuild_patch``).
        stored: Exactly a dict of metadata, used as ``__stored_args__``.
        extras: None, or exactly a dict of attributes that are not in ``stored``, or override it.
        limits: Bounds on all of it.

    Returns:
        The patch.

    Raises:
        TypeError: An argument does not have exactly its type, or metadata has a type that is not allowed.
        ValueError: An argument is out of bounds, contradicts another, or is not in the canonical form.
    """
    checked = Layout.parse(cls._kind, layout, limits)
    check_attributes(cls, checked)
    if type(pixels) is memoryview:
        pixels = pixels.cast("B")  # TypeError if it is not contiguous
    elif type(pixels) is bytes:
        pixels = bytearray(pixels)
    elif type(pixels) is not bytearray:
        raise TypeError(f"the pixels of a patch must be a bytearray or bytes, not {printable(type(pixels).__name__)}")
    if len(pixels) != checked.nbytes:
        raise ValueError(f"the pixels of this {cls.__name__} take {checked.nbytes} bytes, not {len(pixels)}")
    if any(bytes(pixels[start:stop]).strip(b"\0") for start, stop in checked.gaps):
        raise ValueError("the unused bytes between bands must be zero")
    if type(stored) is not dict or (extras is not None and type(extras) is not dict):
        raise TypeError("the metadata of a patch must be a dict")
    check_metadata(cls, checked, stored, extras, limits)
    return cls._assemble(checked, pixels, stored, extras)


def rebuild_patch(
    version: object, kind: object, layout: object, pixels: object, stored: object, extras: object
) -> BandBuffer:
    """Rebuild a patch: the only function named in a canonical value, so that ``pickle`` alone can read it, too.

    Args:
        version: The int 1. Others are refused.
        kind: Name of one of the four patch classes, or a subclass of ``BigEarthNetPatch``.
        layout: As for ``rebuild``.
        pixels: As for ``rebuild``.
        stored: As for ``rebuild``.
        extras: As for ``rebuild``.

    Returns:
        The patch.

    Raises:
        TypeError: As for ``rebuild``, or ``kind`` is not a patch class.
        ValueError: As for ``rebuild``, or version or kind is unknown.
    """
    if type(pixels) is memoryview:
        raise TypeError("the pixels of a patch must be a bytearray or bytes, not memoryview")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"format version {printable(version)} is unknown, expected {FORMAT_VERSION}; use a newer ben_secure"
        )
    if type(kind) is str:
        if kind not in KINDS:
            raise ValueError(f"patch class {printable(kind)} is unknown, expected one of {', '.join(KINDS)}")
        return rebuild(KINDS[kind], layout, pixels, stored, extras)
    if not isinstance(kind, type) or not issubclass(kind, KINDS[GENERIC]):
        raise TypeError(f"a patch class must be a name or a subclass of BigEarthNetPatch, not {printable(kind)}")
    return rebuild(kind, layout, pixels, stored, extras)


# Part of the format: canonical values contain this name, so it must not change.
rebuild_patch.__module__ = "ben_secure.patches"
