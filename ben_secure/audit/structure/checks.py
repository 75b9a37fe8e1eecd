"""Look at a database as a whole: its pages, the files beside it, and who can write them.

Never opens the database with liblmdb, never judges a value, never changes anything. ``lmdb.verify`` runs in a process
of its own with limits (``_verify_worker``), for a crafted file can make it work without end (T5). What it says, and
the names of files, are hostile text. Permissions are what ``stat`` shows: a POSIX ACL shows in the group bits, which
are its mask; NFSv4 ACLs, capabilities and what other hosts may do are not seen (T11).
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from ben_secure.audit.findings import Finding
from ben_secure.errors import BenSecureError, Rule, StoreError, printable
from ben_secure.pages.data_file import DATA_FILE_NAME, DataFile, data_file_path
from ben_secure.pages.reader import DatabaseFacts, PageReader

_WORKER = str(pathlib.Path(__file__).with_name("_verify_worker.py"))
_ATTEMPTS = 3
# Measured on honest files: 0.3 s for 2.8 GB (680,000 pages, 10,000 records), 3 us for a record in a leaf, 2 bytes a
# page. An archive of 100 GB has 25 million pages and 600,000 records.
_CPU_SECONDS, _CPU_SECONDS_A_PAGE, _CPU_SECONDS_A_RECORD, _MAX_CPU_SECONDS = 10, 2e-6, 2e-5, 240
_MEMORY_BYTES, _MEMORY_BYTES_A_PAGE, _MAX_MEMORY_BYTES = 2**28, 8, 2**33

_OWN_FILE = re.compile(r"data\.mdb|lock\.mdb|.*\.manifest|.*\.manifest\.dsse\.json|\..*\.ben-secure-writing")
_MAX_LISTED = 10_000
_SHOWN = 5
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


Started: TypeAlias = Callable[["subprocess.Popen[bytes]"], None]
"""Told of the process that checks the pages."""


class StructureCheck:
    """``structure_findings`` in a thread, while the values are judged; to be closed."""

    def __init__(self, path: str) -> None:
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ben-secure-structure")
        self._future = self._thread.submit(structure_findings, path, self._started)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self._closed:
            process.kill()

    def done(self) -> bool:
        """Whether ``findings`` would not wait."""
        return self._future.done()

    def findings(self) -> list[Finding]:
        """Wait for what was found; raises as ``structure_findings``."""
        return self._future.result()

    def close(self) -> None:
        """End it, whatever it is at."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown()


def structure_findings(path: str | os.PathLike[str], started: Started = lambda process: None) -> list[Finding]:
    """Find what is wrong with a database apart from its values.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself.
        started: Called with each process that checks the pages, so that it can be ended.

    Returns:
        At most one finding of each of ``database-damaged``, ``foreign-file``, ``writable-by-others`` and
        ``foreign-owner``, in this order. A database that ``PageReader`` cannot open has no finding of its pages: the
        reader says what it is.

    Raises:
        StoreError: The pages could not be checked: somebody writes to the database all the time, or no process can
            be started.
    """
    name = os.fspath(path)
    if "\0" in name:  # no file has such a name
        return []
    found = [_damaged(name, started), _foreign_files(name), _writable(name), _owner(name)]
    return [finding for finding in found if finding is not None]


# Pages.


def _damaged(path: str, started: Started) -> Finding | None:
    for _ in range(_ATTEMPTS):
        before = _facts(path)
        if before is None:
            return None
        message = _verify(path, before, started)
        if _facts(path) == before:
            return None if message is None else Finding(rule=Rule.DAMAGED, message=message)
    raise StoreError("the database was changed while its pages were checked; check it again when nobody writes")


def _facts(path: str) -> DatabaseFacts | None:
    """What the meta page says; None if the database cannot be read at all."""
    try:
        with PageReader(path) as reader:
            return reader.facts
    except BenSecureError:
        return None


