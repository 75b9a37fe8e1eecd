"""Make the new value of a stored one: check its tag, load it with the restricted loader, write it anew, tag it.

In this order: nothing is decoded before its tag has verified, where one is asked for. Never reads or writes a file;
the twin of a record that is to be joined comes from the caller, and is checked like any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ben_secure import tensors
from ben_secure.errors import PatchFormatError, Rule, TagMismatchError, UntrustedDataError, printable
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.footer import footer_of
from ben_secure.store.change.tag import Tagger
from ben_secure.store.pairs import join
from ben_secure.values import loads


class Form(str, Enum):
    """What values are written as."""

    CANONICAL = "canonical"
    SAFETENSORS = "safetensors"


class Pairing:
    """Which records of a database become one, and where they are."""

    def __init__(self, pairs: Mapping[str, str], s2: PageReader, s1: PageReader | None = None) -> None:
        """Take what a table says.

        Args:
            pairs: Sentinel-1 name by Sentinel-2 name.
            s2: The database that is converted.
            s1: Where the Sentinel-1 records are; None if they are in the same database.
        """
        self._s1_keys = {_encoded(s2_name): _encoded(s1_name) for s2_name, s1_name in pairs.items()}
        self._s2_keys = {s1_key: s2_key for s2_key, s1_key in self._s1_keys.items()} if s1 is None else {}
        self._s2 = s2
        self._s1 = s2 if s1 is None else s1

    def twin(self, lmdb_key: bytes) -> tuple[bytes, bytes] | None:
        """Find the Sentinel-1 record that belongs to a record.

        Args:
            lmdb_key: Raw LMDB key.

        Returns:
            LMDB key and stored bytes of the twin; None if this is the twin of another record, and goes with that.

        Raises:
            UntrustedDataError: No table names the record, or its twin is not there.
        """
        s1_key = self._s1_keys.get(lmdb_key)
        if s1_key is not None:
            value = self._s1.get(s1_key)
            if value is not None:
                return s1_key, value
            raise _alone(f"its Sentinel-1 twin {printable(s1_key)} is not there", lmdb_key)
        s2_key = self._s2_keys.get(lmdb_key)
        if s2_key is None:
            raise _alone("the table of pairs does not name it", lmdb_key)
        if s2_key not in self._s2:
            raise _alone(f"its Sentinel-2 twin {printable(s2_key)} is not there", lmdb_key)
        return None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _alone(why: str, lmdb_key: bytes) -> PatchFormatError:
    return PatchFormatError(
        f"the record cannot be joined: {why}; add it, or leave such records out (--skip-refused)",
        rule=Rule.PATCH,
        lmdb_key=lmdb_key,
    )


class Converter:
    """Makes new values."""

    def __init__(
        self,
        source: Tagger | None = None,
        target: Tagger | None = None,
        form: Form = Form.CANONICAL,
        pairing: Pairing | None = None,
    ) -> None:
        """Decide on keys and forms.

        Args:
            source: Checks the tags of the old values; None if they bear none.
            target: Tags the new values; None to leave them bare.
            form: What to write.
            pairing: Joins records to merged patches; None to leave each by itself.
        """
        self._source = source
        self._target = target
        self._form = form
        self._pairing = pairing

    def converted(self, lmdb_key: bytes, value: bytes) -> bytes | None:
        """Make the new value.

        Args:
            lmdb_key: Raw LMDB key.
            value: The stored bytes; hostile.

        Returns:
            The new value of the same patch, or of both twins; None for a Sentinel-1 record that goes with its twin.

        Raises:
            UntrustedDataError: The tag does not verify or there is no key to verify it with, the value is not a patch
                and nothing else, the new form cannot hold it, it has no twin, or no reader can name it.
        """
        twin = None
        if self._pairing is not None:
            twin = self._pairing.twin(lmdb_key)
            if twin is None:
                return None
        patch = self._patch(lmdb_key, value)
        if twin is not None:
            patch = self._joined(lmdb_key, patch, *twin)
        new = self._written(lmdb_key, patch)
        try:
            lmdb_key.decode()
        except UnicodeDecodeError as error:
            raise PatchFormatError(
                f"the LMDB key is not UTF-8 (byte {error.start} of {len(lmdb_key)}), so no reader can name this "
                "patch; store it under its name",
                rule=Rule.LMDB_KEY,
                lmdb_key=lmdb_key,
            ) from error
        return new if self._target is None else self._target.tagged(lmdb_key, new)

    def _patch(self, lmdb_key: bytes, value: bytes) -> BigEarthNetPatch:
        if self._source is not None:
            return loads(self._source.bare(lmdb_key, value))
        if footer_of(value) is not None:  # it would be gone, and nobody would know whether it was good
            raise TagMismatchError(
                "the value bears a tag, and no key was given to verify it; pass the key of the old database "
                "(--source-mac-key FILE)",
                rule=Rule.TAG_INVALID,
                lmdb_key=lmdb_key,
            )
        return loads(value)

    def _joined(self, lmdb_key: bytes, patch: BigEarthNetPatch, s1_key: bytes, s1_value: bytes) -> BigEarthNetPatch:
        try:
            return join(patch, self._patch(s1_key, s1_value))
        except UntrustedDataError as error:
            error.message = f"with its Sentinel-1 twin {printable(s1_key)}: {error.message}"
            error.lmdb_key = lmdb_key
            raise

    def _written(self, lmdb_key: bytes, patch: BigEarthNetPatch) -> bytes:
        try:
            return patch.dumps() if self._form is Form.CANONICAL else tensors.dumps(patch)
        except (TypeError, ValueError) as error:  # what the form cannot hold; or only the old one is within the limits
            raise PatchFormatError(
                f"the patch has no {self._form.value} value: {printable(str(error), 400)}",
                rule=Rule.LIMIT if self._form is Form.CANONICAL else Rule.TENSORS,
                lmdb_key=lmdb_key,
            ) from error
