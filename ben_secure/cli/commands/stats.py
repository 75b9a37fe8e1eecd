"""``ben-secure stats``: numbers of patches and labels, and exact statistics of every band, in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure._system.optional import require
from ben_secure._system.processors import processors
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import check_output, notes, output_name, print_json, progress_bar, refuse_two, write_output
from ben_secure.cli._usage import Command, whole
from ben_secure.errors import printable
from ben_secure.signing.policy import Verification
from ben_secure.stats import Statistics, plot_png, stats
from ben_secure.stats.results import BandStatistics, to_json
from ben_secure.store.reader import PatchReader

_ROWS = 60  # maximum number of labels per field in the table; CORINE Land Cover has 43
_BAR = 24
_PATCHES_PER_WORKER = 500  # with fewer, one process has finished before another has started


@click.command("stats", cls=Command)
@_options.database
@_options.as_json
@click.option(
    "--plot", type=_options.PNG, help="Write the histograms to this PNG (needs matplotlib); - for standard output."
)
@click.option("--workers", type=whole(least=1), help="Worker processes (default: chosen automatically).")
@_options.verifying
@click.option("--force", is_flag=True, help="Overwrite the PNG.")
def command(
    database: str, as_json: bool, plot: str | None, workers: int | None, verification: Verification | None, force: bool
) -> int:
    """Count patches and labels, and compute mean, standard deviation, extremes and histogram of every band.

    Means and population standard deviations are exact, for any number of processes.

    Exit code 0: all patches were counted. 1: a value is refused, and there are no statistics. 2: the database does not
    exist or is empty, or the PNG exists (without --force) or cannot be written.
    """
    refuse_two(plot, as_json)
    check_output("--plot", plot, force)
    if plot is not None:
        require("a plot", "matplotlib")
    with PatchReader(database, verification=verification) as reader:
        worthwhile = min(processors(), 1 + len(reader) // _PATCHES_PER_WORKER)
        with progress_bar("counting") as progress:
            statistics = stats(reader, workers=workers or worthwhile, progress=progress)
    if plot is not None:
        write_output(plot, plot_png(statistics), force)
    if as_json:
        print_json(_signing.document("stats", database, "counted", 0) | to_json(statistics) | {"plot": plot})
    else:
        _print(statistics, plot, notes(plot))
    return 0


def _print(statistics: Statistics, plot: str | None, out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("band", "pixels", "mean", "std", "min", "max", "NaN, inf"):
        table.add_column(heading, justify="left" if heading == "band" else "right", overflow="fold")
    for name, band in statistics.bands.items():
        table.add_row(printable(name, 60), *_cells(band))
    out.print(table)
    for field, labels in statistics.labels.items():
        _print_labels(field, labels, statistics, out)
    classes = ", ".join(f"{count:,} {printable(name)}" for name, count in statistics.classes.items())
    out.print(
        f"{printable(statistics.database, 400)}: {classes}; std is the population standard deviation", soft_wrap=True
    )
    if plot is not None:
        out.print(f"histograms written to {output_name(plot)}", soft_wrap=True)


def _cells(band: BandStatistics) -> list[str]:
    not_finite = band.nan + band.positive_infinite + band.negative_infinite
    numbers = [_number(number) for number in (band.mean, band.std, band.minimum, band.maximum)]
    return [f"{band.count:,}", *numbers, f"{not_finite:,}" if not_finite else ""]


def _number(number: float | None) -> str:
    if number is None:
        return "none"
    if isinstance(number, int) and abs(number) < 10**15:
        return f"{number}"
    return f"{number:.3f}" if 0.1 <= abs(number) < 1e7 else f"{number:.5g}"


def _print_labels(field: str, labels: Mapping[str, int], statistics: Statistics, out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(field, overflow="fold")
    table.add_column("patches", justify="right")
    table.add_column("of all", justify="right")
    table.add_column("", no_wrap=True)
    most = max(labels.values(), default=1)
    block = "\u2588" if out.encoding.startswith("utf") else "#"
    for label, count in list(labels.items())[:_ROWS]:
        bar = block * max(1, round(_BAR * count / most))
        table.add_row(printable(label), f"{count:,}", f"{count / statistics.patches:.1%}", bar)
    out.print(table)
    _signing.print_left_out(len(labels), _ROWS, field, out)
    missing = statistics.unlabelled[field]
    if missing:
        out.print(f"patches without {field}: {missing:,}", soft_wrap=True)
