"""Value tags: a footer of 64 bytes behind each value, with an HMAC over the value, its LMDB key and its dataset.

Computes and checks tags; never decodes the value, and never gives out a byte of it that the tag does not cover. A
pickle ends at its STOP opcode, so programs that know nothing of tags read a tagged pickle as before. The format is in
docs/format.md; the hash runs over the caller's private copy in place, without the GIL.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from ben_secure.errors import Rule, TagMismatchError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing._mac_keys import MacKey, MacKeySet
from ben_secure.signing.footer import FOOTER, FOOTER_BYTES, MAGIC, RESERVED, SUITE, VERSION, payload_end

__all__ = [
    "FOOTER_BYTES",
    "MAGIC",
    "MAX_CONTEXT_BYTES",
    "Footer",
    "append_tag",
    "context_bytes",
    "make_tag",
    "split_footer",
    "verified_payload",
]

MAX_CONTEXT_BYTES = 255

_DOMAIN = b"ben-secure/value/v1\0"
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What a footer says; nobody vouches for it.

    Attributes:
        unverified_tag: 32 bytes.
        key_id: 8 bytes that name the MAC key.
    """

    unverified_tag: bytes
    key_id: bytes


def context_bytes(context: str) -> bytes:
    """Encode the name that the user gives a dataset, so that no value of another one under the same key passes.

    Args:
        context: The name, at most 255 bytes in UTF-8, taken literally (no Unicode normalisation). Empty is a name too.

    Raises:
        TypeError: It is not a str.
        ValueError: It is too long, or not Unicode.
    """
    if not isinstance(context, str):
        raise TypeError(f"the context must be a str, not {type(context).__name__}")
    encoded = context.encode()
    if len(encoded) > MAX_CONTEXT_BYTES:
        raise ValueError(f"the context has {len(encoded)} bytes, expected at most {MAX_CONTEXT_BYTES}")
    return encoded


def make_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: bytes | memoryview) -> bytes:
    """Compute the tag of a value.

    Args:
        mac_key: The key to tag with.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value is stored.
        payload: The value without a footer.

    Returns:
        32 bytes: HMAC over domain, suite, key id, context, LMDB key and payload, each of variable length after its
        length.

    Raises:
        TypeError: ``mac_key`` is not a ``MacKey``.
    """
    expect(MacKey, mac_key, "mac_key")
    mac = mac_key.start(b"".join((_DOMAIN, bytes([SUITE]), mac_key.key_id, _U32.pack(len(context)), context)))
    mac.update(b"".join((_U32.pack(len(lmdb_key)), lmdb_key, _U64.pack(len(payload)))))
    mac.update(payload)
    return mac.digest()


def append_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: bytes) -> bytes:
    """Tag a value.

    Args:
        mac_key: The key to tag with.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value will be stored.
        payload: The value.

    Returns:
        What is to be stored: the payload, and 64 bytes behind it.

    Raises:
        TypeError: ``mac_key`` is not a ``MacKey``.
        ValueError: The payload ends as a tagged value does; it would never be read as what it is.
    """
    if payload.endswith(MAGIC):
        raise ValueError("the value bears a tag already; verify it and tag the payload")
    tag = make_tag(mac_key, context, lmdb_key, payload)
    return payload + FOOTER.pack(tag, mac_key.key_id, len(payload), SUITE, VERSION, RESERVED, MAGIC)


def split_footer(unverified_value: bytes) -> tuple[memoryview, Footer | None]:
    """Tell payload and footer apart by structure alone; nothing is verified.

    Args:
        unverified_value: The stored bytes.

    Returns:
        Payload and footer; or the whole value and None, if it does not end with a footer of this version.
    """
    end = payload_end(unverified_value)
    payload = memoryview(unverified_value)[:end]
    if end == len(unverified_value):
        return payload, None
    tag, key_id, *_ = FOOTER.unpack_from(unverified_value, end)
    return payload, Footer(unverified_tag=tag, key_id=key_id)


def verified_payload(
    mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, unverified_value: bytes | memoryview
) -> memoryview:
    """Check that a stored value is the one that was tagged for this LMDB key in this dataset.

    Args:
        mac_keys: Keys of which any may have tagged it.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value was found.
        unverified_value: The stored bytes; a private copy, which is why it must be bytes.

    Returns:
        The payload: a view of ``unverified_value``, of which every byte was hashed.

    Raises:
        TagMismatchError: It bears no tag, one of an unknown kind or key, or is not what was tagged.
        TypeError: ``mac_keys`` is not a ``MacKeySet``, or the value is not bytes.
    """
    expect(MacKeySet, mac_keys, "mac_keys")
    try:
        payload, footer = _split(unverified_value)
        mac_key = mac_keys.by_id.get(footer.key_id)
        if mac_key is None:
            known = ", ".join(known_key.fingerprint for known_key in mac_keys)
            raise _refused(
                f"the value is tagged with the key {footer.key_id.hex()}, which is not among the keys given ({known}); "
                "if it was rotated, get the present key file from whoever keeps it",
                Rule.TAG_FOREIGN,
            )
        if not hmac.compare_digest(make_tag(mac_key, context, lmdb_key, payload), footer.unverified_tag):
            raise _refused(
                "the value was changed: it is not the one that was tagged for this LMDB key in the context "
                f"'{printable(context.decode(errors='backslashreplace'))}'; if that is the context, fetch the "
                "database again from its source"
            )
    except TagMismatchError as error:
        error.lmdb_key = lmdb_key
        raise
    return payload


def _split(unverified_value: bytes | memoryview) -> tuple[memoryview, Footer]:
    """Payload and footer of a value; every field is checked but key id and tag."""
    end = len(unverified_value) - FOOTER_BYTES
    if end < 0 or unverified_value[-len(MAGIC) :] != MAGIC:
        raise TagMismatchError(
            "the value bears no tag, but a MAC key was given; get the tagged database from whoever keeps the key",
            rule=Rule.TAG_MISSING,
        )
    tag, key_id, payload_bytes, suite, version, reserved, _ = FOOTER.unpack_from(unverified_value, end)
    if version != VERSION or suite != SUITE or reserved != RESERVED:
        raise _refused(
            f"the tag of the value is of suite {suite}, version {version}, reserved {reserved.hex()}; "
            f"expected suite {SUITE}, version {VERSION}, reserved zero: a newer ben_secure may read it"
        )
    if payload_bytes != end:
        raise _refused(
            f"the value was changed: {end} bytes stand before its tag, expected {payload_bytes}; "
            "fetch the database again from its source"
        )
    return memoryview(unverified_value)[:end], Footer(unverified_tag=tag, key_id=key_id)


def _refused(message: str, rule: Rule = Rule.TAG_INVALID) -> TagMismatchError:
    return TagMismatchError(message, rule=rule)
