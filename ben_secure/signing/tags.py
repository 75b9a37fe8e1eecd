"""Value tags: a footer of 64 bytes behind each value, with a MAC of the value, its LMDB key and its dataset.

Computes and checks tags; never decodes the value, and never gives out a byte of it that the tag does not cover. A
pickle ends at its STOP opcode, so programs that know nothing of tags read a tagged pickle as before. There are two
suites, and the key says which is used. The format, and why it is sound, are in docs/format.md. The MAC is computed over
the caller's private copy, in place.
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


def make_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: Buffer) -> bytes:
    """Compute the tag of a value.

    Args:
        mac_key: The key to tag with.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value is stored.
        payload: The value without a footer.

    Returns:
        32 bytes. With HS256 the HMAC over domain, suite, key id, context, LMDB key and payload, each of variable length
        after its length; with A256GMAC a new random N (16 bytes) and the GMAC of the payload under a key that is
        derived from the same parts, the payload's length and N.

    Raises:
        TypeError: ``mac_key`` is not a ``MacKey``.
    """
    expect(MacKey, mac_key, "mac_key")
    nonce = os.urandom(_NONCE_BYTES) if mac_key.suite is Suite.A256GMAC else b""
    return _computed(mac_key, context, lmdb_key, memoryview(payload).cast("B"), nonce)


def _computed(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: memoryview, nonce: bytes) -> bytes:
    """The tag of the key's suite; ``nonce`` is N, of which there is none with HS256."""
    mac = mac_key.start(b"".join((_DOMAIN, bytes([mac_key.suite]), mac_key.key_id, _U32.pack(len(context)), context)))
    mac.update(b"".join((_U32.pack(len(lmdb_key)), lmdb_key, _U64.pack(len(payload)))))
    if mac_key.suite is Suite.HS256:
        mac.update(payload)
        return mac.digest()
    mac.update(nonce + b"\x01")  # HKDF-Expand (RFC 5869, section 2.3) of one block
    # The nonce of GCM may be the same each time because the key is not; and that key is never kept.
    return nonce + AESGCM(mac.digest()).encrypt(bytes(12), b"", payload)


def append_tag(mac_key: MacKey, context: bytes, lmdb_key: bytes, payload: Buffer) -> bytes:
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
        ValueError: The payload bears a tag already; with two of them no reader would take it.
    """
    payload = memoryview(payload).cast("B")
    if footer_of(payload) is not None:
        raise ValueError("the value bears a tag already; verify it and tag the payload")
    tag = make_tag(mac_key, context, lmdb_key, payload)
    return b"".join((payload, Footer(tag, mac_key.key_id, mac_key.suite).pack(len(payload))))


def verified_payload(mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, unverified_value: Buffer) -> memoryview:
    """Check that a stored value is the one that was tagged for this LMDB key in this dataset.

    Args:
        mac_keys: Keys of which any may have tagged it.
        context: Name of the dataset, from ``context_bytes``.
        lmdb_key: Raw LMDB key under which the value was found.
        unverified_value: The stored bytes: a private copy, which nobody else can change while it is checked or
            afterwards. Only the footer is copied.

    Returns:
        The payload: a view of ``unverified_value``, of which every byte was authenticated.

    Raises:
        TagMismatchError: It bears no tag, one of an unknown kind or key, or is not what was tagged.
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
            "the value bears no tag, but a MAC key was given; get the tagged database from whoever keeps the key",
            rule=Rule.TAG_MISSING,
        )
    payload = value[:-FOOTER_BYTES]
    mac_key = mac_keys.by_id.get(footer.key_id)
    if mac_key is None:
        known = ", ".join(known_key.fingerprint for known_key in mac_keys)
        raise TagMismatchError(
            f"the value is tagged with the key {footer.key_id.hex()}, which is not among the keys given ({known}); "
            "if it was rotated, get the present key file from whoever keeps it",
            rule=Rule.TAG_FOREIGN,
        )
    if footer.suite != mac_key.suite:
        raise TagMismatchError(
            f"the value was changed: its tag is of suite {footer.suite}, but the key {mac_key.fingerprint} is one for "
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
            "the value bears two tags, one behind the other, which no writer makes; tag the payload",
            rule=Rule.TAG_INVALID,
        )
    return payload
