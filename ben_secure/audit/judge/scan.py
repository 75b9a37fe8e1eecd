"""Judge one record of a database.

The law: a value has no finding of level error exactly if the loader returns a patch and a reader can name it.
Therefore this module calls the loader and has no rules of its own about values. Its remarks on a patch are warnings or
notes. It never keeps a patch. If the caller asks for tags or a manifest, they are checked before any byte is decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.judge import programs
from ben_secure.audit.judge.formats import REFUSED, written_by
from ben_secure.audit.judge.globals import with_global
from ben_secure.audit.judge.patch_names import key_remark
from ben_secure.audit.judge.remarks import metadata_remark
from ben_secure.errors import BenSecureError, PatchFormatError, Rule, UntrustedDataError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.signing._kinds import expect
from ben_secure.signing.footer import payload_end
from ben_secure.signing.policy import Verification, Verifier
from ben_secure.store._names import name_of
from ben_secure.values import Decoder, loads, name_foreign

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch
    from ben_secure.pickles.machine import State
    from ben_secure.signing.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to judge the values of a database. Instances are sent to workers.

    Attributes:
        verification: Tags or manifest that every value must match, or None to judge values alone.
        since_manifest: Skip each value that the manifest lists under the same LMDB key, because its signer has audited
            it, and judge all others. Other records are then allowed, and listed ones must exist.
        partial: The database is a part of the one that the manifest lists, so absent records are not missing.
        classes: Patch subclasses that the caller declares, as for ``loads``.
        limits: Limits on each value.
        opinions: Ask fickling for a second opinion.
    """

    verification: Verification | None = None
    since_manifest: bool = False
    partial: bool = False
    classes: tuple[type[BigEarthNetPatch], ...] = ()
    limits: Limits = DEFAULT_LIMITS
    opinions: bool = True

    def __post_init__(self) -> None:
        if self.verification is not None:
            expect(Verification, self.verification, "verification")
        if self.since_manifest and (self.verification is None or not self.verification.verify_keys):
            raise ValueError("since_manifest requires verify_key: without it, the skipped values are not verified")
        for cls in self.classes:
            if getattr(cls, "__module__", None) == "__main__":
                raise ValueError(
                    f"{cls.__qualname__} is defined in the main program, so workers cannot import it; move it into a "
                    "module"
                )
        Decoder(self.classes, self.limits)  # raises TypeError for other classes


