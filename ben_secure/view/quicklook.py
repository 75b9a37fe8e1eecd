"""Pictures of patches for people: colour composites, PNG, contact sheets, previews in a terminal.

Reads pixels and returns new arrays; it never changes a patch, and no measurement should be taken from its output, whose
contrast is stretched for the eye. Row 0 of a patch is its northern edge and stays the upper edge of every picture.
The only home of Pillow, which is imported when a PNG, a sheet or a preview is made and not before.

Whatever a patch holds has a bounded price: bands of any sides are sampled to at most ``MAX_SIDE`` pixels a side.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ben_secure._system.files import write_file
from ben_secure.errors import printable

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture: TypeAlias = npt.NDArray[np.uint8]

KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "true-colour": ("B04", "B03", "B02"),
        "infrared": ("B08", "B04", "B03"),
        "swir": ("B12", "B8A", "B04"),
        "radar": ("VV", "VH"),
    }
)
"""The bands of each composite, as red, green and blue; blue of radar is VV - VH in decibel, the ratio of the powers.

The first that fits a patch is its default. Infrared tends to show healthy plants red; swir shows them green, bare soil
magenta, water black; radar shows smooth ground and water blue, rough ground and buildings bright.
"""

PERCENTILES = (2.0, 98.0)
"""What is drawn black and white: robust against clouds and single bright roofs."""

MAX_SIDE = 2048
"""Most pixels along one side of a composite."""

MAX_SHEET = 100
"""Most pictures on one contact sheet."""

_CELL = 240  # pixels a side on a contact sheet: twice a patch's 120, and wide enough for a patch name in two lines
_CAPTION_LINES = 2
_LINE = 13
_GAP = 8
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)
_RAMP = " .:-=+*#%@"


class Named(Protocol):
    """A band."""

    @property
    def name(self) -> str:
        """Its official name, such as ``B8A``."""


class Drawable(Protocol):
    """What can be drawn: every patch."""

    @property
    def bands(self) -> Sequence[Named]:
        """Its bands."""

    def get_band_data_by_name(self, name: str) -> npt.NDArray[Any]:
        """The pixels of one of them, two-dimensional."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quicklook:
    """A composite of one patch; notebooks show it as a picture.

    Attributes:
        kind: One of ``KINDS``.
        image: uint8 (rows, columns, 3): red, green, blue; row 0 is north.
    """

    kind: str
    image: Picture

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.image, dtype=dtype) if copy else np.asarray(self.image, dtype=dtype)

    def _repr_png_(self) -> bytes:
        return to_png(self.image, scale=_notebook_scale(self.image))

    def save(self, path: str | os.PathLike[str], *, scale: int = 1, overwrite: bool = False) -> None:
        """Write the picture as PNG.

        Args:
            path: The file; its directory must exist.
            scale: Pixels of the PNG along each pixel of the picture.
            overwrite: Whether a file of this name is replaced.

        Raises:
            FileExistsError: There is something of this name, and ``overwrite`` was not asked for.
            OSError: The file cannot be written; nothing is left.
        """
        write_file(path, to_png(self.image, scale=scale), overwrite=overwrite)


