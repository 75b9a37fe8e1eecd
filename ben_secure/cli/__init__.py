"""The command line: parses arguments, runs one command, and always ends with one of four exit codes.

0: everything was checked and is good. 1: something was refused. 2: no decision was possible (a usage error, a missing
or damaged database, nothing to check, a broken pipe, an internal error). 130: interrupted. Python exits with 1 on an
uncaught exception, and so do click and rich on a broken pipe. Therefore ``main`` catches every exception.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from ben_secure._system import forks
from ben_secure.errors import StoreError

PROGRAM = "ben-secure"
_NO_WORKERS = frozenset({"-h", "--help", "--merge", "--dask"})
_COMPLETE = "_BEN_SECURE_COMPLETE"  # a variable that the completion script of a shell sets


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program name, or None for the arguments of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(AttributeError):  # stdout is None if it was closed, and may be another kind of stream
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any text in any encoding
    try:
        return _run_and_report(arguments)
    finally:
        forks.end_begun()


def _run_and_report(arguments: list[str]) -> int:
    """Run one command, and print the reason if it fails."""
    try:
        try:
            exit_code = _run(arguments)
            if sys.stdout is not None:  # stdout is None if it was closed
                sys.stdout.flush()
        except (BrokenPipeError, SystemExit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            exit_code = _fail(arguments, error)
            sys.stdout.flush()
        return exit_code
    except (OSError, SystemExit):
        # The output is no longer read. On a broken pipe, rich raises SystemExit(1), but 1 would mean "refused".
        _discard_output()
        return 2
    except Exception as error:  # the failure could not be reported, because the installation is broken
        print(f"{PROGRAM}: {type(error).__name__}: {error!a}", file=sys.stderr)
        return 2


def run() -> None:
    """Run the command of this process and exit; the console script."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the command has begun, or after its end
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        sys.exit(130)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["audit"] and not _NO_WORKERS.intersection(arguments):
        with contextlib.suppress(StoreError):  # reported when a worker is needed
            forks.begin("ben_secure.audit.run._worker")  # starts while this process imports its modules
    # Imported here, because loading click and rich takes longer than running most commands.
    from click.exceptions import Exit
    from click.shell_completion import shell_complete

    from ben_secure.cli._app import app

    if instruction := os.environ.get(_COMPLETE):
        return 2 * shell_complete(app, {}, PROGRAM, _COMPLETE, instruction)
    try:
        # Not app.main(), which has other exit codes for interrupts and broken pipes. click empties the list it gets.
        with app.make_context(PROGRAM, arguments[:] or ["--help"]) as context:
            return int(app.invoke(context))
    except Exit as stop:  # --help, --version
        return stop.exit_code if arguments else 2


def _fail(arguments: list[str], error: BaseException) -> int:
    try:
        from ben_secure.cli._common import fail
    except (ImportError, OSError):
        if isinstance(error, OSError):  # no descriptor is left, so no module can be imported
            print(f"{PROGRAM}: {error!a}", file=sys.stderr)
            return 2
        if not isinstance(error, KeyboardInterrupt):
            raise
        # Interrupted during the import of a library, which cannot be imported again in the same process.
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return fail(arguments, error)


def _discard_output() -> None:
    """Redirect stdout and stderr to the null device, so that Python's flush at exit cannot change the exit code."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no descriptor is left
        sys.stdout = sys.stderr = None
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)