def scan_value(
    lmdb_key: bytes,
    value: bytes,
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> Finding | None:
    """Judge one record by itself: would a reader load it?

    Args:
        lmdb_key: Raw LMDB key. It must be UTF-8, because a reader names patches by it.
        value: The stored bytes.
        classes: Patch subclasses that the caller declares, as for ``loads``.
        limits: Limits on the value.

    Returns:
        None if the value is a patch and its key is a valid name. Otherwise a finding; if both value and key are wrong,
        it is on the value.

    Raises:
        ResourceError: There is not enough memory to judge the value.
    """
    try:
        loads(value, classes=classes, limits=limits)
    except UntrustedDataError as error:
        name_foreign(error, lmdb_key)
        return with_global(Finding.from_error(lmdb_key, error), value, _pairs(classes))
    return _unnamed(lmdb_key)


def _pairs(classes: Iterable[type[BigEarthNetPatch]]) -> frozenset[tuple[str, str]]:
    return frozenset((cls.__module__, cls.__qualname__) for cls in classes)


def _unnamed(lmdb_key: bytes) -> Finding | None:
    try:
        name_of(lmdb_key)
    except PatchFormatError as error:
        return Finding.from_error(lmdb_key, error)
    return None


class _Note(NamedTuple):
    """Facts about an accepted value that do not depend on its pixels, so values that differ only in pixels share them.

    Attributes:
        written_by: Program that wrote the value.
        program: Fingerprint of the pickle program if fickling is to be asked, otherwise None.
        remark: Remark on the metadata, or None.
    """

    written_by: str
    program: bytes | None
    remark: str | None


class Judge:
    """Judges the records of one database. Not thread-safe."""

    def __init__(self, path: str, options: Options) -> None:
        """Open the manifest, if one is needed.

        Args:
            path: Absolute path of the database. By default the manifest lies beside it.
            options: How to judge.

        Raises:
            SignatureError: The manifest is not signed by enough of the keys.
            ManifestMismatchError: The manifest differs from the signed one, or has another name or version.
            StoreError: The manifest is missing or cannot be read.
        """
        self._options = options
        self._latest = _Note("", None, None)
        self._decoder = Decoder(options.classes, options.limits)
        self._verifier = self._manifest = None
        if options.verification is not None:
            self._verifier = Verifier(options.verification, path, listed=not options.since_manifest)
            self._manifest = self._verifier.manifest

    @property
    def listed(self) -> Manifest | None:
        """Manifest whose records must all be in the database, or None."""
        return None if self._options.partial else self._manifest

    @property
    def manifest_sha256(self) -> str | None:
        """SHA-256 of the manifest, hexadecimal. None if values are not compared with one."""
        return None if self._manifest is None else self._manifest.statement.manifest_sha256

    def check_count(self, entries: int, *, partly: bool) -> None:
        """Compare the number of records with the manifest, unless every record will be compared with it.

        Args:
            entries: Number of records in the database.
            partly: Whether only a sample of them is judged.

        Raises:
            ManifestMismatchError: The manifest lists another number; with ``since_manifest``, it lists more.
        """
        listed = self.listed
        if listed is not None and (entries < len(listed) if self._options.since_manifest else partly):
            listed.check_count(entries)

    def count(self, tally: Tally, position: int, lmdb_key: bytes, value: bytes | memoryview) -> None:
        """Judge one record and count it.

        Args:
            tally: Tally to which the record and its findings are added.
            position: Number of records in the database before this one.
            lmdb_key: Raw LMDB key of the record.
            value: The stored bytes. No reference to them is kept.

        Raises:
            ResourceError: There is not enough memory to judge the value. Nothing is counted.
        """
        end = payload_end(value)
        try:
            if self._verifier is not None:
                end = self._verifier.payload_end(lmdb_key, value)
            if self._is_audited(lmdb_key, value):
                tally.skipped += 1
                return
            note: _Note = self._decoder.note(value, end, self._note)
        except UntrustedDataError as error:
            name_foreign(error, lmdb_key)
            finding = Finding.from_error(lmdb_key, error)
            self._refuse(tally, position, value, finding)
            return
        unnamed = _unnamed(lmdb_key)
        if unnamed is not None:
            self._refuse(tally, position, value, unnamed)
            return
        tally.count(value_bytes=len(value), written_by=note.written_by)
        tally.keep_clean(lmdb_key)
        if note.program is not None:
            tally.see(note.program, lmdb_key, position)
        odd_key = key_remark(lmdb_key)
        if odd_key is not None:
            tally.add(dataclasses.replace(odd_key, position=position))
        if note.remark is not None:
            tally.add(Finding(lmdb_key=lmdb_key, rule=Rule.METADATA, message=note.remark, position=position))

    def _is_audited(self, lmdb_key: bytes, value: bytes | memoryview) -> bool:
        manifest = self._manifest if self._options.since_manifest else None
        return manifest is not None and manifest.digest_of(lmdb_key) == manifest.hash(value)

    def _note(self, patch: BigEarthNetPatch, state: State | None) -> _Note:
        program = programs.accepted_fingerprint(state) if self._options.opinions and state is not None else None
        note = _Note(written_by(state), program, metadata_remark(patch))
        if note != self._latest:  # equal notes are shared
            self._latest = note
        return self._latest

    def refuse_unread(self, tally: Tally, position: int, error: BenSecureError) -> None:
        """Count a record whose value cannot be read, because it is too long or its pages are damaged."""
        self._refuse(tally, position, b"", Finding.from_error(error.lmdb_key, error))

    def _refuse(self, tally: Tally, position: int, value: bytes | memoryview, finding: Finding) -> None:
        tally.count(value_bytes=len(value), written_by=REFUSED)
        tally.refused += 1
        stored = bytes(value)
        finding = with_global(finding, stored, _pairs(self._options.classes))
        program = programs.refused_fingerprint(stored) if self._options.opinions and value else None
        tally.add(dataclasses.replace(finding, position=position, program=program))
