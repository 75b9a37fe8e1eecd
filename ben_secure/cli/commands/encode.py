"""``ben-secure encode``: folders of GeoTIFFs to a database of patches.

Names and paths come from the input: they are in messages that ``encode`` has escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from ben_secure._system.appear import left_beside
from ben_secure._system.processors import processors
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import add_note, console, print_json, progress_bar
from ben_secure.cli._usage import PATH, Command, argument, whole
from ben_secure.encode import Encoded, UnknownPixels, encode
from ben_secure.errors import EncodeError, printable
from ben_secure.signing.keys import read_mac_keys


@click.command("encode", cls=Command)
@argument("out", metavar="OUT", type=PATH, note="Database to make; nothing may be there yet.")
@click.option("--s2", type=PATH, metavar="DIR", help="Sentinel-2 patches, BigEarthNet v1 or v2.")
@click.option("--s1", type=PATH, metavar="DIR", help="Sentinel-1 patches; with --s2, pairs are merged.")
@click.option("--labels/--no-labels", default=True, help="Store the labels of 43 and of 19 classes (default: yes).")
@click.option(
    "--metadata",
    type=PATH,
    multiple=True,
    metavar="TABLE",
    help="Parquet or CSV with a row for each patch; may be repeated.",
)
@click.option(
    "--columns",
    metavar="A,B",
    help="Columns of --metadata to store (default: all); labels and s1_name are used in any case.",
)
@click.option("--listed-only", is_flag=True, help="Skip patches that have no row in --metadata.")
@click.option("--place/--no-place", default=True, help="Store where a patch is and when it was taken (default: yes).")
@click.option(
    "--reference-maps", type=PATH, metavar="DIR", help="Reference maps of BigEarthNet v2, stored with each patch."
)
@_options.mac_key
@_options.context
@click.option("--workers", type=whole(least=1), help="Worker processes (default: one for each core).")
@click.option("--keep-going", is_flag=True, help="Leave out patches that cannot be encoded; exit code 1.")
@_options.as_json
def command(
    out: str,
    s2: str | None,
    s1: str | None,
    labels: bool,
    metadata: tuple[str, ...],
    columns: str | None,
    listed_only: bool,
    place: bool,
    reference_maps: str | None,
    mac_key: str | None,
    context: str,
    workers: int | None,
    keep_going: bool,
    as_json: bool,
) -> int:
    """Write a database of the patches in a folder of GeoTIFFs, or of the pairs in two.

    A run that was interrupted, or stopped at a bad patch, is resumed by the same command: what it wrote is kept in a
    hidden folder beside OUT, and patches that are written are not read again.

    Exit code 0: all patches are in OUT. 1: some could not be encoded (only with --keep-going), the rest is in OUT. 2:
    it could not be done, and OUT was not made.
    """
    if s2 is None and s1 is None:
        raise click.UsageError("say what to encode: --s2 DIR, --s1 DIR or both")
    if context and mac_key is None:
        raise click.UsageError("--context requires --mac-key")
    if listed_only and not metadata:
        raise click.UsageError("--listed-only requires --metadata")
    if columns is not None and not metadata:
        raise click.UsageError("--columns requires --metadata")
    with _told_what_is_left(out), progress_bar("encoding") as progress:
        done = encode(
            out,
            s2=s2,
            s1=s1,
            labels=labels,
            metadata=metadata or [],
            columns=None if columns is None else [name.strip() for name in columns.split(",") if name.strip()],
            listed_only=listed_only,
            place=place,
            reference_maps=reference_maps,
            mac_key=None if mac_key is None else read_mac_keys(mac_key, out),
            context=context,
            workers=workers or processors(),
            keep_going=keep_going,
            progress=progress,
        )
    if not done.written and not done.failures.count:
        raise EncodeError(f"the metadata table has a row for none of the {done.left_out} patches; is it the right one?")
    return _tell(out, done, as_json)


@contextmanager
def _told_what_is_left(out: str) -> Iterator[None]:
    """If the block ends before its time, have it said on stderr, after the cause, that what is written is kept."""
    try:
        yield
    except BaseException as error:
        if (left := left_beside(out)) is not None:
            place = printable(left, 400)
            add_note(
                error,
                f"what is written is kept in {place}: the same command goes on from there; remove it to give it up",
            )
        raise


def _tell(out: str, done: Encoded, as_json: bool) -> int:
    failed = done.failures.count
    exit_code = 1 if failed else 0
    if as_json:
        print_json(_document(out, done, exit_code))
        return exit_code
    to = console()
    for error in done.failures.first:
        to.print(printable(error.message, 1000), soft_wrap=True)
    _signing.print_left_out(failed, len(done.failures.first), "could not be encoded", to)
    for name, reason in done.columns_left_out.items():
        to.print(f"note: the column {printable(name)} is left out: {printable(reason, 400)}", soft_wrap=True)
    for band, pixels in sorted(done.unknown.items()):
        to.print(f"note: {band}: {_unknown(pixels)}", soft_wrap=True)
    place = printable(out, 400)
    where = f"{done.written:,} patches are in {place}" if done.written else "nothing was written"
    notes = [f"{done.resumed:,} of them from an interrupted run"] if done.resumed else []
    notes += [f"files and folders of other programs, passed over: {done.passed_over:,}"] if done.passed_over else []
    notes += [f"{done.left_out:,} without a row were passed over"] if done.left_out else []
    headline = f"FAILED: {failed:,} patches could not be encoded; " if failed else "ENCODED: "
    headline += "the other " if failed and done.written else ""
    _signing.print_verdict(headline + where + "".join(f"; {note}" for note in notes), exit_code, to)
    return exit_code


def _document(out: str, done: Encoded, exit_code: int) -> dict[str, object]:
    """What ``--json`` prints."""
    failed = done.failures.count
    return _signing.document("encode", out, "failed" if failed else "encoded", exit_code) | {
        "out": out if done.written else None,
        "written": done.written,
        "resumed": done.resumed,
        "left_out": done.left_out,
        "failed": failed,
        "failures": [printable(error.message, 1000) for error in done.failures.first],
        "failures_left_out": failed - len(done.failures.first),
        "passed_over": done.passed_over,
        "columns_left_out": {printable(name): printable(why, 1000) for name, why in done.columns_left_out.items()},
        "unknown_pixels": {band: asdict(pixels) for band, pixels in sorted(done.unknown.items())},
    }


def _unknown(pixels: UnknownPixels) -> str:
    """Say how many pixels of a band are unknown."""
    counts = [f"pixels that have the no-data value: {pixels.no_data:,}"] if pixels.no_data else []
    counts += [f"other pixels that are NaN or infinite: {pixels.not_finite:,}"] if pixels.not_finite else []
    counts += [f"files with a mask, which is not stored: {pixels.masks:,}"] if pixels.masks else []
    return f"{', '.join(counts)} (patches: {pixels.patches:,})"
