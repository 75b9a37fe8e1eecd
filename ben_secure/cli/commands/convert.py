"""``ben-secure convert``: convert values to another format through the restricted loader, and join pairs."""

from __future__ import annotations

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import progress_bar
from ben_secure.cli._usage import PATH, Command, argument, one_of
from ben_secure.labels.tables import S1_NAME, pairs_of, read_table
from ben_secure.signing.keys import read_mac_keys
from ben_secure.signing.policy import Verification
from ben_secure.store.change.convert import Form, convert
from ben_secure.store.change.tag import Tagger


@click.command("convert", cls=Command)
@argument("old", metavar="OLD", type=PATH, note="LMDB directory or its data file; it is not changed.")
@argument("new", metavar="NEW", type=PATH, note="Database to write; must not exist.")
@click.option(
    "--to",
    "form",
    type=one_of({form.value: form for form in Form}),
    default=Form.CANONICAL.value,
    show_default=True,
    help="Format of the values: canonical, or safetensors as written by rico-hdl.",
)
@click.option(
    "--pairs",
    type=PATH,
    metavar="TABLE",
    help="Join pairs of Sentinel-1 and Sentinel-2 records; CSV or Parquet with patch_id and s1_name.",
)
@click.option("--s1", type=PATH, metavar="DB", help="Database of the Sentinel-1 records (default: OLD).")
@_options.mac_key
@_options.context
@click.option("--source-mac-key", type=PATH, help="Secret key file; the values of OLD must have its tags.")
@click.option("--source-context", type=_options.CONTEXT, help="Context of the tags in OLD (default: --context).")
@click.option("--skip-refused", is_flag=True, help="Leave out refused values, write the others, and exit with 1.")
@_options.as_json
def command(
    old: str,
    new: str,
    form: Form,
    pairs: str | None,
    s1: str | None,
    mac_key: str | None,
    context: str,
    source_mac_key: str | None,
    source_context: str | None,
    skip_refused: bool,
    as_json: bool,
) -> int:
    """Write a copy of a database in which all values have one format, and with --mac-key a tag.

    Only this package reads tagged safetensors values.

    Exit code 0: the copy was written. 1: values were refused, and nothing was written (with --skip-refused: all other
    values were written). 2: the copy could not be written.
    """
    if context and mac_key is None and source_mac_key is None:
        raise click.UsageError("--context requires --mac-key or --source-mac-key")
    if source_context is not None and source_mac_key is None:
        raise click.UsageError("--source-context requires --source-mac-key")
    if s1 is not None and pairs is None:
        raise click.UsageError("--s1 requires --pairs")
    tagger = None if mac_key is None else Tagger(read_mac_keys(mac_key, old), context)
    verification = None
    if source_mac_key is not None:
        source_keys = read_mac_keys(source_mac_key, old)
        verification = Verification(mac_key=source_keys, context=context if source_context is None else source_context)
    table = None if pairs is None else pairs_of(read_table(pairs, [S1_NAME]))
    with progress_bar("converting") as progress:
        result = convert(
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
    return _signing.print_rewritten("convert", old, new, result, "CONVERTED", as_json)
