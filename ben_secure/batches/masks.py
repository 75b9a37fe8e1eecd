"""Reference maps as segmentation masks: CORINE Land Cover codes, or indices into the 19 classes.

``encode`` stores a map as the metadata ``reference_map`` of its patch. Rico-hdl stores it as a separate record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ben_secure.batches.resampling import nearest_rows
from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.labels.nomenclature import BEN_19, CLC_CODES, REFERENCE_MAP, TO_19

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches import BigEarthNetPatch

    Mask = npt.NDArray[np.int64]

MASKS = ("19", "codes")
"""Contents of a mask: indices into the 19 classes, or the codes."""

ENDING = "_reference_map"
"""Suffix of the name of a rico-hdl record with the reference map of a patch, in its only band, ``Data``."""

NO_CLASS = -100
"""Value of pixels outside the 19 classes; the default ``ignore_index`` of torch's losses."""

_SHAPE = (120, 120)


class Masks:
    """Makes the masks of patches."""

    def __init__(self, kind: str, size: int | None, classes: Sequence[str]) -> None:
        """Prepare the table from codes to classes.

        Args:
            kind: One of ``MASKS``.
            size: Height and width in pixels, resampled by nearest, or None for 120, the size of the maps.
            classes: Classes in the order of the label vectors. If they are not the 19 classes, the published order is
                used.

        Raises:
            ValueError: ``kind`` is unknown.
        """
        if kind not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, or None, not {printable(kind)!r}")
        self.side = size or _SHAPE[0]
        rows = nearest_rows(_SHAPE[0], self.side)
        self._resampled = None if self.side == _SHAPE[0] else np.ix_(rows, rows)
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
            records: The reader that the patch comes from.

        Raises:
            PatchFormatError: The patch has no reference map, or one of another shape or dtype.
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
        if self._resampled is not None:
            codes = codes[self._resampled]
        output[...] = codes if self._values is None else self._values[codes]


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
