"""Exact statistics of a database, in one pass: counts, labels, and the pixels of every band.

``stats`` computes them, ``Statistics`` holds them, ``plot_png`` draws them. ``PatchReader`` reads every value.
"""

from ben_secure.stats.plot import plot_png
from ben_secure.stats.results import BandStatistics, Histogram, Statistics
from ben_secure.stats.run import stats

__all__ = ["BandStatistics", "Histogram", "Statistics", "plot_png", "stats"]
