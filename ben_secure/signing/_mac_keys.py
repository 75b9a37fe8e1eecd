"""MAC keys: secrets that tag values, alone and in sets, and the JWK Sets (RFC 7517) that hold them.

No secret is ever in a ``repr`` or in an error, nor in the cause of one. Import the
classes and functions from ``signing.keys``.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from types import MappingProxyType

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ben_secure._system.appear import Path
from ben_secure.errors import KeyFileError, printable
from ben_secure.signing import _keyfiles
from ben_secure.signing._kinds import expect
from ben_secure.signing.footer import Suite
from ben_secure.signing.publisher.forms import MAC, identify

_MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: no shorter than the hash
_KEPT_STARTS = 16
_SIGNS, _CHECKS = ["sign", "verify"], ["verify"]  # key_ops, RFC 7517, section 4.3
_INFO = {Suite.HS256: b"", Suite.A256GMAC: b" A256GMAC"}  # the end of HKDF's info
_ALG = {  # RFC 7517, section 4.4: a registered name, or a name under our own address
    Suite.HS256: "HS256",
    Suite.A256GMAC: "https://ben-secure.readthedocs.io/value-tag/a256gmac/v1",
}


class MacKey:
    """A secret that everyone who may tag values shares. Everyone who can check a tag can also make one.

    Key id and tag key are derived from the secret by HKDF (RFC 5869), differently for each suite, so the key id reveals
    nothing about the secret. A pickled key contains the secret: pickles carry keys to spawned DataLoader workers, and
    must never be stored.

    Attributes:
        key_id: 8 bytes that name the key in the values tagged with it.
        suite: The algorithm of its tags. A value whose footer names another suite is refused.
    """

    __slots__ = ("_secret", "_starts", "_tag_key", "key_id", "suite")

    def __init__(self, secret: bytes, suite: Suite = Suite.HS256) -> None:
        """Take a secret.

        Args:
            secret: At least 32 random bytes. A password could be guessed from one tagged value.
            suite: The algorithm of its tags.

        Raises:
            TypeError: ``secret`` is not bytes, or ``suite`` is not a ``Suite``.
            ValueError: The secret is too short.
        """
        expect(bytes, secret, "the secret of a MacKey")
        expect(Suite, suite, "the suite of a MacKey")
        if len(secret) < _MIN_SECRET_BYTES:
            raise ValueError(f"the secret of a MacKey has {len(secret)} bytes, expected {_MIN_SECRET_BYTES} or more")
        self._secret = secret
        self.suite = suite
        self._tag_key = HKDF(SHA256(), 32, None, b"ben-secure/v1 value tag" + _INFO[suite]).derive(secret)
        self.key_id = HKDF(SHA256(), 8, None, b"ben-secure/v1 key id" + _INFO[suite]).derive(secret)
        self._starts: dict[bytes, hmac.HMAC] = {}

    @classmethod
    def generate(cls, suite: Suite = Suite.HS256) -> MacKey:
        """Make a new key of 32 random bytes."""
        return cls(secrets.token_bytes(_MIN_SECRET_BYTES), suite)

    @property
    def fingerprint(self) -> str:
        """The key id in hexadecimal, for comparison by people."""
        return self.key_id.hex()

    def start(self, head: bytes) -> hmac.HMAC:
        """Begin an HMAC-SHA-256 under the value-tag key.

        Args:
            head: The first bytes, equal for many values. The state after key and head is kept for the next call.

        Returns:
            A new HMAC object, updated with ``head``.
        """
        started = self._starts.get(head)
        if started is None:
            if len(self._starts) >= _KEPT_STARTS:
                self._starts.clear()
            started = self._starts[head] = hmac.new(self._tag_key, head, "sha256")
        return started.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MacKey):
            return False
        return self.suite is other.suite and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.key_id)

    def __repr__(self) -> str:
        return f"MacKey({self.fingerprint})"

    def __reduce__(self) -> tuple[Callable[..., MacKey], tuple[bytes, Suite]]:
        return MacKey, (self._secret, self.suite)

    def to_jwk(self, signs: bool) -> dict[str, object]:
        """Write the key as a JWK, the secret included.

        Args:
            signs: Whether the key tags new values.
        """
        return {
            "kty": "oct",
            "alg": _ALG[self.suite],
            "kid": self.fingerprint,
            "key_ops": _SIGNS if signs else _CHECKS,
            "k": _base64url(self._secret),
        }


class MacKeySet:
    """Several MAC keys. One tags new values, and all can check. So a key can be rotated while old values stay valid.

    They may have different suites, so a database can change its suite in the same way. In a file they are a JWK Set in
    which ``key_ops`` (RFC 7517, section 4.3) is ``["sign", "verify"]`` for the key that tags and ``["verify"]`` for the
    others. A pickle of the set contains the secrets.

    Attributes:
        signing: The key that tags.
        by_id: All keys by key id.
    """

    __slots__ = ("by_id", "signing")

    def __init__(self, signing: MacKey, *others: MacKey) -> None:
        """Make a set of keys.

        Args:
            signing: The key that tags new values.
            others: Keys that only check values.

        Raises:
            TypeError: A key is not a ``MacKey``.
            ValueError: A key occurs twice, or one secret occurs for two suites.
        """
        keys = (signing, *others)
        for mac_key in keys:
            expect(MacKey, mac_key, "each key of a MacKeySet")
        self.signing = signing
        self.by_id = MappingProxyType({mac_key.key_id: mac_key for mac_key in keys})
        if len(self.by_id) != len(keys):
            raise ValueError("a key is listed twice; list each key once")
        if len({mac_key._secret for mac_key in keys}) != len(keys):
            raise ValueError("a secret is in the MacKeySet for two suites; generate a new key for the other suite")

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key that tags."""
        return self.signing.fingerprint

    def rotated(self, signing: MacKey) -> MacKeySet:
        """Return a set in which a new key tags and all keys of this set still check."""
        return MacKeySet(signing, *self)

    def __iter__(self) -> Iterator[MacKey]:
        """The key that tags first, then the others."""
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MacKeySet) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.signing)

    def __repr__(self) -> str:
        return f"MacKeySet({', '.join(mac_key.fingerprint for mac_key in self)})"

    def __reduce__(self) -> tuple[Callable[..., MacKeySet], tuple[MacKey, ...]]:
        return MacKeySet, tuple(self)


