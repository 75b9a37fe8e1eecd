"""``BigEarthNetPatch``: any bands in one buffer, with metadata; and ``rebuild``, which makes one from plain parts.

A patch owns a buffer, a layout that says where each band lies in it, and plain metadata. Bands are made when they are
asked for, as views of the buffer. Everything that a constructor or ``rebuild`` is given is checked before a patch
exists, so there is no half-built patch; ``_assemble`` alone checks nothing and is for callers that have. ``rebuild``
takes hostile arguments and never calls what a subclass defines. Nothing here imports what a payload names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ben_secure.bands import BandSpec
from ben_secure.errors import printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.metadata import check_name, check_value, equal, pack
from ben_secure.patches.access import BandAccess
from ben_secure.patches.band import BAND_TYPES, Band, check_pixels
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Layout

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray

PatchT = TypeVar("PatchT", bound="BigEarthNetPatch")

_FORMAT_VERSION = 1
# A patch's own storage, written around __setattr__, which is for metadata.
_write = object.__setattr__
# The four patch classes by the name that stands for them in a canonical value. Closed: only STANDARD_KINDS get in.
_KINDS: dict[str, type[BigEarthNetPatch]] = {}


class BigEarthNetPatch(BandAccess):
    """A patch of any bands with metadata; the base of all patch classes.

    To define your own: derive from it, make the bands as attributes and hand them on::

        class MyPatch(BigEarthNetPatch):
            def __init__(self, green, **metadata):
                self.green = Band(name="green", spatial_resolution=10, data_shape=(120, 120), data=green)
                super().__init__(bands=[self.green], **metadata)

    Afterwards ``patch.green`` is the patch's own band, its pixels a view of the patch's buffer.
    """

    __slots__ = ("__dict__", "__weakref__", "_layout", "_pixels", "_views")

    # The standard class whose rules on bands hold for this one.
    _kind: ClassVar[str] = GENERIC
    _reserved: ClassVar[frozenset[str]]

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            if kind not in STANDARD_KINDS or kind in _KINDS:
                raise TypeError(f"{kind} is not for other classes; leave kind= out")
            cls._kind = kind
            _KINDS[kind] = cls
            for spec in (spec for group in STANDARD_KINDS[kind] for spec in group):
                setattr(cls, spec.attribute, _band_attribute(spec.name))
        cls._reserved = _names_used_by(cls)

    def __init__(self, bands: Iterable[Band], **kwargs: object) -> None:
        """Make a patch of bands; their pixels are copied.

        Args:
            bands: The bands, of any order, each name once.
            **kwargs: Metadata; becomes attributes and ``__stored_args__``.

        Raises:
            TypeError: A band is none, or metadata is of a type that is not admitted.
            ValueError: Bands contradict each other, or a metadata name is taken.
        """
        if self._kind != GENERIC:
            raise TypeError(f"the bands of a {self._kind} are fixed; derive from BigEarthNetPatch for others")
        bands = list(bands)
        for band in bands:
            if type(band) is not BAND_TYPES.get(type(band).__name__):
                raise TypeError(f"found {type(band).__name__} among the bands, expected one of {', '.join(BAND_TYPES)}")
        held: dict[int, str] = {}
        for attribute, value in self.__dict__.items():
            if isinstance(value, Band) and held.setdefault(id(value), attribute) != attribute:
                raise ValueError(f"band {value.name} is both {held[id(value)]!r} and {attribute!r}; use one attribute")
        layout = Layout.generic(
            tuple(
                (held.pop(id(b), None), type(b).__name__, b.name, b.spatial_resolution, *b.data_shape, b.data.dtype.str)
                for b in bands
            )
        )
        if held:
            raise ValueError(f"attributes {', '.join(held.values())} hold bands that are not among bands=; add them")
        self._fill(layout, [band.data for band in bands], kwargs)

    def _fill_standard(
        self, specs: Sequence[BandSpec], arrays: Sequence[PixelArray], metadata: dict[str, object]
    ) -> None:
        """Fill a patch of fixed bands with arrays in the order of ``specs``."""
        if any(isinstance(value, Band) for value in self.__dict__.values()):
            raise TypeError(f"the bands of a {self._kind} are fixed; derive from BigEarthNetPatch for others")
        given = {}
        for spec, array in zip(specs, arrays, strict=True):
            check_pixels(spec.name, array, spec.shape)
            given[spec.name] = array
        stored = [given[spec.name] for group in STANDARD_KINDS[self._kind] for spec in group]
        layout = Layout.standard(self._kind, Layout.spell(self._kind, [array.dtype.str for array in stored]))
        self._fill(layout, stored, metadata)

    def _fill(self, layout: Layout, arrays: Sequence[PixelArray], metadata: dict[str, object]) -> None:
        """Check metadata, copy checked arrays in the layout's order, and only then become a patch."""
        extras = {name: value for name, value in self.__dict__.items() if not isinstance(value, Band)}
        _check_attributes(type(self), layout)
        _check_metadata(type(self), layout, metadata, extras, DEFAULT_LIMITS)
        pixels = layout.gather(arrays)
        attributes = self.__dict__
        attributes.clear()
        attributes.update(extras)
        attributes.update(metadata)
        attributes["__stored_args__"] = metadata
        _write(self, "_views", {})
        _write(self, "_pixels", pixels)
        _write(self, "_layout", layout)

    @classmethod
    def _assemble(
        cls: type[PatchT],
        layout: Layout,
        pixels: bytearray | memoryview,
        stored: dict[str, object],
        extras: Mapping[str, object] | None = None,
    ) -> PatchT:
        """Make a patch of parts that are already checked, without calling anything that a subclass defines.

        Args:
            layout: A layout of the class's ``_kind``.
            pixels: Buffer of ``layout.nbytes``; taken over, not copied.
            stored: Checked metadata; taken over as ``__stored_args__``.
            extras: Checked attributes beyond or instead of the stored ones.

        Returns:
            The patch.
        """
        patch = object.__new__(cls)
        _write(patch, "_layout", layout)
        _write(patch, "_pixels", pixels)
        _write(patch, "_views", {})
        attributes = patch.__dict__
        attributes.update(stored)
        if extras:
            attributes.update(extras)
        attributes["__stored_args__"] = stored
        return patch

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is neither metadata nor defined by a class.
        if name in BigEarthNetPatch.__slots__:
            raise AttributeError(
                f"this {type(self).__name__} is not built yet; call super().__init__(bands=[...]) first"
            )
        slot = self._layout.by_attribute.get(name)
        if slot is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._band(slot)

    def __setattr__(self, name: str, value: object) -> None:
        # Not through __getattr__, which explains what is missing.
        built = "__stored_args__" in self.__dict__
        if isinstance(value, Band):
            if built:
                raise TypeError(
                    f"{name!r} cannot become a band: the bands of a patch are fixed once it is built. Write pixels in "
                    f"place (patch.{name}.data[...] = ...) or make a new patch"
                )
            check_name(name, self._reserved)
        else:
            self._check_writable()
            check_name(name, _taken(type(self), self._layout) if built else self._reserved)
            check_value(name, value)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        self._check_writable()
        if name == "__stored_args__" or name not in self.__dict__:
            raise AttributeError(f"{name!r} is no metadata of this {type(self).__name__} and cannot be deleted")
        del self.__dict__[name]
        self.__dict__.get("__stored_args__", {}).pop(name, None)

    def _check_writable(self) -> None:
        if "__stored_args__" in self.__dict__ and type(self._pixels) is memoryview:
            raise TypeError("metadata of a part of a merged patch would be lost; set it on the merged patch itself")

    def store_kwargs_as_props(self, **kwargs: object) -> None:
        """Replace ``__stored_args__`` by new metadata and set it as attributes; older attributes stay.

        Args:
            **kwargs: Metadata.

        Raises:
            TypeError: A value is of a type that is not admitted.
            ValueError: A name is taken.
        """
        self._check_writable()
        _check_metadata(type(self), self._layout, kwargs, None, DEFAULT_LIMITS)
        self.__dict__.update(kwargs)
        self.__dict__["__stored_args__"] = kwargs

    @classmethod
    def _declared(cls) -> tuple[type[BigEarthNetPatch], ...]:
        return () if _KINDS[cls._kind] is cls else (cls,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        cls = type(self)
        stored, extras = self.__stored_args__, self._extras()
        # Lists and dicts may have been changed since they were checked.
        _check_metadata(cls, self._layout, stored, extras, DEFAULT_LIMITS)
        pixels: bytes | bytearray | memoryview = self._pixels
        if protocol < 5:
            pixels = bytes(pixels)
        elif type(pixels) is memoryview:
            pixels = bytearray(pixels)
        kind = cls._kind if _KINDS[cls._kind] is cls else cls
        return rebuild_patch, (_FORMAT_VERSION, kind, self._layout.plain, pixels, pack(stored), pack(extras) or None)

    def __copy__(self: PatchT) -> PatchT:
        return self._assemble(self._layout, self._pixels, dict(self.__stored_args__), self._extras())

    def __deepcopy__(self: PatchT, memo: dict[int, Any]) -> PatchT:
        stored, extras = copy.deepcopy((self.__stored_args__, self._extras()), memo)
        return self._assemble(self._layout, bytearray(self._pixels), stored, extras)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, BigEarthNetPatch):
            return NotImplemented
        return (
            self._layout == other._layout
            and self._pixels == other._pixels
            and equal(self.__stored_args__, other.__stored_args__)
            and equal(self._extras(), other._extras())
        )


