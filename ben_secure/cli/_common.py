"""Functions that the commands share: output, progress and error messages.

Results go to stdout, diagnostics and progress to stderr. Callers escape text from files. As a second barrier, the
consoles here interpret no markup, emoji codes or links.
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
"""Number of the JSON format of all commands except ``audit``. It rises when a key is renamed, removed or changes its
meaning."""


def console() -> Console:
    """Make the console for results, on the current stdout."""
    return plain_console(sys.stdout)


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON object as ASCII on stdout."""
    print(ascii_json(document, 2))


def wants_json(arguments: list[str]) -> bool:
    """Whether a command line asks for JSON, even if it is invalid."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    formats = zip(options, [*options[1:], ""], strict=True)
    return "--json" in options or "--format=json" in options or ("--format", "json") in formats


def fail(arguments: list[str], error: BaseException) -> int:
    """Report the failure of a command in one line or one JSON object.

    Args:
        arguments: The command line.
        error: The failure.

    Returns:
        The exit code: 130 if interrupted, 1 if data was refused, otherwise 2.
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
        if arguments[:1] == ["audit"] and exit_code == 130:  # the last line of an audit is always a verdict
            print("UNDECIDED: interrupted before the audit was finished")
    for note in getattr(error, "__notes__", ()):
        print(f"ben-secure: {note}", file=sys.stderr)
    return exit_code


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, which ``fail`` prints on stderr after it (PEP 678, also for Python 3.10)."""
    vars(error).setdefault("__notes__", []).append(note)


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code of a failed command (130 interrupted, 1 refused, otherwise 2) and the reason in one line."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BenSecureError):
        return 1 if isinstance(error, UntrustedDataError) else 2, without_credentials(printable(str(error), 1000))
    if isinstance(error, MemoryError):
        return 2, "there is not enough memory; free some, or raise the limit (ulimit -v), and try again"
    if isinstance(error, click.UsageError):
        return 2, without_credentials(wrong_call(error))
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        message = unwritable(error.filename or "standard output", error) if full else reason(error)
        return 2, without_credentials(message)
    message = without_credentials(printable(str(error), 1000))
    return 2, f"internal error, please report it: {type(error).__name__}: {message}"


def check_output(option: str, path: str | None, force: bool) -> None:
    """Check that an output file can be written, before the work starts rather than after it.

    Args:
        option: The option that names the file.
        path: The file, "-" for standard output, or None without the option.
        force: Whether the file may be overwritten.

    Raises:
        StoreError: The file exists, or its folder does not exist or is not writable.
    """
    if path is None or path == STDOUT or is_stream(path):
        return
    check_free(path, overwrite=force)
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise StoreError(f"the directory of {option} {printable(path, 400)} must exist and be writable")


def write_output(path: str, content: bytes, force: bool) -> None:
    """Write a file like ``write_file``, or to standard output if ``path`` is "-"."""
    if path != STDOUT:
        write_file(path, content, overwrite=force)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content)


def refuse_two(path: str | None, as_json: bool) -> None:
    """Refuse to write a file and a JSON object to standard output.

    Raises:
        UsageError: Both were requested.
    """
    if path == STDOUT and as_json:
        raise click.UsageError("--json and a picture cannot both go to standard output; name a file")


def output_name(path: str) -> str:
    """Name an output file in a message."""
    return "standard output" if path == STDOUT else printable(path, 400)


def notes(path: str | None) -> Console:
    """Make the console for the results of a command with an output file: stderr if the file is standard output."""
    return plain_console(sys.stderr) if path == STDOUT else console()


@contextmanager
def progress_bar(activity: str) -> Iterator[Callback | None]:
    """Show progress on stderr while the block runs, if stderr is a terminal.

    Args:
        activity: One or two words, such as ``verifying``.

    Yields:
        A function to call with the completed and the total number, or None.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # rich would also show progress if FORCE_COLOR is set
        yield None
        return
    err = plain_console(sys.stderr)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(activity, total=None)
        last = -1

        def show(completed: int, total: int) -> None:
            nonlocal last
            # At most 1,000 updates, because an update takes longer than a small value.
            if completed * 1000 // max(total, 1) != last or completed == total:
                last = completed * 1000 // max(total, 1)
                bar.update(task, completed=completed, total=total)

        yield show
