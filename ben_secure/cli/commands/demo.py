"""``ben-secure demo``: the two-minute tour."""

from __future__ import annotations

from typing import Annotated

import typer

from ben_secure.cli._common import console
from ben_secure.demo import tour


def command(
    directory: Annotated[
        str | None, typer.Argument(metavar="DIR", help="New or empty directory for the databases; they stay.")
    ] = None,
) -> int:
    """Write patches, read them, attack a copy and see the attacks refused; needs no data.

    Exit code 0: everything behaved. 1: an attack got through. 2: DIR is not empty or cannot be written.
    """
    return tour.run(directory, console())
