"""Make the canonical value of a stored one: check its tag, load it with the restricted loader, write it anew, tag it.

In this order: nothing is decoded before its tag has verified, where one is asked for. Never reads or writes a file.
"""

from __future__ import annotations

from ben_secure.errors import PatchFormatError, Rule, TagMismatchError, printable
from ben_secure.footer import MAGIC
from ben_secure.store.tagging import Tagger
from ben_secure.values import loads


class Converter:
    """Makes canonical values."""

    def __init__(self, source: Tagger | None = None, target: Tagger | None = None) -> None:
        """Decide on keys.

        Args:
            source: Checks the tags of the old values; None if they bear none.
            target: Tags the new values; None to leave them bare.
        """
        self._source = source
        self._target = target

    def converted(self, lmdb_key: bytes, value: bytes) -> bytes:
        """Make the new value.

        Args:
            lmdb_key: Raw LMDB key.
            value: The stored bytes; hostile.

        Returns:
            The canonical value of the same patch.

        Raises:
            UntrustedDataError: The tag does not verify or there is no key to verify it with, the value is not a patch
                and nothing else, or no reader can name it.
        """
        if self._source is not None:
            payload = self._source.bare(lmdb_key, value)
        elif value.endswith(MAGIC):  # it would be gone, and nobody would know whether it was good
            raise TagMismatchError(
                "the value bears a tag, and no key was given to verify it; pass the key of the old database "
                "(--source-mac-key FILE)",
                rule=Rule.TAG_INVALID,
                lmdb_key=lmdb_key,
            )
        else:
            payload = value
        patch = loads(payload)
        try:
            canonical = patch.dumps()
        except (TypeError, ValueError) as error:  # it is at the limits, and its canonical form beyond them
            raise PatchFormatError(
                f"the patch has no canonical value: {printable(str(error), 400)}", rule=Rule.LIMIT, lmdb_key=lmdb_key
            ) from error
        try:
            lmdb_key.decode()
        except UnicodeDecodeError as error:
            raise PatchFormatError(
                f"the LMDB key is not UTF-8 (byte {error.start} of {len(lmdb_key)}), so no reader can name this "
                "patch; store it under its name",
                rule=Rule.LMDB_KEY,
                lmdb_key=lmdb_key,
            ) from error
        return canonical if self._target is None else self._target.tagged(lmdb_key, canonical)
