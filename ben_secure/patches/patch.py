"""``BigEarthNetPatch``: any bands in one buffer, with metadata.

A patch owns a buffer, a layout with the position of each band in it, and metadata. Bands are made on access, as views
of the buffer. All arguments of a constructor are checked before a patch exists.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NoReturn, Protocol, TypeVar

import numpy as np

from ben_secure.bands import BandSpec
from ben_secure.errors import UntrustedDataError
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.metadata import check_name, check_value, equal, pack
from ben_secure.patches.band import BAND_TYPES, Band, check_pixels, refuse_state
from ben_secure.patches.buffer import BandBuffer, write
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Layout
from ben_secure.patches.parts import (
    FORMAT_VERSION,
    KINDS,
    check_attributes,
    check_metadata,
    names_taken,
    names_used_by,
    rebuild_patch,
)
from ben_secure.view.cards import card, thumbnail
from ben_secure.view.gridded import Layer, to_dataset
from ben_secure.view.quicklook import Quicklook, look

if TYPE_CHECKING:
    import xarray

    from ben_secure.patches.layout import PixelArray
    from ben_secure.view.quicklook import Stretch

PatchT = TypeVar("PatchT", bound="BigEarthNetPatch")


class Decoder(Protocol):
    """The reader of stored values: the module ``ben_secure.values``, which imports this one."""

    def load(
        self, file: BinaryIO | str | os.PathLike[str], *, classes: tuple[type[BigEarthNetPatch], ...]
    ) -> BigEarthNetPatch:
        """Read one patch from a file."""

    def loads(self, data: bytes, *, classes: tuple[type[BigEarthNetPatch], ...]) -> BigEarthNetPatch:
        """Read one patch from bytes."""


class BigEarthNetPatch(BandBuffer):
    """A patch with any bands and metadata, the base of all patch classes.

    To define your own class, derive from it, set the bands as attributes and pass them to the constructor::

        class MyPatch(BigEarthNetPatch):
            def __init__(self, green, **metadata):
                self.green = Band(name="green", spatial_resolution=10, data_shape=(120, 120), data=green)
                super().__init__(bands=[self.green], **metadata)

    Afterwards ``patch.green`` is the patch's own band, and its pixels are a view of the patch's buffer.
    """

    __slots__ = ()

    # Returns the reader that load and loads use; ben_secure.patches sets it.
    _decoder: ClassVar[Callable[[], Decoder]]

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            if kind not in STANDARD_KINDS or kind in KINDS:
                raise TypeError(f"kind={kind} is reserved for the classes of this package; leave it out")
            cls._kind = kind
            KINDS[kind] = cls
            for spec in (spec for group in STANDARD_KINDS[kind] for spec in group):
                setattr(cls, spec.attribute, _band_attribute(spec.name))
        cls._reserved = names_used_by(cls)

    def __init__(self, bands: Iterable[Band], **kwargs: object) -> None:
        """Make a patch from bands. Their pixels are copied.

        Args:
            bands: The bands, in any order, each name once.
            **kwargs: Metadata, which becomes attributes and ``__stored_args__``.

        Raises:
            TypeError: An item of ``bands`` is not a band, or metadata has a type that is not allowed.
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
        """Fill a patch that has fixed bands with arrays in the order of ``specs``."""
        if any(isinstance(value, Band) for value in self.__dict__.values()):
            raise TypeError(f"the bands of a {self._kind} are fixed; derive from BigEarthNetPatch for others")
        by_name = {}
        for spec, array in zip(specs, arrays, strict=True):
            check_pixels(spec.name, array, spec.shape)
            by_name[spec.name] = array
        stored = [by_name[spec.name] for group in STANDARD_KINDS[self._kind] for spec in group]
        layout = Layout.standard(self._kind, Layout.canonical_dtypes(self._kind, [array.dtype.str for array in stored]))
        self._fill(layout, stored, metadata)

    def _fill(self, layout: Layout, arrays: Sequence[PixelArray], metadata: dict[str, object]) -> None:
        """Check metadata, copy checked arrays in the layout's order, and only then set the attributes."""
        extras = {name: value for name, value in self.__dict__.items() if not isinstance(value, Band)}
        check_attributes(type(self), layout)
        check_metadata(type(self), layout, metadata, extras, DEFAULT_LIMITS)
        pixels = layout.gather(arrays)
        attributes = self.__dict__
        attributes.clear()
        attributes.update(extras)
        attributes.update(metadata)
        attributes["__stored_args__"] = metadata
        write(self, "_views", {})
        write(self, "_pixels", pixels)
        write(self, "_layout", layout)

    def __getattr__(self, name: str) -> Any:
        # Called only for names that are neither metadata nor defined by a class.
        if name in BandBuffer.__slots__:
            raise AttributeError(
                f"this {type(self).__name__} is not built yet; call super().__init__(bands=[...]) first"
            )
        slot = self._layout.by_attribute.get(name)
        if slot is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._band(slot)

    def __setattr__(self, name: str, value: object) -> None:
        # Not hasattr, because __getattr__ raises an explanation.
        built = "__stored_args__" in self.__dict__
        if isinstance(value, Band):
            if built:
                raise TypeError(
                    f"{name!r} cannot become a band: the bands of a built patch are fixed. Write pixels in place "
                    f"(patch.{name}.data[...] = ...) or make a new patch"
                )
            check_name(name, self._reserved)
        else:
            self._check_writable()
            check_name(name, names_taken(type(self), self._layout) if built else self._reserved)
            check_value(name, value)
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        self._check_writable()
        if name == "__stored_args__" or name not in self.__dict__:
            raise AttributeError(f"{name!r} is not metadata of this {type(self).__name__} and cannot be deleted")
        del self.__dict__[name]
        self.__dict__.get("__stored_args__", {}).pop(name, None)

    def _check_writable(self) -> None:
        if "__stored_args__" in self.__dict__ and hasattr(self, "_is_part"):
            raise TypeError("metadata of a part of a merged patch would be lost; set it on the merged patch")

    def store_kwargs_as_props(self, **kwargs: object) -> None:
        """Replace ``__stored_args__`` by new metadata, and set it as attributes. Older attributes stay.

        Args:
            **kwargs: Metadata.

        Raises:
            TypeError: A value has a type that is not allowed.
            ValueError: A name is taken.
        """
        self._check_writable()
        check_metadata(type(self), self._layout, kwargs, None, DEFAULT_LIMITS)
        self.__dict__.update(kwargs)
        self.__dict__["__stored_args__"] = kwargs

    def quicklook(self, kind: str | None = None, stretch: Stretch | None = None) -> Quicklook:
        """Draw the patch. A notebook shows the result, ``.save(path)`` writes it, and ``.image`` is the array.

        Args:
            kind: ``true-colour``, ``infrared``, ``swir`` or ``radar``, or None for the first that fits the bands.
            stretch: The ``stretch`` of another picture, to make them comparable, or None for the stretch of this patch.

        Returns:
            The picture, with stretched contrast (see ``ben_secure.view.quicklook.look``).

        Raises:
            ValueError: The kind is unknown, or the patch lacks a band that it needs.
        """
        return look({slot.name: slot.view(self._pixels) for slot in self._layout.natural}, kind, stretch)

    def _repr_html_(self) -> str:
        """Show bands, metadata and a picture in a notebook."""
        rows = [(f"{metres} m", [slot.name for slot in slots]) for metres, slots in self._layout.by_resolution.items()]
        contents = self.to_dict()
        return card(type(self).__name__, [*rows, *contents["metadata"].items()], [thumbnail(contents["bands"])])

    def to_xarray(self) -> xarray.Dataset:
        """Make an xarray Dataset, with coordinates if the metadata has ``bounds`` and ``epsg`` as from ``encode``.

        Returns:
            A variable for each band, on its own grid: ``y`` and ``x`` for the finest resolution, for example ``y_20m``
            and ``x_20m`` for others. Pixels are writable views of the patch. Metadata becomes attributes, and a
            reference map becomes a variable. rioxarray reads the position and the coordinate reference system from it.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        layers = [Layer(band.name, band.spatial_resolution, band.data) for band in self.bands]
        return to_dataset(layers, {**self.__stored_args__, **self._extras()})

    def __setstate__(self, state: object) -> NoReturn:
        refuse_state(self)

    def _extras(self) -> dict[str, object]:
        """Return the metadata attributes that differ from ``__stored_args__``."""
        stored = self.__stored_args__
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "__stored_args__" and (name not in stored or stored[name] is not value)
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the patch as dicts.

        Returns:
            ``{"bands": {name: pixels, ...}, "metadata": {name: value, ...}}``: bands in natural order as writable views
            of the patch, and metadata with the present values of the attributes.
        """
        return {
            "bands": {slot.name: self._band(slot).data for slot in self._layout.natural},
            "metadata": {**self.__stored_args__, **self._extras()},
        }

    def dump(self, file: BinaryIO) -> None:
        """Write the canonical value to a file that is open for binary writing. Otherwise like ``dumps``."""
        file.write(self.dumps())

    def dumps(self) -> bytes:
        """Write the canonical value: a pickle (protocol 5) of one call, with the pixels as one block.

        Equal patches give equal bytes, except for the order of dicts, of sets with NaN and, between processes, of all
        sets. The value is read back once before it is returned, so ``loads`` never refuses it.

        Returns:
            The value, as ``ben_secure.loads`` reads it.

        Raises:
            TypeError: Metadata was changed in place to a type that is not allowed.
            ValueError: Metadata was changed in place to a value out of bounds, or the patch exceeds the limits of
                ``loads``.
        """
        value = _written(self)
        try:
            self.loads(value)
        except UntrustedDataError as error:
            raise ValueError(f"this patch could not be read back, make it smaller: {error.message}") from error
        return value

    @classmethod
    def load(cls, file: BinaryIO | str | os.PathLike[str]) -> BigEarthNetPatch:
        """Read a patch from a file without executing any of it (see ``ben_secure.load``).

        Args:
            file: Its path, or a file that is open for binary reading.

        Returns:
            The patch. If called on your own class, patches of that class are accepted, too.

        Raises:
            BenSecureError: The data was refused.
        """
        return cls._decoder().load(file, classes=cls._declared())

    @classmethod
    def loads(cls, data: bytes) -> BigEarthNetPatch:
        """Read a patch from bytes. Otherwise like ``load``."""
        return cls._decoder().loads(data, classes=cls._declared())

    @classmethod
    def _declared(cls) -> tuple[type[BigEarthNetPatch], ...]:
        return () if KINDS[cls._kind] is cls else (cls,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        cls = type(self)
        stored, extras = self.__stored_args__, self._extras()
        # Lists and dicts may have changed since the check.
        check_metadata(cls, self._layout, stored, extras, DEFAULT_LIMITS)
        pixels: bytes | bytearray | memoryview = self._pixels
        if protocol < 5:
            pixels = bytes(pixels)
        elif type(pixels) is memoryview:
            pixels = bytearray(pixels)
        kind = cls._kind if KINDS[cls._kind] is cls else cls
        return rebuild_patch, (FORMAT_VERSION, kind, self._layout.encoded, pixels, pack(stored), pack(extras) or None)

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
            and np.array_equal(np.frombuffer(self._pixels, np.uint8), np.frombuffer(other._pixels, np.uint8))
            and equal(self.__stored_args__, other.__stored_args__)
            and equal(self._extras(), other._extras())
        )

    def __repr__(self) -> str:
        text = f"{type(self).__name__} with:\n" + "\n".join(f"\t{band}" for band in self.bands)
        if self.__stored_args__:
            text += "\nAnd the extra metadata:\n"
            text += "".join(f"\t{_shown(name)}: {_shown(value)}\n" for name, value in self.__stored_args__.items())
        return text

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._layout.by_attribute})


