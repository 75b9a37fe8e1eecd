"""``ben-secure convert``: values of one format to another, through the restricted loader; twins joined on the way."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from ben_secure.cli import _signing
from ben_secure.cli._common import progress_bar
from ben_secure.labels.tables import pairs_of, read_table
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.keys import read_mac_keys
from ben_secure.store.change.convert import Converter, Form, Pairing
from ben_secure.store.change.rewrite import rewrite
from ben_secure.store.change.tag import Tagger


def command(
    old: Annotated[str, typer.Argument(metavar="OLD", help="LMDB directory, or its data file; it is not changed.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Database to make; nothing may be there yet.")],
    form: Annotated[
        Form, typer.Option("--to", help="What to write: canonical, or safetensors as rico-hdl does.")
    ] = Form.CANONICAL,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs", metavar="TABLE", help="Join Sentinel-1 and -2 records: CSV or Parquet with patch_id and s1_name."
        ),
    ] = None,
    s1: Annotated[
        str | None, typer.Option("--s1", metavar="DB", help="Where the Sentinel-1 records are, if not in OLD.")
    ] = None,
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
    """Write a copy of a database in which every value is of one format, and tagged if there is a --mac-key.

    Tagged safetensors values are read by this package alone.

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
    if s1 is not None and pairs is None:
        raise typer.BadParameter("--s1 belongs to --pairs")
    with ExitStack() as stack:
        pairing = None if pairs is None else _pairing(pairs, old, s1, stack)
        progress = stack.enter_context(progress_bar("converting"))
        convert = Converter(source, tagger, form, pairing).converted
        done = rewrite(old, new, convert, skip_refused=skip_refused, progress=progress)
    return _signing.tell_rewritten("convert", old, new, done, "CONVERTED", as_json)


def _pairing(table: str, s2_database: str, s1_database: str | None, stack: ExitStack) -> Pairing:
    """Read the table, and open the databases in which twins are looked up."""
    pairs = pairs_of(read_table(table))
    limit = DEFAULT_LIMITS.max_value_bytes + FOOTER_BYTES
    s2 = stack.enter_context(PageReader(s2_database, max_value_bytes=limit))
    s1 = None if s1_database is None else stack.enter_context(PageReader(s1_database, max_value_bytes=limit))
    return Pairing(pairs, s2, s1)
