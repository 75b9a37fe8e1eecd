"""What the statistics of a database are, for code and as plain data for JSON.

Made of a tally alone: the same counts give the same numbers, bit for bit. Names of labels and bands are as they are in
the database; ``to_json`` escapes them.
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
"""Bins of a histogram, about."""

_NAME_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often numbers were seen; exact, though the bins are not of quite the same width.

    Attributes:
        edges: Ascending; bin i is from edge i, which belongs to it, to edge i + 1. Integers up to 16 bits have bins of
            whole numbers; the edges of others lie on the fine grid that is kept while counting.
        counts: One a bin, one fewer than edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandStatistics:
    """The numbers of one band in all patches that have it.

    ``mean`` and ``std`` are the exact ones, rounded to float64 once (``std`` within one unit in the last place).

    Attributes:
        mean: Mean of the finite numbers; None, as are the next three and the histogram, if there are none.
        std: Their standard deviation, of the population (divided by ``count``, as ``numpy.std`` does).
        minimum: Smallest of them; an int if all are of integer dtypes of at most 16 bits.
        maximum: Largest of them, likewise.
        count: How many finite numbers there are.
        nan: How many NaN.
        positive_infinite: How many +inf.
        negative_infinite: How many -inf.
        histogram: How often the finite numbers were seen.
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
        patches: How many there are.
        classes: Patches by name of their class.
        bands: By band name, in natural order.
        labels: For ``labels`` and ``new_labels``: patches by label, the most frequent first. A field that no patch has
            is left out.
        unlabelled: For the same fields, patches that have none at all.
    """

    database: str
    patches: int
    classes: Mapping[str, int]
    bands: Mapping[str, BandStatistics]
    labels: Mapping[str, Mapping[str, int]]
    unlabelled: Mapping[str, int]

    @classmethod
    def of(cls, database: str, tally: Tally) -> Statistics:
        """Make them of a tally of all patches."""
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
    """Put fine bins together; every edge is one of theirs, so that no count is guessed."""
    edges: list[float]
    if isinstance(low, int) and isinstance(high, int):
        width = -(-(high - low + 1) // BINS)
        edges = [*range(low, high + width + 1, width)]
    else:
        # Not low + step * (high - low): the difference may be beyond float64.
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
        ``database``, ``patches``, ``classes``, ``ddof`` (0: deviations are of the population), ``bands`` (by name, each
        with ``mean``, ``std``, ``min``, ``max``, ``count``, ``nan``, ``positive_infinite``, ``negative_infinite`` and
        ``histogram``: ``edges`` and ``counts``), ``labels`` (by field, patches by label) and ``unlabelled``. Names are
        escaped; should two be the same then, their labels are one and of bands the last one stands.
    """
    labels: dict[str, Counter[str]] = {}
    for field, counted in statistics.labels.items():
        shown = labels[field] = Counter()
        for label, count in counted.items():
            shown[printable(label, _NAME_CHARACTERS)] += count
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
