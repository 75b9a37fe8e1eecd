"""Private keys in a device or a service, through the signers of securesystemslib (extra ``[signers]``).

Only this module imports securesystemslib, and only for signing. Its ``Envelope.verify`` is not used, because it skips a
signature with another ``keyid`` than the key's, so an unsigned field would decide. The public key comes from the caller
and never from the device, and each signature is verified with it before it is written (``envelope.sign_statement``).

Tested with a PKCS#11 module (SoftHSM 2). URIs of other kinds, such as those of cloud services, are passed on unchanged,
and are not tested.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from ben_secure._system.optional import require
from ben_secure.errors import KeyFileError, MissingExtraError, SignatureError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing.publisher.keys import VerifyKey
from ben_secure.signing.publisher.schemes import one_encoding

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

_IN_FILES = ("file", "file2")


class DeviceKey:
    """A private key that signs outside this process.

    Attributes:
        verify_key: Its public key, as the caller states it.
    """

    __slots__ = ("_signer", "verify_key")

    def __init__(self, signer: Signer, verify_key: VerifyKey) -> None:
        """Wrap a signer of securesystemslib.

        Args:
            signer: The signer. The key that it claims to have is ignored.
            verify_key: The public key to its private key.
        """
        expect(VerifyKey, verify_key, "the public key of a DeviceKey")
        self._signer = signer
        self.verify_key = verify_key

    @classmethod
    def from_uri(cls, uri: str, verify_key: VerifyKey, secret: Callable[[str], str]) -> DeviceKey:
        """Find a key by its URI, and test it with one signature, before hours of hashing.

        Args:
            uri: A URI of securesystemslib. ``hsm:2?label=TOKEN`` is key 2 of a PKCS#11 token. The environment variable
                ``PYKCS11LIB`` names the module.
            verify_key: The public key to it.
            secret: Called at most once for each required secret, with its name (``pin``).

        Raises:
            MissingExtraError: securesystemslib is not installed, or a library that it needs for this signer.
            KeyFileError: The signer does not exist, fails, or signs with another key.
            ValueError: The URI names a file.
        """
        expect(VerifyKey, verify_key, "the public key of a DeviceKey")
        require("a key in a device", "securesystemslib")
        from securesystemslib.exceptions import UnsupportedLibraryError
        from securesystemslib.signer import Signer, SSlibKey

        if uri.partition(":")[0] in _IN_FILES:
            raise ValueError("the signer is a file; use --signing-key FILE, which checks the permissions of the file")
        public_key = SSlibKey.from_crypto(verify_key.public_key, keyid=verify_key.fingerprint)
        try:
            signer = Signer.from_priv_key_uri(uri, public_key, cache(secret))
        except UnsupportedLibraryError as error:
            raise MissingExtraError(f"this signer needs another library: {printable(str(error))}") from error
        except Exception as error:
            raise _failed(error) from error
        device_key = cls(signer, verify_key)
        probe = b"ben-secure: is this the key? " + os.urandom(16)  # never a result of ``envelope.pae``
        try:
            verify_key.verify(device_key.sign(probe), probe)
        except SignatureError as error:
            raise KeyFileError(
                f"the signer does not have the private key to {verify_key.fingerprint}: its signatures do not verify "
                "with this key; check the URI and the file with the public key"
            ) from error
        return device_key

    def sign(self, message: bytes) -> bytes:
        """Have the device sign a message.

        Raises:
            KeyFileError: The device fails, or does not return a signature of this kind of key.
        """
        try:
            return one_encoding(self.verify_key.public_key, bytes.fromhex(self._signer.sign(message).signature))
        except KeyFileError:
            raise
        except Exception as error:
            raise _failed(error) from error

    def __repr__(self) -> str:
        return f"DeviceKey({self.verify_key.fingerprint})"


def _failed(error: Exception) -> KeyFileError:
    """Make the error for a failed signer, without its URI, which may hold a secret. Libraries raise any error."""
    reason = ": ".join(filter(None, [type(error).__name__, printable(str(error))]))
    return KeyFileError(f"the signer cannot be used ({reason}); check its URI, its PIN and that it is connected")
