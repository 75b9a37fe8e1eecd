"""Operations on value tags, one record at a time: add, check, remove. Payloads are never decoded.

The functions take MAC keys and bytes, without I/O. A tag of an unknown key is refused, never replaced. ``Tagger``
decides for each value whether it is changed, and ``rewrite`` and ``in_place`` change it.
"""

from __future__ import annotations

from ben_secure.errors import LimitExceededError, Rule, StoreError, TagMismatchError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.signing.footer import footer_of
from ben_secure.signing.keys import MacKeySet
from ben_secure.signing.tags import append_tag, context_bytes, verified_payload
from ben_secure.tensors import SIGN


class Tagger:
    """Tags values with ``mac_keys``, and leaves values with valid tags unchanged.

    Attributes:
        mac_keys: Keys whose tags are valid; one of them tags.
        old_mac_keys: Keys whose tags are replaced, or None.
        context: Name of the dataset, as bytes.
    """

    def __init__(
        self,
        mac_keys: MacKeySet,
        context: str = "",
        *,
        old_mac_keys: MacKeySet | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Choose the keys.

        Args:
            mac_keys: The key that tags, and others whose valid tags stay.
            context: Name of the dataset, at most 255 bytes in UTF-8.
            old_mac_keys: If given, replace valid tags of these keys, and of the other keys in ``mac_keys``.
            limits: No payload may be longer than ``limits.max_value_bytes``, because readers would refuse it.

        Raises:
            ValueError: The context is too long or not Unicode.
        """
        self.mac_keys = mac_keys
        self.old_mac_keys = old_mac_keys
        self.context = context_bytes(context)
        self._max_bytes = limits.max_value_bytes

    def tagged(self, lmdb_key: bytes, value: bytes) -> bytes:
        """Return the value to store.

        Args:
            lmdb_key: Raw LMDB key.
            value: The stored bytes, a private copy.

        Returns:
            ``value`` itself if it has a tag that stays, otherwise the value with a new tag.

        Raises:
            TagMismatchError: The value has a tag that none of the keys made for this LMDB key and dataset.
            LimitExceededError: The value is longer than readers accept.
        """
        footer = footer_of(value)
        if footer is None:
            if len(value) > self._max_bytes:
                raise LimitExceededError(
                    f"the value has {len(value)} bytes, expected at most {self._max_bytes} "
                    "(Limits.max_value_bytes); a reader would refuse it",
                    rule=Rule.LIMIT,
                    lmdb_key=lmdb_key,
                )
            return append_tag(self.mac_keys.signing, self.context, lmdb_key, value)
        try:
            payload = verified_payload(self.mac_keys, self.context, lmdb_key, value)
            valid = self.old_mac_keys is None or footer.key_id == self.mac_keys.signing.key_id
        except TagMismatchError as error:
            if self.old_mac_keys is None:
                raise _foreign(error) from error
            payload = verified_payload(self.old_mac_keys, self.context, lmdb_key, value)
            valid = False
        return value if valid else append_tag(self.mac_keys.signing, self.context, lmdb_key, payload)

    def tagged_in_place(self, lmdb_key: bytes, value: bytes) -> bytes:
        """Return the value to store in place of the old one. Otherwise as ``tagged``.

        Raises:
            StoreError: The value is an untagged safetensors file. Other programs could not read it with a tag, and
                there is no other copy.
        """
        if value[4:9] == SIGN and footer_of(value) is None:
            raise StoreError(
                "the value is a safetensors file, and with a tag behind it only this package would read it; tag a copy "
                "(--out NEW), convert to canonical values (ben-secure convert), or sign the list of all values, which "
                "changes none (--signing-key)",
                lmdb_key=lmdb_key,
            )
        return self.tagged(lmdb_key, value)

    def bare(self, lmdb_key: bytes, value: bytes) -> bytes:
        """Return the payload of a value after verifying its tag.

        Raises:
            TagMismatchError: The value does not have a tag that one of the keys made for this LMDB key and dataset.
        """
        return bytes(verified_payload(self.mac_keys, self.context, lmdb_key, value))


def _foreign(error: TagMismatchError) -> TagMismatchError:
    return TagMismatchError(
        f"{error.message}; a tag is replaced only if an old key proves it (--retag --old-mac-key FILE)",
        lmdb_key=error.lmdb_key,
        rule=error.rule,
    )
