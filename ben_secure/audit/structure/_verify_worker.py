"""Run ``lmdb.verify`` on one open data file, in a separate process with limits on time and memory.

``checks`` runs this script by its path in an isolated interpreter. It imports nothing from the package. The limits
are needed because ``lmdb.verify`` walks an overflow run again for each node that names it, so a few kilobytes of
crafted leaves make its running time quadratic in the size of the file.

    python -I -S _verify_worker.py DESCRIPTOR CPU_SECONDS MEMORY_BYTES [SYS_PATH...]

It prints ``{"faults": number, "first": [messages]}``. If it exceeds a limit, it dies.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
from typing import Any

_SHOWN = 5
_MAX_MESSAGES = 50_000
_EXCESS = re.compile(r"(main|freeDB) DB: overflow page \d+ header mp_pages (\d+) != OVPAGES\(\d+\)=(\d+)")
_COUNT = re.compile(r"(main|freeDB) DB: walked (\d+) overflow pages, record says (\d+)")
_LEAK = re.compile(r"(\d+) page\(s\) are neither reachable nor in the freeDB -- a leak \(first: page \d+\)")


def unexplained(messages: list[str]) -> list[str]:
    """Remove the messages that a value causes if the transaction that wrote it also made it smaller.

    LMDB keeps all pages of such a value: the header of its first overflow page counts more than the value needs, the
    record of the database counts them too, and no other page refers to the surplus ones (``mdb_cursor_put`` in mdb.c,
    "don't bother to try shrinking the page"). ``lmdb.verify`` reports each of the three. They are harmless if the
    three sums agree.

    Args:
        messages: Messages of ``lmdb.verify``.

    Returns:
        The messages that are faults. All of them if the sums do not agree.
    """
    excess = {"main": 0, "freeDB": 0}
    counted = {"main": 0, "freeDB": 0}
    leaked = 0
    rest = []
    for message in messages:
        if (match := _EXCESS.fullmatch(message)) and int(match[2]) > int(match[3]):
            excess[match[1]] += int(match[2]) - int(match[3])
        elif match := _COUNT.fullmatch(message):
            counted[match[1]] += int(match[3]) - int(match[2])
        elif match := _LEAK.fullmatch(message):
            leaked += int(match[1])
        else:
            rest.append(message)
    return rest if excess == counted and leaked == sum(excess.values()) else messages


def _limit(kind: int, most: int) -> None:
    """Lower a limit of this process, unless it is already lower."""
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or most < hard:
        with contextlib.suppress(OSError, ValueError):  # macOS cannot limit memory
            resource.setrlimit(kind, (most, hard))  # at the soft limit the signal names the reason, SIGXCPU


def main(descriptor: str, cpu_seconds: str, memory_bytes: str, *search_path: str) -> None:
    """Verify the file behind a descriptor and print the faults."""
    _limit(resource.RLIMIT_CPU, int(cpu_seconds))
    _limit(resource.RLIMIT_AS, int(memory_bytes))
    _limit(resource.RLIMIT_CORE, 0)
    sys.path[:] = search_path
    import lmdb.verify

    # By default it stops after 200 messages, which is too few to compare the sums.
    verify: Any = lmdb.verify  # has no types
    if hasattr(verify, "_Verifier"):
        verify._Verifier.MAX_ERRORS = _MAX_MESSAGES
    try:
        faults = unexplained(verify.verify(f"/dev/fd/{descriptor}", subdir=False))
    except (verify.VerifyError, RecursionError) as error:
        faults = [str(error)]
    print(json.dumps({"faults": len(faults), "first": [fault[:200] for fault in faults[:_SHOWN]]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
