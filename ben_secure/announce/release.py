"""The facts about a release that its descriptions need."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ben_secure.signing.manifest import ENVELOPE_SUFFIX, MANIFEST_SUFFIX
from ben_secure.signing.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a release.

    Attributes:
        path: Its path in the release.
        size_bytes: Its size.
        sha256: SHA-256 of its content, hexadecimal.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A signed and verified release.

    Attributes:
        statement: The signed statement.
        databases: File names of its databases.
        files: Its files, except those that describe the release.
        fingerprint: SHA-256 of the publisher's public key.
        public_key: That key, in PEM.
    """

    statement: Statement
    databases: tuple[str, ...]
    files: tuple[File, ...]
    fingerprint: str
    public_key: str

    @property
    def count(self) -> int:
        """Records of all databases."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Records by database."""
        subjects = {one.name: one.count for one in self.statement.subjects}
        return {name: subjects.get(name, self.statement.count) for name in self.databases}

    def command(self, database: str) -> str:
        """The command to verify a database, with the key in ``publisher.pub``."""
        statement = self.statement
        arguments = ["--verify-key", "publisher.pub", "--name", statement.name, "--version", statement.version]
        return shlex.join(["ben-secure", "verify", database, *arguments])


def files_of(database: str) -> tuple[str, ...]:
    """Paths of the files of one database in a release: data, manifest, envelope."""
    return f"{database}/data.mdb", database + MANIFEST_SUFFIX, database + MANIFEST_SUFFIX + ENVELOPE_SUFFIX
