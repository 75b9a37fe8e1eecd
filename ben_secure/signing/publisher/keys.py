"""A publisher's Ed25519 keys (RFC 8032): ``VerifyKey``, ``SigningKey``, and ``Signer``, all that signing needs.

No secret is ever in a ``repr`` or in an error. Public names are in ``signing.keys``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ben_secure.errors import Rule, SignatureError
from ben_secure.signing._kinds import expect


class VerifyKey:
    """A publisher's public key; whoever has it can verify, not sign.

    Attributes:
        public_key: The Ed25519 key as ``cryptography`` has it.
        fingerprint: SHA-256 of the key in DER (SPKI), in hexadecimal, for people to compare; the same as
            ``openssl pkey -pubin -in FILE -outform DER | sha256sum``.
    """

    __slots__ = ("fingerprint", "public_key")

    def __init__(self, public_key: Ed25519PublicKey) -> None:
        """Take a key of ``cryptography``.

        Raises:
            TypeError: It is not an Ed25519 public key.
        """
        expect(Ed25519PublicKey, public_key, "the key of a VerifyKey")
        self.public_key = public_key
        der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = hashlib.sha256(der).hexdigest()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check that the holder of the private key has signed exactly this message.

        Raises:
            SignatureError: Not so.
        """
        try:
            self.public_key.verify(signature, message)
        except InvalidSignature:
            raise SignatureError(
                f"not signed by the key {self.fingerprint}; compare the fingerprint with the publisher's, and fetch "
                "what was signed again",
                rule=Rule.SIGNATURE,
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"VerifyKey({self.fingerprint})"

    def __reduce__(self) -> tuple[Callable[..., VerifyKey], tuple[bytes]]:
        return _verify_key, (self.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw),)


def _verify_key(raw: bytes) -> VerifyKey:
    return VerifyKey(Ed25519PublicKey.from_public_bytes(raw))


class Signer(Protocol):
    """A private key that signs, wherever it is kept: a ``SigningKey``, or a ``DeviceKey``."""

    @property
    def verify_key(self) -> VerifyKey:
        """The public key that belongs to it."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message."""


class SigningKey:
    """A publisher's private key. It cannot be pickled: nothing that reads needs it.

    Attributes:
        private_key: The Ed25519 key as ``cryptography`` has it.
        verify_key: The public key that belongs to it.
    """

    __slots__ = ("private_key", "verify_key")

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        """Take a key of ``cryptography``.

        Raises:
            TypeError: It is not an Ed25519 private key.
        """
        expect(Ed25519PrivateKey, private_key, "the key of a SigningKey")
        self.private_key = private_key
        self.verify_key = VerifyKey(private_key.public_key())

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def fingerprint(self) -> str:
        """That of the public key."""
        return self.verify_key.fingerprint

    def sign(self, message: bytes) -> bytes:
        """Sign a message; the signature has 64 bytes."""
        return self.private_key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey is not pickled; give its file to whoever must sign")
