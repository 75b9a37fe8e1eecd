"""Pictures of patches for people: colour composites, PNG, contact sheets.

This module reads pixels and returns new arrays. It never changes a patch. Its output has a stretched contrast, and is
not suitable for measurements. Row 0 of a patch is its northern edge, and the upper edge of every picture. Only this
module imports Pillow, and only when it makes a PNG or a sheet.

The cost is bounded for every patch: bands of any size are sampled to at most ``MAX_SIDE`` pixels a side.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ben_secure._system.files import write_file
from ben_secure._system.optional import require
from ben_secure.errors import printable

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture: TypeAlias = npt.NDArray[np.uint8]
    Stretch: TypeAlias = tuple[tuple[float, float], ...]

KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "true-colour": ("B04", "B03", "B02"),
        "infrared": ("B08", "B04", "B03"),
        "swir": ("B12", "B8A", "B04"),
        "radar": ("VV", "VH"),
    }
)
"""The bands of each composite, as red, green and blue. Blue of radar is VV - VH in dB, the ratio of the powers.

The default is the first composite that fits the patch. Infrared (colour-infrared: B08, B04, B03) tends to show healthy
plants red. Swir shows plants green, bare soil magenta and water black. Radar shows smooth ground and water blue, and
rough ground and buildings bright.
"""

MAX_SIDE = 2048
"""Maximum number of pixels along one side of a composite."""

_PERCENTILES = (2.0, 98.0)  # drawn black and white: robust against clouds and single bright roofs
_SHOWN_SIDE = 480  # a patch of 120 pixels is too small on a screen
_CELL = 240  # side of a cell on a contact sheet in pixels: twice a patch's 120, and enough for a name in two lines
_LINE_CHARACTERS, _LINE_PIXELS = 38, 13
_GAP = 8
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quicklook:
    """A composite of one patch. Notebooks show it as a picture.

    Attributes:
        kind: One of ``KINDS``.
        image: uint8 (rows, columns, 3): red, green, blue. Row 0 is north.
        stretch: For red, green and blue, the values drawn black and white: digital numbers, or backscatter in dB.
    """

    kind: str
    image: Picture
    stretch: Stretch

    def _repr_png_(self) -> bytes:
        return to_png(self.image, scale=max(1, _SHOWN_SIDE // max(self.image.shape[:2])))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the picture as PNG. A small picture is enlarged by a whole number, to about 480 pixels.

        Args:
            path: The file. Its directory must exist. It may be a character device or a FIFO.
            overwrite: Whether to replace an existing regular file.

        Raises:
            StoreError: The path exists without ``overwrite`` or is not a regular file, or the file cannot be written.
                Nothing is left.
        """
        write_file(path, self._repr_png_(), overwrite=overwrite)


def look(bands: Mapping[str, npt.NDArray[Any]], kind: str | None = None, stretch: Stretch | None = None) -> Quicklook:
    """Draw three bands as red, green and blue, for ``patch.quicklook``.

    Each band is stretched separately from its 2nd to its 98th percentile, so hues can be compared within a patch, but
    not between patches. True colour uses one stretch for all three bands, which keeps the hue. Values outside are
    clipped. A band without contrast is mid-grey. NaN is black. The percentiles ignore NaN and infinities. Bands are
    resampled to the finest resolution by nearest neighbour. Complex bands are drawn by magnitude.

    Args:
        bands: Two-dimensional pixels by band name. Names are hostile.
        kind: One of ``KINDS``, or None for the first one that fits the bands.
        stretch: For red, green and blue, the values to draw black and white, or None to take the percentiles.

    Returns:
        The picture, of at most ``MAX_SIDE`` rows and columns.

    Raises:
        ValueError: The kind is unknown, or a band that it needs is missing.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"composite {printable(kind)} is unknown, expected one of {', '.join(KINDS)}")
    fitting = [name for name, needed in KINDS.items() if bands.keys() >= {*needed}]
    kind = kind or (fitting or [*KINDS])[0]
    if kind not in fitting:
        names = ", ".join(map(printable, sorted(bands)[:16])) + (", ..." if len(bands) > 16 else "")
        choose = f", so choose {' or '.join(fitting)}" if fitting else ""
        raise ValueError(f"{kind} takes bands {', '.join(KINDS[kind])}, and this patch has {names}{choose}")
    channels = _on_one_grid([bands[name] for name in KINDS[kind]])
    if kind == "radar":
        with np.errstate(all="ignore"):  # inf - inf is NaN, and is drawn as NaN
            channels.append(channels[0] - channels[1])
    if stretch is None:
        groups = [channels] * 3 if kind == "true-colour" else [[channel] for channel in channels]
        stretch = tuple(_limits(group) for group in groups)
    drawn = [_stretched(channel, *limits) for channel, limits in zip(channels, stretch, strict=True)]
    return Quicklook(kind=kind, image=np.stack(drawn, axis=-1), stretch=stretch)


def common_stretch(quicklooks: Sequence[Quicklook]) -> Stretch:
    """Find one stretch for several pictures of one kind, so that they can be compared.

    Args:
        quicklooks: At least one picture, each with its own stretch.

    Returns:
        For red, green and blue, the medians of the limits of the pictures that have contrast in this channel. One
        bright patch (snow, clouds) hardly changes them.
    """
    common = []
    for channel in zip(*(quicklook.stretch for quicklook in quicklooks), strict=True):
        low, high = np.median([limits for limits in channel if limits[0] < limits[1]] or channel[:1], axis=0)
        common.append((float(low), float(high)))
    return tuple(common)


def _on_one_grid(bands: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float64]]:
    """Sample bands by nearest neighbour to the rows and columns of the finest, or to ``MAX_SIDE``, as float64."""
    rows, columns = (max(band.shape[axis] for band in bands) for axis in (0, 1))
    shrink = -(-max(rows, columns) // MAX_SIDE)
    rows, columns = -(-rows // shrink), -(-columns // shrink)
    sampled = [
        band[(np.arange(rows) * band.shape[0] // rows)[:, None], np.arange(columns) * band.shape[1] // columns]
        for band in bands
    ]
    with np.errstate(all="ignore"):  # numbers outside float64 become infinite, and are drawn as infinities
        return [np.asarray(abs(band) if band.dtype.kind == "c" else band, dtype=np.float64) for band in sampled]


def _limits(channels: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the values that are drawn black and white, for channels with one common stretch."""
    values = np.concatenate([channel.ravel() for channel in channels])
    values = values[np.isfinite(values)]
    with np.errstate(all="ignore"):
        low, high = np.percentile(values, _PERCENTILES) if values.size else (0.0, 0.0)
    if not high > low and values.size:  # few pixels differ: show them
        low, high = values.min(), values.max()
    return float(low), float(high)


