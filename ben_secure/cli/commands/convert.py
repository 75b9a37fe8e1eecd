"""``ben-secure convert``: values of one format to another, through the restricted loader; twins joined on the way."""

from __future__ import annotations

from typing import Annotated

import typer

from ben_secure.cli import _signing
from ben_secure.cli._common import progress_bar
from ben_secure.labels.tables import pairs_of, read_table
from ben_secure.signing.keys import read_mac_keys
from ben_secure.signing.policy import Verification
from ben_secure.store.change.convert import Form, convert
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
    if s1 is not None and pairs is None:
        raise typer.BadParameter("--s1 belongs to --pairs")
    tagger = None if mac_key is None else Tagger(read_mac_keys(mac_key, old), context)
    verification = None
    if source_mac_key is not None:
        source_keys = read_mac_keys(source_mac_key, old)
        verification = Verification(mac_key=source_keys, context=context if source_context is None else source_context)
    table = None if pairs is None else pairs_of(read_table(pairs))
    with progress_bar("converting") as progress:
        done = convert(
            old,
            new,
            verification=verification,
            tagger=tagger,
            form=form,
            pairs=table,
            s1=s1,
            skip_refused=skip_refused,
            progress=progress,
        )
    return _signing.tell_rewritten("convert", old, new, done, "CONVERTED", as_json)
