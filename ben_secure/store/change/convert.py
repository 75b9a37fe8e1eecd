"""Make the new value of a stored one: verify it, load it with the restricted loader, write it again, tag it.

The order matters: if verification is requested, nothing is decoded before it is verified. A Sentinel-1 record to be
joined is checked like any value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from ben_secure import tensors
from ben_secure.errors import PatchFormatError, Rule, TagMismatchError, UntrustedDataError, printable
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.footer import footer_of
from ben_secure.signing.policy import Verification, Verifier
from ben_secure.store._names import name_of
from ben_secure.store.change.rewrite import Progress, Rewritten, rewrite
from ben_secure.store.change.tag import Tagger
from ben_secure.store.pairs import join
from ben_secure.values import loads


class Form(str, Enum):
    """The form of the written values."""

    CANONICAL = "canonical"
    SAFETENSORS = "safetensors"


class _Pairing:
    """The pairs of records to join, and their databases. ``s1`` is None if all records are in ``s2``."""

    def __init__(self, pairs: Mapping[str, str], s2: PageReader, s1: PageReader | None) -> None:
        self._s1_keys = {_encoded(s2_name): _encoded(s1_name) for s2_name, s1_name in pairs.items()}
        self._s2_keys = {s1_key: s2_key for s2_key, s1_key in self._s1_keys.items()} if s1 is None else {}
        self._s2 = s2
        self._s1 = s2 if s1 is None else s1

    def s1_record(self, lmdb_key: bytes) -> tuple[bytes, bytes] | None:
        """Find key and value of the Sentinel-1 record paired with a Sentinel-2 record, or None for a Sentinel-1 record.

        Raises:
            UntrustedDataError: The table does not name the record, or the other record of its pair is missing.
        """
        s1_key = self._s1_keys.get(lmdb_key)
        if s1_key is not None:
            value = self._s1.get(s1_key)
            if value is not None:
                return s1_key, value
            raise _alone(f"its Sentinel-1 record {printable(s1_key)} is missing", lmdb_key)
        s2_key = self._s2_keys.get(lmdb_key)
        if s2_key is None:
            raise _alone("the table of pairs does not name it", lmdb_key)
        if s2_key not in self._s2:
            raise _alone(f"its Sentinel-2 record {printable(s2_key)} is missing", lmdb_key)
        return None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _alone(why: str, lmdb_key: bytes) -> PatchFormatError:
    return PatchFormatError(
        f"the record cannot be joined: {why}; add it, or leave such records out (--skip-refused)",
        rule=Rule.PATCH,
        lmdb_key=lmdb_key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converter:
    """Makes new values for ``convert``. ``s1_verifier`` is for the Sentinel-1 records of pairs."""

    verifier: Verifier | None
    pairing: _Pairing | None
    s1_verifier: Verifier | None
    form: Form
    tagger: Tagger | None

    def new(self, lmdb_key: bytes, value: bytes) -> bytes | None:
        """Make the new value of a patch or of a pair. Return None for a Sentinel-1 record that is joined to another.

        Raises:
            UntrustedDataError: The value does not verify, has a tag without a key to verify it, is not a patch, cannot
                be written in the new form, is not paired, or has a key that readers cannot name.
        """
        s1_record = None
        if self.pairing is not None:
            s1_record = self.pairing.s1_record(lmdb_key)
            if s1_record is None:
                return None
        patch = _patch(lmdb_key, value, self.verifier)
        if s1_record is not None:
            patch = self._joined(lmdb_key, patch, *s1_record)
        new = self._written(lmdb_key, patch)
        name_of(lmdb_key)
        return new if self.tagger is None else self.tagger.tagged(lmdb_key, new)

    def _joined(self, lmdb_key: bytes, patch: BigEarthNetPatch, s1_key: bytes, s1_value: bytes) -> BigEarthNetPatch:
        try:
            return join(patch, _patch(s1_key, s1_value, self.s1_verifier))
        except UntrustedDataError as error:
            error.message = f"with its Sentinel-1 record {printable(s1_key)}: {error.message}"
            error.lmdb_key = lmdb_key
            raise

    def _written(self, lmdb_key: bytes, patch: BigEarthNetPatch) -> bytes:
        try:
            return patch.dumps() if self.form is Form.CANONICAL else tensors.dumps(patch)
        except (TypeError, ValueError) as error:  # the new form cannot hold it, or exceeds the limits
            raise PatchFormatError(
                f"the patch has no {self.form.value} value: {printable(str(error), 400)}",
                rule=Rule.LIMIT if self.form is Form.CANONICAL else Rule.TENSORS,
                lmdb_key=lmdb_key,
            ) from error


def _patch(lmdb_key: bytes, value: bytes, verifier: Verifier | None) -> BigEarthNetPatch:
    if verifier is not None:
        value = value[: verifier.payload_end(lmdb_key, value)]
    if footer_of(value) is not None:  # the tag would be lost without having been verified
        raise TagMismatchError(
            "the value has a tag, but no key was given to verify it; pass the key of the old database "
            "(--source-mac-key FILE)",
            rule=Rule.TAG_INVALID,
            lmdb_key=lmdb_key,
        )
    return loads(value)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    verification: Verification | None = None,
    tagger: Tagger | None = None,
    form: Form = Form.CANONICAL,
    pairs: Mapping[str, str] | None = None,
    s1: str | os.PathLike[str] | None = None,
    skip_refused: bool = False,
    progress: Progress | None = None,
) -> Rewritten:
    """Write a copy of a database in which every value is of one form.

    Args:
        source: The database. It is not changed.
        target: Database to make. It must not exist.
        verification: The checks for every old value.
        tagger: Tags the new values, or None to leave them untagged.
        form: The form of the new values.
        pairs: Sentinel-1 name by Sentinel-2 name, to join the records to merged patches, or None to keep them apart.
        s1: Database of the Sentinel-1 records, if they are not in ``source``.
        skip_refused: As for ``rewrite``.
        progress: Called after each record.

    Returns:
        The result.

    Raises:
        SignatureError: The manifest is not signed by enough of the keys.
        ManifestMismatchError: The manifest is not the signed one, or has another name, version or number of records.
        StoreError: The manifest is missing, or as for ``rewrite``.
        TypeError: ``verification`` is not a ``Verification``.
        ValueError: ``verification`` names one manifest for two databases, or ``s1`` is given without ``pairs``.
    """
    if s1 is not None and pairs is None:
        raise ValueError("s1 requires pairs")
    verifier = s1_verifier = None
    with ExitStack() as stack:
        pages = stack.enter_context(PageReader(source))
        s1_pages = None if s1 is None else stack.enter_context(PageReader(s1))
        others = [(opened, opened.facts) for opened in (pages, s1_pages) if opened is not None]
        if verification is not None:
            verifier = s1_verifier = Verifier(verification, pages.absolute_path, entries=others[0][1].entries)
            if s1_pages is not None:
                verification.check_databases(2)
                s1_verifier = Verifier(verification, s1_pages.absolute_path)
        pairing = None if pairs is None else _Pairing(pairs, pages, s1_pages)
        make = _Converter(verifier=verifier, pairing=pairing, s1_verifier=s1_verifier, form=form, tagger=tagger)
        return rewrite(source, target, make.new, skip_refused=skip_refused, others=others, progress=progress)
