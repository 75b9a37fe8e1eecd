"""What a run of ``encode`` has met: patches written, pixels about which nothing is known, files passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ben_secure.encode.geotiff import Unknown


@dataclass(slots=True)
class UnknownPixels:
    """Pixels of one band about which nothing is known, in all patches that a run has read.

    Attributes:
        patches: Patches that have some, or whose file has a mask.
        no_data: Pixels that have the no-data value of their file.
        not_finite: Other pixels that are NaN or infinite.
        masks: Files with a mask of their own, which is not stored.
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
        written: Patches.
        unknown: Pixels about which nothing is known, by band.
        passed_over: Files and folders of other programs, and reference maps.
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
