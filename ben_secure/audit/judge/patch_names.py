"""Recognize LMDB keys that are BigEarthNet patch names. Other keys get a note. None is refused here.

The formats, each taken from published data:

* v1, Sentinel-2: ``S2A_MSIL2A_20170613T101031_87_48``: satellite, product, sensing time, column and row of the patch
  in its tile (Sumbul et al. 2019, BigEarthNet, IGARSS). The time may be invalid: ``T93020`` and ``T94161`` occur.
* v1 and v2, Sentinel-1: ``S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48``: satellite, mode, product, polarisation,
  time, tile, column and row (Sumbul et al. 2021, BigEarthNet-MM, IEEE GRSM).
* v2, Sentinel-2: ``S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57``: also processing baseline, relative orbit
  (1 to 143) and tile (Clasen et al. 2025, reBEN, IGARSS).

A tile is a zone of 1 to 60, a latitude band and two letters of the Military Grid Reference System, which uses neither
I nor O. Column and row have at most two digits: a tile of 109.8 km has 91.5 patches of 1.2 km along a side.
"""

from __future__ import annotations

import re

from ben_secure.audit.findings import Finding
from ben_secure.errors import Rule

_DATE = rb"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_TIME = rb"(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]"
_TILE = rb"(?:0[1-9]|[1-5][0-9]|60)[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]"
_POSITION = rb"_[0-9]{1,2}_[0-9]{1,2}"
_S2 = (
    rb"S2[AB]_MSIL2A_" + _DATE + rb"T[0-9]{5,6}"
    rb"(?:_N[0-9]{4}_R(?:0[0-9]{2}|1[0-3][0-9]|14[0-3])_T" + _TILE + rb")?" + _POSITION
)
_S1 = rb"S1[AB]_IW_GRDH_1SDV_" + _DATE + rb"T" + _TIME + rb"_" + _TILE + _POSITION
_is_patch_name = re.compile(_S2 + rb"|" + _S1).fullmatch


def key_remark(lmdb_key: bytes) -> Finding | None:
    """Remark on an LMDB key that is not a patch name.

    Args:
        lmdb_key: Raw LMDB key (untrusted).

    Returns:
        None for a patch name of BigEarthNet v1 or v2, Sentinel-1 or Sentinel-2; otherwise a note.
    """
    if _is_patch_name(lmdb_key):
        return None
    return Finding(
        lmdb_key=lmdb_key,
        rule=Rule.KEY_NAME,
        message="the LMDB key does not have the form of a patch name of BigEarthNet v1 or v2, such as "
        "S2A_MSIL2A_20170613T101031_87_48",
    )
