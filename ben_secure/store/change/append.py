"""Add the records of one database to another: all or none, each judged first, without replacing any.

The database is written again, and the new file replaces the old one when it is complete (``store.writer``). A released
database (one with a manifest beside it) is never changed: its records and the new ones go into a copy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ben_secure._system.appear import checked_path, collect, refuse_taken
from ben_secure.errors import PatchFormatError, Rule, StoreError, UntrustedDataError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.data_file import data_file_path
from ben_secure.pages.reader import PageReader
from ben_secure.remote.addresses import is_remote
from ben_secure.signing.footer import FOOTER_BYTES, footer_of, payload_end
from ben_secure.store._names import check_length, name_of
from ben_secure.store._released import refuse_if_released
from ben_secure.store.change.digests import check_unchanged
from ben_secure.store.change.rewrite import Progress, Refusals, records
from ben_secure.store.change.tag import Tagger
from ben_secure.store.writer import PatchWriter
from ben_secure.values import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Result of ``append``.

    Attributes:
        checked: Number of new records, all of which were judged.
        added: Number of added records: all, or none if one was refused.
        kept: Number of existing records.
        refusals: Refused new values.
    """

    checked: int
    added: int
    kept: int
    refusals: Refusals


def append(
    database: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    tagger: Tagger | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Appended:
    """Add the records of ``new`` to a database.

    Args:
        database: The database to add to. Its records are copied unchanged, without judging them.
        new: The database with the new records. It is only read. Each must be a patch under a name.
        out: Directory to make, for all records, or None to add to ``database`` itself, which takes the space of both
            meanwhile.
        tagger: Tags the new values, for a database whose values are tagged.
        limits: Limits for all values.
        progress: Called after each judged new record.

    Returns:
        The result.

    Raises:
        StoreError: ``database`` is released and ``out`` is None; an LMDB key is in both; tags and ``tagger`` do not go
            together; a database cannot be read or was written to meanwhile; ``new`` is empty; or the result cannot be
            written. Nothing is changed then.
        TagMismatchError: The first existing value, or a new one, has a tag that is not of the tagger's keys.
        LimitExceededError: An existing value is too long.
        PatchFormatError: An existing LMDB key is too long.
    """
    database, new = os.fspath(database), os.fspath(new)
    if out is None:
        if is_remote(database):
            raise StoreError("a database on a server cannot be changed; write a copy (--out COPY)")
        refuse_if_released(database, "write a copy (--out COPY), and sign that one with --since")
        collect(os.path.realpath(data_file_path(database)))  # of an append that was killed when all was added
    else:
        refuse_taken(os.path.abspath(checked_path(out)))  # before anything is judged
    max_bytes = limits.max_value_bytes + FOOTER_BYTES
    with PageReader(database, max_value_bytes=max_bytes) as old, PageReader(new, max_value_bytes=max_bytes) as source:
        kept, facts = len(old), (old.facts, source.facts)
        _refuse_taken(old, source)
        make = _Maker(old, tagger, limits)
        refusals, checked = Refusals(), 0
        for lmdb_key, value in records(source):  # before the old records are copied, which may take hours
            try:
                if not isinstance(value, bytes):
                    raise value
                make(lmdb_key, value)
            except UntrustedDataError as error:
                refusals.add(lmdb_key, error)
            checked += 1
            if progress is not None:
                progress(checked, facts[1].entries)
        if refusals.count:
            return Appended(checked=checked, added=0, kept=kept, refusals=refusals)
        with PatchWriter(database if out is None else out, append=out is None, limits=limits) as writer:
            for lmdb_key, value in old.items() if out is not None else ():
                check_length(lmdb_key, old.path)
                writer.put_stored(lmdb_key, value)
            for lmdb_key, value in source.items():
                writer.put_stored(lmdb_key, make(lmdb_key, value))
            for pages, before in zip((old, source), facts, strict=True):
                check_unchanged(pages, before)
    return Appended(checked=checked, added=checked, kept=kept, refusals=refusals)


class _Maker:
    """Judges a new value, and makes the stored value."""

    def __init__(self, old: PageReader, tagger: Tagger | None, limits: Limits) -> None:
        self._decoder = Decoder(limits=limits)
        self._tagger = tagger
        first = next(old.items(), None)
        if first is None:
            return
        tagged = footer_of(first[1]) is not None
        if tagged and tagger is None:
            raise StoreError(
                "the values of this database are tagged, and the new ones must be, too: pass the key (--mac-key, and "
                "--context if there is one)",
                database=old.path,
            )
        if tagger is not None and not tagged:
            raise StoreError(
                "the values of this database are not tagged; leave --mac-key out, or tag it first: ben-secure sign "
                "--mac-key",
                database=old.path,
            )
        if tagger is not None:
            tagger.bare(*first)  # otherwise new values could get the tags of another dataset

    def __call__(self, lmdb_key: bytes, value: bytes) -> bytes:
        """Return the value to store, or raise UntrustedDataError if it is not a patch under a name."""
        self._decoder.load(value, payload_end(value))
        name_of(lmdb_key)
        if self._tagger is not None:
            return self._tagger.tagged(lmdb_key, value)
        if footer_of(value) is not None:
            raise PatchFormatError(
                "the value is tagged, and the database that it would be added to is not; take the tags off first: "
                "ben-secure untag",
                rule=Rule.TAG_FOREIGN,
            )
        return value


def _refuse_taken(old: PageReader, source: PageReader) -> None:
    if not len(source):
        raise StoreError("the database is empty, so there is nothing to add", database=source.path)
    taken = [lmdb_key for lmdb_key in source.keys() if lmdb_key in old]  # noqa: SIM118
    if taken:
        raise StoreError(
            f"{len(taken)} of the new LMDB keys are in {printable(old.path, 400)} already, the first is "
            f"{printable(taken[0])}; nothing is replaced",
            database=source.path,
        )