def _stretched(channel: npt.NDArray[np.float64], low: float, high: float) -> Picture:
    """Map a channel to 0..255."""
    with np.errstate(all="ignore"):
        if not (high > low and np.isfinite(high - low)):
            return np.where(np.isnan(channel), 0, 128).astype(np.uint8)
        scaled = (channel - low) * (255.0 / (high - low))
    drawn: Picture = np.nan_to_num(scaled.clip(0, 255).round(), nan=0.0).astype(np.uint8)
    return drawn


def to_png(image: Picture, *, scale: int = 1) -> bytes:
    """Encode a picture as PNG, without loss.

    Args:
        image: uint8 (rows, columns, 3).
        scale: Pixels of the PNG along each pixel of the picture, at least 1.

    Returns:
        The bytes of the file. Equal pictures give equal bytes.
    """
    require("a picture", "pillow")
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)).save(file, format="PNG")
    return file.getvalue()


def contact_sheet(pictures: Sequence[tuple[str, str, Picture]]) -> Picture:
    """Lay pictures out on one sheet, row by row.

    Args:
        pictures: At least one name, note and picture of any size. Texts are escaped. Name and note stand below the
            picture, each cut to two lines.

    Returns:
        The sheet, uint8 (rows, columns, 3).
    """
    require("a picture", "pillow")
    from PIL import Image, ImageDraw

    across = min(len(pictures), max(3, int(np.ceil(np.sqrt(len(pictures))))))
    down = -(-len(pictures) // across)
    captions = [[*_lines(name), *_lines(note)] for name, note, _ in pictures]
    high = _CELL + _GAP + max(map(len, captions)) * _LINE_PIXELS
    sheet = Image.new("RGB", (_GAP + across * (_CELL + _GAP), _GAP + down * (high + _GAP)), _PAPER)
    for position, (lines, (_, _, image)) in enumerate(zip(captions, pictures, strict=True)):
        cell = Image.new("RGB", (_CELL, high), _PAPER)
        rows, columns = (max(1, side * _CELL // max(image.shape[:2])) for side in image.shape[:2])
        fitted = Image.fromarray(image).resize((columns, rows), Image.Resampling.NEAREST)
        cell.paste(fitted, ((_CELL - columns) // 2, (_CELL - rows) // 2))
        for line, text in enumerate(lines):
            ImageDraw.Draw(cell).text((0, _CELL + line * _LINE_PIXELS), text, fill=_INK)
        sheet.paste(cell, (_GAP + position % across * (_CELL + _GAP), _GAP + position // across * (high + _GAP)))
    return np.array(sheet)


def _lines(text: str) -> list[str]:
    """Break an escaped text into at most two lines."""
    return textwrap.wrap(printable(text), _LINE_CHARACTERS, max_lines=2, placeholder="...")
