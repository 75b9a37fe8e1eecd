"""securesystemslib reads our signatures, and its signers sign for us; skipped if it is not installed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("securesystemslib")

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signature, Signer, SSlibKey

from ben_secure import KeyFileError, MissingExtraError
from ben_secure.signing.envelope import sign_statement, verify_envelope
from ben_secure.signing.keys import SigningKey, read_verify_key
from ben_secure.signing.publisher.devices import DeviceKey
from support.databases import make_database
from test_envelope import ENVELOPE, PARTNER, PARTNER_PUBLIC, PUBLIC, PUBLISHER, STATEMENT, with_signatures

pytestmark = pytest.mark.threat("T23")


def sslib_key(signing_key):
    """The public key as securesystemslib has it."""
    return SSlibKey.from_crypto(signing_key.private_key.public_key(), keyid=signing_key.fingerprint)


def test_other_dsse_tools_read_the_envelope():
    """securesystemslib verifies it, and the payload is an in-toto statement about the manifest file."""
    envelope = Envelope.from_dict(json.loads(sign_statement(STATEMENT, [PUBLISHER, PARTNER])))
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert len(envelope.verify([sslib_key(PUBLISHER), sslib_key(PARTNER)], 2)) == 2
    assert json.loads(envelope.payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "BigEarthNet-S2", "digest": {"sha256": "0123456789abcdef" * 4}}],
        "predicateType": "https://ben-secure.readthedocs.io/manifest/v1",
        "predicate": {
            "count": 590_326,
            "created": "2026-01-02T03:04:05Z",
            "dataset": {"name": "BigEarthNet-S2", "version": "1.0", "license": "CDLA-Permissive-1.0"},
            "tool": {"name": "ben-secure", "version": "0.1.0"},
        },
    }


def test_why_securesystemslib_does_not_verify_here():
    """There the key id decides; should that change, ``envelope`` can be simpler."""
    document = json.loads(with_signatures(lambda mine, other: [mine | {"keyid": "x"}]))
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([sslib_key(PUBLISHER)], 1)
    document = json.loads(with_signatures(lambda mine, other: [mine, other | {"keyid": mine["keyid"]}]))
    with pytest.raises(ValueError, match="Multiple signatures"):
        Envelope.from_dict(document)


class RemoteSigner(Signer):
    """A key in a device: it signs, and its claims about public key and key id are arbitrary."""

    public_key = SSlibKey.from_crypto(PUBLISHER.private_key.public_key(), keyid="device-7")

    def __init__(self, sign=PARTNER.sign):
        self._sign = sign

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        raise NotImplementedError

    def sign(self, payload):
        return Signature("device-7", self._sign(payload).hex())


def test_a_signer_of_securesystemslib_signs():
    """It signs together with a key file; key and key id are those of the caller, not those that the device claims."""
    envelope = sign_statement(STATEMENT, [DeviceKey(RemoteSigner(), PARTNER_PUBLIC), PUBLISHER])
    key_ids = [signature["keyid"] for signature in json.loads(envelope)["signatures"]]
    assert key_ids == [PARTNER.fingerprint, PUBLISHER.fingerprint]
    assert len(verify_envelope(envelope, [PUBLIC, PARTNER_PUBLIC], 2).signed_by) == 2
    device = DeviceKey(CryptoSigner(PUBLISHER.private_key, sslib_key(PUBLISHER)), PUBLIC)
    assert sign_statement(STATEMENT, [device]) == ENVELOPE
    assert repr(device) == f"DeviceKey({PUBLISHER.fingerprint})"


def test_a_device_with_another_key():
    """Nothing is signed that a reader would then refuse."""
    sign_statement(STATEMENT, [DeviceKey(RemoteSigner(), PARTNER_PUBLIC)])
    with pytest.raises(ValueError, match="its own public key does not verify"):
        sign_statement(STATEMENT, [DeviceKey(RemoteSigner(), PUBLIC)])
    with pytest.raises(TypeError, match="must be VerifyKey, not SSlibKey"):
        DeviceKey(RemoteSigner(), sslib_key(PARTNER))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_whatever_s_a_device_makes_the_smaller_is_written(curve):
    """Forty signatures, of which about half come with the larger one; securesystemslib verifies both kinds."""
    key = SigningKey(ec.generate_private_key(curve))
    signer = CryptoSigner(key.private_key)
    device = DeviceKey(signer, key.verify_key)
    for _ in range(40):
        key.verify_key.verify(device.sign(b"message"), b"message")
    envelope = sign_statement(STATEMENT, [device])
    assert verify_envelope(envelope, [key.verify_key]).signed_by == (key.verify_key,)
    assert len(Envelope.from_dict(json.loads(envelope)).verify([sslib_key(key)], 1)) == 1


def test_a_device_that_fails():
    """Any exception or result of the device becomes an error about the signer, in one line."""

    def unplugged(payload):
        raise RuntimeError("the cable\x1b[31m")

    key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
    DeviceKey(RemoteSigner(key.sign), key.verify_key).sign(b"message")
    cases = (
        (unplugged, r"\(RuntimeError: the cable\\x1b"),
        (lambda _: b"\x30", "ValueError"),
        (lambda _: b"", "ValueE"),
    )
    for sign, match in cases:
        with pytest.raises(KeyFileError, match=f"^the signer cannot be used .*{match}.*; check its URI"):
            DeviceKey(RemoteSigner(sign), key.verify_key).sign(b"message")


# A URI.


def no_secret(name):
    pytest.fail(f"asked for {name}")


@pytest.mark.parametrize(
    ("uri", "error", "match"),
    [
        ("nothing:7", KeyFileError, "Unsupported private key scheme nothing"),
        ("", KeyFileError, "Unsupported private key scheme"),
        ("hsm:seven", KeyFileError, "the signer cannot be used .ValueError"),
        ("file2:publisher.pem", ValueError, "use --signing-key FILE, which checks the permissions"),
        ("file:publisher.pem?encrypted=false", ValueError, "use --signing-key FILE, which checks the permissions"),
    ],
)
def test_uris_that_lead_to_no_signer(uri, error, match):
    """One that does is below."""
    with pytest.raises(error, match=match):
        DeviceKey.from_uri(uri, PUBLIC, no_secret)


# PKCS#11.

MODULES = [
    *pathlib.Path("/usr").glob("lib*/**/libsofthsm2.so"),
    pathlib.Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
]
MODULE = next(filter(pathlib.Path.exists, MODULES), None)


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A working directory with a token of SoftHSM, a database and the PIN; makes a key in the token."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    util = shutil.which("softhsm2-util")
    if MODULE is None or util is None:
        pytest.skip("SoftHSM 2 is not installed")
    monkeypatch.chdir(tmp_path)
    pathlib.Path("tokens").mkdir()
    pathlib.Path("softhsm.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    monkeypatch.setenv("PYKCS11LIB", str(MODULE))
    initialise = [util, "--init-token", "--free", "--label", "ben", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(initialise, check=True, capture_output=True)
    for name, pin in (("pin", "1234"), ("wrong", "4321")):
        with open(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(f"{pin}\n")
    make_database(tmp_path / "db", {b"patch": b"value"})
    return make_in_token


MAKE_IN_TOKEN = """
import os, pkcs11, sys
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="ben")
with token.open(rw=True, user_pin="1234") as session:
    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(sys.argv[1])}
    made = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    public, private = made.generate_keypair(store=True, id=bytes([int(sys.argv[2])]))
    sys.stdout.buffer.write(encode_ec_public_key(public))
