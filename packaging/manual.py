"""Writes the manual page and the completions of the installed ``ben-secure``: ``python packaging/manual.py PREFIX``.

Both come from the commands themselves, so they are made where a package or an image is built, and not kept.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

import ben_secure
from ben_secure.cli._app import app

NAME = "ben-secure"
FILES = {
    "bash": "share/bash-completion/completions/ben-secure",
    "zsh": "share/zsh/site-functions/_ben-secure",
    "fish": "share/fish/vendor_completions.d/ben-secure.fish",
}


def roff(text: str) -> str:
    """A text as roff: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring."""
    for paragraph in re.split(r"\n\s*\n", (text or "").replace("\b", "").strip()):
        yield ".PP\n" + roff(" ".join(paragraph.split()))


def entry(parameter: click.Parameter) -> str:
    """An option or argument with its help."""
    metavar = parameter.metavar or parameter.type.name
    if isinstance(parameter, click.Option):
        names = ", ".join(f"\\fB{roff(name)}\\fR" for name in [*parameter.opts, *parameter.secondary_opts])
        head = names if parameter.is_flag else f"{names} \\fI{roff(metavar)}\\fR"
        return f".TP\n{head}\n{roff(parameter.help or '')}"
    return f".TP\n\\fI{roff(metavar)}\\fR\n{roff(getattr(parameter, 'note', ''))}"


def commands(group: click.Group, context: click.Context, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that can be run, with its name below ``ben-secure``."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{name} ")
        elif command is not None:
            yield above + name, command


def manual() -> str:
    """The page ben-secure(1)."""
    context = click.Context(app, info_name=NAME)
    summary = " ".join((app.help or "").split())
    lines = [f'.TH BEN\\-SECURE 1 "" "ben\\-secure {ben_secure.__version__}"', ".SH NAME"]
    lines += [f"ben\\-secure \\- {roff(summary.rstrip('.'))}", ".SH SYNOPSIS"]
    lines += [".B ben\\-secure\n.I COMMAND\n[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]", ".SH COMMANDS"]
    for name, command in commands(app, context):
        arguments = [parameter.metavar or "" for parameter in command.params if isinstance(parameter, click.Argument)]
        lines += [f".SS {roff(NAME)} {roff(name)} [options] {roff(' '.join(arguments))}".rstrip()]
        lines += [*paragraphs(command.help or ""), *map(entry, command.params)]
    lines += [".SH EXIT STATUS", *paragraphs(app.epilog or "")]
    return "\n".join(lines) + "\n"


def main(prefix: str) -> None:
    """Write the files below a prefix."""
    files = {"share/man/man1/ben-secure.1": manual()}
    for shell, path in FILES.items():
        if kind := get_completion_class(shell):
            files[path] = kind(app, {}, NAME, "_BEN_SECURE_COMPLETE").source() + "\n"
    for path, text in files.items():
        target = pathlib.Path(prefix, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        print(target)


if __name__ == "__main__":
    main(sys.argv[1])
