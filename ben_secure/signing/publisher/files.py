"""The PEM files of a publisher's keys, as OpenSSL writes them: PKCS#8, SPKI (RFC 8410).

No secret is ever in an error. Public names are in ``signing.keys``.
"""

from __future__ import annotations

import os
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ben_secure.errors import KeyFileError, printable
from ben_secure.signing import _keyfiles
from ben_secure.signing._keyfiles import Path
from ben_secure.signing._kinds import expect
from ben_secure.signing.publisher.keys import SigningKey, VerifyKey

_PUBLIC, _PLAIN, _ENCRYPTED = "PUBLIC KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"  # RFC 7468, sections 13, 10, 11


def read_signing_key(path: Path, passphrase: str | bytes | None = None, database: Path | None = None) -> SigningKey:
    """Read a private key from PEM (PKCS#8).

    Args:
        path: File of mode 0600, of this user or root.
        passphrase: For an encrypted key; a str is taken as UTF-8. None for one that is not encrypted.
        database: Database that will be signed, if known; its folder is no place for the key.

    Raises:
        KeyFileError: The file is not kept as a secret (the message has the command to type), is not an Ed25519 private
            key, or the passphrase is missing, wrong or of no use.
        ValueError: The passphrase is empty.
    """
    content = _keyfiles.read_secret(path, database)
    password = None if passphrase is None else _passphrase(passphrase)
    encrypted = _label(content, path, _PLAIN, _ENCRYPTED) == _ENCRYPTED
    if encrypted and password is None:
        raise _unusable(path, "it is encrypted, and no passphrase was given")
    if not encrypted and password is not None:
        raise _unusable(path, "it is not encrypted, but a passphrase was given")
    try:
        private_key = load_pem_private_key(content, password)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "the passphrase is wrong, or it is damaged" if encrypted else "it is damaged") from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise _unusable(path, f"it is an {type(private_key).__name__}")
    return SigningKey(private_key)


def write_signing_key(
    path: Path, signing_key: SigningKey, passphrase: str | bytes | None = None, *, overwrite: bool = False
) -> None:
    """Write a private key as PEM (PKCS#8) into a new file of mode 0600, or over an old one if told so.

    With a passphrase it is encrypted as OpenSSL does by default (PBES2, AES-256, PBKDF2 of 2,048 rounds), which
    protects a random passphrase, not a short one; ``openssl pkcs8 -topk8 -scrypt`` makes a harder one, read as well.

    Raises:
        KeyFileError: There is a file already, or it cannot be written.
        TypeError: ``signing_key`` is not a ``SigningKey``.
        ValueError: The passphrase is empty.
    """
    expect(SigningKey, signing_key, "signing_key")
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(_passphrase(passphrase))
    content = signing_key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    _keyfiles.create(path, content, secret=True, overwrite=overwrite)


def read_verify_key(path: Path) -> VerifyKey:
    """Read a public key from PEM (SPKI).

    Args:
        path: File that nobody else may change.

    Raises:
        KeyFileError: Others may change the file (the message has the command to type), or it is not an Ed25519 public
            key.
    """
    content = _keyfiles.read_public(path)
    _label(content, path, _PUBLIC)
    try:
        public_key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "it is damaged, or a key of an unknown kind") from error
    if not isinstance(public_key, Ed25519PublicKey):
        raise _unusable(path, f"it is an {type(public_key).__name__}")
    return VerifyKey(public_key)


def write_verify_key(path: Path, verify_key: VerifyKey, *, overwrite: bool = False) -> None:
    """Write a public key as PEM (SPKI) into a new file of mode 0644, or over an old one if told so.

    Raises:
        KeyFileError: There is a file already, or it cannot be written.
        TypeError: ``verify_key`` is not a ``VerifyKey``.
    """
    expect(VerifyKey, verify_key, "verify_key")
    content = verify_key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _keyfiles.create(path, content, secret=False, overwrite=overwrite)


def _label(content: bytes, path: Path, *expected: str) -> str:
    """What the one PEM block of a file says it is."""
    found: list[str] = re.findall("-----BEGIN ([A-Z0-9 ]{1,40})-----", content.decode("latin-1"))
    if len(found) != 1 or found[0] not in expected:
        shown = ", ".join(found[:4]) or "nothing of the kind"
        raise _unusable(path, f"it holds {shown}, expected one PEM block: {' or '.join(expected)}")
    return found[0]


def _passphrase(given: str | bytes) -> bytes:
    passphrase = given.encode() if isinstance(given, str) else given
    if not passphrase:
        raise ValueError("a passphrase must not be empty; None means that there is none")
    return passphrase


def _unusable(path: Path, reason: str) -> KeyFileError:
    return KeyFileError(
        f"{printable(os.fspath(path), 400)} cannot be used as an Ed25519 key: {reason}; "
        "ben-secure keygen publisher makes a pair"
    )