KINDS[GENERIC] = BigEarthNetPatch
BigEarthNetPatch._reserved = names_used_by(BigEarthNetPatch)


def _band_attribute(name: str) -> property:
    """Make a class attribute for a fixed band, because existing code calls ``patch.__getattribute__``."""
    return property(lambda patch: patch._band(patch._layout.by_name[name]))


def _shown(value: object) -> str:
    """Write like ``str``, but escape text that could control a terminal."""
    if isinstance(value, str) and not value.isprintable():
        return repr(value)[1:-1]
    return str(value)


class _WithoutPixels:
    """Replaces a patch before pickling, to measure the size of all of it except its pixels."""

    __slots__ = ("patch",)

    def __init__(self, patch: BigEarthNetPatch) -> None:
        self.patch = patch

    def __reduce__(self) -> tuple[Any, ...]:
        patch = self.patch
        stored, extras = pack(patch.__stored_args__), pack(patch._extras()) or None
        return rebuild_patch, (FORMAT_VERSION, patch._kind, patch._layout.encoded, bytearray(), stored, extras)


def frame_of(patch: BigEarthNetPatch) -> bytes:
    """Write the canonical value of a patch that was read, with the pixels left out."""
    try:
        return _written(_WithoutPixels(patch))
    except pickle.PicklingError as error:  # it holds plain data only, so the cause is a lack of memory
        raise MemoryError from error


def _written(item: BigEarthNetPatch | _WithoutPixels) -> bytes:
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5)
    # No memo: fewer opcodes, and equal strings give equal bytes whether or not they are one object.
    pickler.fast = True
    pickler.dump(item)
    return stream.getvalue()
