"""A publisher's keys: ``VerifyKey``, ``SigningKey``, and ``Signer``, the interface that signing needs.

No secret is ever in a ``repr`` or in an error. Import the classes and functions from ``signing.keys``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ben_secure.errors import Rule, SignatureError
from ben_secure.signing.publisher import schemes
from ben_secure.signing.publisher.schemes import KINDS, PrivateKey, PublicKey


class VerifyKey:
    """A publisher's public key. It can verify, but not sign.

    Attributes:
        public_key: The key as ``cryptography`` has it.
        scheme: Signature scheme: ``ed25519``, ``ecdsa-sha2-nistp256`` or ``ecdsa-sha2-nistp384``. The key decides it.
        fingerprint: SHA-256 of the key in DER (SPKI), in hexadecimal, for comparison by people, as printed by
            ``openssl pkey -pubin -in FILE -outform DER | sha256sum``.
    """

    __slots__ = ("fingerprint", "public_key", "scheme")

    def __init__(self, public_key: PublicKey) -> None:
        """Wrap a public key of the library ``cryptography``.

        Raises:
            TypeError: The object is not a public key of Ed25519, or of ECDSA on P-256 or P-384.
        """
        scheme = schemes.scheme_of(public_key)
        if scheme is None or not isinstance(public_key, PublicKey):
            kind = type(public_key).__name__
            raise TypeError(f"the key of a VerifyKey must be a public key of {KINDS}, not {kind}")
        self.public_key = public_key
        self.scheme = scheme
        self.fingerprint = hashlib.sha256(self._der()).hexdigest()

    def _der(self) -> bytes:
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check that the holder of the private key has signed exactly this message.

        Raises:
            SignatureError: The signature is not valid.
        """
        try:
            schemes.verify(self.public_key, signature, message)
        except InvalidSignature:
            raise SignatureError(
                f"not signed by the key {self.fingerprint}; compare the fingerprint with the publisher's, and fetch "
                "the signed file again",
                rule=Rule.SIGNATURE,
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"VerifyKey({self.fingerprint})"

    def __reduce__(self) -> tuple[Callable[..., VerifyKey], tuple[bytes]]:
        return _verify_key, (self._der(),)


def _verify_key(der: bytes) -> VerifyKey:
    return VerifyKey(load_der_public_key(der))  # type: ignore[arg-type]  # of another kind: TypeError


class Signer(Protocol):
    """A private key that signs: a ``SigningKey`` in memory, or a ``DeviceKey``."""

    @property
    def verify_key(self) -> VerifyKey:
        """Its public key."""

    def sign(self, message: bytes) -> bytes:
        """Sign a message."""


class SigningKey:
    """A publisher's private key. It cannot be pickled, because no reader needs it.

    Attributes:
        private_key: The key as ``cryptography`` has it.
        verify_key: The public key that belongs to it.
    """

    __slots__ = ("private_key", "verify_key")

    def __init__(self, private_key: PrivateKey) -> None:
        """Wrap a private key of the library ``cryptography``.

        Raises:
            TypeError: The object is not a private key of Ed25519, or of ECDSA on P-256 or P-384.
        """
        if schemes.scheme_of(private_key) is None or not isinstance(private_key, PrivateKey):
            kind = type(private_key).__name__
            raise TypeError(f"the key of a SigningKey must be a private key of {KINDS}, not {kind}")
        self.private_key = private_key
        self.verify_key = VerifyKey(private_key.public_key())

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new random key of Ed25519."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the public key."""
        return self.verify_key.fingerprint

    def sign(self, message: bytes) -> bytes:
        """Sign a message. Ed25519 is deterministic. Signatures of ECDSA differ each time."""
        return schemes.sign(self.private_key, message)

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey cannot be pickled; pass the path of its file instead")
