"""Examine a database as a whole: its pages, the files beside it, and the users who can write to it.

This module never opens the database with liblmdb, never judges a value and never changes anything. The page reader
accounts for every page (T5), and only its result decides. If the installed py-lmdb has ``lmdb.verify``, that gives a
second opinion in a separate process with limits (``_verify_worker``). Its messages and the names of files are untrusted
text. ``_system.exposure`` finds the users who can write (T11).
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
# Measured on honest files: 0.3 s for 2.8 GB (680,000 pages, 10,000 records), 3 us per record in a leaf, 2 bytes of
# memory per page. A database of 100 GB has 25 million pages and 600,000 records.
_CPU_SECONDS, _CPU_SECONDS_A_PAGE, _CPU_SECONDS_A_RECORD, _MAX_CPU_SECONDS = 10, 2e-6, 2e-5, 240
_MEMORY_BYTES, _MEMORY_BYTES_A_PAGE, _MAX_MEMORY_BYTES = 2**28, 8, 2**31

_OWN_FILE = re.compile(r"data\.mdb|lock\.mdb|.*\.manifest|.*\.manifest\.dsse\.json|\..*\.ben-secure-writing")
_MAX_LISTED = 10_000
_SHOWN = 5


class StructureCheck:
    """Examines a database as a whole in a thread, while its values are judged. Must be closed.

    Args:
        path: The database.
        judged: The reader that the audit uses for the values, so that both examine the same file.
    """

    def __init__(self, path: str, judged: PageReader) -> None:
        self._second: SecondOpinion | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ben-secure-structure")
        self._began = time.monotonic()
        self._future = self._thread.submit(self._find, path, judged)

    def _find(self, path: str, judged: PageReader) -> list[Finding]:
        findings = structure_findings(path, judged)
        if not any(finding.rule is Rule.DAMAGED for finding in findings):
            self._second = SecondOpinion(path)
        return findings

    def findings(self) -> list[Finding]:
        """Wait for the findings. The second opinion gets at most as much more time as the audit has taken so far.

        Raises:
            StoreError: As ``structure_findings``.
        """
        findings = self._future.result()
        opinion = None if self._second is None else self._second.finding(time.monotonic() - self._began)
        return findings if opinion is None else [*findings, opinion]

    def close(self) -> None:
        """Wait for the thread and end the second opinion."""
        self._thread.shutdown()
        if self._second is not None:
            self._second.close()


def structure_findings(path: str | os.PathLike[str], judged: PageReader | None = None) -> list[Finding]:
    """Find problems with a database apart from its values.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself.
        judged: A reader of the database, or None to open one.

    Returns:
        At most one finding for each of ``database-damaged``, ``foreign-file``, ``writable-by-others`` and
        ``foreign-owner``, in this order. If ``PageReader`` cannot open the database, there is no finding on its pages,
        because the audit reports that error itself.

    Raises:
        StoreError: Another process keeps writing to the database.
    """
    name = os.fspath(path)
    if "\0" in name:  # no file has such a name
        return []
    findings = [_damaged(name) if judged is None else _page_finding(judged), _foreign_files(name)]
    return [*(finding for finding in findings if finding is not None), *_exposed(name)]


# Pages.


def _damaged(path: str) -> Finding | None:
    try:
        pages = PageReader(path)
    except BenSecureError:  # reported when the audit opens the database for its values
        return None
    with pages:
        return _page_finding(pages)


def _page_finding(pages: PageReader) -> Finding | None:
    fault = pages.page_fault()
    return None if fault is None else Finding(rule=Rule.DAMAGED, message=fault)


class SecondOpinion:
    """``lmdb.verify`` in a separate process. Must be closed.

    If ``lmdb.verify`` is not installed, or ends early for any reason, there is no second opinion.

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
            # Isolated, so that neither the working directory nor variables decide which modules are imported.
            command = [sys.executable, "-I", "-S", "-W", "ignore", _WORKER, str(file.descriptor), *limits]
            self._process = subprocess.Popen(
                [*command, *filter(None, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[file.descriptor],
                start_new_session=True,  # not reached by Ctrl-C: the audit ends it
            )

    def finding(self, patience_s: float) -> Finding | None:
        """Wait for the result.

        Args:
            patience_s: Maximum time to wait, seconds.

        Returns:
            A finding of level warning if ``lmdb.verify`` finds a fault. None if it finds none or has not finished.
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
        first = "; ".join(printable(fault, 200) for fault in result["first"])
        more = (
            f"; and {result['faults'] - len(result['first'])} more" if result["faults"] > len(result["first"]) else ""
        )
        return Finding(
            rule=Rule.OPINION,
            message=f"every page of the database is accounted for, but lmdb.verify reports faults: {first}{more}",
        )

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


# Files beside the data file.


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
    listed = _abridged([printable(name, 80) for name in foreign])
    return Finding(
        rule=Rule.FOREIGN_FILE,
        message=f"beside {DATA_FILE_NAME} lie files that LMDB and ben-secure do not make: {listed}; find out what they "
        "are for",
    )


# Users who can write.


def _exposed(path: str) -> list[Finding]:
    """Find other users who can change or replace the file, by its permissions or as an owner."""
    try:
        on_the_way = list(steps_to(data_file_path(path)))
    except OSError:  # reported when the audit opens the database for its values
        return []
    findings = []
    writable = [
        f"{printable(step.path, 200)} by {_writers(step.status)} (mode {stat.S_IMODE(step.status.st_mode):04o})"
        for step in reversed(on_the_way)
        if step.writable
    ]
    if writable:
        message = f"can be written: {_abridged(writable)}; remove write permission for group and others (chmod go-w)"
        findings.append(Finding(rule=Rule.WRITABLE, message=f"{message}, or sign the database"))
    caller = os.geteuid()
    # Root regularly reads files of other users, so for root all steps should have the same owner.
    trusted = {0, on_the_way[-1].status.st_uid if caller == 0 else caller}
    foreign = [
        f"{printable(step.path, 200)} to user {step.status.st_uid}"
        for step in reversed(on_the_way)
        if step.foreign(trusted)
    ]
    if foreign:
        message = (
            f"belongs to somebody else: {_abridged(foreign)}; make sure that you trust them, or verify tags or a "
            "manifest"
        )
        findings.append(Finding(rule=Rule.OWNER, message=message))
    return findings


def _writers(status: os.stat_result) -> str:
    return "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"


def _abridged(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
