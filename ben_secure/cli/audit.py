"""``ben-secure audit``: is anything in this database hostile?"""

from __future__ import annotations

from typing import Annotated

import typer

from ben_secure.audit.report import to_json, to_table
from ben_secure.audit.run import audit_database
from ben_secure.cli._common import console, print_json, progress_bar


def command(
    database: Annotated[str, typer.Argument(metavar="DB", help="LMDB directory, or its data file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> int:
    """Check every value of a database; nothing in it is run.

    Exit code 0: every value is a patch and nothing else. 1: something was refused. 2: not everything could be checked,
    or there was nothing to check.
    """
    with progress_bar("checking") as progress:
        report = audit_database(database, progress=progress)
    if as_json:
        print_json(to_json(report))
    else:
        to_table(report, console())
    return report.exit_code
