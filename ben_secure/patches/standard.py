"""The three patch classes with fixed bands: Sentinel-1, Sentinel-2, and both in one buffer.

``patches.patch`` has their common parts and all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ben_secure.bands import S1_BANDS, S2_BANDS
from ben_secure.patches.buffer import write
from ben_secure.patches.layout import STANDARD_KINDS, Layout
from ben_secure.patches.patch import BigEarthNetPatch

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray

S1T = TypeVar("S1T", bound="BigEarthNet_S1_Patch")
S2T = TypeVar("S2T", bound="BigEarthNet_S2_Patch")
S1S2T = TypeVar("S1S2T", bound="BigEarthNet_S1_S2_Patch")
PartT = TypeVar("PartT", bound=BigEarthNetPatch)


class BigEarthNet_S1_Patch(BigEarthNetPatch, kind="BigEarthNet_S1_Patch"):
    """A Sentinel-1 patch: VH and VV, backscatter in dB, 10 m, (120, 120) each."""

    __slots__ = ()

    def __init__(self, bandVH: PixelArray, bandVV: PixelArray, **kwargs: object) -> None:
        """Make a patch. Pixels are copied, in their dtype.

        Args:
            bandVH: VH, numeric (120, 120), usually float32 backscatter in dB.
            bandVV: VV, numeric (120, 120), usually float32 backscatter in dB.
            **kwargs: Metadata, which becomes attributes and ``__stored_args__``.

        Raises:
            TypeError: A band is not an array, or metadata has a type that is not allowed.
            ValueError: A band has the wrong shape or dtype, or a metadata name is taken.
        """
        self._fill_standard(S1_BANDS, (bandVH, bandVV), kwargs)

    @classmethod
    def short_init(cls: type[S1T], VH: PixelArray, VV: PixelArray, **kwargs: object) -> S1T:
        """Make a patch with short band names as arguments. Otherwise like the constructor."""
        return cls(VH, VV, **kwargs)

    @staticmethod
    def short_to_long_band_name(short_band_name: str) -> str:
        """Find the constructor's argument for a band.

        Args:
            short_band_name: Band name in any case: ``VV``, ``vh``; 1 to 4 characters.

        Returns:
            ``bandVV`` for ``VV``. It is not checked whether this band exists.

        Raises:
            TypeError: The name is not a str.
            ValueError: The name is empty or too long.
        """
        return "band" + _short_name(short_band_name)

    def get_bands(self) -> tuple[PixelArray, ...]:
        """Get the pixels of VH and VV, in this order, each (120, 120), as writable views."""
        return tuple(self._band(slot).data for slot in self._layout.natural)

    def get_stacked_bands(self) -> PixelArray:
        """Get VH and VV as one array (2, 120, 120): a view if their dtypes agree, otherwise a copy."""
        return self._stack(10)


class BigEarthNet_S2_Patch(BigEarthNetPatch, kind="BigEarthNet_S2_Patch"):
    """A Sentinel-2 patch: the 12 bands of Level-2A without B10."""

    __slots__ = ()

    def __init__(
        self,
        band01: PixelArray,
        band02: PixelArray,
        band03: PixelArray,
        band04: PixelArray,
        band05: PixelArray,
        band06: PixelArray,
        band07: PixelArray,
        band08: PixelArray,
        band8A: PixelArray,
        band09: PixelArray,
        band11: PixelArray,
        band12: PixelArray,
        **kwargs: object,
    ) -> None:
        """Make a patch. Pixels are copied, in their dtype.

        Args:
            band01: B01, numeric (20, 20), usually uint16 digital numbers, like all the others.
            band02: B02, (120, 120).
            band03: B03, (120, 120).
            band04: B04, (120, 120).
            band05: B05, (60, 60).
            band06: B06, (60, 60).
            band07: B07, (60, 60).
            band08: B08, (120, 120).
            band8A: B8A, (60, 60).
            band09: B09, (20, 20).
            band11: B11, (60, 60).
            band12: B12, (60, 60).
            **kwargs: Metadata, which becomes attributes and ``__stored_args__``.

        Raises:
            TypeError: A band is not an array, or metadata has a type that is not allowed.
            ValueError: A band has the wrong shape or dtype, or a metadata name is taken.
        """
        bands = band01, band02, band03, band04, band05, band06, band07, band08, band8A, band09, band11, band12
        self._fill_standard(S2_BANDS, bands, kwargs)

    @classmethod
    def short_init(
        cls: type[S2T],
        B01: PixelArray,
        B02: PixelArray,
        B03: PixelArray,
        B04: PixelArray,
        B05: PixelArray,
        B06: PixelArray,
        B07: PixelArray,
        B08: PixelArray,
        B8A: PixelArray,
        B09: PixelArray,
        B11: PixelArray,
        B12: PixelArray,
        **kwargs: object,
    ) -> S2T:
        """Make a patch with short band names as arguments. Otherwise like the constructor."""
        return cls(B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12, **kwargs)

    @staticmethod
    def short_to_long_band_name(short_band_name: str) -> str:
        """Find the constructor's argument for a band.

        Args:
            short_band_name: Band name in any case and length: ``B01``, ``01``, ``1``, ``b8a``; 1 to 4 characters.

        Returns:
            ``band01`` for ``B1``, ``band8A`` for ``08a``. It is not checked whether this band exists.

        Raises:
            TypeError: The name is not a str.
            ValueError: The name is empty, too long, or has no number.
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
        """Get B02, B03, B04, B08 as one array (4, 120, 120): a view if their dtypes agree, otherwise a copy."""
        return self._stack(10)

    def get_stacked_20m_bands(self) -> PixelArray:
        """Get B05 - B8A, B11, B12 as one array (6, 60, 60): a view of the patch if their dtypes agree, or a copy."""
        return self._stack(20)

    def get_stacked_60m_bands(self) -> PixelArray:
        """Get B01, B09 as one array (2, 20, 20): a view if their dtypes agree, otherwise a copy."""
        return self._stack(60)


