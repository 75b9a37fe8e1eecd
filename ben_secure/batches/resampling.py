"""Resample bands to one size, with the results of ``torch.nn.functional.interpolate``, in numpy.

Nearest, bilinear and bicubic with torch's conventions for ``align_corners=False``: the centre of pixel ``i`` of ``n``
is at ``(i + 0.5) / n``, positions outside use the outermost pixel, and the cubic kernel has a = -0.75. The modes with
"corners" have ``align_corners=True``, which shifts pixels. ConfigILM uses them. Both passes, vertical and horizontal,
are sums of weighted rows. A matrix product would use BLAS, whose threads compete with those of other loader workers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches.layout import PixelArray

    Float32 = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]

MODES = ("nearest", "bilinear", "bicubic", "bilinear-corners", "bicubic-corners")
"""The modes of ``resample``, with torch's names; "corners" means ``align_corners=True``."""

_CUBIC_A = -0.75  # torch, aten/src/ATen/native/UpSample.h


class Taps(NamedTuple):
    """The input rows of each output row, and their weights. One pair is a tap.

    Attributes:
        rows: (taps, target) input rows.
        weights: (taps, target, 1) float32 weights; they sum to 1.
    """

    rows: Rows
    weights: Float32


@lru_cache(maxsize=8)  # at most 200 kB each
def nearest_rows(source: int, target: int) -> Rows:
    """The input row of each output row, in torch's float32 arithmetic."""
    scale = np.float32(source) / np.float32(target)
    rows = np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.intp)
    bounded: Rows = np.minimum(rows, source - 1)
    return bounded


@lru_cache(maxsize=8)  # at most 200 kB each
def taps(source: int, target: int, mode: str) -> Taps:
    """The weighted input rows of each output row.

    Args:
        source: Rows before.
        target: Rows after.
        mode: One of ``MODES``: bilinear (2 taps) or bicubic (4 taps).

    Returns:
        The input rows and their weights.
    """
    # This rounds where torch rounds: the scale is float32, and multiplication and subtraction are one step. Other #
    # rounding would move a sample by millionths of a pixel.
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
    rows = np.stack([first + start + tap for tap in range(len(weights))])
    return Taps(np.clip(rows, 0, source - 1).astype(np.intp), np.stack(weights)[..., None])


def _near(x: Float32) -> Float32:
    """The cubic convolution kernel for distances up to 1."""
    return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1


def _far(x: Float32) -> Float32:
    """The cubic convolution kernel for distances from 1 to 2."""
    return ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A


def resample(images: PixelArray, out: Float32, mode: str) -> None:
    """Resample images to the size of an array.

    Args:
        images: (n, rows, columns), real numbers.
        out: float32 (n, target rows, target columns), overwritten. If the sizes are equal, the images are copied.
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
    """Resample by nearest, columns first. If every pixel is repeated equally often, copy by strides."""
    (rows, columns), (target_rows, target_columns) = images.shape[1:], out.shape[1:]
    times, rest = divmod(target_columns, columns)
    if rest:
        wide = np.take(images, nearest_rows(columns, target_columns), axis=2)
    else:
        wide = np.empty((*images.shape[:2], target_columns), np.float32)
        for start in range(times):
            np.copyto(wide[:, :, start::times], images, casting="unsafe")
    times, rest = divmod(target_rows, rows)
    if rest:
        np.copyto(out, np.take(wide, nearest_rows(rows, target_rows), axis=1), casting="unsafe")
    else:
        for start in range(times):
            np.copyto(out[:, start::times], wide)


def _weighted_rows(images: Float32, taps: Taps) -> Float32:
    total: Float32
    total, *others = (np.take(images, rows, axis=1) for rows in taps.rows)
    total *= taps.weights[0]
    for part, weights in zip(others, taps.weights[1:], strict=True):
        part *= weights
        total += part
    return total
