"""Look at a database as a whole: its pages, the files beside it, and who can write them.

Never opens the database with liblmdb, never judges a value, never changes anything. ``lmdb.verify``, where lmdb 3 is
installed, runs in a process of its own with limits (``_verify_worker``), for a crafted file can make it work without
end (T5). What it says, and the names of files, are hostile text. Who can write is what one walk finds
(``_system.exposure``, T11).
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

from ben_secure._system.exposure import places
from ben_secure._system.optional import has_lmdb_verify
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
    found = [_damaged(name, started), _foreign_files(name)]
    return [*(finding for finding in found if finding is not None), *_exposed(name)]


# Pages.


def _damaged(path: str, started: Started) -> Finding | None:
    for _ in range(_ATTEMPTS):
        before = _facts(path)
        if before is None:
            return None
        message = _verify(path, before, started) if has_lmdb_verify() else _walk(path)
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


def _walk(path: str) -> str | None:
    """Check the pages as a reader does: what is wrong in one line, or None."""
    try:
        with PageReader(path) as reader:
            reader.check_pages()
    except StoreError as error:
        return error.message
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
    shown = _some([printable(name, 80) for name in foreign])
    return Finding(
        rule=Rule.FOREIGN_FILE,
        message=f"beside {DATA_FILE_NAME} lie files that LMDB and ben-secure do not make: {shown}; find out what they "
        "are for",
    )


# Who can write.


def _exposed(path: str) -> list[Finding]:
    """Whether somebody else can change the file, or put another in its place; by permissions, and as an owner."""
    try:
        on_the_way = list(places(data_file_path(path)))
    except OSError:  # what opens it says so
        return []
    found = []
    writable = [
        f"{printable(place.path, 200)} by {_writers(place.status)} (mode {stat.S_IMODE(place.status.st_mode):04o})"
        for place in reversed(on_the_way)
        if place.writable
    ]
    if writable:
        message = (
            f"can be written: {_some(writable)}; take write permission from group and others (chmod go-w), or sign"
        )
        found.append(Finding(rule=Rule.WRITABLE, message=f"{message} the database"))
    caller = os.geteuid()
    # Root reads what belongs to others all day; all should belong to one.
    trusted = {0, on_the_way[-1].status.st_uid if caller == 0 else caller}
    foreign = [
        f"{printable(place.path, 200)} to user {place.status.st_uid}"
        for place in reversed(on_the_way)
        if place.foreign(trusted)
    ]
    if foreign:
        message = (
            f"belongs to somebody else: {_some(foreign)}; make sure that you trust them, or verify tags or a manifest"
        )
        found.append(Finding(rule=Rule.OWNER, message=message))
    return found


def _writers(status: os.stat_result) -> str:
    return "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
