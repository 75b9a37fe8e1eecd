"""What the commands share: where output goes, and how a failure is told.

Results go to stdout, diagnostics and progress to stderr. Nothing here interprets markup, emoji codes or links, so
that text which slipped through could still not style the terminal; text from files is escaped by its caller all the
same.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ben_secure._system.causes import reason, unwritable
from ben_secure._system.files import check_free, is_stream, write_file
from ben_secure.audit.report import SCHEMA as AUDIT_SCHEMA
from ben_secure.audit.report.json_report import ascii_json
from ben_secure.audit.report.table_report import plain_console
from ben_secure.cli._usage import wrong_call
from ben_secure.errors import BenSecureError, StoreError, UntrustedDataError, printable
from ben_secure.remote.addresses import without_credentials
from ben_secure.store.change.rewrite import Progress as Callback

STDOUT = "-"
SCHEMA = 1
"""Number of the JSON form of every command but ``audit``, which has its own; raised when a key is renamed, removed
or changes its meaning."""


def console() -> Console:
    """Make the console for results, on what is stdout now."""
    return plain_console(sys.stdout)


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON object as ASCII on stdout."""
    print(ascii_json(document, 2))


def wants_json(arguments: list[str]) -> bool:
    """Whether a command line asks for JSON, though it may not parse otherwise."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    formats = zip(options, [*options[1:], ""], strict=True)
    return "--json" in options or "--format=json" in options or ("--format", "json") in formats


def fail(arguments: list[str], error: BaseException) -> int:
    """Tell why a command failed, in one line or one JSON object.

    Args:
        arguments: The command line.
        error: What happened.

    Returns:
        The exit code: 130 interrupted, 1 if data was refused, otherwise 2.
    """
    exit_code, message = explain(error)
    if wants_json(arguments):
        document = {
            "schema": AUDIT_SCHEMA if arguments[0] == "audit" else SCHEMA,
            "command": printable(arguments[0]) if not arguments[0].startswith("-") else None,
            "verdict": "refused" if exit_code == 1 else "undecided",
            "exit_code": exit_code,
            "error": message,
        }
        print_json(document)
    else:
        print(f"ben-secure: {message}", file=sys.stderr)
        if arguments[:1] == ["audit"] and exit_code == 130:  # its last line is always a verdict
            print("UNDECIDED: interrupted before the audit was finished")
    for note in getattr(error, "__notes__", ()):
        print(f"ben-secure: {note}", file=sys.stderr)
    return exit_code


def add_note(error: BaseException, note: str) -> None:
    """Have something told on stderr after the error (PEP 678, for Python 3.10, too)."""
    vars(error).setdefault("__notes__", []).append(note)


def explain(error: BaseException) -> tuple[int, str]:
    """Say in one line why a command failed, and with which exit code: 130 interrupted, 1 refused, otherwise 2."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BenSecureError):
        return 1 if isinstance(error, UntrustedDataError) else 2, without_credentials(printable(str(error), 1000))
    if isinstance(error, click.UsageError):
        return 2, without_credentials(wrong_call(error))
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        message = unwritable(error.filename or "standard output", error) if full else reason(error)
        return 2, without_credentials(message)
    message = without_credentials(printable(str(error), 1000))
    return 2, f"internal error, please report it: {type(error).__name__}: {message}"


def check_output(option: str, path: str | None, force: bool) -> None:
    """Find now what would keep a file from being written, and not after an hour of work.

    Args:
        option: The option that names the file.
        path: The file, "-" for standard output, or None for none.
        force: Whether it may be overwritten.

    Raises:
        StoreError: Something is in its place, or it cannot be made there.
    """
    if path is None or path == STDOUT or is_stream(path):
        return
    check_free(path, overwrite=force)
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise StoreError(f"the directory of {option} {printable(path, 400)} must exist and be writable")


def write_output(path: str, content: bytes, force: bool) -> None:
    """Write a file as ``write_file`` does, or to standard output if it is called "-"."""
    if path != STDOUT:
        write_file(path, content, overwrite=force)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content)


def refuse_two(path: str | None, as_json: bool) -> None:
    """Refuse to write a file and a JSON object to standard output.

    Raises:
        UsageError: Both were asked for.
    """
    if path == STDOUT and as_json:
        raise click.UsageError("--json and a picture cannot both go to standard output; name a file")


def shown_output(path: str) -> str:
    """Name a file that was written."""
    return "standard output" if path == STDOUT else printable(path, 400)


def notes(path: str | None) -> Console:
    """Make the console for results of a command that writes a file, too: stderr if that is standard output."""
    return plain_console(sys.stderr) if path == STDOUT else console()


@contextmanager
def progress_bar(what: str) -> Iterator[Callback | None]:
    """Show progress on stderr while the block runs, if stderr is a terminal.

    Args:
        what: What is being done; one word or two.

    Yields:
        What to call with done and total, or None.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # FORCE_COLOR, which rich obeys, makes no terminal
        yield None
        return
    err = plain_console(sys.stderr)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        last = -1

        def show(done: int, total: int) -> None:
            nonlocal last
            # A thousand updates in all; each costs more than a small value takes.
            if done * 1000 // max(total, 1) != last or done == total:
                last = done * 1000 // max(total, 1)
                bar.update(task, completed=done, total=total)

        yield show
