"""``ben-secure show``: what do patches look like? As PNG of one, as contact sheet of several."""

from __future__ import annotations

from itertools import islice

import click

from ben_secure._system.optional import require
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import check_output, notes, print_json, refuse_two, shown_output, write_output
from ben_secure.cli._usage import Command, argument, one_of
from ben_secure.errors import printable
from ben_secure.signing.policy import Verification
from ben_secure.store.reader import PatchReader
from ben_secure.view.quicklook import KINDS, Quicklook, contact_sheet, to_png

_FIRST = 12  # patches on the sheet of a database of which no key was named
_MOST = 100


@click.command("show", cls=Command)
@_options.readable
@click.option("--output", "-o", type=_options.PNG, required=True, help="PNG to write; - for standard output.")
@argument("names", metavar="[KEY]...", nargs=-1, note=f"Patch names; the first {_FIRST} if none is given.")
@click.option("--kind", type=one_of({kind: kind for kind in KINDS}), help="What to draw (default: chosen by bands).")
@_options.verifying
@click.option("--force", is_flag=True, help="Overwrite the PNG.")
@_options.as_json
def command(
    database: str,
    output: str,
    names: tuple[str, ...],
    kind: str | None,
    verification: Verification | None,
    force: bool,
    as_json: bool,
) -> int:
    """Draw patches into a PNG; several KEYs make a contact sheet.

    Contrast is stretched for the eye; measure nothing in these pictures. North is up.

    Exit code 0: drawn. 1: a value is refused, and nothing is written. 2: there is no such database or patch, its bands
    do not make this kind of picture, or the PNG exists (without --force) or cannot be written.
    """
    require("a picture", "pillow")
    refuse_two(output, as_json)
    check_output("--output", output, force)
    if len(names) > _MOST:
        raise click.UsageError(f"{len(names)} patches do not fit on one sheet; give at most {_MOST}")
    with PatchReader(database, verification=verification) as reader:
        chosen = list(names or islice(reader, _FIRST))
        if not chosen:
            raise click.UsageError("this database is empty, so there is nothing to show")
        quicklooks = [_quicklook(reader, name, kind) for name in chosen]
        entries = len(reader)
    if len(chosen) == 1:
        write_output(output, quicklooks[0]._repr_png_(), force)
    else:
        sheet = contact_sheet([(name, quicklook.image) for name, quicklook in zip(chosen, quicklooks, strict=True)])
        write_output(output, to_png(sheet), force)
    if as_json:
        shown = [{"name": printable(name), "kind": q.kind} for name, q in zip(chosen, quicklooks, strict=True)]
        document = _signing.document("show", database, "shown", 0)
        print_json(document | {"png": output, "entries": entries, "shown": shown})
        return 0
    kinds = ", ".join(dict.fromkeys(quicklook.kind for quicklook in quicklooks))
    what = printable(chosen[0]) if len(chosen) == 1 else f"{len(chosen)} patches"
    if not names and entries > len(chosen):
        what = f"the first {len(chosen)} of {entries:,} patches"
    notes(output).print(f"{kinds} of {what} in {shown_output(output)}", soft_wrap=True)
    return 0


def _quicklook(reader: PatchReader, name: str, kind: str | None) -> Quicklook:
    try:
        return reader[name].quicklook(kind)
    except KeyError:
        first = next(iter(reader), None)
        hint = f"; the first one is {printable(first)}" if first is not None else ", which is empty"
        raise click.UsageError(f"{printable(name)} is not in this database{hint}") from None
    except ValueError as error:
        raise click.UsageError(f"{printable(name)}: {error}") from None
