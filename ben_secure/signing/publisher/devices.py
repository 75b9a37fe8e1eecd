"""Private keys that a device or a service keeps, through the signers of securesystemslib (extra ``[signers]``).

The only module that imports securesystemslib, and only to sign: its ``Envelope.verify`` skips a signature whose
``keyid`` is not that of the key, so there an unsigned field decides. What a signer returns is verified here before it
is written anywhere (``envelope.sign_statement``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ben_secure.errors import printable
from ben_secure.signing.publisher.keys import VerifyKey

if TYPE_CHECKING:
    from securesystemslib.signer import Signer


class DeviceKey:
    """A private key that signs somewhere else.

    Attributes:
        verify_key: The public key that belongs to it, as the signer states it.
    """

    __slots__ = ("_signer", "verify_key")

    def __init__(self, signer: Signer) -> None:
        """Take a signer of securesystemslib.

        Raises:
            ValueError: Its key is not of Ed25519.
        """
        public_key = signer.public_key
        if public_key.scheme != "ed25519":
            raise ValueError(f"the signer's key is of {printable(public_key.scheme)}, expected ed25519")
        self._signer = signer
        self.verify_key = VerifyKey(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key.keyval["public"])))

    def sign(self, message: bytes) -> bytes:
        """Have the device sign a message."""
        return bytes.fromhex(self._signer.sign(message).signature)

    def __repr__(self) -> str:
        return f"DeviceKey({self.verify_key.fingerprint})"
