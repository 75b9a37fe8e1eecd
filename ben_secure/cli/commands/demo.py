"""``ben-secure demo``: the two-minute tour."""

from __future__ import annotations

import click

from ben_secure.cli._common import console
from ben_secure.cli._usage import PATH, Command, argument
from ben_secure.demo import tour


@click.command("demo", cls=Command)
@argument(
    "directory",
    metavar="[DIR]",
    type=PATH,
    required=False,
    note="New or empty directory in which to keep the databases.",
)
def command(directory: str | None) -> int:
    """Write patches, read them, attack a copy, and show that the attacks are refused. Needs no data.

    Exit code 0: everything worked as expected. 1: an attack succeeded. 2: DIR is not empty or cannot be written.
    """
    return tour.run(directory, console())
