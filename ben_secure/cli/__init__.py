"""The command line: parses arguments, runs one command, and always ends with one of four exit codes.

0: everything was checked and is good. 1: something was refused. 2: it could not be decided (a usage error, a missing
or damaged database, nothing to check, a broken pipe, an error of our own). 130: interrupted. Python ends with 1 on a
stray exception, and so do the libraries used here on a broken pipe, so ``main`` lets nothing through.
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
        argv: Arguments without the program's name; None for those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(AttributeError):  # None if the caller closed it, or a stream of the caller's own
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # for any encoding, any text
    try:
        return _told(arguments)
    finally:
        forks.end_begun()


def _told(arguments: list[str]) -> int:
    """Run one command and say why it fails, if it does."""
    try:
        try:
            exit_code = _run(arguments)
            if sys.stdout is not None:  # it is None if the caller closed it
                sys.stdout.flush()
        except (BrokenPipeError, SystemExit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            exit_code = _fail(arguments, error)
            sys.stdout.flush()
        return exit_code
    except (OSError, SystemExit):
        # Nobody reads the output. (rich leaves a broken pipe with SystemExit(1), which would say "refused".)
        _discard_output()
        return 2
    except Exception as error:  # not even the failure could be told: a broken installation
        print(f"{PROGRAM}: {type(error).__name__}: {error!a}", file=sys.stderr)
        return 2


def run() -> None:
    """Run the command of this process and exit; the console script."""
    sys.exit(main())


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["audit"] and not _NO_WORKERS.intersection(arguments):
        with contextlib.suppress(StoreError):  # it is told when a worker is needed
            forks.begin("ben_secure.audit.run._worker")  # while this process imports what it needs
    # Imported here: click and rich take longer to load than most commands to run.
    from click.exceptions import Exit
    from click.shell_completion import shell_complete

    from ben_secure.cli._app import app

    if instruction := os.environ.get(_COMPLETE):
        return 2 * shell_complete(app, {}, PROGRAM, _COMPLETE, instruction)
    try:
        # Not app.main(), which has exit codes of its own for interrupts and broken pipes. The copy is emptied.
        with app.make_context(PROGRAM, arguments[:] or ["--help"]) as context:
            return int(app.invoke(context))
    except Exit as stop:  # --help, --version
        return stop.exit_code if arguments else 2


def _fail(arguments: list[str], error: BaseException) -> int:
    try:
        from ben_secure.cli._common import fail
    except (ImportError, OSError):
        if isinstance(error, OSError):  # no file can be opened, and so no module
            print(f"{PROGRAM}: {error!a}", file=sys.stderr)
            return 2
        if not isinstance(error, KeyboardInterrupt):
            raise
        # Interrupted while a library was loading, which cannot be loaded again in the same process.
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return fail(arguments, error)


def _discard_output() -> None:
    """Point stdout and stderr to nowhere, so that Python's flush at exit cannot fail and change the exit code."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no descriptor is left
        sys.stdout = sys.stderr = None
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
