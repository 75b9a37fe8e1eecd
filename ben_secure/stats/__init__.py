"""Statistics of a database: counts, labels, and the numbers of every band; exact, in one pass.

``stats`` walks, ``Statistics`` is what it found, ``plot_png`` draws it. Every value goes through ``PatchReader``.
"""

from ben_secure.stats.plot import plot_png
from ben_secure.stats.results import BandStatistics, Histogram, Statistics
from ben_secure.stats.run import stats

__all__ = ["BandStatistics", "Histogram", "Statistics", "plot_png", "stats"]
