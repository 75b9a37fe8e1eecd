"""Key files in all usual forms: every form of one key gives that key, and other content is named."""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization import PrivateFormat as Private
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import KeyFileError
from ben_secure.errors import printable
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    read_mac_keys,
    read_signing_key,
    read_verify_key,
    write_mac_keys,
    write_signing_key,
)
from support.key_files import (
    KEYS,
    SECRET,
    base64url,
    encoded,
    encoded_public,
    jwk,
    one_line,
    private_forms,
    public_forms,
)
from test_keys import SECRETS, everything, needs_openssl, openssl, secret_file, spellings

pytestmark = pytest.mark.threat("T23")

FINGERPRINTS = {kind: SigningKey(key).fingerprint for kind, key in KEYS.items()}
kinds = pytest.mark.parametrize("kind", KEYS)


@pytest.mark.parametrize("form", [Private.PKCS8, Private.TraditionalOpenSSL])
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: curve.name)
def test_a_private_key_with_the_public_half_of_another_is_refused(curve, form, tmp_path):
    """Not every OpenSSL compares the halves; whoever signs with such a key makes signatures that nobody accepts."""
    content, other = (
        key.private_bytes(Encoding.DER, form, NoEncryption())
        for key in (ec.derive_private_key(n, curve) for n in (5, 7))
    )
    assert read_signing_key(secret_file(tmp_path / "good", content)).fingerprint
    point = 2 * curve.key_size // 8  # at the end
    with pytest.raises(KeyFileError, match="it is damaged, or contradicts itself; copy the whole file again"):
        read_signing_key(secret_file(tmp_path / "bad", content[:-point] + other[-point:]))


@kinds
def test_every_form_of_a_private_key_is_read(kind, tmp_path):
    """Every form gives the same key, and none is accepted as a public key."""
    for form, content in private_forms(kind).items():
        path = secret_file(tmp_path / "key", content)
        assert read_signing_key(path).fingerprint == FINGERPRINTS[kind], form
        with pytest.raises(KeyFileError, match=r"this is the private key; --verify-key takes the public one"):
            read_verify_key(path)


@kinds
def test_every_form_of_a_public_key_is_read(kind, tmp_path):
    """Every form gives the same key; where a private key is expected it is named, before its permissions are judged."""
    for form, content in public_forms(kind).items():
        path = tmp_path / "publisher.pem.pub"
        path.with_suffix("").touch()
        path.write_bytes(content)
        path.chmod(0o644)
        assert read_verify_key(path).fingerprint == FINGERPRINTS[kind], form
        with pytest.raises(KeyFileError) as caught:
            read_signing_key(path)
        assert "cannot be used to sign: this is the public key; --signing-key takes /" in caught.value.message, form
        assert caught.value.message.endswith("publisher.pem"), form
        assert "chmod" not in caught.value.message


@pytest.mark.parametrize("name", ["theirs", "theirs.pub"])
def test_no_private_key_is_named_that_is_not_there(name, tmp_path):
    """A private key is not suggested beside a downloaded public key, or under another name."""
    path = tmp_path / name
    path.write_bytes(encoded_public(KEYS["Ed25519"]))
    with pytest.raises(KeyFileError, match=r"takes the private one \(publisher.pem\)"):
        read_signing_key(path)


@kinds
def test_a_private_key_that_others_can_read_is_refused_in_every_form(kind, tmp_path):
    """With the command, after which it is read."""
    for content in private_forms(kind).values():
        path = secret_file(tmp_path / "key", content)
        path.chmod(0o644)
        with pytest.raises(KeyFileError, match="its mode is 0644, expected 0600"):
            read_signing_key(path)
        path.chmod(0o600)
        read_signing_key(path)


@kinds
def test_an_encrypted_key_is_read_in_every_form(kind, tmp_path):
    """With its passphrase, which is asked for only then."""
    key, secret = KEYS[kind], BestAvailableEncryption(b"geheim")
    forms = [encoded(key, encryption=secret), encoded(key, Encoding.DER, encryption=secret)]
    forms += [one_line(forms[0]), base64.b64encode(forms[1])]
    if kind != "Ed25519":
        forms.append(encoded(key, form=Private.TraditionalOpenSSL, encryption=secret))  # Proc-Type: 4,ENCRYPTED
    for content in forms:
        path = secret_file(tmp_path / "key", content)
        assert read_signing_key(path, lambda: b"geheim").fingerprint == FINGERPRINTS[kind]
        with pytest.raises(KeyFileError, match="it is encrypted, and no passphrase was given"):
            read_signing_key(path)
        with pytest.raises(KeyFileError, match="the passphrase is wrong, or it is damaged"):
            read_signing_key(path, "falsch")
    with_none = secret_file(tmp_path / "key", encoded(key))
    assert read_signing_key(with_none, lambda: pytest.fail("asked for nothing")).fingerprint == FINGERPRINTS[kind]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen here")
