"""The band tables: the name, resolution, side and sensor of every BigEarthNet band, and their orders.

This module has data and rules that follow from the data. It has no pixels, and does not check input.

Sources: Sumbul et al., "BigEarthNet: A Large-Scale Benchmark Archive for Remote Sensing Image Understanding", IGARSS
2019 (12 Sentinel-2 Level-2A bands, B10 left out; a patch covers 1.2 km by 1.2 km, which is 120, 60 and 20 pixels a side
at 10, 20 and 60 m); Sumbul et al., "BigEarthNet-MM", IEEE Geoscience and Remote Sensing Magazine 9(3), 2021 (VV and VH
of Sentinel-1 GRD, backscatter in dB on the 10 m grid). Texts that give the 60 m bands 30 pixels a side are wrong: the
published GeoTIFFs have 20.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PATCH_SIDE_M = 1200
"""Metres along one side of a patch (Sumbul et al. 2019)."""


@dataclass(frozen=True, slots=True)
class BandSpec:
    """The published facts about one band.

    Attributes:
        name: Name as published: ``B8A``, ``VV``.
        resolution_m: Metres along one side of a pixel.
        side: Pixels along one side of the band's square.
        sensor: ``S2`` (uint16 digital numbers) or ``S1`` (float32 backscatter in dB).
    """

    name: str
    resolution_m: int
    side: int
    sensor: Literal["S1", "S2"]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the band."""
        return (self.side, self.side)

    @property
    def attribute(self) -> str:
        """Name of the constructor argument and patch attribute: ``band8A`` for B8A, ``bandVV`` for VV."""
        return "band" + self.name.removeprefix("B")

    @property
    def band_class(self) -> str:
        """Name of the band class that holds it: ``BenS2_20mBand`` for B8A, ``BenS1_Band`` for VV."""
        return "BenS1_Band" if self.sensor == "S1" else f"BenS2_{self.resolution_m}mBand"


def _s2(name: str, resolution_m: int) -> BandSpec:
    return BandSpec(name, resolution_m, PATCH_SIDE_M // resolution_m, "S2")


S2_BANDS: tuple[BandSpec, ...] = (
    _s2("B01", 60),
    _s2("B02", 10),
    _s2("B03", 10),
    _s2("B04", 10),
    _s2("B05", 20),
    _s2("B06", 20),
    _s2("B07", 20),
    _s2("B08", 10),
    _s2("B8A", 20),
    _s2("B09", 60),
    _s2("B11", 20),
    _s2("B12", 20),
)
"""The Sentinel-2 bands in natural order."""

S1_BANDS: tuple[BandSpec, ...] = (BandSpec("VH", 10, 120, "S1"), BandSpec("VV", 10, 120, "S1"))
"""The Sentinel-1 bands in natural order."""

# sorted() is stable, so each resolution keeps the natural order and is one run of bytes.
STORAGE_ORDER: tuple[BandSpec, ...] = (*sorted(S2_BANDS, key=lambda band: band.resolution_m), *S1_BANDS)
"""The order in a patch's buffer: B02 B03 B04 B08, B05 B06 B07 B8A B11 B12, B01 B09, VH VV."""

BANDS: Mapping[str, BandSpec] = MappingProxyType({band.name: band for band in STORAGE_ORDER})
"""Every band by its name, in storage order."""

BAND_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "RGB": ("B04", "B03", "B02"),
        "10m": ("B02", "B03", "B04", "B08"),
        "20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
        "60m": ("B01", "B09"),
        "10m_20m": ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"),
        "S1": ("VH", "VV"),
        "S2": tuple(band.name for band in STORAGE_ORDER if band.sensor == "S2"),
        "all": tuple(BANDS),
    }
)
"""Common groups of bands for training, ordered by resolution and then as in ``get_stacked_*``.

ConfigILM (Hackel et al., SoftwareX 2024), whose readers were used to train the published models, has the same groups in
the same order (``channel_configurations`` of its BigEarthNet v2 dataset), except that B8A comes after B12. For such
weights list the bands: B02 B03 B04 B08 B05 B06 B07 B11 B12 B8A.
"""

BAND_CLASSES: Mapping[str, tuple[BandSpec, ...]] = MappingProxyType(
    {
        "Band": (),
        **{
            name: tuple(band for band in S2_BANDS + S1_BANDS if band.band_class == name)
            for name in ("BenS1_Band", "BenS2_10mBand", "BenS2_20mBand", "BenS2_60mBand")
        },
    }
)
"""The five band classes and the bands that each admits. ``Band`` has no fixed bands and admits any."""

PIXEL_DTYPES: frozenset[str] = frozenset(
    {"|i1", "|u1"}
    | {
        f"{order}{code}"
        for order in "<>"
        for code in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    }
)
"""The ``numpy.dtype.str`` of every dtype that pixels may have.

These exclude bool, object, structured, datetime and string dtypes, and long double, whose bytes differ between
machines.
"""

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> list[str | int]:
    """Return a key that sorts band names as people count: B8 before B8A before B09 before B11.

    The order of ``natsort.natsorted`` with its defaults, by which the original package sorts bands: consecutive digits
    count as one number, leading zeros do not matter, and equal keys (B8, B08) keep their order.

    Args:
        name: Any band name.

    Returns:
        Text and numbers alternating, beginning with text.
    """
    return [int(part) if index % 2 else part for index, part in enumerate(_DIGITS.split(name))]