def _notebook_scale(image: Picture) -> int:
    longest: int = max(image.shape[:2])
    return max(1, min(4, 480 // longest))


def default_kind(patch: Drawable) -> str:
    """Choose the composite of a patch: true-colour if it has the bands, otherwise the first of ``KINDS`` that it has.

    Args:
        patch: Any patch.

    Returns:
        A name of ``KINDS``.

    Raises:
        ValueError: The patch has the bands of none.
    """
    names = _band_names(patch)
    for kind, needed in KINDS.items():
        if names.issuperset(needed):
            return kind
    every = "; ".join(f"{kind}: {', '.join(needed)}" for kind, needed in KINDS.items())
    raise ValueError(f"this patch has the bands of no composite; it has {_listed(names)}, and they take {every}")


def composite(patch: Drawable, kind: str = "true-colour") -> Picture:
    """Draw three bands of a patch as red, green and blue.

    Each band is stretched by itself from its 2nd to its 98th percentile, so that hues compare places within one patch
    and not patches; in true colour one stretch over all three keeps the hue. Values beyond are clipped; a band without
    contrast is mid-grey; NaN is black, and does not count for the percentiles, nor do infinities. Bands of different
    resolution are brought to the finest by nearest neighbour. Complex bands are drawn by magnitude.

    Args:
        patch: Any patch with the bands.
        kind: One of ``KINDS``.

    Returns:
        uint8 (rows, columns, 3), red, green, blue; row 0 is north. At most ``MAX_SIDE`` rows and columns.

    Raises:
        ValueError: The kind is unknown, or the patch lacks a band that it takes.
    """
    needed = KINDS.get(kind)
    if needed is None:
        raise ValueError(f"composite {printable(kind)} is unknown, expected one of {', '.join(KINDS)}")
    names = _band_names(patch)
    missing = [name for name in needed if name not in names]
    if missing:
        fitting = [name for name, bands in KINDS.items() if names.issuperset(bands)]
        raise ValueError(
            f"{kind} takes bands {', '.join(needed)}, and this patch has no {', '.join(missing)}; it has "
            f"{_listed(names)}" + (f", so choose {' or '.join(fitting)}" if fitting else "")
        )
    channels = _on_one_grid([patch.get_band_data_by_name(name) for name in needed])
    if kind == "radar":
        with np.errstate(all="ignore"):  # inf - inf is NaN, and drawn as such
            channels.append(channels[0] - channels[1])
    groups = [channels] if kind == "true-colour" else [[channel] for channel in channels]
    return np.stack([drawn for group in groups for drawn in _stretched(group)], axis=-1)


def look(patch: Drawable, kind: str | None = None) -> Quicklook:
    """Draw a patch: what ``patch.quicklook`` returns.

    Args:
        patch: Any patch.
        kind: One of ``KINDS``; None for ``default_kind``.

    Returns:
        The picture.

    Raises:
        ValueError: The kind is unknown, or the patch lacks a band that it takes.
    """
    kind = default_kind(patch) if kind is None else kind
    return Quicklook(kind=kind, image=composite(patch, kind))


def _band_names(patch: Drawable) -> frozenset[str]:
    return frozenset(band.name for band in patch.bands)


def _listed(names: frozenset[str]) -> str:
    shown = sorted(names)[:16]
    return ", ".join(map(printable, shown)) + (", ..." if len(names) > len(shown) else "")


def _on_one_grid(bands: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float64]]:
    """Sample bands by nearest neighbour to the rows and columns of the finest, or to ``MAX_SIDE``, as float64."""
    rows, columns = (max(band.shape[axis] for band in bands) for axis in (0, 1))
    shrink = -(-max(rows, columns) // MAX_SIDE)
    rows, columns = -(-rows // shrink), -(-columns // shrink)
    sampled = [
        band[(np.arange(rows) * band.shape[0] // rows)[:, None], np.arange(columns) * band.shape[1] // columns]
        for band in bands
    ]
    with np.errstate(all="ignore"):  # numbers beyond float64 become infinite, and are drawn as such
        return [np.asarray(abs(band) if band.dtype.kind == "c" else band, dtype=np.float64) for band in sampled]


def _stretched(channels: Sequence[npt.NDArray[np.float64]]) -> list[Picture]:
    """Map channels to 0..255 by one common stretch."""
    values = np.concatenate([channel.ravel() for channel in channels])
    values = values[np.isfinite(values)]
    with np.errstate(all="ignore"):
        low, high = np.percentile(values, PERCENTILES) if values.size else (0.0, 0.0)
        if not high > low and values.size:  # few pixels differ: better seen than hidden
            low, high = values.min(), values.max()
        if not (high > low and np.isfinite(high - low)):
            return [np.where(np.isnan(channel), 0, 128).astype(np.uint8) for channel in channels]
        scaled = [(channel - low) * (255.0 / (high - low)) for channel in channels]
    return [np.nan_to_num(channel.clip(0, 255).round(), nan=0.0).astype(np.uint8) for channel in scaled]


def _checked(image: Picture) -> Picture:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture is uint8 (rows, columns, 3), not {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def to_png(image: Picture, *, scale: int = 1) -> bytes:
    """Encode a picture as PNG, without loss.

    Args:
        image: uint8 (rows, columns, 3).
        scale: Pixels of the PNG along each pixel of the picture, at least 1.

    Returns:
        The file's bytes, the same for the same picture.

    Raises:
        ValueError: The array is no picture, or the scale is out of bounds.
    """
    from PIL import Image

    image = _checked(image)
    if not 1 <= scale <= max(1, 2 * MAX_SIDE // max(image.shape[:2])):
        raise ValueError(f"scale {scale} is out of bounds for {image.shape[0]} x {image.shape[1]} pixels")
    file = io.BytesIO()
    Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)).save(file, format="PNG")
    return file.getvalue()


def contact_sheet(images: Sequence[Picture], captions: Sequence[str] | None = None) -> Picture:
    """Lay pictures out on one sheet, row by row.

    Args:
        images: 1 to ``MAX_SHEET`` pictures of any size, each uint8 (rows, columns, 3); fitted into equal cells.
        captions: One text a picture, drawn below it, escaped and cut to two lines; None for no text.

    Returns:
        The sheet, uint8 (rows, columns, 3).

    Raises:
        ValueError: No picture, too many, or a caption missing.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not 1 <= len(images) <= MAX_SHEET:
        raise ValueError(f"a contact sheet takes 1 to {MAX_SHEET} pictures, not {len(images)}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} pictures take as many captions, not {len(captions)}")
    across = min(len(images), max(3, int(np.ceil(np.sqrt(len(images))))))
    down = -(-len(images) // across)
    high = _CELL + (_CAPTION_LINES * _LINE if captions is not None else 0)
    sheet = Image.new("RGB", (_GAP + across * (_CELL + _GAP), _GAP + down * (high + _GAP)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, image in enumerate(images):
        left, top = _GAP + place % across * (_CELL + _GAP), _GAP + place // across * (high + _GAP)
        rows, columns = np.maximum(1, np.array(image.shape[:2]) * _CELL // max(image.shape[:2]))
        fitted = Image.fromarray(_checked(image)).resize((int(columns), int(rows)), Image.Resampling.NEAREST)
        sheet.paste(fitted, (left + (_CELL - fitted.width) // 2, top + (_CELL - fitted.height) // 2))
        for line, text in enumerate(_lines(captions[place], font.getlength) if captions is not None else ()):
            pen.text((left, top + _CELL + line * _LINE), text, fill=_INK, font=font)
    return np.array(sheet)


def _lines(caption: str, length: Any) -> list[str]:
    """Break a caption into lines that fit below a picture; what is left over ends in dots."""
    rest = printable(caption)
    lines: list[str] = []
    while rest and len(lines) < _CAPTION_LINES:
        end = next(end for end in range(len(rest), 0, -1) if end == 1 or length(rest[:end]) <= _CELL)
        if end < len(rest):  # rather after a separator than within a word
            end = max(rest.rfind("_", end // 2, end), rest.rfind(" ", end // 2, end)) + 1 or end
        lines.append(rest[:end].rstrip())
        rest = rest[end:]
    if rest:
        lines[-1] = lines[-1][:-3] + "..."
    return lines


def terminal(image: Picture, width: int = 60, *, colour: bool = True) -> str:
    """Draw a picture with characters.

    Args:
        image: uint8 (rows, columns, 3).
        width: Columns of the terminal to fill, at least 1; two pixels above one another share a character.
        colour: Whether the terminal knows 24-bit colour; otherwise brightness is drawn with ASCII characters.

    Returns:
        Lines, each ended by a line feed; with colour, each resets its colours at its end.

    Raises:
        ValueError: The array is no picture, or the width is out of bounds.
    """
    from PIL import Image

    image = _checked(image)
    if not 1 <= width <= MAX_SIDE:
        raise ValueError(f"width {width} is out of bounds, expected 1 to {MAX_SIDE}")
    lines = max(1, min(MAX_SIDE, round(width * image.shape[0] / image.shape[1] / 2)))
    resized = Image.fromarray(image).resize((width, lines * 2 if colour else lines), Image.Resampling.BOX)
    if not colour:
        bright = np.asarray(resized.convert("L"), dtype=np.int64) * len(_RAMP) // 256
        return "".join("".join(_RAMP[level] for level in row) + "\n" for row in bright)
    pixels = np.asarray(resized).tolist()
    return "".join(
        "".join(
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        )
        + "\x1b[0m\n"
        for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)
    )
