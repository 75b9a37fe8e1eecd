"""The statistics of a database, for code and as plain data for JSON.

A tally alone determines them: equal counts give equal numbers, bit for bit. Names of labels and bands are those of the
database. ``to_json`` escapes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ben_secure.bands import natural_key
from ben_secure.errors import printable
from ben_secure.stats.sums import Sums, code_of, edge_of
from ben_secure.stats.tally import Tally

BINS = 128
"""Approximate number of bins in a histogram."""

_NAME_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A histogram. Its counts are exact. Its bins may differ slightly in width.

    Attributes:
        edges: Ascending. Bin i is from edge i (inclusive) to edge i + 1 (exclusive). Integers up to 16 bits have bins
            of whole numbers. The edges of other numbers lie on the fine grid that counting uses.
        counts: One per bin, one fewer than edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandStatistics:
    """Statistics of one band over all patches that have it.

    ``mean`` and ``std`` are exact, rounded to float64 once (``std`` to within one unit in the last place). Without
    finite pixels, the first four attributes and the histogram are None.

    Attributes:
        mean: Mean of the finite pixels.
        std: Standard deviation of the finite pixels as a population (divided by ``count``, as in ``numpy.std``).
        minimum: Minimum of the finite pixels. An int if all have integer dtypes of at most 16 bits.
        maximum: Maximum of the finite pixels; an int under the same condition.
        count: Number of finite pixels.
        nan: Number of NaN.
        positive_infinite: Number of +inf.
        negative_infinite: Number of -inf.
        histogram: Histogram of the finite pixels.
    """

    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    count: int
    nan: int
    positive_infinite: int
    negative_infinite: int
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Statistics of a database.

    Attributes:
        database: Its path.
        patches: Number of patches.
        classes: Number of patches by name of their class.
        bands: By band name, in natural order.
        labels: For ``labels`` and ``new_labels``: number of patches by label, the most frequent first. A field that no
            patch has is left out.
        unlabelled: For the same fields, number of patches without the field.
    """

    database: str
    patches: int
    classes: Mapping[str, int]
    bands: Mapping[str, BandStatistics]
    labels: Mapping[str, Mapping[str, int]]
    unlabelled: Mapping[str, int]

    @classmethod
    def of(cls, database: str, tally: Tally) -> Statistics:
        """Compute the statistics from a tally of all patches."""
        names = sorted(tally.bands, key=lambda name: (natural_key(name), name))
        fields = [field for field in tally.labels if tally.labelled[field]]
        return cls(
            database=database,
            patches=tally.patches,
            classes=dict(sorted(tally.classes.items())),
            bands={name: _band(tally.bands[name]) for name in names},
            labels={field: _by_frequency(tally.labels[field]) for field in fields},
            unlabelled={field: tally.patches - tally.labelled[field] for field in fields},
        )


def _by_frequency(labels: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))


def _band(sums: Sums) -> BandStatistics:
    mean, std = sums.mean_and_deviation() or (None, None)
    low, high = sums.extremes() or (None, None)
    return BandStatistics(
        mean=mean,
        std=std,
        minimum=low,
        maximum=high,
        count=sums.count,
        nan=sums.odd["nan"],
        positive_infinite=sums.odd["positive_infinite"],
        negative_infinite=sums.odd["negative_infinite"],
        histogram=None if low is None or high is None else _histogram(sums.fine_bins(), low, high),
    )


def _histogram(fine_bins: list[tuple[float, int]], low: float, high: float) -> Histogram:
    """Merge fine bins. Every edge is an edge of theirs, so all counts are exact."""
    edges: list[float]
    if isinstance(low, int) and isinstance(high, int):
        width = -(-(high - low + 1) // BINS)
        edges = [*range(low, high + width + 1, width)]
    else:
        # Not low + step * (high - low): the difference may overflow float64.
        steps = np.linspace(0, 1, BINS + 1)
        codes = code_of(low * (1 - steps) + high * steps).tolist()
        edges = sorted({edge_of(code) for code in (*codes, codes[-1] + 1)})
    lefts, times = zip(*fine_bins, strict=True)
    counts = np.zeros(len(edges) - 1, np.int64)
    np.add.at(counts, np.searchsorted(edges, lefts, side="right") - 1, times)
    return Histogram(edges=tuple(edges), counts=tuple(counts.tolist()))


def to_json(statistics: Statistics) -> dict[str, object]:
    """Write statistics as plain data for ``json.dumps``.

    Args:
        statistics: The statistics.

    Returns:
        ``database``, ``patches``, ``classes``, ``ddof`` (0: population standard deviation), ``bands`` (by name, each
        with ``mean``, ``std``, ``min``, ``max``, ``count``, ``nan``, ``positive_infinite``, ``negative_infinite`` and
        ``histogram``: ``edges`` and ``counts``), ``labels`` (by field, patches by label) and ``unlabelled``. Names are
        escaped. If two escaped names are equal, labels are added up, and the last of the bands is kept.
    """
    labels: dict[str, Counter[str]] = {}
    for field, counted in statistics.labels.items():
        escaped = labels[field] = Counter()
        for label, count in counted.items():
            escaped[printable(label, _NAME_CHARACTERS)] += count
    return {
        "database": statistics.database,
        "patches": statistics.patches,
        "classes": {printable(name): count for name, count in statistics.classes.items()},
        "ddof": 0,
        "bands": {printable(name, _NAME_CHARACTERS): _band_to_json(band) for name, band in statistics.bands.items()},
        "labels": labels,
        "unlabelled": dict(statistics.unlabelled),
    }


def _band_to_json(band: BandStatistics) -> dict[str, object]:
    names = {"minimum": "min", "maximum": "max"}
    return {names.get(name, name): value for name, value in asdict(band).items()}
