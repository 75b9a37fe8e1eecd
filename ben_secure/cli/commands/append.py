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
@argument("new", metavar="NEW", type=PATH, note="Database whose patches are added; it is only read.")
@click.option("--out", type=PATH, metavar="COPY", help="Write all patches into a new database; DB stays as it is.")
@_options.mac_key
@_options.context
@_options.as_json
def command(database: str, new: str, out: str | None, mac_key: str | None, context: str, as_json: bool) -> int:
    """Add the patches of NEW to DB: all of them, or none.

    Every new value is judged first, and none is replaced. A released database, one with a manifest beside it, is
    changed only as a copy (--out). With --mac-key new values get a tag, as those of DB must have.

    Exit code 0: done. 1: a new value was refused, and nothing was written. 2: it could not be done.
    """
    if context and mac_key is None:
        raise click.UsageError("--context requires --mac-key")
    tagger = None if mac_key is None else Tagger(read_mac_keys(mac_key, database), context)
    with progress_bar("judging") as progress:
        done = append(database, new, out=out, tagger=tagger, progress=progress)
    exit_code = 1 if done.refusals.count else 0
    if as_json:
        document = _signing.document("append", database, "refused" if exit_code else "appended", exit_code)
        facts = {"new": new, "out": out, "checked": done.checked, "added": done.added, "kept": done.kept}
        print_json(document | facts | _signing.refusals_to_json(done.refusals))
        return exit_code
    to = console()
    _signing.print_refusals(done.refusals, to)
    if exit_code:
        values = f"{done.refusals.count:,} of {counted(done.checked, 'value')} in {printable(new, 400)}"
        text = f"REFUSED: {values}; {printable(database, 400)} is as it was"
    else:
        text = f"APPENDED: {counted(done.added, 'record')} to {done.kept:,} in {printable(out or database, 400)}"
    _signing.print_verdict(text, exit_code, to)
    return exit_code
