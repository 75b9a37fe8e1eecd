"""Counts of some patches: classes, labels, and the sums of every band.

Adding a patch reads it once, and keeps only names and numbers. Names come from the database, so their number and length
are bounded. They are escaped before they are shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.errors import LimitExceededError, Rule, StoreError, printable
from ben_secure.stats.sums import Sums

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch

LABEL_FIELDS = ("labels", "new_labels")
"""Metadata with labels, as the encoder names it: CORINE (43 classes), and the nomenclature of 19 classes."""

MAX_LABELS = 10_000
"""Maximum number of different labels of one field. Nomenclatures have tens. A database with more is refused."""

MAX_LABEL_CHARACTERS = 500
"""Longer labels are cut, so that both fields take at most 40 MB. Reports show fewer characters."""

MAX_BANDS = 256
"""Maximum number of different band names."""


class Tally:
    """The counts of some patches. Tallies of parts add up to the tally of the whole, in any order.

    Attributes:
        patches: Number of patches.
        classes: Number of patches by name of their class.
        bands: Sums by band name.
        labels: For each of ``LABEL_FIELDS``, number of patches by label.
        labelled: For each of ``LABEL_FIELDS``, number of patches that have the field, even with an empty list.
    """

    def __init__(self) -> None:
        self.patches = 0
        self.classes: Counter[str] = Counter()
        self.bands: defaultdict[str, Sums] = defaultdict(Sums)
        self.labels: dict[str, Counter[str]] = {field: Counter() for field in LABEL_FIELDS}
        self.labelled: Counter[str] = Counter()

    def add(self, patch: BigEarthNetPatch) -> None:
        """Count one patch.

        Args:
            patch: The patch.

        Raises:
            LimitExceededError: There are too many different labels or band names.
            StoreError: A band holds complex numbers, which have neither order nor histogram.
        """
        self.patches += 1
        self.classes[type(patch).__name__] += 1
        for band in patch.bands:
            try:
                self.bands[band.name].add(band.data)
            except TypeError as error:
                raise StoreError(
                    f"no statistics are taken of band {printable(band.name)}: {error}; leave this database out"
                ) from error
        for field in LABEL_FIELDS:
            if field in patch.__dict__:
                self.labelled[field] += 1
                self.labels[field].update(set(_labels(patch.__dict__[field])))
        self._check()

    def merge(self, other: Tally) -> None:
        """Add the counts of other patches. Raises ``LimitExceededError`` as ``add``."""
        self.patches += other.patches
        self.classes.update(other.classes)
        self.labelled.update(other.labelled)
        for field, labels in other.labels.items():
            self.labels[field].update(labels)
        for name, sums in other.bands.items():
            self.bands[name].merge(sums)
        self._check()

    def _check(self) -> None:
        _bound(self.bands, MAX_BANDS, "band names")
        for field, labels in self.labels.items():
            _bound(labels, MAX_LABELS, field)


def _bound(names: Mapping[str, object], most: int, kind: str) -> None:
    if len(names) > most:
        raise LimitExceededError(f"found more than {most} different {kind}; inspect the patches", rule=Rule.LIMIT)


def _labels(value: object) -> Iterable[str]:
    """Return the texts of a label field in any container. Other objects are not labels."""
    items: Any = value
    if isinstance(value, str):
        items = [value]
    elif isinstance(value, np.ndarray):
        items = value.ravel().tolist()
    elif not isinstance(value, list | tuple | set):
        items = []
    return (str(item)[:MAX_LABEL_CHARACTERS] for item in items if isinstance(item, str))