@pytest.mark.parametrize("options", [["-t", "ed25519"], ["-t", "ecdsa", "-b", "256"], ["-t", "ecdsa", "-b", "384"]])
def test_keys_of_ssh_keygen_are_read(options, tmp_path):
    """Both files of a pair; one with a passphrase is read where bcrypt is installed, and otherwise told how."""
    for name, passphrase in (("open", ""), ("locked", "geheim")):
        command = ["ssh-keygen", "-q", *options, "-N", passphrase, "-C", "me@here", "-f", tmp_path / name]
        subprocess.run(command, check=True)
    public = read_verify_key(tmp_path / "open.pub")
    assert read_signing_key(tmp_path / "open").verify_key == public
    with pytest.raises(KeyFileError, match="it is encrypted, and no passphrase"):
        read_signing_key(tmp_path / "locked")
    try:
        import bcrypt  # noqa: F401
    except ImportError:
        with pytest.raises(KeyFileError, match="without the library bcrypt; install that, or convert a copy"):
            read_signing_key(tmp_path / "locked", "geheim")
    else:
        assert read_signing_key(tmp_path / "locked", "geheim").verify_key == read_verify_key(tmp_path / "locked.pub")


@needs_openssl
@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1"])
def test_ecdsa_keys_of_openssl_are_read(curve, tmp_path):
    """Keys of ecparam (parameters and SEC 1) and genpkey, and their public keys, are read in PEM and DER."""
    old, new, public = tmp_path / "old", tmp_path / "new", tmp_path / "public"
    openssl("ecparam", "-name", curve, "-genkey", "-out", old)
    assert old.read_bytes().count(b"-----BEGIN") == 2
    openssl("pkey", "-in", old, "-out", new)
    openssl("pkey", "-in", old, "-pubout", "-outform", "DER", "-out", public)
    for path in (old, new):
        path.chmod(0o600)
        assert read_signing_key(path).verify_key == read_verify_key(public)


# Other content.

