"""``ben-secure append``: add the patches of one database to another."""

from __future__ import annotations

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.cli._usage import PATH, Command, argument
from ben_secure.errors import counted, printable
from ben_secure.signing.keys import read_mac_keys
from ben_secure.store.change.append import append
from ben_secure.store.change.tag import Tagger


@click.command("append", cls=Command)
@_options.database
@argument("new", metavar="NEW", type=PATH, note="Database with the patches to add; it is not changed.")
@click.option("--out", type=PATH, metavar="COPY", help="Write all patches to a new database (default: change DB).")
@_options.mac_key
@_options.context
@_options.as_json
def command(database: str, new: str, out: str | None, mac_key: str | None, context: str, as_json: bool) -> int:
    """Add all patches of NEW to DB, or none of them.

    Every new value is judged first. No value of DB is replaced. A released database, which has a manifest beside it, is
    never changed itself; use --out. With --mac-key, new values get a tag, and the first value of DB must have a valid
    one.

    Exit code 0: all patches were added. 1: a value was refused, and nothing was written. 2: the patches could not
    be added.
    """
    if context and mac_key is None:
        raise click.UsageError("--context requires --mac-key")
    tagger = None if mac_key is None else Tagger(read_mac_keys(mac_key, database), context)
    with progress_bar("judging") as progress:
        result = append(database, new, out=out, tagger=tagger, progress=progress)
    exit_code = 1 if result.refusals.count else 0
    if as_json:
        document = _signing.document("append", database, "refused" if exit_code else "appended", exit_code)
        facts = {"new": new, "out": out, "checked": result.checked, "added": result.added, "kept": result.kept}
        print_json(document | facts | _signing.refusals_to_json(result.refusals))
        return exit_code
    console_out = console()
    _signing.print_refusals(result.refusals, console_out)
    if exit_code:
        values = f"{result.refusals.count:,} of {counted(result.checked, 'value')} in {printable(new, 400)}"
        text = f"REFUSED: {values}; {printable(database, 400)} was not changed"
    else:
        text = f"APPENDED: {counted(result.added, 'record')} to {result.kept:,} in {printable(out or database, 400)}"
    _signing.print_verdict(text, exit_code, console_out)
    return exit_code
