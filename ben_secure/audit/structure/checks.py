"""Look at a database as a whole: its pages, the files beside it, and who can write them.

Never opens the database with liblmdb, never judges a value, never changes anything. The page reader accounts for every
page (T5), which alone decides. Where a py-lmdb with ``lmdb.verify`` is installed, that gives a second opinion, in a
process of its own with limits (``_verify_worker``). What it says, and the names of files, are hostile text. Who can
write is what one walk finds (``_system.exposure``, T11).
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

from ben_secure._system.exposure import steps_to
from ben_secure.audit.findings import Finding
from ben_secure.errors import BenSecureError, Rule, printable
from ben_secure.pages.data_file import DATA_FILE_NAME, DataFile, data_file_path
from ben_secure.pages.reader import PageReader

_WORKER = str(pathlib.Path(__file__).with_name("_verify_worker.py"))
# Measured on honest files: 0.3 s for 2.8 GB (680,000 pages, 10,000 records), 3 us for a record in a leaf, 2 bytes a
# page. A database of 100 GB has 25 million pages and 600,000 records.
_CPU_SECONDS, _CPU_SECONDS_A_PAGE, _CPU_SECONDS_A_RECORD, _MAX_CPU_SECONDS = 10, 2e-6, 2e-5, 240
_MEMORY_BYTES, _MEMORY_BYTES_A_PAGE, _MAX_MEMORY_BYTES = 2**28, 8, 2**33

_OWN_FILE = re.compile(r"data\.mdb|lock\.mdb|.*\.manifest|.*\.manifest\.dsse\.json|\..*\.ben-secure-writing")
_MAX_LISTED = 10_000
_SHOWN = 5


class StructureCheck:
    """What is to be said of a database as a whole, found while its values are judged; to be closed.

    Args:
        path: The database.
        judged: It, as it was opened for its values, so that another file in its place is not taken for it.
    """

    def __init__(self, path: str, judged: PageReader) -> None:
        self._second: SecondOpinion | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ben-secure-structure")
        self._began = time.monotonic()
        self._future = self._thread.submit(self._find, path, judged)

    def _find(self, path: str, judged: PageReader) -> list[Finding]:
        found = structure_findings(path, judged)
        if not any(finding.rule is Rule.DAMAGED for finding in found):
            self._second = SecondOpinion(path)
        return found

    def findings(self) -> list[Finding]:
        """Wait for what was found, and for the second opinion as long as all has taken so far.

        Raises:
            StoreError: As ``structure_findings``.
        """
        found = self._future.result()
        finding = None if self._second is None else self._second.finding(time.monotonic() - self._began)
        return found if finding is None else [*found, finding]

    def close(self) -> None:
        """End it, whatever it is at."""
        self._thread.shutdown()
        if self._second is not None:
            self._second.close()


def structure_findings(path: str | os.PathLike[str], judged: PageReader | None = None) -> list[Finding]:
    """Find what is wrong with a database apart from its values.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself.
        judged: It, opened; None to open it.

    Returns:
        At most one finding of each of ``database-damaged``, ``foreign-file``, ``writable-by-others`` and
        ``foreign-owner``, in this order. A database that ``PageReader`` cannot open has no finding of its pages: the
        reader says what it is.

    Raises:
        StoreError: Somebody writes to the database all the time.
    """
    name = os.fspath(path)
    if "\0" in name:  # no file has such a name
        return []
    found = [_damaged(name) if judged is None else _page_finding(judged), _foreign_files(name)]
    return [*(finding for finding in found if finding is not None), *_exposed(name)]


# Pages.


def _damaged(path: str) -> Finding | None:
    try:
        pages = PageReader(path)
    except BenSecureError:  # what opens it for its values says so
        return None
    with pages:
        return _page_finding(pages)


def _page_finding(pages: PageReader) -> Finding | None:
    fault = pages.page_fault()
    return None if fault is None else Finding(rule=Rule.DAMAGED, message=fault)


class SecondOpinion:
    """``lmdb.verify`` in a process of its own; to be closed. Whatever ends it early, or its absence, is no opinion.

    Args:
        path: A database that ``PageReader`` can read.
    """

    def __init__(self, path: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError, BenSecureError), PageReader(path) as reader, closing(DataFile(path)) as file:
            facts = reader.facts
            needed = _CPU_SECONDS + _CPU_SECONDS_A_PAGE * facts.last_page + _CPU_SECONDS_A_RECORD * facts.entries
            memory = min(_MEMORY_BYTES + _MEMORY_BYTES_A_PAGE * facts.last_page, _MAX_MEMORY_BYTES)
            limits = [str(int(min(needed, _MAX_CPU_SECONDS))), str(memory)]
            # Isolated: neither the working directory nor variables decide what is imported, only what this process uses
            command = [sys.executable, "-I", "-S", "-W", "ignore", _WORKER, str(file.descriptor), *limits]
            self._process = subprocess.Popen(
                [*command, *filter(None, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[file.descriptor],
                start_new_session=True,  # Ctrl-C ends the audit, which ends this
            )

    def finding(self, patience_s: float) -> Finding | None:
        """Wait so many seconds for what it finds.

        Returns:
            A finding of level warning if it finds a fault; None if not, or if it has no opinion by then.
        """
        if self._process is None:
            return None
        try:
            answer, _ = self._process.communicate(timeout=patience_s)
            result = json.loads(answer)
        except (subprocess.TimeoutExpired, ValueError):
            return None
        if not result["faults"]:
            return None
        shown = "; ".join(printable(fault, 200) for fault in result["first"])
        more = (
            f"; and {result['faults'] - len(result['first'])} more" if result["faults"] > len(result["first"]) else ""
        )
        return Finding(
            rule=Rule.OPINION,
            message=f"every page of the database is accounted for, but lmdb.verify finds fault with it: {shown}{more}",
        )

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


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
        on_the_way = list(steps_to(data_file_path(path)))
    except OSError:  # what opens it says so
        return []
    found = []
    writable = [
        f"{printable(step.path, 200)} by {_writers(step.status)} (mode {stat.S_IMODE(step.status.st_mode):04o})"
        for step in reversed(on_the_way)
        if step.writable
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
        f"{printable(step.path, 200)} to user {step.status.st_uid}"
        for step in reversed(on_the_way)
        if step.foreign(trusted)
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
