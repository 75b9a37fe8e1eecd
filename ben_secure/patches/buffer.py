"""``BandBuffer``: bands of any sizes in one buffer of pixels, and access to them.

This module stores the parts of a patch without checking them, because callers of ``_assemble`` have checked them. It
never changes a pixel. Arrays are views of the buffer if possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ben_secure.patches.band import BAND_TYPES, Band
from ben_secure.patches.layout import GENERIC, BandSlot, Layout, run_of

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray

BufferT = TypeVar("BufferT", bound="BandBuffer")

# Writes a patch's own storage, bypassing __setattr__, which is for metadata.
write = object.__setattr__


class BandBuffer:
    """Bands in one buffer, with metadata as attributes; the storage of every patch."""

    __slots__ = ("__dict__", "__weakref__", "_is_part", "_layout", "_pixels", "_views")

    _layout: Layout
    _pixels: bytearray | memoryview
    _views: dict[str, Any]
    _is_part: bool  # set on the inner patches of a merged one only
    __stored_args__: dict[str, object]

    # The standard class whose rules on bands apply to this class.
    _kind: ClassVar[str] = GENERIC
    # Names that metadata may not have.
    _reserved: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def _assemble(
        cls: type[BufferT],
        layout: Layout,
        pixels: bytearray | memoryview,
        stored: dict[str, object],
        extras: Mapping[str, object] | None = None,
    ) -> BufferT:
        """Make a patch from checked parts, without calling any method of a subclass.

        Args:
            layout: A layout of the class's ``_kind``.
            pixels: Buffer of ``layout.nbytes`` bytes, used without a copy.
            stored: Checked metadata, used as ``__stored_args__``.
            extras: Checked attributes that are not in ``stored``, or override it.

        Returns:
            The patch.
        """
        patch = object.__new__(cls)
        write(patch, "_layout", layout)
        write(patch, "_pixels", pixels)
        write(patch, "_views", {})
        attributes = patch.__dict__
        attributes.update(stored)
        if extras:
            attributes.update(extras)
        attributes["__stored_args__"] = stored
        return patch

    def _band(self, slot: BandSlot) -> Band:
        band: Band | None = self._views.get(slot.name)
        if band is None:
            band_type = BAND_TYPES[slot.band_class]
            band = band_type._wrap(slot.name, slot.resolution_m, slot.shape, slot.view(self._pixels))
            # setdefault, so that two threads get the same band.
            band = self._views.setdefault(slot.name, band)
        return band

    def _slot(self, name: str) -> BandSlot:
        try:
            return self._layout.by_name[name]
        except (KeyError, TypeError):
            raise KeyError(f"{name!r} is not a band of this patch; it has {', '.join(self._layout.by_name)}") from None

    def _stack(self, resolution_m: int) -> PixelArray:
        """Return the bands of one resolution in natural order as one array, a view if they are contiguous."""
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
            The band, the same object each time.

        Raises:
            KeyError: The patch does not have this band.
        """
        return self._band(self._slot(name))

    def get_band_data_by_name(self, name: str) -> PixelArray:
        """Find a band's pixels.

        Args:
            name: Band name, such as ``B8A`` or ``VV``.

        Returns:
            Pixels as a writable view of the patch.

        Raises:
            KeyError: The patch does not have this band.
        """
        return self.get_band_by_name(name).data

    def get_natsorted_bands_by_spatial_res(self, spatial_resolution: int) -> tuple[PixelArray, ...]:
        """Get the pixels of all bands of one resolution.

        Args:
            spatial_resolution: Metres along one side of a pixel.

        Returns:
            Pixels in natural order of the bands, as writable views. Empty if there is no such band.
        """
        return tuple(self._band(slot).data for slot in self._layout.by_resolution.get(spatial_resolution, ()))

    def select(self, names: Sequence[str]) -> PixelArray:
        """Get bands of one resolution as one array, in the given order.

        Args:
            names: Band names, at least one, such as ``["B04", "B03", "B02"]``.

        Returns:
            Array (n, rows, columns). It is a view of the patch if the bands are contiguous in this order (such as B02
            B03 B04), otherwise a copy in the common dtype of numpy's promotion. Take a ``copy()`` before you write to
            it.

        Raises:
            KeyError: The patch does not have this band.
            TypeError: ``names`` is a single str.
            ValueError: There is no name, or the bands differ in resolution or shape.
        """
        if isinstance(names, str):
            raise TypeError(f"select takes a list of band names; write [{names!r}]")
        slots = [self._slot(name) for name in names]
        if not slots:
            raise ValueError("select needs at least one band name")
        if len({(slot.resolution_m, slot.shape) for slot in slots}) > 1:
            listed = ", ".join(f"{s.name} ({s.resolution_m} m, {s.shape[0]} x {s.shape[1]})" for s in slots)
            raise ValueError(f"bands of different resolution cannot be one array: {listed}; select them separately")
        run = run_of(slots)
        if run is not None:
            return np.ndarray(run.shape, run.dtype, self._pixels, run.offset)
        return np.stack([slot.view(self._pixels) for slot in slots])