def _verify(path: str, facts: DatabaseFacts, started: Started) -> str | None:
    """Run ``lmdb.verify``: what it finds in one line, or None."""
    pages = facts.last_page
    needed = _CPU_SECONDS + _CPU_SECONDS_A_PAGE * pages + _CPU_SECONDS_A_RECORD * facts.entries
    seconds = int(min(needed, _MAX_CPU_SECONDS))
    memory = min(_MEMORY_BYTES + _MEMORY_BYTES_A_PAGE * pages, _MAX_MEMORY_BYTES)
    file = DataFile(path)
    # Isolated: neither the working directory nor variables decide what is imported, only what this process uses.
    command = [sys.executable, "-I", "-S", "-W", "ignore", _WORKER, str(file.descriptor), str(seconds), str(memory)]
    search_path = [place for place in sys.path if place]
    try:
        with subprocess.Popen(
            [*command, *search_path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[file.descriptor],
        ) as process:
            started(process)
            said, complaint = process.communicate()
    except OSError as error:
        raise StoreError(f"cannot start a process to check the pages: {printable(str(error))}") from error
    finally:
        file.close()
    if process.returncode == 0:
        result = json.loads(said)
        return _summary(result["faults"], result["first"]) if result["faults"] else None
    exhausted = process.returncode == -signal.SIGXCPU or b"MemoryError" in complaint
    if exhausted and not _less_allowed(seconds, memory):
        return (
            f"the check of its {pages} pages did not end within {seconds} s of processor time and {memory >> 20} MB; "
            "no file of this size that LMDB has written needs as much; fetch this database again"
        )
    last = printable(complaint[-300:].decode("utf-8", "replace").strip().rpartition("\n")[2], 300)
    raise StoreError(f"cannot check the pages: the process that was to do it ended with {process.returncode}: {last}")


def _less_allowed(seconds: int, memory: int) -> bool:
    """Whether the user's own limits (``ulimit``) are below those of the check: then an honest file may break them."""
    limits = resource.getrlimit(resource.RLIMIT_CPU)[1], resource.getrlimit(resource.RLIMIT_AS)[1]
    return any(
        hard != resource.RLIM_INFINITY and hard < most for hard, most in zip(limits, (seconds, memory), strict=True)
    )


def _summary(faults: int, first: list[str]) -> str:
    shown = "; ".join(printable(fault, 200) for fault in first)
    more = f"; and {faults - len(first)} more" if faults > len(first) else ""
    return f"lmdb.verify finds {faults} fault{'s' * (faults > 1)}: {shown}{more}"


# Files beside it.


def _foreign_files(path: str) -> Finding | None:
    try:
        if not os.path.isdir(path) or not os.path.lexists(os.path.join(path, DATA_FILE_NAME)):
            return None
        with os.scandir(path) as entries:
            names = [entry.name for entry in itertools.islice(entries, _MAX_LISTED)]
    except OSError:
        return None
    foreign = sorted(name for name in names if not _OWN_FILE.fullmatch(name))
    if not foreign:
        return None
    shown = ", ".join(printable(name, 80) for name in foreign[:_SHOWN])
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    return Finding(
        rule=Rule.FOREIGN_FILE,
        message=f"beside {DATA_FILE_NAME} lie files that LMDB and ben-secure do not make: {shown}{more}; find out "
        "what they are for",
    )


# Who can write.


def _places(path: str) -> list[str]:
    """The data file, its folder and the folders above, as they are named and as symbolic links resolve."""
    places: dict[str, None] = {}
    for file_path in (os.path.realpath(data_file_path(path)), os.path.abspath(data_file_path(path))):
        places.update(dict.fromkeys([file_path, *map(str, pathlib.PurePath(file_path).parents)]))
    return list(places)


def _stats(places: list[str]) -> list[tuple[str, os.stat_result]]:
    found: dict[tuple[int, int], tuple[str, os.stat_result]] = {}
    for place in places:
        try:
            facts = os.stat(place)
        except OSError:
            continue
        found.setdefault((facts.st_dev, facts.st_ino), (place, facts))
    return list(found.values())


def _writable(path: str) -> Finding | None:
    """Whether somebody but the owner can change the file, or put another in its place."""
    places = []
    for place, facts in _stats(_places(path)):
        mode = facts.st_mode
        # In a sticky folder only its owner and a file's own owner can rename or remove the file (unlink(2), EPERM).
        if not mode & _OTHERS_WRITE or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            continue
        who = "everybody" if mode & stat.S_IWOTH else f"group {facts.st_gid}"
        places.append(f"{printable(place, 200)} by {who} (mode {stat.S_IMODE(mode):04o})")
    if not places:
        return None
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return Finding(
        rule=Rule.WRITABLE,
        message=f"can be written: {', '.join(places[:_SHOWN])}{more}; take write permission from group and others "
        "(chmod go-w), or sign the database",
    )


def _owner(path: str) -> Finding | None:
    """Whether the file or its folder belongs to somebody else than the caller and root."""
    file_path = os.path.realpath(data_file_path(path))
    found = _stats([file_path, os.path.dirname(file_path)])
    caller = os.geteuid()
    if caller == 0:  # root reads what belongs to others all day; the two should belong to one
        odd = found if len({facts.st_uid for _, facts in found}) > 1 else []
    else:
        odd = [(place, facts) for place, facts in found if facts.st_uid not in (0, caller)]
    if not odd:
        return None
    places = ", ".join(f"{printable(place, 200)} to user {facts.st_uid}" for place, facts in odd)
    return Finding(
        rule=Rule.OWNER,
        message=f"belongs to somebody else: {places}; make sure that you trust them, or verify tags or a manifest",
    )
