"""Conversion of digital numbers to reflectance, and random bands for experiments.

Only arithmetic on arrays. The names, including their spelling, are those of ``bigearthnet_patch_interface``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ben_secure.bands import PATCH_SIDE_M

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32: TypeAlias = npt.NDArray[np.float32]
    Float64: TypeAlias = npt.NDArray[np.float64]

S2_DN_TO_REFLECTANCE = 10_000
"""Digital numbers per unit of reflectance: the quantification value of Sentinel-2 Level-2A (ESA product guide)."""


def s2_to_float64(arr: npt.ArrayLike) -> Float64:
    """Convert Sentinel-2 digital numbers to reflectance.

    Args:
        arr: Digital numbers, any shape.

    Returns:
        float64 reflectance (1.0 = 10,000), same shape.
    """
    return np.float64(np.asarray(arr) / S2_DN_TO_REFLECTANCE)  # type: ignore[return-value]


def s2_to_float32(arr: npt.ArrayLike) -> Float32:
    """Convert Sentinel-2 digital numbers to reflectance.

    Args:
        arr: Digital numbers, any shape.

    Returns:
        float32 reflectance (1.0 = 10,000), same shape.
    """
    return np.float32(np.asarray(arr) / S2_DN_TO_REFLECTANCE)  # type: ignore[return-value]


def s2_to_float(arr: npt.ArrayLike) -> Float32:
    """Convert Sentinel-2 digital numbers to reflectance; another name of ``s2_to_float32``."""
    return s2_to_float32(arr)


def random_ben_S2_band(spatial_resoluion: int = 10, original_dtype: bool = False) -> npt.NDArray[np.uint16] | Float32:
    """Make a band of noise in the shape of a Sentinel-2 band.

    Args:
        spatial_resoluion: Resolution in metres: 10, 20 or 60.
        original_dtype: Whether to return digital numbers instead of reflectance.

    Returns:
        Square of 1200 / ``spatial_resoluion`` pixels along each side: float32 reflectance in [0, 1), or uint16 digital
        numbers below 10,000. It comes from numpy's global generator, so ``numpy.random.seed`` makes it repeatable.
    """
    side = PATCH_SIDE_M // spatial_resoluion
    digital_numbers = np.random.randint(S2_DN_TO_REFLECTANCE, size=(side, side), dtype=np.uint16)
    return digital_numbers if original_dtype else s2_to_float32(digital_numbers)


def random_ben_S1_band() -> Float64:
    """Make a band of noise in the shape of a Sentinel-1 band.

    Returns:
        float64 (120, 120) backscatter in dB, in [-60, 0], from numpy's global generator. (Real bands are float32; the
        original's function returns float64.)
    """
    side = PATCH_SIDE_M // 10
    # The small term keeps a power of exactly zero finite in dB.
    decibel: Float64 = 10 * np.log10(np.random.rand(side, side) + 1e-6)
    return decibel
