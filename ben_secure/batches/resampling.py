"""Bands of any size brought to one size, as ``torch.nn.functional.interpolate`` does it; numpy only, no torch.

Nearest, bilinear and bicubic with torch's conventions for ``align_corners=False``: the centre of pixel ``i`` of ``n``
lies at ``(i + 0.5) / n``, what would lie outside is the outermost pixel, the cubic kernel has a = -0.75. The modes with
"corners" are those of ``align_corners=True``, which moves pixels, and which ConfigILM uses. Both passes,
down and across, are sums of weighted rows: a product of matrices would go through BLAS, whose threads and those of
other loader workers hold each other up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches.layout import PixelArray

    Float32 = npt.NDArray[np.float32]
    Places = npt.NDArray[np.intp]

MODES = ("nearest", "bilinear", "bicubic", "bilinear-corners", "bicubic-corners")
"""The modes of ``resample``; names are those of torch, except for ``align_corners``."""

_CUBIC_A = -0.75  # torch, aten/src/ATen/native/UpSample.h


class Taps(NamedTuple):
    """What one output row is made of: of each tap, which input row, and its weight.

    Attributes:
        places: (taps, target) input rows.
        weights: (taps, target, 1) float32 weights; they sum to 1.
    """

    places: Places
    weights: Float32


@lru_cache(maxsize=8)  # at most 200 kB each
def nearest_places(source: int, target: int) -> Places:
    """The input row of each output row, in torch's float32 arithmetic."""
    scale = np.float32(source) / np.float32(target)
    places = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    found: Places = np.minimum(places, source - 1)
    return found


@lru_cache(maxsize=8)  # at most 200 kB each
def taps(source: int, target: int, mode: str) -> Taps:
    """The weighted input rows of each output row.

    Args:
        source: Rows before.
        target: Rows after.
        mode: One of ``MODES``: bilinear (2 taps) or bicubic (4 taps).

    Returns:
        Places and weights.
    """
    # Rounded where torch rounds, which moves a sample by millionths of a pixel: the scale is float32, multiplication
    # and subtraction are one step.
    kind, _, corners = mode.partition("-")
    if corners:
        scale = np.float32(source - 1) / np.float32(max(target - 1, 1))
        centres = np.arange(target, dtype=np.float32) * scale
    else:
        scale = np.float32(source) / np.float32(target)
        centres = ((np.arange(target) + 0.5) * float(scale) - 0.5).astype(np.float32)
    if kind == "bilinear":
        centres = np.maximum(centres, np.float32(0))
        first = np.floor(centres)
        offset = centres - first
        weights, start = [1 - offset, offset], 0
    else:
        first = np.floor(centres)
        offset = centres - first
        weights, start = [_far(1 + offset), _near(offset), _near(1 - offset), _far(2 - offset)], -1
    places = np.stack([first + start + tap for tap in range(len(weights))])
    return Taps(np.clip(places, 0, source - 1).astype(np.intp), np.stack(weights)[..., None])


def _near(x: Float32) -> Float32:
    """The cubic convolution kernel for distances up to 1."""
    return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1


def _far(x: Float32) -> Float32:
    """The cubic convolution kernel for distances from 1 to 2."""
    return ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A


def resample(images: PixelArray, out: Float32, mode: str) -> None:
    """Bring images to the size of an array.

    Args:
        images: (n, rows, columns), real numbers.
        out: float32 (n, target rows, target columns), to be written. If the sizes are equal, the images are copied.
        mode: One of ``MODES``.
    """
    source, target = images.shape[1:], out.shape[1:]
    if source == target:
        np.copyto(out, images, casting="unsafe")
    elif mode == "nearest":
        _repeat(images, out)
    else:
        rows = _weighted_rows(images.astype(np.float32, copy=False), taps(source[0], target[0], mode))
        turned = _weighted_rows(np.ascontiguousarray(rows.transpose(0, 2, 1)), taps(source[1], target[1], mode))
        np.copyto(out, turned.transpose(0, 2, 1))


def _repeat(images: PixelArray, out: Float32) -> None:
    """Nearest: columns first, while there are few rows; by strides if every pixel becomes equally many."""
    (rows, columns), (target_rows, target_columns) = images.shape[1:], out.shape[1:]
    times, rest = divmod(target_columns, columns)
    if rest:
        wide = np.take(images, nearest_places(columns, target_columns), axis=2)
    else:
        wide = np.empty((*images.shape[:2], target_columns), np.float32)
        for place in range(times):
            np.copyto(wide[:, :, place::times], images, casting="unsafe")
    times, rest = divmod(target_rows, rows)
    if rest:
        np.copyto(out, np.take(wide, nearest_places(rows, target_rows), axis=1), casting="unsafe")
    else:
        for place in range(times):
            np.copyto(out[:, place::times], wide)


def _weighted_rows(images: Float32, rows: Taps) -> Float32:
    total: Float32
    total, *others = (np.take(images, places, axis=1) for places in rows.places)
    total *= rows.weights[0]
    for part, weights in zip(others, rows.weights[1:], strict=True):
        part *= weights
        total += part
    return total
