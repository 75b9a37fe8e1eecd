"""Run ``lmdb.verify`` over one open data file, in a process of its own with limits on time and memory.

A script for ``checks``, run by its path in an isolated interpreter; it imports nothing of the package. The limits
are there because ``lmdb.verify`` walks an overflow run again for each node that names it: some kilobytes of crafted
leaves keep it busy for as long as the file is long, squared.

    python -I -S _verify_worker.py DESCRIPTOR CPU_SECONDS MEMORY_BYTES [SYS_PATH...]

Prints ``{"faults": number, "first": [messages]}``; dies if it needs more than it may.
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
    """Leave out what is honest: values that were made smaller in the transaction that wrote them.

    LMDB keeps the pages of such a value: the header of its first overflow page counts more than the value needs, the
    record of the database counts them too, and no other page refers to them (``mdb_cursor_put`` in mdb.c, "don't
    bother to try shrinking the page"). ``lmdb.verify`` reports each of the three. They are honest if the three
    sums agree.

    Args:
        messages: What ``lmdb.verify`` reports.

    Returns:
        The messages that are faults; all of them if the sums do not agree.
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
    """Lower a limit of this process; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or most < hard:
        with contextlib.suppress(OSError, ValueError):  # macOS has no limit on memory
            resource.setrlimit(kind, (most, hard))  # the hard one would kill without saying of what


def main(descriptor: str, cpu_seconds: str, memory_bytes: str, *search_path: str) -> None:
    """Verify the file behind a descriptor and print what was found."""
    _limit(resource.RLIMIT_CPU, int(cpu_seconds))
    _limit(resource.RLIMIT_AS, int(memory_bytes))
    _limit(resource.RLIMIT_CORE, 0)
    sys.path[:] = search_path
    import lmdb.verify

    # It stops at 200 messages, too few to add up the honest ones.
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
