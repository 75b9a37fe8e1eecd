"""Value tags: a footer of 64 bytes behind each value, with a MAC of the value, its LMDB key and its dataset.

This module computes and checks tags. It never decodes a value, and returns only bytes that the tag covers. A pickle
ends at its STOP opcode, so programs that do not know tags can read a tagged pickle. There are two suites. The key
chooses one. docs/format.md describes the format and why it is sound. The MAC is computed over the caller's private
copy, in place.
"""

from __future__ import annotations

import hmac
import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ben_secure.errors import Rule, TagMismatchError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing._mac_keys import MacKey, MacKeySet
from ben_secure.signing.footer import FOOTER_BYTES, Buffer, Footer, Suite, footer_fault, footer_of

MAX_CONTEXT_BYTES = 255

_DOMAIN = b"ben-secure/value/v1\0"
_NONCE_BYTES = 16
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def context_bytes(context: str) -> bytes:
    """Encode the user's name for a dataset. Its part in the tag ensures that a value of another dataset with the same
    key is refused.

    Args:
        context: The name, at most 255 bytes in UTF-8, without Unicode normalisation. It may be empty.

    Raises:
        TypeError: The name is not a str.
        ValueError: The name is too long, or not Unicode.
    """
    if not isinstance(context, str):
        raise TypeError(f"the context must be a str, not {type(context).__name__}")
    encoded = context.encode()
    if len(encoded) > MAX_CONTEXT_BYTES:
        raise ValueError(f"the context has {len(encoded)} bytes, expected at most {MAX_CONTEXT_BYTES}")
    return encoded


def make_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: Buffer) -> bytes:
    """Compute the tag of a value.

    Args:
        mac_key: The key to tag with.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value is stored.
        payload: The value without a footer.

    Returns:
        32 bytes. With HS256, the HMAC over domain, suite, key id, context, LMDB key and payload. Fields of variable
        length follow their lengths. With A256GMAC, a new random N (16 bytes) and the GMAC of the payload, under a key
        derived from the same fields, the payload's length and N.

    Raises:
        TypeError: ``mac_key`` is not a ``MacKey``.
    """
    expect(MacKey, mac_key, "mac_key")
    nonce = os.urandom(_NONCE_BYTES) if mac_key.suite is Suite.A256GMAC else b""
    return _computed(mac_key, context, lmdb_key, memoryview(payload).cast("B"), nonce)


def _computed(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: memoryview, nonce: bytes) -> bytes:
    """Compute the tag in the suite of the key. ``nonce`` is the N of A256GMAC, and is empty for HS256."""
    mac = mac_key.start(b"".join((_DOMAIN, bytes([mac_key.suite]), mac_key.key_id, _U32.pack(len(context)), context)))
    mac.update(b"".join((_U32.pack(len(lmdb_key)), lmdb_key, _U64.pack(len(payload)))))
    if mac_key.suite is Suite.HS256:
        mac.update(payload)
        return mac.digest()
    mac.update(nonce + b"\x01")  # HKDF-Expand (RFC 5869, section 2.3) of one block
    # The nonce of GCM may be constant, because each tag has a new key, which is never kept.
    return nonce + AESGCM(mac.digest()).encrypt(bytes(12), b"", payload)


def append_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: Buffer) -> bytes:
    """Tag a value.

    Args:
        mac_key: The key to tag with.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value will be stored.
        payload: The value.

    Returns:
        The value to store: the payload, followed by a footer of 64 bytes.

    Raises:
        TypeError: ``mac_key`` is not a ``MacKey``.
        ValueError: The payload has a tag already. Readers refuse a value with two.
    """
    payload = memoryview(payload).cast("B")
    if footer_of(payload) is not None:
        raise ValueError("the value already has a tag; verify it and tag the payload")
    tag = make_tag(mac_key, context, lmdb_key, payload)
    return b"".join((payload, Footer(tag, mac_key.key_id, mac_key.suite).pack(len(payload))))


def verified_payload(mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, unverified_value: Buffer) -> memoryview:
    """Check that a stored value is the one that was tagged for this LMDB key in this dataset.

    Args:
        mac_keys: The keys, any of which may have tagged the value.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value was found.
        unverified_value: The stored bytes, as a private copy that cannot change during the check or later. Only the
            footer is copied.

    Returns:
        The payload: a view of ``unverified_value``. Every byte of it is authenticated.

    Raises:
        TagMismatchError: The value has no tag, has a tag of an unknown kind or key, or is not the tagged value.
        TypeError: ``mac_keys`` is not a ``MacKeySet``, or the value is not contiguous bytes.
    """
    expect(MacKeySet, mac_keys, "mac_keys")
    value = memoryview(unverified_value).cast("B")
    try:
        return _verified(mac_keys, context, lmdb_key, value)
    except TagMismatchError as error:
        error.lmdb_key = lmdb_key
        raise


def _verified(mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, value: memoryview) -> memoryview:
    footer = footer_of(value)
    if footer is None:
        fault = footer_fault(value)
        if fault is not None:
            raise TagMismatchError(fault, rule=Rule.TAG_INVALID)
        raise TagMismatchError(
            "the value has no tag, but a MAC key was given; get the tagged database from the owner of the key",
            rule=Rule.TAG_MISSING,
        )
    payload = value[:-FOOTER_BYTES]
    mac_key = mac_keys.by_id.get(footer.key_id)
    if mac_key is None:
        known = ", ".join(known_key.fingerprint for known_key in mac_keys)
        raise TagMismatchError(
            f"the value is tagged with the key {footer.key_id.hex()}, which is not among the keys given ({known}); "
            "if it was rotated, get the current key file from its owner",
            rule=Rule.TAG_FOREIGN,
        )
    if footer.suite != mac_key.suite:
        raise TagMismatchError(
            f"the value was changed: its tag is of suite {footer.suite}, but the key {mac_key.fingerprint} is for "
            f"suite {mac_key.suite.value}; fetch the database again from its source",
            rule=Rule.TAG_INVALID,
        )
    computed = _computed(mac_key, context, lmdb_key, payload, footer.unverified_tag[:_NONCE_BYTES])
    if not hmac.compare_digest(computed, footer.unverified_tag):
        raise TagMismatchError(
            "the value was changed: it is not the one that was tagged for this LMDB key in the context "
            f"'{printable(context.decode(errors='backslashreplace'))}'; if that is the context, fetch the "
            "database again from its source",
            rule=Rule.TAG_INVALID,
        )
    if footer_of(payload) is not None:
        raise TagMismatchError(
            "the value has two tags, one after the other, which no writer makes; get the database from the owner of "
            "the key",
            rule=Rule.TAG_INVALID,
        )
    return payload
