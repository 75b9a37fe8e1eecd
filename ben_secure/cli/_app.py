"""The list of commands."""

from __future__ import annotations

from typing import Annotated

import typer

import ben_secure
from ben_secure.cli.commands import (
    audit,
    convert,
    demo,
    encode,
    inspect_value,
    keygen,
    publish,
    show,
    sign,
    stats,
    untag,
    verify,
)

app = typer.Typer(name="ben-secure", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("demo")(demo.command)
app.command("audit")(audit.command)
app.command("inspect")(inspect_value.command)
app.command("show")(show.command)
app.command("stats")(stats.command)
app.add_typer(keygen.app)
app.command("sign")(sign.command)
app.command("verify")(verify.command)
app.command("untag")(untag.command)
app.command("encode")(encode.command)
app.command("convert")(convert.command)
app.command("publish")(publish.command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ben-secure {ben_secure.__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 all good, 1 refused, 2 could not decide, 130 interrupted.")
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Load, audit and publish BigEarthNet LMDB archives without running what is in them."""
