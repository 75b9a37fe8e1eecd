"""The files of a publisher's keys: read in every encoding that ``forms`` knows, written as PEM (RFC 8410).

A file of another kind is reported as that kind. Only a private key must be unreadable for others. No secret is ever in
an error. Import the classes and functions from ``signing.keys``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ben_secure._system.appear import Path
from ben_secure.errors import KeyFileError, printable
from ben_secure.signing import _keyfiles
from ben_secure.signing._kinds import expect
from ben_secure.signing.publisher.forms import MAC, PRIVATE, PUBLIC, Encoded, identify
from ben_secure.signing.publisher.keys import SigningKey, VerifyKey
from ben_secure.signing.publisher.schemes import KINDS, PrivateKey, PublicKey, is_consistent, scheme_of

Passphrase = str | bytes | Callable[[], bytes] | None

_SIGNS, _VERIFIES = "sign", "verify"
_NO_BCRYPT = (
    "it is an OpenSSH key with a passphrase, which cannot be read here without the library bcrypt; install that, or "
    "convert a copy: ssh-keygen -p -m PKCS8 -f COPY"
)
_MAKE = "ben-secure keygen publisher makes one"
_OF_ANOTHER_KIND = {
    PRIVATE: "this is the private key; --verify-key takes the public one (publisher.pem.pub)",
    MAC: "it holds MAC keys; --mac-key takes it",
}
_QUOTED = re.compile(r"b?'[^']*'|b?\"[^\"]*\"")
_DAMAGED = "it is damaged, or contradicts itself; copy the whole file again"


def read_signing_key(path: Path, passphrase: Passphrase = None, database: Path | None = None) -> SigningKey:
    """Read a private key: PEM or DER (PKCS#8, SEC 1), OpenSSH or JWK.

    Args:
        path: File of mode 0600, of this user or root; or ``/dev/stdin`` or ``/dev/fd/N``.
        passphrase: For an encrypted key. A str is encoded as UTF-8. None for a key that is not encrypted. A function is
            called only if a passphrase is needed.
        database: Database that will be signed, if known. A key in its folder is refused.

    Raises:
        KeyFileError: The file is not private (the message has the command to type), is not a private key of Ed25519,
            ECDSA P-256 or ECDSA P-384, or the passphrase is missing, wrong or superfluous.
        ValueError: The passphrase is empty.
    """
    content = _keyfiles.read_secret(path, database, lambda content: _refuse_public(content, path))
    encoded = _identified(content, path, _SIGNS)
    if callable(passphrase):
        passphrase = passphrase() if encoded.encrypted else None
    password = None if passphrase is None else _passphrase(passphrase)
    if encoded.encrypted and password is None:
        raise _unusable(path, _SIGNS, "it is encrypted, and no passphrase was given")
    if not encoded.encrypted and password is not None:
        raise _unusable(path, _SIGNS, "it is not encrypted, but a passphrase was given")
    key = _loaded(encoded, password, path, _SIGNS)
    if scheme_of(key) is None or not isinstance(key, PrivateKey):
        raise _unusable(path, _SIGNS, f"it is a key of {_algorithm(key)}, expected {KINDS}; {_MAKE}")
    return SigningKey(key)


def write_signing_key(
    path: Path, signing_key: SigningKey, passphrase: str | bytes | None = None, *, overwrite: bool = False
) -> None:
    """Write a private key as PEM (PKCS#8) into a file of mode 0600. ``overwrite`` replaces an existing file.

    With a passphrase it is encrypted with the defaults of OpenSSL (PBES2, AES-256, PBKDF2 of 2,048 rounds). That
    protects a random passphrase, but not a short one. Keys encrypted with ``openssl pkcs8 -topk8 -scrypt`` resist
    guessing better, and can be read, too.

    Raises:
        KeyFileError: There is a file already, or it cannot be written.
        TypeError: ``signing_key`` is not a ``SigningKey``.
        ValueError: The passphrase is empty.
    """
    _keyfiles.create(path, _private_pem(signing_key, passphrase), secret=True, overwrite=overwrite)


def write_key_pair(
    path: Path,
    public_path: Path,
    signing_key: SigningKey,
    passphrase: str | bytes | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a private key, as ``write_signing_key`` does, and its public key, as ``write_verify_key``: both or neither.

    Args:
        path: File of the private key.
        public_path: File of the public key, in the same directory.
        signing_key: The key.
        passphrase: Encrypts the private key, or None to leave it unencrypted.
        overwrite: Replace existing files.

    Raises:
        KeyFileError: There is a file already, or one cannot be written.
        TypeError: ``signing_key`` is not a ``SigningKey``.
        ValueError: The passphrase is empty.
    """
    private = _private_pem(signing_key, passphrase)
    _keyfiles.create_pair(path, private, public_path, _public_pem(signing_key.verify_key), overwrite=overwrite)


def read_verify_key(path: Path) -> VerifyKey:
    """Read a public key: PEM or DER (SPKI), OpenSSH or JWK.

    Args:
        path: File that no other user may change; or ``/dev/stdin`` or ``/dev/fd/N``.

    Raises:
        KeyFileError: Others may change the file (the message has the command to type), or it is not a public key of
            Ed25519, ECDSA P-256 or ECDSA P-384.
    """
    content = _keyfiles.read_public(path)
    encoded = _identified(content, path, _VERIFIES)
    if encoded.kind != PUBLIC:
        raise _unusable(path, _VERIFIES, _OF_ANOTHER_KIND[encoded.kind])
    key = _loaded(encoded, None, path, _VERIFIES)
    if scheme_of(key) is None or not isinstance(key, PublicKey):
        raise _unusable(path, _VERIFIES, f"it is a key of {_algorithm(key)}, expected {KINDS}; check the path")
    return VerifyKey(key)


def write_verify_key(path: Path, verify_key: VerifyKey, *, overwrite: bool = False) -> None:
    """Write a public key as PEM (SPKI) into a file that only its owner may change. ``overwrite`` replaces an old one.

    Raises:
        KeyFileError: There is a file already, or it cannot be written.
        TypeError: ``verify_key`` is not a ``VerifyKey``.
    """
    expect(VerifyKey, verify_key, "verify_key")
    _keyfiles.create(path, _public_pem(verify_key), secret=False, overwrite=overwrite)


def _private_pem(signing_key: SigningKey, passphrase: str | bytes | None) -> bytes:
    expect(SigningKey, signing_key, "signing_key")
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(_passphrase(passphrase))
    return signing_key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _public_pem(verify_key: VerifyKey) -> bytes:
    return verify_key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _refuse_public(content: bytes, path: Path) -> None:
    """Refuse content that is not a private key, before the permissions of the file are judged."""
    try:
        kind = identify(content).kind
    except ValueError:
        if b"PRIVATE" not in content:  # otherwise it is judged by its mode first: it was a private key
            _identified(content, path, _SIGNS)
        return
    if kind == PUBLIC:
        name, end = os.path.splitext(os.fspath(path))
        is_beside = end == ".pub" and os.path.exists(name)
        private = printable(name, 400) if is_beside else "the private one (publisher.pem)"
        raise _unusable(path, _SIGNS, f"this is the public key; --signing-key takes {private}")
    if kind == MAC:
        raise _unusable(path, _SIGNS, _OF_ANOTHER_KIND[MAC])


def _identified(content: bytes, path: Path, use: str) -> Encoded:
    try:
        return identify(content)
    except ValueError as error:
        raise _unusable(path, use, str(error)) from None


def _loaded(encoded: Encoded, password: bytes | None, path: Path, use: str) -> object:
    reason = "the passphrase is wrong, or it is damaged" if encoded.encrypted else _DAMAGED
    try:
        key = encoded.load(password)
        if not isinstance(key, PrivateKey) or is_consistent(key):
            return key
    except UnsupportedAlgorithm as error:
        named = printable(_QUOTED.sub(_name, str(error)))
        unknown = f"its algorithm is not supported ({named}); expected {KINDS}"
        reason = _NO_BCRYPT if "bcrypt" in str(error) else unknown
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the decode boundary: cryptography panics at some damaged keys (PanicException)
        reason = f"{error}; export the key again" if "JWK" in str(error) else reason
    # Not in the block above, because errors of other libraries may contain secrets, and would become the context.
    raise _unusable(path, use, reason)


def _name(quoted: re.Match[str]) -> str:
    """Return the name of an algorithm that an error quotes. Anything else may be a secret piece of the file."""
    return quoted[0] if re.fullmatch(r"b?'[a-z0-9@.-]{1,40}'", quoted[0]) else "another one"


def _algorithm(key: object) -> str:
    curve = f" on {key.curve.name}" if isinstance(key, EllipticCurvePublicKey | EllipticCurvePrivateKey) else ""
    return re.sub("^_|(Private|Public)Key$", "", type(key).__name__) + curve


def _passphrase(passphrase_or_none: str | bytes) -> bytes:
    passphrase = passphrase_or_none.encode() if isinstance(passphrase_or_none, str) else passphrase_or_none
    if not passphrase:
        raise ValueError("a passphrase must not be empty; use None for no passphrase")
    return passphrase


def _unusable(path: Path, use: str, reason: str) -> KeyFileError:
    return KeyFileError(f"{printable(os.fspath(path), 400)} cannot be used to {use}: {reason}")
