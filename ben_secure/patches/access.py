"""What can be asked of a patch: bands, stacked arrays, metadata, text, bytes; for all patches, for S1 and for S2.

Mixins over ``_layout``, ``_pixels`` and ``_views``, which ``patches.patch`` fills. Nothing here changes a patch
or judges input; loading is left to ``ben_secure.values``. Arrays are views of the buffer wherever that is possible.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from ben_secure.errors import UntrustedDataError
from ben_secure.patches.band import BAND_TYPES, Band, refuse_state
from ben_secure.patches.layout import BandSlot, Layout, run_of
from ben_secure.view.quicklook import Quicklook, look

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray
    from ben_secure.patches.patch import BigEarthNetPatch


class BandAccess:
    """What every patch can be asked."""

    __slots__ = ()

    if TYPE_CHECKING:
        _pixels: bytearray | memoryview
        _layout: Layout
        _views: dict[str, Any]
        __stored_args__: dict[str, object]

        @classmethod
        def _declared(cls) -> tuple[type[BigEarthNetPatch], ...]: ...

    def _band(self, slot: BandSlot) -> Band:
        band: Band | None = self._views.get(slot.name)
        if band is None:
            band_type = BAND_TYPES[slot.band_class]
            band = band_type._wrap(slot.name, slot.resolution_m, slot.shape, slot.view(self._pixels))
            # Two threads may both come here; both must get the one band that stays.
            band = self._views.setdefault(slot.name, band)
        return band

    def _slot(self, name: str) -> BandSlot:
        try:
            return self._layout.by_name[name]
        except (KeyError, TypeError):
            raise KeyError(f"{name!r} is not a band of this patch; it has {', '.join(self._layout.by_name)}") from None

    def _stack(self, resolution_m: int) -> PixelArray:
        """Bands of one resolution in natural order as one array: a view if they lie end to end, else a copy."""
        run = self._layout.runs[resolution_m]
        if run is not None:
            return np.ndarray(run[0], run[1], self._pixels, run[2])
        return np.stack([slot.view(self._pixels) for slot in self._layout.by_resolution[resolution_m]])

    @property
    def bands(self) -> list[Band]:
        """Bands in natural order: B01 B02 ... B08 B8A B09 B11 B12 VH VV."""
        return [self._band(slot) for slot in self._layout.natural]

    def get_band_by_name(self, name: str) -> Band:
        """Find a band.

        Args:
            name: Band name, such as ``B8A`` or ``VV``.

        Returns:
            The band; the same object each time.

        Raises:
            KeyError: The patch has no such band.
        """
        return self._band(self._slot(name))

    def get_band_data_by_name(self, name: str) -> PixelArray:
        """Find a band's pixels.

        Args:
            name: Band name, such as ``B8A`` or ``VV``.

        Returns:
            Pixels as a writable view of the patch.

        Raises:
            KeyError: The patch has no such band.
        """
        return self.get_band_by_name(name).data

    def get_natsorted_bands_by_spatial_res(self, spatial_resolution: int) -> tuple[PixelArray, ...]:
        """Get the pixels of all bands of one resolution.

        Args:
            spatial_resolution: Metres along one side of a pixel.

        Returns:
            Pixels in natural order of the bands, as writable views; empty if there is no such band.
        """
        return tuple(self._band(slot).data for slot in self._layout.by_resolution.get(spatial_resolution, ()))

    def select(self, names: Sequence[str]) -> PixelArray:
        """Get some bands of one resolution as one array, in the order asked for.

        Args:
            names: Band names, at least one, such as ``["B04", "B03", "B02"]``.

        Returns:
            Array (n, rows, columns). It is a view of the patch if the bands lie end to end in this order (such as
            B02 B03 B04), otherwise a copy in the dtype that numpy promotes theirs to. Take a ``copy()`` before
            writing to it.

        Raises:
            KeyError: The patch has no such band.
            TypeError: ``names`` is a single str.
            ValueError: No name, or bands of different resolution or shape.
        """
        if isinstance(names, str):
            raise TypeError(f"select takes a list of band names; write [{names!r}]")
        slots = [self._slot(name) for name in names]
        if not slots:
            raise ValueError("select needs at least one band name")
        if len({(slot.resolution_m, slot.shape) for slot in slots}) > 1:
            found = ", ".join(f"{s.name} ({s.resolution_m} m, {s.shape[0]} x {s.shape[1]})" for s in slots)
            raise ValueError(f"bands of different resolution cannot be one array: {found}; select them separately")
        run = run_of(slots)
        if run is not None:
            return np.ndarray(run.shape, run.dtype, self._pixels, run.offset)
        return np.stack([slot.view(self._pixels) for slot in slots])

    def quicklook(self, kind: str | None = None) -> Quicklook:
        """Draw the patch for people; a notebook shows the result, ``.save(path)`` writes it, ``.image`` is the array.

        Args:
            kind: ``true-colour``, ``infrared``, ``swir`` or ``radar``; None for the first that the bands allow.

        Returns:
            The picture, contrast stretched (see ``ben_secure.view.quicklook.composite``).

        Raises:
            ValueError: The kind is unknown, or the patch lacks a band that it takes.
        """
        return look(self, kind)

    def __setstate__(self, state: object) -> NoReturn:
        refuse_state(self)

    def _extras(self) -> dict[str, object]:
        """Metadata attributes that are not, or no longer, what ``__stored_args__`` has under their name."""
        stored = self.__stored_args__
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "__stored_args__" and (name not in stored or stored[name] is not value)
        }

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Take the patch apart into plain dicts.

        Returns:
            ``{"bands": {name: pixels, ...}, "metadata": {name: value, ...}}``: bands in natural order as writable views
            of the patch, metadata as its attributes are now.
        """
        return {
            "bands": {slot.name: self._band(slot).data for slot in self._layout.natural},
            "metadata": {**self.__stored_args__, **self._extras()},
        }

    def dump(self, file: BinaryIO) -> None:
        """Write the canonical value to a file open for binary writing; otherwise as ``dumps``."""
        file.write(self.dumps())

    def dumps(self) -> bytes:
        """Write the canonical value: a protocol-5 pickle of one call, the pixels as one block.

        Equal patches give equal bytes, except for the order of dicts and, between processes, of sets of str. The value
        is read once before it is given out, so that nothing is written that ``loads`` would refuse.

        Returns:
            The value, as ``ben_secure.loads`` reads it.

        Raises:
            TypeError: Metadata was changed in place to something that is not admitted.
            ValueError: The same, out of bounds; or the patch as a whole is beyond the limits of ``loads``.
        """
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, protocol=5)
        # No memo: fewer opcodes, and equal strings give equal bytes whether or not they are one object.
        pickler.fast = True
        pickler.dump(self)
        value = stream.getvalue()
        try:
            self.loads(value)
        except UntrustedDataError as error:
            raise ValueError(f"this patch could not be read back, make it smaller: {error.message}") from error
        return value

    @classmethod
    def load(cls, file: BinaryIO) -> BigEarthNetPatch:
        """Read a patch from a file, restricted: nothing in it is run (see ``ben_secure.load``).

        Args:
            file: Open for binary reading.

        Returns:
            The patch. Called on a class of your own, patches of that class are admitted too.

        Raises:
            BenSecureError: The data was refused.
        """
        # Here and in loads an import goes up: these methods are part of the drop-in interface.
        from ben_secure import values

        return values.load(file, classes=cls._declared())

    @classmethod
    def loads(cls, data: bytes) -> BigEarthNetPatch:
        """Read a patch from bytes; otherwise as ``load``."""
        from ben_secure import values

        return values.loads(data, classes=cls._declared())

    def __repr__(self) -> str:
        text = f"{type(self).__name__} with:\n" + "\n".join(f"\t{band}" for band in self.bands)
        if self.__stored_args__:
            text += "\nAnd the extra metadata:\n"
            text += "".join(f"\t{_shown(name)}: {_shown(value)}\n" for name, value in self.__stored_args__.items())
        return text

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._layout.by_attribute})


