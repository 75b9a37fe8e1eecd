"""The list of commands."""

from __future__ import annotations

import click

import ben_secure
from ben_secure.cli._usage import Group
from ben_secure.cli.commands import (
    append,
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
    verify,
)


@click.group(
    "ben-secure",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all good, 1 refused, 2 could not decide, 130 interrupted.",
)
@click.version_option(ben_secure.__version__, message=f"ben-secure {ben_secure.__version__}")
def app() -> None:
    """Load, audit and publish BigEarthNet LMDB archives without running what is in them."""


app.add_command(demo.command)
app.add_command(audit.command)
app.add_command(inspect_value.command)
app.add_command(show.command)
app.add_command(stats.command)
app.add_command(keygen.group)
app.add_command(sign.command)
app.add_command(verify.command)
app.add_command(sign.untag)
app.add_command(encode.command)
app.add_command(convert.command)
app.add_command(append.command)
app.add_command(publish.command)
