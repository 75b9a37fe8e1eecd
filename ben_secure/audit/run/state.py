"""What was judged, in a file: by one shard of an audit, or by an audit that was interrupted.

Holds no secret: keys are named by their fingerprints. It is written whole or not at all, for its owner only, and read
only if nobody else can have changed it, for whoever writes it decides what counts as judged. It is refused if the
database or the way of judging has changed since (T12, T20).
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
from ben_secure._system.files import Kind, check_free, write_file
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run._wire import list_of, members_of, number_of
from ben_secure.audit.run.parts import Part, read_parts, write_parts
from ben_secure.audit.run.ranges import RangeTask
from ben_secure.errors import StoreError, printable

SCHEMA = 2
MAX_SHARDS = 100_000
_MAX_BYTES = 2**27
_EVERY_S = 5.0


class Known(Protocol):
    """What was judged before, here or elsewhere."""

    def known(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """Give it for one database: ranges from the first key on, each beginning where the one before ends.

        Args:
            whole: All of the database, in the state in which it is now.
            options: From ``describe``.

        Raises:
            StoreError: It is of another state of the database or was judged otherwise, or makes no sense; or the rest
                cannot be judged.
        """


def describe(options: Options, judge: Judge, sample: int | None) -> dict[str, object]:
    """Tell how values are judged, as plain data without secrets: equal exactly if the results mean the same.

    Args:
        options: The options.
        judge: Made of them; knows the manifest.
        sample: How many values are looked at, or None for all.
    """
    verification = options.verification
    asked = verification and {
        "mac_keys": sorted(key.fingerprint for key in verification.mac_keys or ()),
        "context": verification.context,
        "verify_keys": sorted(key.fingerprint for key in verification.verify_keys),
        "threshold": verification.threshold,
    }
    return {
        "verification": asked,
        "manifest_sha256": judge.manifest_sha256,
        "since_manifest": options.since_manifest,
        "classes": [f"{cls.__module__}.{cls.__qualname__}" for cls in options.classes],
        "limits": dataclasses.asdict(options.limits),
        "opinions": options.opinions,
        "sample": sample,
    }


class PartFile:
    """What is in one file: parts of several databases.

    Attributes:
        path: The file.
        shard: Number of the shard, from 1 on, and how many there are.
        asked: What the caller wanted to be audited, as it was named.
    """

    def __init__(self, path: str | os.PathLike[str], shard: tuple[int, int], asked: Sequence[str]) -> None:
        self.path = os.path.abspath(path)
        self.shard = shard
        self.asked = list(asked)
        self._databases: dict[str, dict[str, object]] = {}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PartFile | None:
        """Read a file that only this user (or root) can have written.

        Returns:
            The file; None if there is none.

        Raises:
            StoreError: It is something else, of another version, or others can have changed it.
        """
        content = _read(os.path.abspath(path))
        if content is None:
            return None
        try:
            members = members_of(json.loads(content), {"schema", "tool", "shard", "asked", "databases"})
            if (members["schema"], members["tool"]) != (SCHEMA, _tool()):
                raise StoreError(
                    f"the audit of {printable(os.fspath(path), 400)} was begun by {printable(members['tool'])}, this "
                    f"is {_tool()}; finish it with that, or remove the file and begin again"
                )
            number, count = map(number_of, list_of(members["shard"]))
            check_shard(number, count)
            asked = [name for name in list_of(members["asked"]) if isinstance(name, str)]
            found = cls(path, (number, count), asked)
            databases = members["databases"]
            if not isinstance(databases, dict):
                raise ValueError("expected an object of databases")
            for name, section in databases.items():
                found._databases[name] = dict(members_of(section, {"identity", "options", "judged"}))
        except (ValueError, RecursionError) as error:
            raise malformed(path, error) from error
        return found

    @property
    def databases(self) -> list[str]:
        """Absolute paths of the databases that it is about."""
        return list(self._databases)

    def judged(self, whole: RangeTask, options: dict[str, object]) -> object | None:
        """What was judged of a database.

        Args:
            whole: All of it, in its state now.
            options: From ``describe``.

        Returns:
            The document, not yet believed; None if the database was not begun.

        Raises:
            StoreError: The database was changed since, or is to be judged otherwise.
        """
        section = self._databases.get(whole.path)
        if section is None:
            return None
        for name, now in (("identity", dataclasses.asdict(whole.identity)), ("options", options)):
            if section[name] != now:
                if name == "identity":
                    changed, remedy = "the database was changed since", "remove that file and judge the database again"
                else:
                    changed, remedy = "it was judged with other options", "give the same, or remove that file"
                raise StoreError(f"{changed}, says {printable(self.path, 400)}; {remedy}")
        return section["judged"]

    def put(self, whole: RangeTask, options: dict[str, object], judged: dict[str, object]) -> None:
        """Keep what was judged of a database; arguments as for ``judged``."""
        identity = dataclasses.asdict(whole.identity)
        self._databases[whole.path] = {"identity": identity, "options": options, "judged": judged}

    def write(self, *, overwrite: bool) -> None:
        """Write the file, whole or not at all.

        Raises:
            StoreError: It cannot be written; what was there is as it was.
        """
        members = {"shard": self.shard, "asked": self.asked, "databases": self._databases}
        document = {"schema": SCHEMA, "tool": _tool(), **members}
        write_file(self.path, json.dumps(document).encode(), overwrite=overwrite, kind=Kind.PRIVATE)


class StateFile:
    """What an audit writes down while it works; for one process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read what an earlier audit has left, if there is something.

        Args:
            path: The file; its folder must exist.

        Raises:
            StoreError: There is something that is not the state of such an audit, or that others can have changed; or
                there is nothing, and no file can be made.
        """
        self._written = time.monotonic()
        check_free(os.path.abspath(path), overwrite=True)
        collect(os.path.abspath(path))
        found = PartFile.read(path)
        if found is not None and found.shard != (1, 1):
            raise StoreError(f"{printable(found.path, 400)} is what a shard has found; merge it (--merge)")
        self._file = found or PartFile(path, (1, 1), ())
        folder = os.path.dirname(self._file.path)
        if found is None and not os.access(folder, os.W_OK | os.X_OK):  # to be known now and not after hours
            raise StoreError(
                f"cannot write {printable(self._file.path, 400)}: no file can be made in {printable(folder, 400)}; the "
                "folder must exist and be writable"
            )

    def known(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """As ``Known``."""
        document = self._file.judged(whole, options)
        if document is not None:
            try:
                yield from read_parts([whole], document, all_of_it=False)
            except ValueError as error:
                raise malformed(self._file.path, error) from error

    def keep(self, whole: RangeTask, options: dict[str, object], part: Part, *, now: bool = False) -> None:
        """Write down how far a database has come, if the last time is some seconds ago.

        Args:
            whole: All of it, in its state.
            options: From ``describe``.
            part: All of it that was judged.
            now: Write in any case.

        Raises:
            StoreError: The file cannot be written; it is as it was.
        """
        if now or time.monotonic() - self._written >= _EVERY_S:
            self._file.put(whole, options, write_parts([part]))
            self._file.write(overwrite=True)
            self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the audit is done."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file.path)


def check_shard(number: int, count: int) -> None:
    """Check that there can be such a shard.

    Raises:
        ValueError: There cannot.
    """
    if not 1 <= number <= count <= MAX_SHARDS:
        raise ValueError(f"shard {number}/{count}: expected one of 1/{count} to {count}/{count}")


def malformed(path: str | os.PathLike[str], error: Exception) -> StoreError:
    """Make the error about a file that is not what it should be."""
    return StoreError(
        f"{printable(os.fspath(path), 400)} is not the state of an audit ({printable(str(error))}); name another "
        "file, or remove it"
    )


def _tool() -> str:
    return f"ben_secure {ben_secure.__version__}"


def _read(path: str) -> bytes | None:
    """The content of a file that only this user (or root) can have written, None if there is none."""
    shown = printable(path, 400)
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer. On a regular file the flag means nothing.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise StoreError(
                    f"{shown} is not a regular file, so it is not the state of an audit; name another file"
                )
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
                raise StoreError(
                    f"{shown} can be changed by others (user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}), "
                    "who could make values count as judged; remove it and begin again"
                )
            with open(fd, "rb", closefd=False) as file:
                content = file.read(_MAX_BYTES + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"cannot read {shown}: {printable(str(error))}; check the path") from error
    if len(content) > _MAX_BYTES:
        raise StoreError(
            f"{shown} has more than {_MAX_BYTES} bytes, so it is not the state of an audit; check the path"
        )
    return content