"""


def make_in_token(curve, number):
    """Generate a key that never leaves the token; its public part is written to a file, in DER."""
    done = subprocess.run([sys.executable, "-c", MAKE_IN_TOKEN, curve, str(number)], check=True, capture_output=True)
    pathlib.Path(f"{number}.der").write_bytes(done.stdout)


def command(line):
    """Run a command of a user, in a process of its own, as a module is loaded once and for all."""
    done = subprocess.run([sys.executable, "-m", "ben_secure", *line.split()], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


RELEASE = "--name n --version 1"


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1"])
def test_a_key_in_a_pkcs11_token_signs(token, curve):
    """A real module: the database is signed, and verified with the public key alone."""
    token(curve, 2)
    code, said = command(f"sign db --signer hsm:2?label=ben --public-key 2.der --passphrase-file pin {RELEASE}")
    assert (code, f"by {read_verify_key('2.der').fingerprint}" in said) == (0, True), said
    code, said = command(f"verify db --verify-key 2.der {RELEASE}")
    assert (code, "VERIFIED" in said) == (0, True), said
    token(curve, 3)
    assert command(f"verify db --verify-key 3.der {RELEASE}")[0] == 1


RIGHT = "--signer hsm:2?label=ben --public-key 2.der --passphrase-file pin"
WRONG = {
    "pin": (RIGHT.replace("pin", "wrong"), "the signer cannot be used (PinIncorrect"),
    "public key": (RIGHT.replace("2.der", "3.der"), "the signer does not have the private key to"),
    "number": (RIGHT.replace("hsm:2", "hsm:7"), "could not find ECDSA private key"),
    "label": (RIGHT.replace("label=ben", "label=other"), "No PKCS#11 token found for label other"),
    "no pin": (RIGHT.replace("--passphrase-file pin", ""), "a passphrase is needed for the signer (pin)"),
}


def check_wrong(token, cases):
    """Each case is refused in one line and nothing is written; a correct call works at the end."""
    token("secp256r1", 2)
    token("secp256r1", 3)
    for case in cases:
        wrong, message = WRONG[case]
        code, said = command(f"sign db {wrong} {RELEASE}")
        assert (code, message in said, len(said.splitlines())) == (2, True, 1), said
        assert "4321" not in said
    assert not pathlib.Path("db.manifest").exists()
    assert command(f"sign db {RIGHT} {RELEASE}")[0] == 0


def test_a_wrong_pin_of_a_pkcs11_token_is_told_before_anything_is_hashed(token):
    """The PIN is not in the message."""
    check_wrong(token, ["pin"])


@pytest.mark.slow
def test_what_is_wrong_with_a_pkcs11_token_is_told_before_anything_is_hashed(token, monkeypatch):
    """A wrong PIN, label, number, public key or module is reported."""
    check_wrong(token, WRONG)
    monkeypatch.delenv("PYKCS11LIB")
    assert "PYKCS11LIB environment variable must be set" in command(f"sign db {RIGHT} {RELEASE} --force")[1]


def test_a_missing_library_is_named(monkeypatch):
    """Signing with a file needs nothing of it (``test_layers``)."""
    monkeypatch.setitem(sys.modules, "securesystemslib", None)
    with pytest.raises(
        MissingExtraError, match="a key in a device needs securesystemslib, which is not installed: pip"
    ):
        DeviceKey.from_uri("hsm:2", PUBLIC, no_secret)


def test_a_library_that_a_signer_lacks_is_named(monkeypatch):
    """The error has the text of securesystemslib."""
    monkeypatch.setattr("securesystemslib.signer._hsm_signer.PKCS11_IMPORT_ERROR", "'python-pkcs11' required")
    key = SigningKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(MissingExtraError, match="needs another library: 'python-pkcs11' required"):
        DeviceKey.from_uri("hsm:2", key.verify_key, no_secret)