class BigEarthNet_S1_S2_Patch(BigEarthNetPatch, kind="BigEarthNet_S1_S2_Patch"):
    """A Sentinel-1 patch and the Sentinel-2 patch of the same place in one buffer."""

    __slots__ = ()

    def __init__(
        self,
        bandVH: PixelArray,
        bandVV: PixelArray,
        band01: PixelArray,
        band02: PixelArray,
        band03: PixelArray,
        band04: PixelArray,
        band05: PixelArray,
        band06: PixelArray,
        band07: PixelArray,
        band08: PixelArray,
        band8A: PixelArray,
        band09: PixelArray,
        band11: PixelArray,
        band12: PixelArray,
        **kwargs: object,
    ) -> None:
        """Make a patch. Arguments and errors as for the Sentinel-1 and the Sentinel-2 patch."""
        s2 = band01, band02, band03, band04, band05, band06, band07, band08, band8A, band09, band11, band12
        self._fill_standard(S1_BANDS + S2_BANDS, (bandVH, bandVV, *s2), kwargs)

    @classmethod
    def short_init(
        cls: type[S1S2T],
        VH: PixelArray,
        VV: PixelArray,
        B01: PixelArray,
        B02: PixelArray,
        B03: PixelArray,
        B04: PixelArray,
        B05: PixelArray,
        B06: PixelArray,
        B07: PixelArray,
        B08: PixelArray,
        B8A: PixelArray,
        B09: PixelArray,
        B11: PixelArray,
        B12: PixelArray,
        **kwargs: object,
    ) -> S1S2T:
        """Make a patch with short band names as arguments. Otherwise like the constructor."""
        return cls(VH, VV, B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12, **kwargs)

    @property
    def s1_patch(self) -> BigEarthNet_S1_Patch:
        """The Sentinel-1 bands as a patch over the same buffer, without metadata; the same object each time."""
        return self._part(BigEarthNet_S1_Patch)

    @property
    def s2_patch(self) -> BigEarthNet_S2_Patch:
        """The Sentinel-2 bands as a patch over the same buffer, without metadata; the same object each time."""
        return self._part(BigEarthNet_S2_Patch)

    def _part(self, cls: type[PartT]) -> PartT:
        part: PartT | None = self._views.get(cls._kind)
        if part is None:
            slots = [self._layout.by_name[spec.name] for group in STANDARD_KINDS[cls._kind] for spec in group]
            layout = Layout.standard(cls._kind, Layout.canonical_dtypes(cls._kind, [slot.dtype.str for slot in slots]))
            start = slots[0].offset
            pixels = memoryview(self._pixels)[start : start + layout.nbytes]
            part = cls._assemble(layout, pixels, {})
            write(part, "_is_part", True)
            part = self._views.setdefault(cls._kind, part)
        return part


def _short_name(short_band_name: str) -> str:
    if not isinstance(short_band_name, str):
        raise TypeError(f"a band name must be a str, not {type(short_band_name).__name__}")
    if not 1 <= len(short_band_name) <= 4:
        raise ValueError(f"a short band name must have 1 to 4 characters, not {len(short_band_name)}")
    return short_band_name.upper().lstrip("B")