_KINDS[GENERIC] = BigEarthNetPatch


def _band_attribute(name: str) -> property:
    """A fixed band as attribute; defined by the class, since code in the field calls ``patch.__getattribute__``."""
    return property(lambda patch: patch._band(patch._layout.by_name[name]))


def kind_of(cls: type[BigEarthNetPatch]) -> str:
    """Name of the standard class whose rules on bands hold for a patch class: its own, or what it derives from."""
    return cls._kind


def _names_used_by(cls: type) -> frozenset[str]:
    """Names that metadata of a class may not have: bands, methods, properties and whatever starts with an underscore.

    A plain class attribute is not among them: it is a default, and metadata may stand before it.
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


BigEarthNetPatch._reserved = _names_used_by(BigEarthNetPatch)


def _check_attributes(cls: type[BigEarthNetPatch], layout: Layout) -> None:
    """Refuse a generic band's attribute that the class defines, even as a default: the band would not be reached."""
    for attribute in layout.by_attribute if layout.kind == GENERIC else ():
        if any(attribute in vars(base) for base in cls.__mro__):
            raise ValueError(f"band attribute {printable(attribute)!r} is defined by {cls.__name__} itself; rename it")


def _taken(cls: type[BigEarthNetPatch], layout: Layout) -> frozenset[str]:
    # The names of fixed bands are among the reserved ones already.
    return cls._reserved if layout.kind != GENERIC else cls._reserved | layout.names


