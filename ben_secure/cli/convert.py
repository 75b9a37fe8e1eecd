"""``ben-secure convert``: legacy values to canonical ones, through the restricted loader."""

from __future__ import annotations

from typing import Annotated

import typer

from ben_secure.cli import _signing
from ben_secure.cli._common import progress_bar
from ben_secure.signing.keys import read_mac_keys
from ben_secure.store.convert import Converter
from ben_secure.store.rewrite import rewrite
from ben_secure.store.tagging import Tagger


def command(
    old: Annotated[str, typer.Argument(metavar="OLD", help="LMDB directory, or its data file; it is not changed.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Database to make; nothing may be there yet.")],
    mac_key: _signing.MacKeyOption = None,
    context: _signing.ContextOption = "",
    source_mac_key: Annotated[
        str | None,
        typer.Option("--source-mac-key", metavar="FILE", help="Secret key with which the values of OLD are tagged."),
    ] = None,
    source_context: Annotated[
        str | None, typer.Option("--source-context", metavar="C", help="Context of OLD; that of NEW if not given.")
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave refused values out and write the rest; exit code 1.")
    ] = False,
    as_json: _signing.JsonOption = False,
) -> int:
    """Write a copy of a database in which every value is canonical, and tagged if there is a --mac-key.

    Exit code 0: done. 1: values were refused, and nothing was written (with --skip-refused: all but these). 2: it
    could not be done.
    """
    if context and mac_key is None and source_mac_key is None:
        raise typer.BadParameter("--context belongs to --mac-key or --source-mac-key")
    if source_context is not None and source_mac_key is None:
        raise typer.BadParameter("--source-context belongs to --source-mac-key")
    tagger = source = None
    if mac_key is not None:
        tagger = Tagger(read_mac_keys(mac_key, old), context)
    if source_mac_key is not None:
        old_keys = read_mac_keys(source_mac_key, old)
        source = Tagger(old_keys, context if source_context is None else source_context)
    with progress_bar("converting") as progress:
        done = rewrite(old, new, Converter(source, tagger).converted, skip_refused=skip_refused, progress=progress)
    return _signing.tell_rewritten("convert", old, new, done, "CONVERTED", as_json)
