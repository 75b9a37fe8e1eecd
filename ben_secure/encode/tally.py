"""Counts of a run of ``encode``: patches written, unknown pixels, and skipped files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ben_secure.encode.geotiff import Unknown


@dataclass(slots=True)
class UnknownPixels:
    """Unknown pixels of one band in all patches that a run has read.

    Attributes:
        patches: Number of patches with unknown pixels or with a mask in the file.
        no_data: Number of pixels with the no-data value of their file.
        not_finite: Number of other pixels that are NaN or infinite.
        masks: Number of files with a mask, which is not stored.
    """

    patches: int = 0
    no_data: int = 0
    not_finite: int = 0
    masks: int = 0

    def add(self, unknown: Unknown) -> None:
        """Count one patch."""
        self.patches += 1
        self.no_data += unknown.no_data
        self.not_finite += unknown.not_finite
        self.masks += unknown.masked


@dataclass(slots=True)
class Tally:
    """Sums over the patches that a run has written.

    Attributes:
        written: Number of patches.
        unknown: Unknown pixels by band.
        passed_over: Number of skipped files and folders: those of other programs, and reference maps.
    """

    written: int = 0
    unknown: dict[str, UnknownPixels] = field(default_factory=dict)
    passed_over: int = 0

    def add(self, unknown: Mapping[str, Unknown], passed_over: int) -> None:
        """Count one patch."""
        self.written += 1
        self.passed_over += passed_over
        for band, pixels in unknown.items():
            self.unknown.setdefault(band, UnknownPixels()).add(pixels)
