"""Files with results: of one shard of an audit, or of an audit that can be resumed.

A file contains no secrets: keys are named by their fingerprints. It is written atomically with mode 0600. It is read
only if no other user could have changed it, because its content decides which values count as judged. It is refused if
the database or the way of judging has changed since (T12, T20).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import ben_secure
from ben_secure._system.appear import collect
from ben_secure._system.files import Access, check_free, write_file
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run._wire import list_of, members_of, number_of
from ben_secure.audit.run.partial_results import PartialResult, results_from_json, results_to_json
from ben_secure.audit.run.ranges import RangeTask
from ben_secure.errors import StoreError, printable

SCHEMA = 2
MAX_SHARDS = 100_000
_MAX_BYTES = 2**27
_EVERY_S = 5.0


class PriorResults(Protocol):
    """Results of an earlier audit, or of shards."""

    def results_for(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """Yield the results on one database: consecutive ranges from the first key on, with their tallies.

        Args:
            whole: The range of all records, with the current state of the database.
            options: From ``describe``.

        Raises:
            StoreError: The results are for another state of the database or another way of judging, are malformed, or
                give a reason why the rest could not be judged.
        """


def describe(options: Options, judge: Judge, sample: int | None) -> dict[str, object]:
    """Describe the way of judging as plain data without secrets. Descriptions are equal if results can be combined.

    Args:
        options: The options.
        judge: A judge with these options, which knows the manifest.
        sample: Number of values in the sample, or None for all.
    """
    verification = options.verification
    checks = verification and {
        "mac_keys": sorted(key.fingerprint for key in verification.mac_keys or ()),
        "context": verification.context,
        "verify_keys": sorted(key.fingerprint for key in verification.verify_keys),
        "threshold": verification.threshold,
    }
    return {
        "verification": checks,
        "manifest_sha256": judge.manifest_sha256,
        "since_manifest": options.since_manifest,
        "classes": [f"{cls.__module__}.{cls.__qualname__}" for cls in options.classes],
        "limits": dataclasses.asdict(options.limits),
        "opinions": options.opinions,
        "sample": sample,
    }


class ResultFile:
    """The content of one file: results on parts of one or more databases.

    Attributes:
        path: The file.
        shard: Number of the shard, starting at 1, and number of shards.
        requested: Paths that the caller asked to audit.
    """

    def __init__(self, path: str | os.PathLike[str], shard: tuple[int, int], requested: Sequence[str]) -> None:
        self.path = os.path.abspath(path)
        self.shard = shard
        self.requested = list(requested)
        self._databases: dict[str, dict[str, object]] = {}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ResultFile | None:
        """Read a file that only this user or root can write.

        Returns:
            The content, or None if the file does not exist.

        Raises:
            StoreError: The file is malformed, from another version, or could have been changed by others.
        """
        content = _read(os.path.abspath(path))
        if content is None:
            return None
        try:
            members = members_of(json.loads(content), {"schema", "tool", "shard", "asked", "databases"})
            if (members["schema"], members["tool"]) != (SCHEMA, _tool()):
                raise StoreError(
                    f"{printable(os.fspath(path), 400)} is in format {printable(members['schema'])} of "
                    f"{printable(members['tool'])}, expected format {SCHEMA} of {_tool()}; finish the audit with that "
                    "version, or delete the file to start over"
                )
            number, count = map(number_of, list_of(members["shard"]))
            check_shard(number, count)
            requested = [name for name in list_of(members["asked"]) if isinstance(name, str)]
            file = cls(path, (number, count), requested)
            databases = members["databases"]
            if not isinstance(databases, dict):
                raise ValueError("expected an object of databases")
            for name, section in databases.items():
                file._databases[name] = dict(members_of(section, {"identity", "options", "judged"}))
        except (ValueError, RecursionError) as error:
            raise malformed(path, error) from error
        return file

    @property
    def databases(self) -> list[str]:
        """Absolute paths of the databases in the file."""
        return list(self._databases)

    def judged(self, whole: RangeTask, options: dict[str, object]) -> object | None:
        """Return the results on a database.

        Args:
            whole: The range of all records, with the current state of the database.
            options: From ``describe``.

        Returns:
            The untrusted document, or None if the file has no results on the database.

        Raises:
            StoreError: The database has changed since, or the way of judging differs.
        """
        section = self._databases.get(whole.path)
        if section is None:
            return None
        for name, now in (("identity", dataclasses.asdict(whole.identity)), ("options", options)):
            if section[name] != now:
                path = printable(self.path, 400)
                if name == "identity":
                    raise StoreError(f"the database changed after {path} was written; delete that file to start over")
                raise StoreError(
                    f"{path} was written with other options; give the same options, or delete that file to start over"
                )
        return section["judged"]

    def put(self, whole: RangeTask, options: dict[str, object], judged: dict[str, object]) -> None:
        """Set the results on a database. Arguments as for ``judged``."""
        identity = dataclasses.asdict(whole.identity)
        self._databases[whole.path] = {"identity": identity, "options": options, "judged": judged}

    def write(self, *, overwrite: bool) -> None:
        """Write the file atomically.

        Raises:
            StoreError: The file cannot be written. An existing file has not changed.
        """
        members = {"shard": self.shard, "asked": self.requested, "databases": self._databases}
        document = {"schema": SCHEMA, "tool": _tool(), **members}
        write_file(self.path, json.dumps(document).encode(), overwrite=overwrite, access=Access.PRIVATE)


class StateFile:
    """The state of an audit, saved from time to time so that the audit can be resumed. For one process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the state of an earlier audit if the file exists.

        Args:
            path: The file. Its folder must exist.

        Raises:
            StoreError: The file is not a state file or could have been changed by others, or it does not exist and
                cannot be created.
        """
        self._written = time.monotonic()
        check_free(os.path.abspath(path), overwrite=True)
        collect(os.path.abspath(path))
        file = ResultFile.read(path)
        if file is not None and file.shard != (1, 1):
            raise StoreError(
                f"{printable(file.path, 400)} is the result of a shard, expected the state of an audit; merge it "
                "(--merge)"
            )
        self._file = file or ResultFile(path, (1, 1), ())
        folder = os.path.dirname(self._file.path)
        if file is None and not os.access(folder, os.W_OK | os.X_OK):  # reported now instead of after hours of work
            raise StoreError(
                f"cannot write {printable(self._file.path, 400)}: its folder must exist and be writable; name another "
                "file"
            )

    def results_for(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """As ``PriorResults``."""
        document = self._file.judged(whole, options)
        if document is not None:
            try:
                yield from results_from_json([whole], document, complete=False)
            except ValueError as error:
                raise malformed(self._file.path, error) from error

    def keep(self, whole: RangeTask, options: dict[str, object], result: PartialResult, *, now: bool = False) -> None:
        """Save the result on a database, unless the file was written less than ``_EVERY_S`` ago.

        Args:
            whole: The range of all records, with the state of the database.
            options: From ``describe``.
            result: Result so far.
            now: Whether to save in any case.

        Raises:
            StoreError: The file cannot be written. An existing file has not changed.
        """
        if now or time.monotonic() - self._written >= _EVERY_S:
            self._file.put(whole, options, results_to_json([result]))
            self._file.write(overwrite=True)
            self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file after the audit has finished."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file.path)


def check_shard(number: int, count: int) -> None:
    """Check the number of a shard.

    Args:
        number: Number of the shard.
        count: Number of shards.

    Raises:
        ValueError: ``number`` is not between 1 and ``count``, or there are more than ``MAX_SHARDS``.
    """
    if not 1 <= number <= count <= MAX_SHARDS:
        raise ValueError(f"shard {number}/{count}: expected one of 1/{count} to {count}/{count}")


def malformed(path: str | os.PathLike[str], error: Exception) -> StoreError:
    """Make the error about a malformed file."""
    return StoreError(
        f"{printable(os.fspath(path), 400)} is not the state of an audit ({printable(str(error))}); name another "
        "file, or delete this one"
    )


def _tool() -> str:
    return f"ben_secure {ben_secure.__version__}"


def _read(path: str) -> bytes | None:
    """Read a file that only this user or root can write. Return None if it does not exist."""
    name = printable(path, 400)
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer. The flag has no effect on a regular file.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{name} is not a regular file, so it is not the state of an audit; name another file")
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise StoreError(
                    f"{name} can be changed by others (user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}), "
                    "who could make values count as judged; delete it to start over"
                )
            with open(fd, "rb", closefd=False) as file:
                content = file.read(min(status.st_size, _MAX_BYTES + 1))
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"cannot read {name}: {printable(str(error))}; check the path") from error
    if len(content) > _MAX_BYTES:
        raise StoreError(f"{name} has more than {_MAX_BYTES} bytes, so it is not the state of an audit; check the path")
    return content
