"""A patch class for tests of lost workers: where it is imported, one LMDB key takes the process along, one its memory.

``classes=`` makes the processes that judge import it; the process of the tests judges nothing itself.
"""

import os
import resource
import signal

from ben_secure.audit.judge.scan import Judge
from ben_secure.patches import BigEarthNetPatch

KILLER = b"killer"
HUNGRY = b"hungry"

_count = Judge.count


def _losing_count(self, tally, position, lmdb_key, value):
    if lmdb_key == KILLER:
        os.kill(os.getpid(), signal.SIGSEGV)
    if lmdb_key == HUNGRY:
        with open("/proc/self/statm", "rb") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return _count(self, tally, position, lmdb_key, value)


class LosingPatch(BigEarthNetPatch):
    """Declared by the test; no value is one."""


if os.environ.get("BEN_SECURE_TEST_LOSES"):
    Judge.count = _losing_count
