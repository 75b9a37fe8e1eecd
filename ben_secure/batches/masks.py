"""Reference maps as masks of a segmentation: codes of CORINE Land Cover, or places among the 19 classes.

A map is the metadata ``reference_map`` of its patch, as ``encode`` stores it, or a record of its own, as rico-hdl does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ben_secure.batches.resampling import nearest_places
from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.labels.nomenclature import BEN_19, CLC_CODES, REFERENCE_MAP, TO_19

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches import BigEarthNetPatch

    Mask = npt.NDArray[np.int64]

MASKS = ("19", "codes")
"""What a mask can hold: places among the 19 classes, or the codes as they are."""

ENDING = "_reference_map"
"""How the name of a record of rico-hdl ends that has the reference map of a patch, as its only band ``Data``."""

NO_CLASS = -100
"""Pixels of none of the 19 classes; torch's losses leave this value out (``ignore_index``)."""

_SHAPE = (120, 120)


class Masks:
    """Makes the mask of a patch."""

    def __init__(self, kind: str, size: int | None, classes: Sequence[str]) -> None:
        """Prepare.

        Args:
            kind: One of ``MASKS``.
            size: Pixels a side, by nearest; None for the 120 of the map.
            classes: Classes in the order of the label vectors; if they are not the 19, the published order of these
                holds.

        Raises:
            ValueError: There is no such kind.
        """
        if kind not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, or None, not {printable(kind)!r}")
        self.side = size or _SHAPE[0]
        rows = nearest_places(_SHAPE[0], self.side)
        self._places = None if self.side == _SHAPE[0] else np.ix_(rows, rows)
        self._values: Mask | None = None
        if kind == "19":
            order = list(classes) if set(classes) == set(BEN_19) else list(BEN_19)
            self._values = np.full(np.iinfo(np.uint16).max + 1, NO_CLASS, np.int64)
            for code, label in CLC_CODES.items():
                if (new := TO_19[label]) is not None:
                    self._values[code] = order.index(new)

    def fill(self, output: Mask, patch: BigEarthNetPatch, name: str, records: Mapping[str, BigEarthNetPatch]) -> None:
        """Write the mask of a patch.

        Args:
            output: int64 (size, size).
            patch: The patch.
            name: Its name.
            records: Where it comes from, verified as it was.

        Raises:
            PatchFormatError: It has no reference map, or something else under this name.
            BenSecureError: As ``records`` raises.
        """
        codes = patch.__dict__.get(REFERENCE_MAP)
        if codes is None and name + ENDING in records:
            bands = {band.name: band.data for band in records[name + ENDING].bands}
            codes = bands.get("Data")
        if codes is None:
            raise _refused(
                "the patch has no reference map; encode the database with --reference-maps, or pass mask=None"
            )
        if not isinstance(codes, np.ndarray) or codes.shape != _SHAPE or codes.dtype != np.uint16:
            raise _refused(f"{REFERENCE_MAP} of the patch is not a uint16 array of {_SHAPE}")
        if self._places is not None:
            codes = codes[self._places]
        output[...] = codes if self._values is None else self._values[codes]


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
