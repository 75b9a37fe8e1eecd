"""What runs in a worker process of an audit: judge ranges of keys until nobody asks any more, or die trying.

It is expendable: a value that kills it, or keeps it longer than it may, is found out by who started it (``workers``).
Takes tasks from the process that started it and from nobody else; hands back JSON. It must never write anywhere.
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

PLACE = struct.Struct("<Q")
"""How a worker announces the record that it is at."""
NOWHERE = 2**64 - 1
"""Announced as long as the worker has not come to a record."""
READY = b"ready"
NO_MEMORY = 77
"""Exit code of a worker that has not enough memory to judge a value."""

_OPENING = 10  # times as long as a value may take, for opening the database and its manifest


def main(connection_fd: int, place_fd: int) -> None:
    """Serve until the other side closes the connection.

    Args:
        connection_fd: Inherited descriptor of the connection.
        place_fd: Inherited descriptor of the file, 8 bytes long and mapped on both sides, in which the place is
            announced; it can be read when this process is dead.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, whatever it is at
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    place = mmap.mmap(place_fd, PLACE.size)
    connection: Connection[object, object] = Connection(connection_fd)
    with contextlib.suppress(EOFError, OSError):
        _serve(connection, place)
    os._exit(0)


def _serve(connection: Connection[object, object], place: mmap.mmap) -> None:
    judge, seconds, memory_bytes = connection.recv()  # type: ignore[misc]
    _limit_memory(memory_bytes)  # type: ignore[has-type]
    connection.send_bytes(READY)

    def announce(number: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[has-type]
        PLACE.pack_into(place, 0, number)

    while True:
        task = connection.recv()
        signal.setitimer(signal.ITIMER_REAL, seconds * _OPENING)  # type: ignore[has-type]
        try:
            answer = {"tally": tally_to_json(judge(task, announce))}  # type: ignore[has-type]
        except (MemoryError, ResourceError):
            os._exit(NO_MEMORY)  # there may be none to say more
        except BaseException as error:  # an error of our own: this process is not trusted any further
            connection.send_bytes(json.dumps({"failed": f"{type(error).__name__}: {printable(str(error))}"}).encode())
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(answer).encode())


def _limit_memory(more_bytes: int) -> None:
    """Let this process have only so much address space more than it has now, and leave no core file with secrets."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + more_bytes
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))
