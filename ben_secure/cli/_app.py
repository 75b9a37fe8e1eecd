"""The list of commands."""

from __future__ import annotations

from importlib import import_module

import click

import ben_secure
from ben_secure.cli._usage import Group

# In the order of the help: the module in ``commands`` with the command, imported on use, and the name of its function.
_HOMES = {
    "demo": ("demo", "command"),
    "audit": ("audit", "command"),
    "inspect": ("inspect_value", "command"),
    "show": ("show", "command"),
    "stats": ("stats", "command"),
    "keygen": ("keygen", "group"),
    "sign": ("sign", "command"),
    "verify": ("verify", "command"),
    "untag": ("sign", "untag"),
    "encode": ("encode", "command"),
    "convert": ("convert", "command"),
    "append": ("append", "command"),
    "publish": ("publish", "command"),
}


class _Commands(Group):
    """All commands. Each one is imported only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of the commands."""
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Return None if it does not exist."""
        if cmd_name in _HOMES and cmd_name not in self.commands:
            module, name = _HOMES[cmd_name]
            self.add_command(getattr(import_module(f"ben_secure.cli.commands.{module}"), name))
        return self.commands.get(cmd_name)


@click.group(
    "ben-secure",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good, 1 refused, 2 undecided or failed, 130 interrupted.",
)
@click.version_option(ben_secure.__version__, message=f"ben-secure {ben_secure.__version__}")
def app() -> None:
    """Load, audit and publish BigEarthNet LMDB databases without running code from them."""