def read_mac_keys(path: Path, database: Path | None = None) -> MacKeySet:
    """Read MAC keys from a JWK Set.

    Args:
        path: File of mode 0600, of this user or root.
        database: Database that the keys are for, if known. Keys in its folder are refused.

    Raises:
        KeyFileError: The file is not private (the message has the command to type), or is not a set of MAC keys of
            which one tags.
    """
    return _from_jwk_set(_keyfiles.read_secret(path, database, lambda content: _refuse_publisher(content, path)), path)


def write_mac_keys(path: Path, mac_keys: MacKeySet, *, overwrite: bool = False) -> None:
    """Write MAC keys into a file of mode 0600, whole or not at all. ``overwrite`` replaces an existing file.

    Raises:
        KeyFileError: The file exists, or cannot be written.
        TypeError: ``mac_keys`` is not a ``MacKeySet``.
    """
    expect(MacKeySet, mac_keys, "mac_keys")
    _keyfiles.create(path, _to_jwk_set(mac_keys), secret=True, overwrite=overwrite)


def add_mac_key(path: Path, suite: Suite | None = None) -> MacKeySet:
    """Rotate, atomically: add a new key, which tags from now on. The old keys of the file still check.

    Args:
        path: File of mode 0600, of this user or root.
        suite: Suite of the new key, or None for the suite of the key that tags now.

    Returns:
        The new content of the file.

    Raises:
        KeyFileError: As ``read_mac_keys``, or the file cannot be replaced. It is then unchanged.
    """

    def rotated(content: bytes) -> bytes:
        old = _from_jwk_set(content, path)
        return _to_jwk_set(old.rotated(MacKey.generate(old.signing.suite if suite is None else suite)))

    _keyfiles.rewrite_secret(path, rotated)
    return read_mac_keys(path)


def _refuse_publisher(content: bytes, path: Path) -> None:
    """Identify a publisher's key before the permissions of the file are judged."""
    try:
        kind = identify(content).kind
    except ValueError:
        return
    if kind != MAC:
        raise KeyFileError(
            f"{printable(os.fspath(path), 400)} does not hold MAC keys: it is a publisher's {kind} key; --mac-key "
            "takes a file that ben-secure keygen mac made"
        )


def _to_jwk_set(mac_keys: MacKeySet) -> bytes:
    entries = [mac_key.to_jwk(mac_key is mac_keys.signing) for mac_key in mac_keys]
    return json.dumps({"keys": entries}, indent=2).encode() + b"\n"


def _from_jwk_set(content: bytes, path: Path) -> MacKeySet:
    try:
        return _parsed_set(json.loads(content, object_pairs_hook=_unique))
    except (ValueError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "it is not JSON"
    # Not in the block above: an error of json carries the parsed text, and would become the context of this one.
    raise KeyFileError(
        f"{printable(os.fspath(path), 400)} does not hold MAC keys: {reason}; "
        "expected a JWK Set as ben-secure keygen mac writes it"
    )


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    unique_members = dict(members)
    if len(unique_members) != len(members):
        raise ValueError("a member occurs twice in one object")
    return unique_members


def _parsed_set(document: object) -> MacKeySet:
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it has no list "keys"')
    parsed = [_from_jwk(entry) for entry in entries]
    signing = [mac_key for mac_key, signs in parsed if signs]
    if len(signing) != 1:
        raise ValueError(f'{len(signing)} keys have "sign" in their "key_ops", expected one')
    return MacKeySet(signing[0], *(mac_key for mac_key, signs in parsed if not signs))


def _from_jwk(entry: object) -> tuple[MacKey, bool]:
    """Parse one key, and whether it tags. Optional members (RFC 7517) may be absent, but must not contradict."""
    if not isinstance(entry, dict) or entry.get("kty") != "oct":
        raise ValueError('a key is not of "kty" "oct"')
    encoded = entry.get("k")
    if not isinstance(encoded, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", encoded) or len(encoded) % 4 == 1:
        raise ValueError('the "k" of a key is not base64url')
    secret = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    if _base64url(secret) != encoded:  # unused bits that are not zero
        raise ValueError('the "k" of a key is not base64url')
    mac_key = MacKey(secret, _suite(entry))
    for name, only in (("use", "sig"), ("kid", mac_key.fingerprint)):
        if entry.get(name, only) != only:
            raise ValueError(f'the "{name}" of a key is not "{only}": it is a key for something else, or damaged')
    operations = entry.get("key_ops", _SIGNS)
    if operations not in (_SIGNS, _SIGNS[::-1], _CHECKS):
        raise ValueError(f'the "key_ops" of the key {mac_key.fingerprint} are not those of a MAC key')
    return mac_key, operations != _CHECKS


def _suite(entry: dict[str, object]) -> Suite:
    alg = entry.get("alg", _ALG[Suite.HS256])
    for suite, name in _ALG.items():
        if alg == name:
            return suite
    raise ValueError(f'the "alg" of a key is not "{_ALG[Suite.HS256]}" or "{_ALG[Suite.A256GMAC]}"')


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