RSA = rsa.generate_private_key(65537, 2048)
ED = encoded(KEYS["Ed25519"])
OTHERS = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n\t\n", "it is empty"),
    "text": (b"this is not a key\n", "it has no key in PEM, DER, OpenSSH or JWK form; check the path"),
    "bytes": (bytes(range(256)), "it has no key in PEM"),
    "the secret in hexadecimal": (SECRET.hex().encode(), "it has no key in PEM"),
    "a PEM without an end": (ED[:70], "it is cut off: the END line is missing"),
    "a PEM with a hole": (ED[:60] + ED[70:], "damaged"),
    "a PEM that is not base64": (ED.replace(b"MC4C", b"M*4C"), "damaged"),
    "two private keys": (ED + ED, "it holds PRIVATE KEY, PRIVATE KEY; expected one PEM block"),
    "a pair": (ED + encoded_public(KEYS["Ed25519"]), "it holds PRIVATE KEY, PUBLIC KEY; expected one"),
    "RSA": (encoded(RSA), "it is a key of RSA, expected Ed25519"),
    "RSA of old": (encoded(RSA, form=Private.TraditionalOpenSSL), "it holds RSA PRIVATE KEY; expected one PEM block"),
    "RSA of OpenSSH": (encoded(RSA, form=Private.OpenSSH), "it is a key of RSA, expected Ed25519"),
    "RSA in a JWK": (b'{"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"}', "its algorithm is not supported"),
    "PuTTY": (b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "it is a key of PuTTY; export it: puttygen"),
    "an unknown label": (b"-----BEGIN OPENSSQ PRIVATE KEY-----\n", "it holds an unknown block; expected one PEM block"),
    "PGP": (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "it holds PGP PRIVATE KEY BLOCK; expected one PEM block"),
    "cosign": (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "it holds ENCRYPTED SIGSTORE PRIVATE KEY; exp"),
    "a certificate": (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "openssl x509 -pubkey -noout"),
    "DER cut": (encoded(KEYS["P-256"], Encoding.DER)[:-3], "damaged"),
    "DER of nothing": (b"\x30\x00", "not a key in DER"),
    "a lone SEQUENCE": (b"\x30", "not a key in DER"),
    "DER with a long length": (b"\x30\xff\x02", "not a key in DER"),
    "JSON": (b"{}", "expected a member kty"),
    "JSON cut": (json.dumps(jwk("P-256")).encode()[:-1], "expected a member kty"),
    "JSON, deep": (b'{"a":' * 10_000, "expected a member kty"),
    "two JWKs": (json.dumps({"keys": [jwk("P-256"), jwk("P-256")]}).encode(), "not a single JWK"),
    "a JWK of another curve": (json.dumps(jwk("P-256", crv="P-521")).encode(), "EC P-521"),
    "a JWK of a number": (json.dumps(jwk("P-256", crv=256)).encode(), "EC 256"),
    "a JWK to encrypt": (json.dumps(jwk("P-256", use="enc")).encode(), "not for signatures"),
    "a JWK to verify with": (json.dumps(jwk("P-256", key_ops=["verify"])).encode(), "not for"),
    "a JWK of another algorithm": (json.dumps(jwk("P-256", alg="ES384")).encode(), "not for"),
    "a JWK without y": (json.dumps(jwk("P-256", y=None)).encode(), "member y of the JWK is not 32 bytes"),
    "a JWK with a short d": (json.dumps(jwk("Ed25519", d="AAAA")).encode(), "member d of the JWK is not 32 bytes"),
    "a JWK with padding": (json.dumps(jwk("Ed25519", x=jwk("Ed25519")["x"] + "=")).encode(), "member x of the JWK"),
    "a JWK of two halves": (
        json.dumps(jwk("P-256", d=base64url(bytes(31) + b"\1"))).encode(),
        "do not belong together",
    ),
    "a JWK off the curve": (json.dumps(jwk("P-256", y=jwk("P-256")["x"])).encode(), "damaged"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_cannot_be_used_is_named(case, tmp_path):
    """The message is one printable line with the file and the reason, without the secret, even in its cause."""
    content, message = OTHERS[case]
    path = secret_file(tmp_path / "key", content)
    with pytest.raises(KeyFileError, match=re.escape(message)) as caught:
        read_signing_key(path)
    assert re.fullmatch("[ -~]+", caught.value.message)
    assert caught.value.message.startswith(f"{printable(str(path), 400)} cannot be used to sign: ")
    assert not any(spelling in everything(caught.value) for spelling in spellings(SECRET))
    with pytest.raises(KeyFileError):
        read_verify_key(path)


@pytest.mark.parametrize("case", ["text", "JSON", "two JWKs"])
def test_no_advice_on_permissions_for_what_is_no_private_key(case, tmp_path):
    """Only a damaged private key gets advice on permissions, because it was a secret."""
    path = secret_file(tmp_path / "key", OTHERS[case][0])
    path.chmod(0o644)
    with pytest.raises(KeyFileError) as caught:
        read_signing_key(path)
    assert "chmod" not in caught.value.message
    damaged = secret_file(tmp_path / "damaged", OTHERS["a PEM with a hole"][0])
    damaged.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_signing_key(damaged)


def test_mac_keys_and_publishers_keys_are_named_where_the_others_belong(tmp_path):
    """The kind is named for any mode of the file; each kind is accepted where it belongs."""
    write_mac_keys(tmp_path / "team.jwks", MacKeySet(MacKey(SECRETS[0])))
    lone = tmp_path / "lone.jwk"
    lone.write_text(json.dumps({"kty": "oct", "k": base64url(SECRETS[0])}))
    read_mac_keys(tmp_path / "team.jwks")
    (tmp_path / "team.jwks").chmod(0o644)
    for path in (tmp_path / "team.jwks", lone):
        for reader in (read_signing_key, read_verify_key):
            with pytest.raises(KeyFileError, match="it holds MAC keys; --mac-key takes it"):
                reader(path)
    for content, kind in ((ED, "private"), (public_forms("P-256")["OpenSSH"], "public")):
        (tmp_path / "publisher").write_bytes(content)
        with pytest.raises(KeyFileError, match=f"does not hold MAC keys: it is a publisher's {kind} key; --mac-key"):
            read_mac_keys(tmp_path / "publisher")


@given(st.sampled_from(sorted(KEYS)), st.data())
def test_a_changed_byte_gives_a_key_or_an_error(tmp_path_factory, kind, data):
    """Of every form: nothing but ``KeyFileError`` gets out, and no error shows the secret."""
    content = bytearray(data.draw(st.sampled_from([*private_forms(kind).values(), *public_forms(kind).values()])))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = secret_file(tmp_path_factory.getbasetemp() / "changed", bytes(content))
    for reader in (read_signing_key, read_verify_key, read_mac_keys):
        message = ""
        try:
            reader(path)
        except KeyFileError as error:
            message = everything(error)
        assert not any(spelling in message for spelling in spellings(SECRET))


CORPUS = pathlib.Path(__file__).parent / "corpus"


@pytest.mark.threat("T28")
@pytest.mark.parametrize("path", sorted(CORPUS.glob("p*-key/*")), ids=lambda path: path.name)
def test_a_crafted_file_is_an_error_of_ours(path, tmp_path):
    """What made cryptography panic or raise other errors, or showed in a message, is refused like any damaged file."""
    copy = secret_file(tmp_path / "key", path.read_bytes())
    for read in (lambda: read_signing_key(copy, lambda: b"geheim"), lambda: read_verify_key(copy)):
        with pytest.raises(KeyFileError) as caught:
            read()
        assert not any(spelling in everything(caught.value) for spelling in spellings(SECRET))


@pytest.mark.threat("T28")
def test_a_name_is_shown_only_if_it_looks_like_one(tmp_path):
    """The curve of a JWK is named if it could be one, and not if it could be the secret."""
    for crv, shown in (("P-521", "EC P-521"), (base64url(SECRET), "EC another")):
        path = secret_file(tmp_path / "key", json.dumps(jwk("P-256", crv=crv)).encode())
        with pytest.raises(KeyFileError, match=rf"is not supported \({shown}\)"):
            read_signing_key(path)


# Where a key comes from.

READING = """
import sys
from ben_secure.signing.keys import read_signing_key, read_verify_key, read_mac_keys
reader = {"sign": read_signing_key, "verify": read_verify_key, "mac": read_mac_keys}[sys.argv[1]]
try:
    print(reader(sys.argv[2]).fingerprint)
except Exception as error:
    print(type(error).__name__, error)
"""


def read_in_a_process(what, path, **options):
    done = subprocess.run([sys.executable, "-c", READING, what, path], capture_output=True, check=True, **options)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("path", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_a_key_from_standard_input(path, tmp_path):
    """A pipe has no mode that protects the secret; a redirected file has one."""
    if path.startswith("/proc") and not os.path.exists("/proc/self/fd"):
        pytest.skip("this system has no /proc")
    assert read_in_a_process("sign", path, input=ED) == FINGERPRINTS["Ed25519"]
    assert read_in_a_process("verify", path, input=encoded_public(KEYS["P-256"])) == FINGERPRINTS["P-256"]
    write_mac_keys(tmp_path / "mac", MacKeySet(MacKey(SECRETS[0])))
    assert read_in_a_process("mac", path, input=(tmp_path / "mac").read_bytes()) == MacKey(SECRETS[0]).fingerprint
    with open(secret_file(tmp_path / "key", ED), "rb") as file:
        assert read_in_a_process("sign", path, stdin=file) == FINGERPRINTS["Ed25519"]
        os.fchmod(file.fileno(), 0o644)
        assert "its mode is 0644, expected 0600" in read_in_a_process("sign", path, stdin=file)


def test_a_key_from_a_file_descriptor():
    """A shell passes such a key with <(command)."""
    read_end, write_end = os.pipe()
    os.write(write_end, ED)
    os.close(write_end)
    found = read_in_a_process("sign", f"/dev/fd/{read_end}", pass_fds=[read_end])
    os.close(read_end)
    assert found == FINGERPRINTS["Ed25519"]


def test_what_is_wrong_with_standard_input_is_told():
    """Empty input, too much input, a terminal and a missing descriptor are reported."""
    assert "/dev/stdin cannot be used to sign: it is empty" in read_in_a_process("sign", "/dev/stdin", input=b"")
    assert "more than 65536 bytes" in read_in_a_process("sign", "/dev/stdin", input=bytes(2**17))
    assert "cannot read /dev/fd/77: Bad file descriptor" in read_in_a_process("sign", "/dev/fd/77", input=b"")
    main, terminal = os.openpty()
    assert "/dev/stdin is a terminal" in read_in_a_process("sign", "/dev/stdin", stdin=terminal)
    os.close(main)
    os.close(terminal)


def test_a_written_key_is_pem(tmp_path):
    """Of each scheme, and it comes back."""
    for kind, key in KEYS.items():
        write_signing_key(tmp_path / kind, SigningKey(key))
        assert (tmp_path / kind).read_bytes() == encoded(key)
        assert read_signing_key(tmp_path / kind).fingerprint == FINGERPRINTS[kind]
