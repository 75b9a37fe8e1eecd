"""``ben-secure show``: draw one patch, or a contact sheet of several, as a PNG."""

from __future__ import annotations

from itertools import islice

import click

from ben_secure._system.optional import require
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import check_output, notes, output_name, print_json, refuse_two, write_output
from ben_secure.cli._usage import Command, argument, one_of
from ben_secure.errors import printable
from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.policy import Verification
from ben_secure.store.reader import PatchReader
from ben_secure.view.quicklook import KINDS, Quicklook, common_stretch, contact_sheet, to_png

_DEFAULT_PATCHES = 12  # number of patches on the contact sheet if no KEY is given
_MAX_PATCHES = 100


@click.command("show", cls=Command)
@_options.readable
@click.option("--output", "-o", type=_options.PNG, required=True, help="PNG to write; - for standard output.")
@argument("names", metavar="[KEY]...", nargs=-1, note=f"Patch names; the first {_DEFAULT_PATCHES} if none is given.")
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
    """Draw patches into a PNG. Several KEYs make a contact sheet.

    The contrast is stretched for viewing, so the pictures are not suitable for measurements. North is up. All patches
    of a contact sheet have the same stretch, so their brightness can be compared. Labels are printed below them.

    Exit code 0: the PNG was written. 1: a value is refused, and nothing is written. 2: the database or patch does not
    exist, its bands do not fit this kind of picture, or the PNG exists (without --force) or cannot be written.
    """
    require("a picture", "pillow")
    refuse_two(output, as_json)
    check_output("--output", output, force)
    if len(names) > _MAX_PATCHES:
        raise click.UsageError(f"{len(names)} patches do not fit on one sheet; give at most {_MAX_PATCHES}")
    with PatchReader(database, verification=verification) as reader:
        chosen = list(names or islice(reader, _DEFAULT_PATCHES))
        if not chosen:
            raise click.UsageError("this database is empty, so there is nothing to show")
        patches = [_patch(reader, name) for name in chosen]
        entries = len(reader)
    quicklooks = [_quicklook(patch, name, kind) for name, patch in zip(chosen, patches, strict=True)]
    if len(chosen) > 1:
        quicklooks = _comparable(patches, quicklooks)
    if len(chosen) == 1:
        write_output(output, quicklooks[0]._repr_png_(), force)
    else:
        images = [quicklook.image for quicklook in quicklooks]
        sheet = contact_sheet([*zip(chosen, map(_labels, patches), images, strict=True)])
        write_output(output, to_png(sheet), force)
    if as_json:
        drawn = [{"name": printable(name), "kind": q.kind} for name, q in zip(chosen, quicklooks, strict=True)]
        document = _signing.document("show", database, "shown", 0)
        print_json(document | {"png": output, "entries": entries, "shown": drawn})
        return 0
    kinds = ", ".join(dict.fromkeys(quicklook.kind for quicklook in quicklooks))
    subject = printable(chosen[0]) if len(chosen) == 1 else f"{len(chosen)} patches"
    if not names and entries > len(chosen):
        subject = f"the first {len(chosen)} of {entries:,} patches"
    notes(output).print(f"{kinds} of {subject} in {output_name(output)}", soft_wrap=True)
    return 0


def _patch(reader: PatchReader, name: str) -> BigEarthNetPatch:
    try:
        return reader[name]
    except KeyError:
        first = next(iter(reader), None)
        hint = f"; its first key is {printable(first)}" if first is not None else ", which is empty"
        raise click.UsageError(f"{printable(name)} is not in this database{hint}") from None


def _quicklook(patch: BigEarthNetPatch, name: str, kind: str | None) -> Quicklook:
    try:
        return patch.quicklook(kind)
    except ValueError as error:
        raise click.UsageError(f"{printable(name)}: {error}") from None


def _comparable(patches: list[BigEarthNetPatch], quicklooks: list[Quicklook]) -> list[Quicklook]:
    """Draw all pictures of a kind with the same stretch."""
    kinds = {quicklook.kind for quicklook in quicklooks}
    common = {kind: common_stretch([one for one in quicklooks if one.kind == kind]) for kind in kinds}
    return [patch.quicklook(one.kind, common[one.kind]) for patch, one in zip(patches, quicklooks, strict=True)]


def _labels(patch: BigEarthNetPatch) -> str:
    """Return the labels of a patch as one text, which is empty without labels."""
    labels = patch.__dict__.get("labels")
    return ", ".join(label for label in labels if type(label) is str) if isinstance(labels, (list, tuple, set)) else ""
