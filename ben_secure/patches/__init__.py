"""The patch classes: a drop-in replacement for ``bigearthnet_patch_interface`` on one contiguous pixel buffer.

It exports every name of the interface, and gives the patch classes the decoder for ``load`` and ``loads``. The decoder
imports modules of this package, so modules below ``values`` import those modules and never this ``__init__``.
"""

from __future__ import annotations

from ben_secure.patches.band import Band, BenS1_Band, BenS2_10mBand, BenS2_20mBand, BenS2_60mBand
from ben_secure.patches.parts import kind_of, rebuild, rebuild_patch
from ben_secure.patches.patch import BigEarthNetPatch, Decoder
from ben_secure.patches.scaling import (
    S2_DN_TO_REFLECTANCE,
    random_ben_S1_band,
    random_ben_S2_band,
    s2_to_float,
    s2_to_float32,
    s2_to_float64,
)
from ben_secure.patches.standard import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch

__all__ = [
    "S2_DN_TO_REFLECTANCE",
    "Band",
    "BenS1_Band",
    "BenS2_10mBand",
    "BenS2_20mBand",
    "BenS2_60mBand",
    "BigEarthNetPatch",
    "BigEarthNet_S1_Patch",
    "BigEarthNet_S1_S2_Patch",
    "BigEarthNet_S2_Patch",
    "kind_of",
    "random_ben_S1_band",
    "random_ben_S2_band",
    "rebuild",
    "rebuild_patch",
    "s2_to_float",
    "s2_to_float32",
    "s2_to_float64",
]


def _decoder() -> Decoder:
    from ben_secure import values  # imported on first use, because a program that only makes patches does not need it

    return values


BigEarthNetPatch._decoder = _decoder
# The public import path of the classes.
for _public in (BigEarthNetPatch, BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch):
    _public.__module__ = __name__
for _band in (Band, BenS1_Band, BenS2_10mBand, BenS2_20mBand, BenS2_60mBand):
    _band.__module__ = __name__
