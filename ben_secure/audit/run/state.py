"""The state of an interrupted audit on disk: what was judged, of which state of which databases, and how.

Holds no secret: keys are named by their fingerprints. It is written whole or not at all, for its owner only, and read
only if nobody else can have changed it, for whoever writes it decides what counts as judged. It is refused if the
database or the way of judging has changed since, never patched up (T12).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import time
from dataclasses import dataclass

import ben_secure
from ben_secure._system.appear import collect
from ben_secure._system.files import Kind, check_free, write_file
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run._wire import bytes_of, members_of, number_of, tally_from_json, tally_to_json
from ben_secure.audit.run.ranges import Identity
from ben_secure.errors import StoreError, printable

SCHEMA = 1
_MAX_BYTES = 2**27
_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far the audit of one database has come.

    Attributes:
        tally: What was found in all ranges up to ``start``.
        start: Key at which to go on, None if nothing is left.
        position: Records before it.
    """

    tally: Tally
    start: bytes | None
    position: int


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


class StateFile:
    """What an audit writes down while it works; for one process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read what an earlier audit has left, if there is something.

        Args:
            path: The file; its folder must exist.

        Raises:
            StoreError: There is something that is no state of this version, or that others can have changed; or there
                is nothing, and no file can be made.
        """
        self.path = os.path.abspath(path)
        self._written = time.monotonic()
        self._databases: dict[str, dict[str, object]] = {}
        check_free(self.path, overwrite=True)
        collect(self.path)
        content = _read(self.path)
        if content is None:
            folder = os.path.dirname(self.path)
            if not os.access(folder, os.W_OK | os.X_OK):  # to be known now and not after hours
                raise _unwritable(self.path, f"no file can be made in {printable(folder, 400)}")
            return
        try:
            members = members_of(json.loads(content), {"schema", "tool", "databases"})
            if (members["schema"], members["tool"]) != (SCHEMA, _tool()):
                raise StoreError(
                    f"the audit of {self._shown()} was begun by {printable(members['tool'])}, this is {_tool()}; "
                    "finish it with that, or remove the file and begin anew"
                )
            databases = members["databases"]
            if not isinstance(databases, dict):
                raise ValueError("expected an object of databases")
            for name, section in databases.items():
                self._databases[name] = dict(members_of(section, {"identity", "options", "start", "position", "tally"}))
        except (ValueError, RecursionError) as error:
            raise self._malformed(error) from error

    def done(self, database: str, identity: Identity, options: dict[str, object]) -> Done | None:
        """What was done of a database before.

        Args:
            database: Its absolute path.
            identity: Its state now.
            options: From ``describe``.

        Returns:
            How far it has come, or None if it was not begun.

        Raises:
            StoreError: The database was changed since, or is to be judged otherwise, or the state makes no sense.
        """
        section = self._databases.get(database)
        if section is None:
            return None
        for what, now in (("identity", dataclasses.asdict(identity)), ("options", options)):
            if section[what] != now:
                changed = "the database was changed" if what == "identity" else "the options are others"
                raise StoreError(
                    f"{changed} since the audit of {self._shown()} was begun; remove that file and begin anew"
                )
        try:
            start = section["start"]
            found = Done(
                tally=tally_from_json(section["tally"]),
                start=None if start is None else bytes_of(start),
                position=number_of(section["position"]),
            )
            if found.tally.done > found.position:
                raise ValueError("its counts contradict each other")
        except ValueError as error:
            raise self._malformed(error) from error
        return found

    def keep(
        self, database: str, identity: Identity, options: dict[str, object], done: Done, *, now: bool = False
    ) -> None:
        """Write down how far a database has come, if the last time is some seconds ago.

        Args:
            database: Its absolute path.
            identity: Its state.
            options: From ``describe``.
            done: How far.
            now: Write in any case.

        Raises:
            StoreError: The file cannot be written; it is as it was.
        """
        if not now and time.monotonic() - self._written < _EVERY_S:
            return
        self._databases[database] = {
            "identity": dataclasses.asdict(identity),
            "options": options,
            "start": None if done.start is None else done.start.hex(),
            "position": done.position,
            "tally": tally_to_json(done.tally),
        }
        document = {"schema": SCHEMA, "tool": _tool(), "databases": self._databases}
        write_file(self.path, json.dumps(document).encode(), overwrite=True, kind=Kind.PRIVATE)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the audit is done."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _shown(self) -> str:
        return printable(self.path, 400)

    def _malformed(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._shown()} is not the state of an audit ({printable(str(error))}); name another file, or remove it"
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
                    "who could make values count as judged; remove it and begin anew"
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


def _unwritable(path: str, reason: str) -> StoreError:
    return StoreError(f"cannot write {printable(path, 400)}: {reason}; the folder must exist and be writable")