def _shown(value: object) -> str:
    """Write as ``str`` does, but escape a text that would reach a terminal as more than text."""
    if isinstance(value, str) and not value.isprintable():
        return repr(value)[1:-1]
    return str(value)


class Sentinel1Access(BandAccess):
    """What a Sentinel-1 patch adds."""

    __slots__ = ()

    @staticmethod
    def short_to_long_band_name(short_band_name: str) -> str:
        """Find the constructor's argument for a band.

        Args:
            short_band_name: Band name in any case: ``VV``, ``vh``; 1 to 4 characters.

        Returns:
            ``bandVV`` for ``VV``; whether there is such a band is not checked.

        Raises:
            TypeError: The name is not a str.
            ValueError: It is empty or too long.
        """
        return "band" + _short_name(short_band_name)

    def get_bands(self) -> tuple[PixelArray, ...]:
        """Get the pixels of VH and VV, in this order, each (120, 120), as writable views."""
        return tuple(self._band(slot).data for slot in self._layout.natural)

    def get_stacked_bands(self) -> PixelArray:
        """Get VH and VV as one array (2, 120, 120): a view of the patch if their dtypes agree, else a copy."""
        return self._stack(10)


class Sentinel2Access(BandAccess):
    """What a Sentinel-2 patch adds."""

    __slots__ = ()

    @staticmethod
    def short_to_long_band_name(short_band_name: str) -> str:
        """Find the constructor's argument for a band.

        Args:
            short_band_name: Band name in any case and length: ``B01``, ``01``, ``1``, ``b8a``; 1 to 4 characters.

        Returns:
            ``band01`` for ``B1``, ``band8A`` for ``08a``; whether there is such a band is not checked.

        Raises:
            TypeError: The name is not a str.
            ValueError: It is empty, too long, or has no number.
        """
        number = _short_name(short_band_name)
        if number.endswith("A"):
            # B8A is written without the zero that every other single digit has.
            return f"band{int(number.rstrip('A'))}A"
        return f"band{int(number):02d}"

    def get_10m_bands(self) -> tuple[PixelArray, ...]:
        """Get the pixels of B02, B03, B04, B08, in this order, each (120, 120), as writable views."""
        return self.get_natsorted_bands_by_spatial_res(10)

    def get_20m_bands(self) -> tuple[PixelArray, ...]:
        """Get the pixels of B05, B06, B07, B8A, B11, B12, in this order, each (60, 60), as writable views."""
        return self.get_natsorted_bands_by_spatial_res(20)

    def get_60m_bands(self) -> tuple[PixelArray, ...]:
        """Get the pixels of B01, B09, in this order, each (20, 20), as writable views."""
        return self.get_natsorted_bands_by_spatial_res(60)

    def get_stacked_10m_bands(self) -> PixelArray:
        """Get B02, B03, B04, B08 as one array (4, 120, 120): a view of the patch if their dtypes agree, else a copy."""
        return self._stack(10)

    def get_stacked_20m_bands(self) -> PixelArray:
        """Get B05 - B8A, B11, B12 as one array (6, 60, 60): a view of the patch if their dtypes agree, or a copy."""
        return self._stack(20)

    def get_stacked_60m_bands(self) -> PixelArray:
        """Get B01, B09 as one array (2, 20, 20): a view of the patch if their dtypes agree, else a copy."""
        return self._stack(60)


def _short_name(short_band_name: str) -> str:
    if not isinstance(short_band_name, str):
        raise TypeError(f"a band name must be a str, not {type(short_band_name).__name__}")
    if not 1 <= len(short_band_name) <= 4:
        raise ValueError(f"a short band name must have 1 to 4 characters, not {len(short_band_name)}")
    return short_band_name.upper().lstrip("B")
