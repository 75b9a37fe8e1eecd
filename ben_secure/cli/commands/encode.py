"""``ben-secure encode``: make a database of patches from folders of GeoTIFFs.

Names and paths come from the input. ``encode`` has escaped them in its messages.
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
@argument("out", metavar="OUT", type=PATH, note="Database to write; must not exist.")
@click.option("--s2", type=PATH, metavar="DIR", help="Folder of Sentinel-2 patches, BigEarthNet v1 or v2.")
@click.option("--s1", type=PATH, metavar="DIR", help="Folder of Sentinel-1 patches; with --s2, pairs are merged.")
@click.option("--labels/--no-labels", default=True, help="Store the labels of 43 and 19 classes (default: yes).")
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
    help="Columns of --metadata to store (default: all); labels and s1_name are always used.",
)
@click.option("--listed-only", is_flag=True, help="Skip patches without a row in --metadata.")
@click.option("--place/--no-place", default=True, help="Store position and acquisition time (default: yes).")
@click.option(
    "--reference-maps", type=PATH, metavar="DIR", help="Reference maps of BigEarthNet v2, stored with each patch."
)
@_options.mac_key
@_options.context
@click.option("--workers", type=whole(least=1), help="Worker processes (default: one per processor).")
@click.option("--keep-going", is_flag=True, help="Leave out patches that cannot be encoded, and exit with 1.")
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
    """Write a database from a folder of GeoTIFF patches, or from two folders of Sentinel-1 and Sentinel-2 pairs.

    If a run is interrupted or stops at a bad patch, the same command resumes it. The finished patches are kept in a
    hidden folder beside OUT and are not encoded again.

    Exit code 0: all patches are in OUT. 1: some could not be encoded (only with --keep-going). The others are in OUT.
    2: the command failed, and OUT was not written.
    """
    if s2 is None and s1 is None:
        raise click.UsageError("nothing to encode; give --s2 DIR, --s1 DIR or both")
    if context and mac_key is None:
        raise click.UsageError("--context requires --mac-key")
    if listed_only and not metadata:
        raise click.UsageError("--listed-only requires --metadata")
    if columns is not None and not metadata:
        raise click.UsageError("--columns requires --metadata")
    with _note_kept_files(out), progress_bar("encoding") as progress:
        result = encode(
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
    if not result.written and not result.failures.count:
        raise EncodeError(
            f"the metadata table has no row for any of the {_patches(result.left_out)}; check that it is the table of "
            "this dataset"
        )
    return _print_result(out, result, as_json)


@contextmanager
def _note_kept_files(out: str) -> Iterator[None]:
    """If the block fails and leaves files for resuming, add a note that names their folder to the error."""
    try:
        yield
    except BaseException as error:
        if (left := left_beside(out)) is not None:
            folder = printable(left, 400)
            add_note(
                error,
                f"finished patches are kept in {folder}; run the same command to resume, or delete the folder",
            )
        raise


def _print_result(out: str, result: Encoded, as_json: bool) -> int:
    """Print the result, and return the exit code."""
    failed = result.failures.count
    exit_code = 1 if failed else 0
    if as_json:
        print_json(_document(out, result, exit_code))
        return exit_code
    console_out = console()
    for error in result.failures.first:
        console_out.print(printable(error.message, 1000), soft_wrap=True)
    _signing.print_left_out(failed, len(result.failures.first), "could not be encoded", console_out)
    for name, reason in result.columns_left_out.items():
        console_out.print(f"note: the column {printable(name)} is left out: {printable(reason, 400)}", soft_wrap=True)
    for band, pixels in sorted(result.unknown.items()):
        console_out.print(f"note: {band}: {_unknown(pixels)}", soft_wrap=True)
    text = f"FAILED: {_patches(failed)} could not be encoded; " if failed else "ENCODED: "
    if result.written:
        text += f"the other {result.written:,} " if failed else f"{_patches(result.written)} "
        text += f"{'is' if result.written == 1 else 'are'} in {printable(out, 400)}"
    else:
        text += "nothing was written"
    text += f"; {result.resumed:,} of them from an interrupted run" if result.resumed else ""
    text += f"; skipped files and folders of other programs: {result.passed_over:,}" if result.passed_over else ""
    text += f"; skipped patches without a row: {result.left_out:,}" if result.left_out else ""
    _signing.print_verdict(text, exit_code, console_out)
    return exit_code


def _document(out: str, result: Encoded, exit_code: int) -> dict[str, object]:
    """Make the JSON object."""
    failed = result.failures.count
    return _signing.document("encode", out, "failed" if failed else "encoded", exit_code) | {
        "out": out if result.written else None,
        "written": result.written,
        "resumed": result.resumed,
        "left_out": result.left_out,
        "failed": failed,
        "failures": [printable(error.message, 1000) for error in result.failures.first],
        "failures_left_out": failed - len(result.failures.first),
        "passed_over": result.passed_over,
        "columns_left_out": {printable(name): printable(why, 1000) for name, why in result.columns_left_out.items()},
        "unknown_pixels": {band: asdict(pixels) for band, pixels in sorted(result.unknown.items())},
    }


def _patches(count: int) -> str:
    return f"{count:,} patch{'' if count == 1 else 'es'}"


def _unknown(pixels: UnknownPixels) -> str:
    """Write how many pixels of a band are unknown."""
    counts = [f"pixels that have the no-data value: {pixels.no_data:,}"] if pixels.no_data else []
    counts += [f"other pixels that are NaN or infinite: {pixels.not_finite:,}"] if pixels.not_finite else []
    counts += [f"files with a mask, which is not stored: {pixels.masks:,}"] if pixels.masks else []
    return f"{', '.join(counts)} (patches: {pixels.patches:,})"
