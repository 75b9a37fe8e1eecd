"""Start worker processes that Ctrl-C cannot reach before they can ignore it.

A terminal sends SIGINT to all processes of a job. A spawned worker needs a second for its imports, and would print a
traceback until then. A blocked signal is not lost: it arrives when the block ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Block SIGINT in this thread during the block. Processes that are spawned in it inherit this permanently."""
    from multiprocessing import resource_tracker  # here, because commands without workers do not need it

    # Starting the first spawned process starts the tracker before it, which unblocks SIGINT.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deferred() -> Iterator[None]:
    """Defer an interruption of the main thread until the block ends, so that the work of the block is complete."""
    if threading.current_thread() is not threading.main_thread():  # only the main one has interrupts and sets handlers
        yield
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)
