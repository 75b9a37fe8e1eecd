"""The program of a worker process of an audit. It judges ranges of keys until the connection closes.

A worker is expendable: if a value kills it or takes too long, the process that started it finds out (``workers``).
It accepts tasks only from that process and answers in JSON. It must never write to disk.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from ben_secure.audit.findings import Tally
from ben_secure.audit.run._wire import tally_to_json
from ben_secure.audit.run.ranges import RangeTask
from ben_secure.errors import ResourceError, printable

Announce = Callable[[int], None]
JudgeFunction = Callable[[RangeTask, Announce], Tally]

RECORD_NUMBER = struct.Struct("<Q")
"""Format of the shared memory in which a worker announces the index of the record that it judges."""
NOT_STARTED = 2**64 - 1
"""Announced until the worker reaches a record."""
READY = b"ready"
NO_MEMORY = 77
"""Exit code of a worker that does not have enough memory to judge a value."""

_OPENING = 10  # opening the database and its manifest may take this many times as long as a value


def main(connection_fd: int, number_fd: int) -> None:
    """Serve until the other side closes the connection.

    Args:
        connection_fd: Inherited descriptor of the connection.
        number_fd: Inherited descriptor of the file in which the record number is announced; 8 bytes, mapped on both
            sides, readable after this process has died.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action ends the process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    announced = mmap.mmap(number_fd, RECORD_NUMBER.size)
    connection: Connection[object, object] = Connection(connection_fd)
    with contextlib.suppress(EOFError, OSError):
        _serve(connection, announced)
    os._exit(0)


def _serve(connection: Connection[object, object], announced: mmap.mmap) -> None:
    judge, seconds, memory_bytes = connection.recv()  # type: ignore[misc]
    _limit_memory(memory_bytes)  # type: ignore[has-type]
    connection.send_bytes(READY)

    def announce(number: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[has-type]
        RECORD_NUMBER.pack_into(announced, 0, number)

    while True:
        task = connection.recv()
        signal.setitimer(signal.ITIMER_REAL, seconds * _OPENING)  # type: ignore[has-type]
        try:
            answer = {"tally": tally_to_json(judge(task, announce))}  # type: ignore[has-type]
        except (MemoryError, ResourceError):
            os._exit(NO_MEMORY)  # there may not be enough memory for a message
        except BaseException as error:  # an internal error: a new process continues
            connection.send_bytes(json.dumps({"failed": f"{type(error).__name__}: {printable(str(error))}"}).encode())
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(answer).encode())


def _limit_memory(more_bytes: int) -> None:
    """Limit the address space of this process to its current size and ``more_bytes``, and disable core files.

    A core file could contain keys.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + more_bytes
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))
