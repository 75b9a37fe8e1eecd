"""``ben-secure untag``: give back the bare values, each only after its tag has verified."""

from __future__ import annotations

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import progress_bar
from ben_secure.cli._usage import PATH, Command
from ben_secure.signing.keys import read_mac_keys
from ben_secure.store.change.rewrite import rewrite
from ben_secure.store.change.tag import Tagger


@click.command("untag", cls=Command)
@_options.database
@click.option("--mac-key", type=PATH, required=True, help="Secret key file.")
@click.option("--out", type=PATH, required=True, metavar="NEW", help="Database to make; nothing may be there yet.")
@_options.context
@_options.as_json
def command(database: str, mac_key: str, out: str, context: str, as_json: bool) -> int:
    """Write a copy of a database without tags. If one value does not verify, nothing is written.

    Exit code 0: done. 1: a value does not verify. 2: it could not be done.
    """
    tagger = Tagger(read_mac_keys(mac_key, database), context)
    with progress_bar("untagging") as progress:
        done = rewrite(database, out, tagger.bare, progress=progress)
    return _signing.tell_rewritten("untag", database, out, done, "UNTAGGED", as_json)
