"""Draw statistics as one PNG: a histogram for each band, and the number of patches for each label.

Only this module imports matplotlib (extra ``plot``), and only when it makes a plot. Text from the database is escaped,
and never read as mathematics or markup.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure._system.optional import require
from ben_secure.errors import printable
from ben_secure.stats.results import BandStatistics, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BANDS = 32
"""Maximum number of bands in a plot."""

MAX_LABELS = 50
"""Maximum number of labels of one field in a plot; CORINE has 43."""

_ACROSS = 4
_COLOUR = "#2a6f97"
_DPI = 110


def plot_png(statistics: Statistics) -> bytes:
    """Draw statistics.

    Args:
        statistics: The statistics.

    Returns:
        A PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("a plot", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bands = list(statistics.bands.items())[:MAX_BANDS]
    fields = {field: list(labels.items())[:MAX_LABELS] for field, labels in statistics.labels.items() if labels}
    across = math.ceil(len(bands) / _ACROSS)
    heights = [2.0 * across, *(0.7 + 0.24 * len(labels) for labels in fields.values())]
    figure = Figure(figsize=(11, 0.4 + sum(heights)), dpi=_DPI, layout="constrained")
    # Separate figures, so that long labels do not take space from the histograms.
    subfigures = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for index, (name, band) in enumerate(bands, 1):
        _draw_band(subfigures[0].add_subplot(across, _ACROSS, index), name, band)
    for subfigure, (field, labels) in zip(subfigures[1:], fields.items(), strict=True):
        _draw_labels(subfigure.add_subplot(), field, labels, len(statistics.labels[field]))
    title = f"{printable(statistics.database, 100)}: {statistics.patches:,} patches; values as stored; lines: means"
    if len(statistics.bands) > len(bands):
        title += f" ({len(bands)} of {len(statistics.bands)} bands)"
    figure.suptitle(title, fontsize=11, parse_math=False)
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_band(axes: Axes, name: str, band: BandStatistics) -> None:
    """Draw one histogram as a density, because bins differ in width. Cut off one thousandth at each end."""
    axes.tick_params(labelsize=7)
    axes.set_yticks([])
    name_text = printable(name, 20)
    if band.histogram is None or band.mean is None or band.std is None:
        axes.set_title(f"{name_text}: no finite number", fontsize=8, parse_math=False)
        return
    edges, counts = np.array(band.histogram.edges, dtype=np.float64), np.array(band.histogram.counts, dtype=np.float64)
    with np.errstate(all="ignore"):
        density = np.nan_to_num(counts / np.diff(edges), posinf=0.0)
    seen = np.cumsum(counts) / counts.sum()
    low, high = int(np.searchsorted(seen, 0.001)), int(np.searchsorted(seen, 0.999))
    if abs(edges).max() < 1e300:  # beyond, axes overflow
        axes.stairs(density[low : high + 1], edges[low : high + 2], fill=True, color=_COLOUR)
        axes.axvline(band.mean, color="black", linewidth=0.8)
    axes.set_title(f"{name_text}   mean {band.mean:.5g}, std {band.std:.5g}", fontsize=8, parse_math=False)


def _draw_labels(axes: Axes, field: str, labels: list[tuple[str, int]], of: int) -> None:
    positions = range(len(labels))
    counts = [count for _, count in labels]
    bars: Any = axes.barh(positions, counts, color=_COLOUR)
    axes.bar_label(bars, labels=[f"{count:,}" for count in counts], fontsize=7, padding=2)
    axes.set_yticks(positions, [printable(label, 90) for label, _ in labels], fontsize=7, parse_math=False)
    axes.set_xticks([])
    axes.margins(x=0.05, y=0.01)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.invert_yaxis()
    left_out = f" (the {len(labels)} most frequent of {of:,})" if of > len(labels) else ""
    axes.set_title(f"patches by {field}{left_out}", fontsize=9, parse_math=False)