def _check_metadata(
    cls: type[BigEarthNetPatch],
    layout: Layout,
    stored: Mapping[str, object],
    extras: Mapping[str, object] | None,
    limits: Limits,
) -> None:
    """Check names and values of all metadata of a patch, against one common bound on their number."""
    taken = _taken(cls, layout)
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
    """Make a patch of the plain parts that travel in a canonical value; every one of them is hostile.

    Law: ``rebuild(type(p), layout.plain, bytes(pixels), stored, extras) == p`` for the parts of every patch ``p``.

    Args:
        cls: The patch class; the caller's choice, never the data's.
        layout: See ``Layout.parse``.
        pixels: Exactly a bytearray, which is taken over without a copy, or exactly bytes, which are copied. Or exactly
            a memoryview of bytes that stay another's: the patch is then a read-only view of them, and good for as long
            as they do not change. ``rebuild_patch`` admits none.
        stored: Exactly a dict of metadata; taken over as ``__stored_args__``.
        extras: None, or exactly a dict of attributes beyond or instead of the stored ones.
        limits: Bounds on all of it.

    Returns:
        The patch.

    Raises:
        TypeError: Something is not exactly of its type, or metadata is of a type that is not admitted.
        ValueError: Something is out of bounds, contradicts something else, or is not spelled in the canonical way.
    """
    checked = Layout.parse(cls._kind, layout, limits)
    _check_attributes(cls, checked)
    if type(pixels) is memoryview:
        pixels = pixels.toreadonly().cast("B")  # TypeError if it is not contiguous
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
    _check_metadata(cls, checked, stored, extras, limits)
    return cls._assemble(checked, pixels, stored, extras)


def rebuild_patch(
    version: object, kind: object, layout: object, pixels: object, stored: object, extras: object
) -> BigEarthNetPatch:
    """What the one call in a canonical value names, so that plain ``pickle`` can read it too.

    Args:
        version: The int 1; any other is refused.
        kind: Name of one of the four patch classes, or a subclass of ``BigEarthNetPatch``.
        layout: As for ``rebuild``, like the rest.
        pixels: As for ``rebuild``.
        stored: As for ``rebuild``.
        extras: As for ``rebuild``.

    Returns:
        The patch.

    Raises:
        TypeError: As for ``rebuild``, or ``kind`` is no patch class.
        ValueError: As for ``rebuild``, or version or kind is unknown.
    """
    if type(pixels) is memoryview:
        raise TypeError("the pixels of a patch must be a bytearray or bytes, not memoryview")
    if type(version) is not int or version != _FORMAT_VERSION:
        raise ValueError(
            f"format version {printable(version)} is unknown, expected {_FORMAT_VERSION}; use a newer ben_secure"
        )
    if type(kind) is str:
        if kind not in _KINDS:
            raise ValueError(f"patch class {printable(kind)} is unknown, expected one of {', '.join(_KINDS)}")
        return rebuild(_KINDS[kind], layout, pixels, stored, extras)
    if not isinstance(kind, type) or not issubclass(kind, BigEarthNetPatch):
        raise TypeError(f"a patch class must be a name or a subclass of BigEarthNetPatch, not {printable(kind)}")
    return rebuild(kind, layout, pixels, stored, extras)


# The name that stands in canonical values for ever; which file defines the function is nobody's business.
rebuild_patch.__module__ = "ben_secure.patches"
