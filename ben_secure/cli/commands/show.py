"""``ben-secure show``: what do patches look like? As PNG, as contact sheet of several, as preview in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ben_secure._system.files import write_file
from ben_secure.cli import _signing
from ben_secure.cli._common import console, print_json
from ben_secure.errors import printable
from ben_secure.signing.policy import Verification
from ben_secure.store.reader import PatchReader
from ben_secure.view.quicklook import KINDS, MAX_SHEET, Quicklook, contact_sheet, look, terminal, to_png

_FIRST = 12  # patches on the sheet of a database of which no key was named
_SCALE = 4  # a patch of 120 pixels is a stamp on a screen
_WIDEST = 72  # columns of a preview; two of them are three pixels of a patch
_WIDEST_SHEET = 160


def _kind(given: str | None) -> str | None:
    if given is not None and given not in KINDS:
        raise typer.BadParameter(f"it is {printable(given)}, expected one of {', '.join(KINDS)}")
    return given


def _png(given: str | None) -> str | None:
    if given is not None and not given.lower().endswith(".png"):
        raise typer.BadParameter(f"it is {printable(given)}, expected a name that ends in .png")
    return given


@_signing.verifying
def command(
    database: _signing.Database,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help=f"Patch names; the first {_FIRST} if none is given.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="PNG to write.", callback=_png)
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}; chosen by bands.", callback=_kind)
    ] = None,
    scale: Annotated[
        int, typer.Option("--scale", min=1, max=16, help="PNG pixels a patch pixel, of one KEY.")
    ] = _SCALE,
    verification: Verification | None = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the PNG.")] = False,
    as_json: _signing.JsonOption = False,
) -> int:
    """Show patches as pictures: in the terminal, and as PNG with -o; several KEYs make a contact sheet.

    Contrast is stretched for the eye; measure nothing in these pictures. North is up.

    Exit code 0: shown. 1: a value is refused, and nothing is written. 2: there is no such database or patch, its bands
    do not make this kind of picture, or the PNG exists (without --force) or cannot be written.
    """
    out = console()
    if output is None and (as_json or not out.is_terminal):
        why = "--json shows no picture" if as_json else "stdout is no terminal"
        raise typer.BadParameter(f"{why}; say where the picture goes: -o FILE.png")
    if names is not None and len(names) > MAX_SHEET:
        raise typer.BadParameter(f"{len(names)} patches do not fit on one sheet; give at most {MAX_SHEET}")
    with PatchReader(database, verification=verification) as reader:
        chosen = list(names or islice(reader, _FIRST))
        if not chosen:
            raise typer.BadParameter("this database is empty, so there is nothing to show", param_hint="DB")
        quicklooks = [_quicklook(reader, name, kind) for name in chosen]
        entries = len(reader)
    image = quicklooks[0].image if len(chosen) == 1 else contact_sheet([q.image for q in quicklooks], chosen)
    if output is not None:
        write_file(
            output, to_png(image, scale=_fitting(image.shape, scale) if len(chosen) == 1 else 1), overwrite=force
        )
    if as_json and output is not None:
        shown = [{"name": printable(name), "kind": q.kind} for name, q in zip(chosen, quicklooks, strict=True)]
        print_json(
            _signing.document("show", database, "shown", 0) | {"png": output, "entries": entries, "shown": shown}
        )
        return 0
    if out.is_terminal:
        _preview(quicklooks, out)
    _tell(chosen, quicklooks, output, None if names else entries, out)
    return 0


def _quicklook(reader: PatchReader, name: str, kind: str | None) -> Quicklook:
    try:
        patch = reader[name]
    except KeyError:
        first = next(iter(reader), None)
        hint = f"; the first one is {printable(first)}" if first is not None else ", which is empty"
        raise typer.BadParameter(f"{printable(name)} is not in this database{hint}", param_hint="KEY") from None
    try:
        return look(patch, kind)
    except ValueError as error:
        raise typer.BadParameter(f"{printable(name)}: {error}", param_hint="--kind") from None


def _fitting(shape: Sequence[int], scale: int) -> int:
    """The scale, or less for a patch so large that it needs none."""
    return max(1, min(scale, 2048 // max(shape[:2])))


def _preview(quicklooks: list[Quicklook], out: Console) -> None:
    """Draw on the terminal as it is: as wide as fits, in the colours that it has."""
    widest = _WIDEST if len(quicklooks) == 1 else _WIDEST_SHEET
    picture = quicklooks[0].image if len(quicklooks) == 1 else contact_sheet([q.image for q in quicklooks])
    colour = out.color_system is not None and not out.no_color
    text = terminal(picture, max(1, min(out.width, widest)), colour=colour)
    out.print(Text.from_ansi(text.rstrip("\n")) if colour else text.rstrip("\n"), soft_wrap=True)


def _tell(
    chosen: list[str], quicklooks: list[Quicklook], output: str | None, entries: int | None, out: Console
) -> None:
    kinds = ", ".join(dict.fromkeys(quicklook.kind for quicklook in quicklooks))
    what = printable(chosen[0]) if len(chosen) == 1 else f"{len(chosen)} patches"
    if entries is not None and entries > len(chosen):
        what += f", the first of {entries:,}; name others by their keys"
    where = f" in {printable(os.fspath(output), 400)}" if output is not None else ""
    out.print(f"{kinds} of {what}{where}", soft_wrap=True)
