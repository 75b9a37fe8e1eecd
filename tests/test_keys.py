"""Keys: three kinds that cannot be mixed up, secrets that stay secret, files that are whole and private or refused."""

import base64
import copy
import functools
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import pickle
import re
import runpy
import shutil
import signal
import stat
import string
import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import KeyFileError, SignatureError, UndecidedError
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    Suite,
    VerifyKey,
    add_mac_key,
    read_mac_keys,
    read_signing_key,
    read_verify_key,
    write_key_pair,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)
from support.locales import names_in_utf8

pytestmark = pytest.mark.threat("T10")

VECTORS = pathlib.Path(__file__).parent / "vectors"
GENERATOR = runpy.run_path(str(VECTORS / "generate_tags.py"))
GMAC = json.loads((VECTORS / "gmac_tags.json").read_text())["jwk_sets"][0]["keys"][0]
SECRETS = GENERATOR["SECRETS"]
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl here")

JWK = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRETS[0]).decode().rstrip("=")}
SIGNING = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def vectors(name):
    return json.loads((VECTORS / name).read_text())


def openssl(*arguments, **options):
    return subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True, **options).stdout


def secret_file(path, content):
    """A file that is kept as a secret."""
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def mac_file(folder, name="mac.jwks"):
    """A file with one MAC key."""
    path = folder / name
    write_mac_keys(path, MacKeySet(MacKey(SECRETS[0])))
    return path


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def type_in(command):
    """Let a shell execute the typed text; text outside ASCII is quoted for bash."""
    subprocess.run(command, shell=True, executable=shutil.which("bash"), check=True)


def follow(message):
    """Type the command that a message gives."""
    type_in(re.search(r"type (.*?)(; |$)", message)[1])


# MAC keys.


@pytest.mark.parametrize("vector", vectors("rfc5869.json")["cases"], ids=lambda vector: vector["case"])
def test_hkdf_vectors(vector):
    """The HKDF of the vector generator is that of RFC 5869; the next test compares the package with it."""
    secret, salt, info, output = (bytes.fromhex(vector[name]) for name in ("secret", "salt", "info", "output"))
    assert GENERATOR["hkdf"](secret, salt, info, len(output)) == output


@given(st.binary(min_size=32, max_size=200))
def test_keys_are_derived_by_hkdf(secret):
    """Key id and value-tag key are two outputs that say nothing of each other, nor of those of the other suite."""
    for suite, end in ((Suite.HS256, b""), (Suite.A256GMAC, b" A256GMAC")):
        mac_key = MacKey(secret, suite)
        assert mac_key.key_id == GENERATOR["hkdf"](secret, b"", b"ben-secure/v1 key id" + end, 8)
        tag_key = GENERATOR["hkdf"](secret, b"", b"ben-secure/v1 value tag" + end, 32)
        assert mac_key.start(b"head").digest() == hmac.digest(tag_key, b"head", "sha256")
        assert mac_key.fingerprint == mac_key.key_id.hex()


def test_a_mac_key_has_at_least_32_bytes():
    """A shorter one, and a password, are the caller's mistake."""
    assert len(MacKey(bytes(32)).key_id) == 8
    with pytest.raises(ValueError, match="has 31 bytes, expected 32 or more"):
        MacKey(bytes(31))
    with pytest.raises(TypeError, match="must be bytes, not str"):
        MacKey("x" * 32)
    assert MacKey.generate() != MacKey.generate()


def test_a_mac_key_is_of_one_suite():
    """HS256 is the default, and only the enumeration selects another; one secret makes two keys of two suites."""
    assert MacKey(SECRETS[0]).suite is MacKey.generate().suite is Suite.HS256
    assert MacKey.generate(Suite.A256GMAC).suite is Suite.A256GMAC
    first, second = (MacKey(SECRETS[0], suite) for suite in Suite)
    assert first != second
    assert len({first.key_id, second.key_id}) == len({first, second}) == 2
    assert second == MacKey(SECRETS[0], Suite.A256GMAC)
    for wrong in (2, "A256GMAC", None):
        with pytest.raises(TypeError, match="the suite of a MacKey must be Suite, not "):
            MacKey(SECRETS[0], wrong)


def test_equal_keys_are_equal():
    """Keys are compared by their secrets and can be members of sets."""
    assert MacKey(SECRETS[0]) == MacKey(SECRETS[0])
    assert len({MacKey(SECRETS[0]), MacKey(SECRETS[0]), MacKey(SECRETS[1])}) == 2
    assert MacKey(SECRETS[0]) != SECRETS[0]
    assert SIGNING.verify_key == VerifyKey(SIGNING.private_key.public_key())
    assert len({SIGNING.verify_key, VerifyKey(SIGNING.private_key.public_key())}) == 1
    assert SIGNING.verify_key != SIGNING.fingerprint


def test_a_set_tags_with_one_key_and_checks_with_all():
    """The order and the key that tags are kept; no key is in it twice."""
    one, two = map(MacKey, SECRETS)
    keys = MacKeySet(one, two)
    assert (keys.signing, list(keys), len(keys), keys.fingerprint) == (one, [one, two], 2, one.fingerprint)
    assert dict(keys.by_id) == {one.key_id: one, two.key_id: two}
    assert keys != MacKeySet(two, one)
    assert keys == MacKeySet(one, two)
    assert hash(keys) == hash(MacKeySet(one, two))
    assert list(MacKeySet(one).rotated(two)) == [two, one]
    with pytest.raises(ValueError, match="twice"):
        MacKeySet(one, MacKey(SECRETS[0]))
    with pytest.raises(ValueError, match="for two suites"):
        MacKeySet(one, two, MacKey(SECRETS[0], Suite.A256GMAC))
    mixed = MacKeySet(one, MacKey(SECRETS[1], Suite.A256GMAC))
    assert [key.suite for key in mixed] == [Suite.HS256, Suite.A256GMAC]
    assert mixed != keys
    for wrong in (SECRETS[0], SIGNING, SIGNING.verify_key, keys):
        with pytest.raises(TypeError, match="each key of a MacKeySet must be MacKey, not "):
            MacKeySet(one, wrong)


# Three kinds.


def test_no_key_stands_in_for_another(tmp_path):
    """Every function that takes a key accepts one kind of key."""
    keys = {
        "MacKey": MacKey(SECRETS[0]),
        "MacKeySet": MacKeySet(MacKey(SECRETS[0])),
        "SigningKey": SIGNING,
        "VerifyKey": SIGNING.verify_key,
        "a private key": SIGNING.private_key,
        "a public key": SIGNING.verify_key.public_key,
        "bytes": SECRETS[0],
        "str": str(tmp_path),
    }
    takes = {
        write_mac_keys: "MacKeySet",
        write_signing_key: "SigningKey",
        write_verify_key: "VerifyKey",
        lambda path, key: SigningKey(key): "a private key",
        lambda path, key: VerifyKey(key): "a public key",
    }
    for call, kind in takes.items():
        for name, given_key in keys.items():
            if name == kind:
                call(tmp_path / kind, given_key)
            else:
                with pytest.raises(TypeError, match=rf"must be {kind}\b.*, not {type(given_key).__name__}$"):
                    call(tmp_path / "never", given_key)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("reader", [read_mac_keys, read_signing_key, read_verify_key])
def test_no_file_stands_in_for_another(reader, tmp_path):
    """Each reader takes the file of its kind and refuses those of the others."""
    mac = mac_file(tmp_path)
    write_signing_key(tmp_path / "private", SIGNING)
    write_verify_key(tmp_path / "public", SIGNING.verify_key)
    (tmp_path / "public").chmod(0o600)
    for path, its_reader in (
        (mac, read_mac_keys),
        (tmp_path / "private", read_signing_key),
        (tmp_path / "public", read_verify_key),
    ):
        if reader is its_reader:
            reader(path)
        else:
            named = "not hold MAC keys: it is a publisher's|cannot be used to (sign|verify): (this is the|it holds MAC)"
            with pytest.raises(KeyFileError, match=named):
                reader(path)


# Secrecy.


def spellings(secret):
    """How a secret could be written."""
    found = [
        repr(secret)[2:-1],
        secret.hex(),
        base64.b64encode(secret).decode(),
        base64.urlsafe_b64encode(secret).decode(),
    ]
    return [text.rstrip("=")[:20] for text in found]


def everything(error):
    """All text that hangs on an error: its causes, contexts, arguments and attributes."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error)), repr(getattr(error, "object", ""))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


SECRET = bytes(range(60, 92))


@pytest.mark.parametrize(
    "key",
    [
        MacKey(SECRET),
        MacKey(SECRET, Suite.A256GMAC),
        MacKeySet(MacKey(SECRETS[1]), MacKey(SECRET)),
        SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(SECRET)),
    ],
)
def test_secrets_are_not_shown(key):
    """Neither by repr, str or format; fingerprints are."""
    for text in (repr(key), str(key), f"{key}", "%r %s" % (key, key), repr([key]), repr({"key": key})):  # noqa: UP031
        assert key.fingerprint in text
        assert not any(spelling in text for spelling in spellings(SECRET))
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-5],
        lambda text: text + "x",
        lambda text: text.replace("{", "{{", 1),
        lambda text: text.replace('"k"', "k"),
        lambda text: text.replace('"kid": "', '"kid": "0'),
        lambda text: text.replace("oct", "OKP"),
        lambda text: text.replace("HS256", "HS512"),
        lambda text: text.replace("HS256", GMAC["alg"]),
        lambda text: text.replace('"HS256"', "null"),
        lambda text: text.replace('"sign",', '"encrypt",'),
        lambda text: re.sub('"k": ".', '"k": "', text),
        lambda text: re.sub('("k": ".*)"', r'\1="', text),
        lambda text: text.encode() + b"\xff",
    ],
)
def test_errors_about_a_damaged_file_hold_no_secret(change, tmp_path):
    """Nor do their causes: an error of json, for one, carries the text that it is about."""
    write_mac_keys(tmp_path / "good", MacKeySet(MacKey(SECRET)))
    read_mac_keys(tmp_path / "good")
    path = secret_file(tmp_path / "bad", change((tmp_path / "good").read_text()))
    with pytest.raises(KeyFileError) as caught:
        read_mac_keys(path)
    assert not any(spelling in everything(caught.value) for spelling in spellings(SECRET))
    assert spellings(SECRET)[-1] in (tmp_path / "good").read_text()


def test_a_passphrase_is_not_shown(tmp_path):
    """The error about a wrong one does not have it, nor the right one."""
    write_signing_key(tmp_path / "key", SIGNING, "the right one")
    with pytest.raises(KeyFileError) as caught:
        read_signing_key(tmp_path / "key", "the wrong one")
    assert not re.search("right one|wrong one", everything(caught.value))


def test_keys_that_readers_need_travel_in_a_pickle():
    """To a spawned worker; a copy is equal. A private key never does."""
    keys = MacKeySet(*map(MacKey, SECRETS))
    mixed = MacKeySet(MacKey(SECRETS[0], Suite.A256GMAC), MacKey(SECRETS[1]))
    for key in (keys.signing, keys, mixed.signing, mixed, SIGNING.verify_key):
        for again in (pickle.loads(pickle.dumps(key)), copy.copy(key), copy.deepcopy(key)):
            assert again == key
            assert hash(again) == hash(key)
            assert again.fingerprint == key.fingerprint
    assert [key.suite for key in pickle.loads(pickle.dumps(mixed))] == [Suite.A256GMAC, Suite.HS256]
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a SigningKey cannot be pickled"):
            call(SIGNING)


def test_keys_travel_to_a_spawned_process():
    """A fresh interpreter gets the same key."""
    code = (
        "import pickle, sys; keys = pickle.load(sys.stdin.buffer); print(*(key.fingerprint for key in keys))\n"
        "print(keys[0].signing.start(b'head').hexdigest(), keys[0].signing.suite.name)"
    )
    keys = MacKeySet(MacKey(SECRETS[0], Suite.A256GMAC)), SIGNING.verify_key
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(keys), capture_output=True, check=True)
    expected = keys[0].signing.start(b"head").hexdigest()
    assert done.stdout.decode().split() == [keys[0].fingerprint, keys[1].fingerprint, expected, "A256GMAC"]


# Secret files.

READERS = {
    "mac": (mac_file, read_mac_keys),
    "publisher": (lambda folder: write_signing_key(folder / "key", SIGNING) or folder / "key", read_signing_key),
}


@pytest.fixture(params=READERS)
def secret(request, tmp_path):
    """A secret file and its reader."""
    make, reader = READERS[request.param]
    return make(tmp_path), reader


@pytest.mark.parametrize("exposed", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o666, 0o644, 0o440])
def test_a_secret_that_others_can_use_is_refused(secret, exposed):
    """With the command to type, after which it is read."""
    path, reader = secret
    path.chmod(exposed)
    with pytest.raises(KeyFileError, match=rf"its mode is {exposed:04o}, expected 0600: type chmod 600 -- ") as caught:
        reader(path)
    assert isinstance(caught.value, UndecidedError)
    follow(caught.value.message)
    reader(path)


@pytest.mark.parametrize("private", [0o600, 0o400, 0o700])
def test_a_secret_that_is_kept_is_read(secret, private):
    """The owner may do what he likes."""
    path, reader = secret
    path.chmod(private)
    reader(path)


@names_in_utf8
def test_the_command_to_type_is_quoted(tmp_path):
    """A path with spaces, quotes, accents or a hyphen in front is one argument of it."""
    for name in ("a key; ls", "it's", "$HOME", "-R", "clé 'a\\n'", "\x1b[31m"):
        path = mac_file(tmp_path, name)
        path.chmod(0o644)
        with pytest.raises(KeyFileError) as caught:
            read_mac_keys(path)
        command = re.search(r"type (chmod 600 -- .*); if others", caught.value.message)[1]
        type_in(command)
        assert mode(path) == 0o600


def owned_by(monkeypatch, user):
    """Let every file that is opened belong to a user."""
    real = os.fstat

    def fstat(fd):
        found = list(real(fd))
        found[4] = user
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", fstat)


def test_a_secret_of_another_user_is_refused(secret, monkeypatch):
    """He could read and change it; root could anyway."""
    path, reader = secret
    owned_by(monkeypatch, os.geteuid() + 1000)
    with pytest.raises(KeyFileError, match=rf"belongs to user {os.geteuid() + 1000}.*: type chown {os.geteuid()} -- "):
        reader(path)
    for user in (0, os.geteuid()):
        owned_by(monkeypatch, user)
        reader(path)


def test_a_link_is_judged_by_what_it_leads_to(secret, tmp_path):
    """A link to a kept secret is read, one to an exposed secret refused."""
    path, reader = secret
    link = tmp_path / "link"
    link.symlink_to(path)
    reader(link)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600") as caught:
        reader(link)
    follow(caught.value.message)
    assert mode(path) == 0o600
    reader(link)


@pytest.mark.parametrize("reader", [read_mac_keys, read_signing_key, read_verify_key])
def test_what_is_no_regular_file_is_refused(reader, tmp_path):
    """The refusal is immediate, without waiting for the writer of a FIFO."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {"fifo": "is a 'p' node", "folder": "is a 'd' node", "missing": "No such file", "loop": "symbolic links"}
    for name, message in cases.items():
        with pytest.raises(KeyFileError, match=message):
            reader(tmp_path / name)
    with pytest.raises(KeyFileError, match="is a 'c' node"):
        reader("/dev/null")
    with pytest.raises(KeyFileError, match=r"a\\x00b cannot be the name of a file"):
        reader("a\0b")
    with pytest.raises(KeyFileError, match="more than 65536 bytes"):
        reader(secret_file(tmp_path / "long", bytes(2**16 + 1)))
    with pytest.raises(KeyFileError, match=r"does not hold MAC keys|it is empty"):
        reader(secret_file(tmp_path / "empty", b""))


def test_file_descriptors_are_closed(tmp_path):
    """They are closed after a refusal, too."""
    (tmp_path / "folder").mkdir()
    before = os.listdir("/dev/fd")
    path = mac_file(tmp_path)
    for refused in (tmp_path / "folder", tmp_path / "missing", path):
        with pytest.raises(KeyFileError):
            read_signing_key(refused)
    assert len(os.listdir("/dev/fd")) == len(before)


def place_of(secret, folder):
    """Move a secret into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return pathlib.Path(shutil.move(secret[0], folder / "key")), secret[1]


@pytest.mark.parametrize("named", ["", "data.mdb", "../database", "link"])
@pytest.mark.parametrize("below", ["", "keys"])
def test_a_secret_in_the_folder_of_its_database_is_refused(secret, tmp_path, named, below):
    """However the database is named; with the command to type, after which it is read."""
    database = tmp_path / "database"
    path, reader = place_of(secret, database / below)
    (tmp_path / "link").symlink_to(database)
    (database / "data.mdb").touch()
    given_path = tmp_path / "link" if named == "link" else database / named
    with pytest.raises(KeyFileError, match=r"is in the database's folder .* type mv -- ") as caught:
        reader(path, database=given_path)
    follow(caught.value.message)
    assert not path.exists()
    reader(tmp_path / "key", database=given_path)


def test_a_secret_beside_any_data_file_is_refused(secret, tmp_path):
    """The secret is refused although the folder was not named as a database."""
    path, reader = place_of(secret, tmp_path / "database")
    reader(path)
    (tmp_path / "database" / "data.mdb").touch()
    with pytest.raises(KeyFileError, match="is in the database's folder"):
        reader(path)


def test_a_link_in_the_folder_of_a_database_is_refused(secret, tmp_path):
    """Whoever may write there could choose the key; a link from outside to a secret in it is refused, too."""
    path, reader = secret
    database = tmp_path / "database"
    database.mkdir()
    (database / "link").symlink_to(path)
    with pytest.raises(KeyFileError, match="is in the database's folder"):
        reader(database / "link", database=database)
    inside = shutil.move(path, database / "key")
    path.symlink_to(inside)
    with pytest.raises(KeyFileError, match="is in the database's folder"):
        reader(path, database=database)


def test_a_secret_beside_a_single_file_is_read(secret, tmp_path):
    """A database that is one file is shared as that file; and a folder of a similar name is another folder."""
    path, reader = secret
    (tmp_path / "ben.mdb").touch()
    (tmp_path / "ke").mkdir()
    reader(path, database=tmp_path / "ben.mdb")
    reader(path, database=str(path)[:-1])
    reader(path, database=tmp_path / "missing")


def test_a_public_key_that_others_can_change_is_refused(tmp_path):
    """They would decide whom we trust. That others can read it is the point of it."""
    path = tmp_path / "key.pub"
    write_verify_key(path, SIGNING.verify_key)
    for writable in (0o664, 0o646, 0o666):
        path.chmod(writable)
        with pytest.raises(KeyFileError, match=f"its mode is {writable:04o}, expected 0644: type chmod go-w") as caught:
            read_verify_key(path)
        follow(caught.value.message)
        assert read_verify_key(path) == SIGNING.verify_key
    (tmp_path / "data.mdb").touch()
    assert read_verify_key(path) == SIGNING.verify_key


# Writing.


USELESS = pytest.param(0o777, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can use what it makes"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, USELESS])
def test_modes_and_the_umask(umask, tmp_path):
    """Secrets are 0600 in any case; of a public key's 0644 it takes bits."""
    before = os.umask(umask)
    try:
        write_mac_keys(tmp_path / "mac", MacKeySet(MacKey(SECRETS[0])))
        add_mac_key(tmp_path / "mac")
        write_signing_key(tmp_path / "private", SIGNING)
        write_verify_key(tmp_path / "public", SIGNING.verify_key)
    finally:
        os.umask(before)
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "mac": 0o600,
        "private": 0o600,
        "public": 0o644 & ~umask,
    }


def write_any(kind, path, **options):
    """Write a file of a kind."""
    writers = {
        "mac": lambda: write_mac_keys(path, MacKeySet(MacKey(SECRETS[0])), **options),
        "private": lambda: write_signing_key(path, SIGNING, **options),
        "public": lambda: write_verify_key(path, SIGNING.verify_key, **options),
    }
    writers[kind]()


@pytest.mark.parametrize("kind", ["mac", "private", "public"])
def test_nothing_is_overwritten_unless_told(kind, tmp_path):
    """Files, folders and links, even dangling ones, are kept."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link", "dangling"):
        words = {"file": "exists and is not overwritten", "folder": "is a directory"}.get(name, "is a symbolic link")
        with pytest.raises(KeyFileError, match=words):
            write_any(kind, tmp_path / name)
        if name != "file":
            with pytest.raises(KeyFileError, match=words):
                write_any(kind, tmp_path / name, overwrite=True)
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "folder", "link"]
    write_any(kind, tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() != "precious"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "folder", "link"]


@pytest.mark.parametrize("kind", ["mac", "private"])
def test_no_secret_is_made_in_the_folder_of_a_database(kind, tmp_path):
    """Where every reader would refuse it; a public key may lie there."""
    (tmp_path / "data.mdb").touch()
    with pytest.raises(KeyFileError, match="is in the database's folder"):
        write_any(kind, tmp_path / "key")
    write_any("public", tmp_path / "key")


@pytest.mark.parametrize("failing", ["fsync", "mkdir", "replace"])
@pytest.mark.parametrize("kind", ["mac", "private", "public"])
def test_a_failure_leaves_nothing_half_written(kind, failing, tmp_path, monkeypatch):
    """Existing files are unchanged, and no remains are left."""
    overwrite = failing == "replace"
    if overwrite:
        (tmp_path / "key").write_text("old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(KeyFileError, match=r"^no space left on the disk of .*/key \("):
            write_any(kind, tmp_path / "key", overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_any(kind, tmp_path / "key", overwrite=overwrite)


def test_unwritable_places_are_told(tmp_path):
    """The message is one line, as an error about the key file."""
    for path in (tmp_path / "missing" / "key", "a\0b", "\ud800", tmp_path / ("n" * 300)):
        with pytest.raises(KeyFileError, match=r"^[ -~]*(cannot write|cannot be the name of a file)[ -~]+$"):
            write_mac_keys(path, MacKeySet(MacKey(SECRETS[0])))


def killed_at(moment, work):
    """Do it in another process, which is killed at the so-many-th system call of some; its exit status."""
    calls = itertools.count(1)

    def counting(real):
        def call(*arguments, **options):
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    child = os.fork()
    if child == 0:
        try:
            for name in ("mkdir", "open", "fsync", "replace", "unlink", "rmdir", "close"):
                setattr(os, name, counting(getattr(os, name)))
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.threat("T21")
@pytest.mark.parametrize("what", ["add", "create", "pair"])
def test_killed_at_any_moment(what, tmp_path):
    """The file is as before or complete; the same call again does it, and leaves nothing else."""
    old = MacKeySet(MacKey(SECRETS[0]))
    writers = {
        "add": lambda path: add_mac_key(path),
        "create": lambda path: write_mac_keys(path, old),
        "pair": lambda path: write_key_pair(path, f"{path}.pub", SIGNING),
    }
    for moment in itertools.count(1):
        folder = tmp_path / f"{moment}"
        folder.mkdir()
        path = folder / "key"
        if what == "add":
            write_mac_keys(path, old)
        status = killed_at(moment, functools.partial(writers[what], path))
        assert status in (0, -signal.SIGKILL)
        assert {mode(left) for left in folder.glob(".*")} <= {0o700}
        if what == "add":
            found = read_mac_keys(path)
            assert found == old or list(found)[1:] == list(old)
        if path.exists() and what != "add":  # it is whole, and is not made a second time
            with pytest.raises(KeyFileError, match="exists and is not overwritten"):
                writers[what](path)
        else:
            writers[what](path)
        if what == "pair":
            assert read_verify_key(f"{path}.pub") == read_signing_key(path).verify_key
        else:
            read_mac_keys(path)
        assert sorted(os.listdir(folder)) == (["key", "key.pub"] if what == "pair" else ["key"])
        if status == 0:
            break
    assert moment > 10


# Rotation.


def test_a_rotated_key_stays_valid(tmp_path):
    """The new one tags, the old ones check, in a file that is as private as before."""
    path = mac_file(tmp_path)
    first = read_mac_keys(path)
    second = add_mac_key(path)
    third = add_mac_key(path)
    assert read_mac_keys(path) == third
    assert list(third)[1:] == list(second)
    assert list(second)[1:] == list(first)
    assert mode(path) == 0o600


def test_rotation_changes_the_suite_only_if_asked(tmp_path):
    """The new key has the suite of the old one, or the requested suite; the old keys still check."""
    path = mac_file(tmp_path)
    for suite, expected in ((None, "HS256"), (Suite.A256GMAC, "A256GMAC"), (None, "A256GMAC"), (Suite.HS256, "HS256")):
        before = read_mac_keys(path)
        after = add_mac_key(path, suite)
        assert after.signing.suite.name == expected
        assert list(after)[1:] == list(before)


def test_rotation_follows_a_link_and_obeys_the_rules_of_secrets(tmp_path):
    """A link stays one; an exposed or missing file is refused and nothing made."""
    path = mac_file(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert len(add_mac_key(link)) == len(read_mac_keys(path)) == 2
    assert link.is_symlink()
    content = path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        add_mac_key(path)
    assert path.read_bytes() == content
    with pytest.raises(KeyFileError, match="No such file"):
        add_mac_key(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == ["link", "mac.jwks"]
    path.chmod(0o600)
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "data.mdb").touch()
    (tmp_path / "database" / "link").symlink_to(path)
    with pytest.raises(KeyFileError, match="is in the database's folder"):
        add_mac_key(tmp_path / "database" / "link")
    assert path.read_bytes() == content


def test_no_rotation_is_lost(tmp_path):
    """Of several at once each is either refused or in the file."""
    path = mac_file(tmp_path)
    made, refusals = [], []

    def rotate():
        for _ in range(10):
            try:
                made.append(add_mac_key(path))
            except KeyFileError as error:
                refusals.append(error.message)

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_mac_keys(path)) == 1 + len(made)
    assert len(made) + len(refusals) == 40
    assert all(re.match("(another writer is at|other writers keep) work", message) for message in refusals)


# JWK Sets.


def test_jwk_sets_of_the_vectors():
    """The file has exactly the members of RFC 7517 and docs/format.md."""
    one, two = map(MacKey, SECRETS)
    new, newer = (MacKey(secret, Suite.A256GMAC) for secret in SECRETS)
    expected_sets = vectors("tags.json")["jwk_sets"] + vectors("gmac_tags.json")["jwk_sets"]
    sets = MacKeySet(one), MacKeySet(two, one), MacKeySet(new), MacKeySet(newer, one)
    for keys, expected in zip(sets, expected_sets, strict=True):
        assert {"keys": [key.to_jwk(key is keys.signing) for key in keys]} == expected


@given(st.dictionaries(st.binary(min_size=32, max_size=80), st.sampled_from(Suite), min_size=1, max_size=5))
def test_mac_keys_come_back_from_their_file(tmp_path_factory, secrets):
    """The order, the tagging key and the suites are kept."""
    keys = MacKeySet(*(MacKey(secret, suite) for secret, suite in secrets.items()))
    path = tmp_path_factory.mktemp("keys") / "mac"
    write_mac_keys(path, keys)
    assert read_mac_keys(path) == keys
    path.unlink()
    path.parent.rmdir()


def changed(**members):
    return {name: value for name, value in {**JWK, **members}.items() if value is not None}


ACCEPTED = {
    "the required members alone": [JWK],
    "what the tool jose writes": [changed(alg="HS256", key_ops=["sign", "verify"])],
    "use": [changed(use="sig")],
    "key_ops the other way round": [changed(key_ops=["verify", "sign"])],
    "the key id": [changed(kid=MacKey(SECRETS[0]).fingerprint)],
    "a member of somebody else's": [changed(**{"x-owner": {"name": ["me"]}})],
}
REFUSED = {
    "no keys": ([], '0 keys have "sign"'),
    "no kty": ([changed(kty=None)], '"kty" "oct"'),
    "a publisher's key": ([changed(kty="OKP")], "it is a publisher's public key; --mac-key takes a file that"),
    "a publisher's key among others": ([JWK, changed(kty="OKP")], '"kty" "oct"'),
    "no k": ([changed(k=None)], "base64url"),
    "k is a number": ([changed(k=7)], "base64url"),
    "k is empty": ([changed(k="")], "base64url"),
    "k is padded": ([changed(k=JWK["k"] + "=")], "base64url"),
    "k is base64, not base64url": ([changed(k="+/" * 30)], "base64url"),
    "k has bits to spare": ([changed(k=JWK["k"][:-1] + "9")], "base64url"),
    "k has an impossible length": ([changed(k="A" * 45)], "base64url"),
    "k has a line break": ([changed(k=JWK["k"] + "\n")], "base64url"),
    "k is short": ([changed(k="A" * 42)], "has 31 bytes"),
    "another algorithm": ([changed(alg="HS512")], '"alg" of a key is not "HS256"'),
    "the short name of one": ([{**GMAC, "alg": "A256GMAC"}], '"alg" of a key'),
    "another version of one": ([{**GMAC, "alg": GMAC["alg"][:-1] + "2"}], '"alg" of a key'),
    "no algorithm": ([{**JWK, "alg": None}], '"alg" of a key'),
    "no algorithm, of the second": ([JWK, {**GMAC, "key_ops": ["verify"], "alg": None}], '"alg" of a key'),
    "an algorithm that is a number": ([{**JWK, "alg": 2}], '"alg" of a key'),
    "an algorithm that is a list": ([{**GMAC, "alg": [GMAC["alg"]]}], '"alg" of a key'),
    "the key id of the other suite": ([{**GMAC, "kid": MacKey(SECRETS[0]).fingerprint}], '"kid" of a key is not'),
    "one secret for two suites": ([{**JWK, "key_ops": ["verify"]}, GMAC], "for two suites"),
    "for encryption": ([changed(use="enc")], '"use" of a key is not "sig"'),
    "another key id": ([changed(kid="0" * 16)], '"kid" of a key is not'),
    "key_ops of another kind": ([changed(key_ops=["sign", "verify", "encrypt"])], '"key_ops" of the key'),
    "key_ops that cannot check": ([changed(key_ops=["sign"])], '"key_ops" of the key'),
    "key_ops in a str": ([changed(key_ops="sign verify")], '"key_ops" of the key'),
    "key_ops of lists": ([changed(key_ops=[["sign"], ["verify"]])], '"key_ops" of the key'),
    "none that tags": ([changed(key_ops=["verify"])], '0 keys have "sign"'),
    "two that tag": ([JWK, changed(k="A" * 43)], '2 keys have "sign"'),
    "one key twice": ([JWK, changed(key_ops=["verify"])], "a key is listed twice"),
    "a key that is none": (["key"], '"kty" "oct"'),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_jwk_sets_of_other_tools_are_read(case, tmp_path):
    """Members that are not required may be missing, and others be there (RFC 7517, section 4)."""
    path = secret_file(tmp_path / "mac", json.dumps({"keys": ACCEPTED[case]}))
    assert read_mac_keys(path) == MacKeySet(MacKey(SECRETS[0]))


@pytest.mark.parametrize("left_out", [(), ("kid",), ("key_ops",), ("kid", "key_ops")])
def test_the_algorithm_of_a_key_is_its_suite(left_out, tmp_path):
    """As it is written, and without what may be left out; the same secret without an algorithm is a key of HS256."""
    jwk = {name: value for name, value in GMAC.items() if name not in left_out}
    path = secret_file(tmp_path / "mac", json.dumps({"keys": [jwk]}))
    assert read_mac_keys(path) == MacKeySet(MacKey(SECRETS[0], Suite.A256GMAC))
    del jwk["alg"]
    secret_file(path, json.dumps({"keys": [jwk]}))
    if "kid" in left_out:
        assert read_mac_keys(path) == MacKeySet(MacKey(SECRETS[0]))
    else:
        with pytest.raises(KeyFileError, match='"kid" of a key is not'):
            read_mac_keys(path)


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_jwk_sets_are_refused(case, tmp_path):
    """The message has the reason."""
    entries, message = REFUSED[case]
    path = secret_file(tmp_path / "mac", json.dumps({"keys": entries}))
    with pytest.raises(KeyFileError, match=f"does not hold MAC keys: .*{message}"):
        read_mac_keys(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON"),
        (json.dumps(JWK), 'it has no list "keys"'),
        ("[]", 'it has no list "keys"'),
        ('{"keys": {}}', 'it has no list "keys"'),
        ("[" * 60_000, "it is not JSON"),
        ('{"keys": %s}' % ("9" * 5000), "integer string|it has no list"),
        (json.dumps({"keys": [JWK]})[:-1] + ', "keys": []}', "a member occurs twice"),
        (json.dumps({"keys": [JWK]}).replace('"k"', '"kty": "oct", "k"'), "a member occurs twice"),
    ],
)
def test_what_is_no_jwk_set_is_refused(text, message, tmp_path):
    """For any other content."""
    with pytest.raises(KeyFileError, match=message):
        read_mac_keys(secret_file(tmp_path / "mac", text))


@given(st.binary(max_size=200) | st.text(string.printable).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    """Nothing else comes out of any reader."""
    path = tmp_path_factory.getbasetemp() / "any"
    secret_file(path, content)
    for reader in (read_mac_keys, read_signing_key, read_verify_key):
        with pytest.raises(KeyFileError):
            reader(path)


# Ed25519.


@pytest.mark.parametrize("vector", vectors("rfc8032.json")["cases"], ids=lambda vector: vector["case"])
def test_ed25519_vectors(vector):
    """Our keys agree with RFC 8032."""
    private, public, message, signature = (
        bytes.fromhex(vector[name]) for name in ("private_key", "public_key", "message", "signature")
    )
    signing_key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(private))
    verify_key = VerifyKey(ed25519.Ed25519PublicKey.from_public_bytes(public))
    assert signing_key.verify_key == verify_key
    assert signing_key.sign(message) == signature
    verify_key.verify(signature, message)
    for wrong, text in ((signature, message + b"\0"), (signature[:-1], message), (b"", message), (bytes(64), message)):
        with pytest.raises(SignatureError, match=f"not signed by the key {verify_key.fingerprint}"):
            verify_key.verify(wrong, text)


@given(st.binary(max_size=100), st.data())
def test_a_flipped_bit_of_message_or_signature_is_refused(message, data):
    """Every single flipped bit is refused."""
    signature = SIGNING.sign(message)
    SIGNING.verify_key.verify(signature, message)
    both = bytearray(signature + message)
    bit = data.draw(st.integers(0, len(both) * 8 - 1))
    both[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        SIGNING.verify_key.verify(bytes(both[:64]), bytes(both[64:]))


def test_the_pem_files_of_the_rfc(tmp_path):
    """RFC 8410 gives a private key and the public key to it."""
    pem = vectors("rfc8410.json")
    signing_key = read_signing_key(secret_file(tmp_path / "private", pem["private_key"]))
    verify_key = read_verify_key(secret_file(tmp_path / "public", pem["public_key"]))
    assert signing_key.verify_key == verify_key
    write_verify_key(tmp_path / "again", verify_key)
    assert (tmp_path / "again").read_text() == pem["public_key"]
    write_signing_key(tmp_path / "private again", signing_key)
    assert (tmp_path / "private again").read_text() == pem["private_key"]


@pytest.mark.parametrize("passphrase", [None, "correct horse", "Straße", b"\xff\0x", "x" * 500])
def test_keys_come_back_from_their_files(passphrase, tmp_path):
    """With and without a passphrase, which is a str (UTF-8) or bytes."""
    signing_key = SigningKey.generate()
    write_signing_key(tmp_path / "key", signing_key, passphrase)
    write_verify_key(tmp_path / "key.pub", signing_key.verify_key)
    again = read_signing_key(tmp_path / "key", passphrase)
    assert again.fingerprint == signing_key.fingerprint
    assert read_verify_key(tmp_path / "key.pub") == again.verify_key
    assert (b"ENCRYPTED" in (tmp_path / "key").read_bytes()) == (passphrase is not None)
    if isinstance(passphrase, str):
        assert read_signing_key(tmp_path / "key", passphrase.encode()).fingerprint == signing_key.fingerprint


def test_passphrases_are_asked_for_and_not_ignored(tmp_path):
    """A missing, wrong, empty or superfluous passphrase is reported."""
    write_signing_key(tmp_path / "open", SIGNING)
    write_signing_key(tmp_path / "closed", SIGNING, "right")
    with pytest.raises(KeyFileError, match="it is encrypted, and no passphrase was given"):
        read_signing_key(tmp_path / "closed")
    with pytest.raises(KeyFileError, match="the passphrase is wrong, or it is damaged"):
        read_signing_key(tmp_path / "closed", "wrong")
    with pytest.raises(KeyFileError, match="it is not encrypted, but a passphrase was given"):
        read_signing_key(tmp_path / "open", "right")
    for name in ("open", "closed"):
        with pytest.raises(ValueError, match="must not be empty"):
            read_signing_key(tmp_path / name, "")
    with pytest.raises(ValueError, match="must not be empty"):
        write_signing_key(tmp_path / "other", SIGNING, b"")
    assert not (tmp_path / "other").exists()


def private_pem(key, encryption=None, form=PrivateFormat.PKCS8):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


OTHERS = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "EC on secp521r1": ec.generate_private_key(ec.SECP521R1()),
    "EC on secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "X25519": x25519.X25519PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_keys_of_other_algorithms_are_refused(kind, tmp_path):
    """Private and public keys are refused."""
    key = OTHERS[kind]
    with pytest.raises(KeyFileError, match=rf"cannot be used to sign: it is a key of {kind}, expected Ed25519, ECDSA"):
        read_signing_key(secret_file(tmp_path / "private", private_pem(key)))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFileError, match=f"cannot be used to verify: it is a key of {kind}, expected Ed25519, ECDSA"):
        read_verify_key(secret_file(tmp_path / "public", public))


def test_files_with_another_number_or_kind_of_blocks_are_refused(tmp_path):
    """A file says one thing: no second key can be hidden in it, no other container be mistaken for it."""
    private, public = private_pem(SIGNING.private_key), vectors("rfc8410.json")["public_key"].encode()
    cases = {
        private + private: "it holds PRIVATE KEY, PRIVATE KEY; expected one PEM block",
        private + public: "it holds PRIVATE KEY, PUBLIC KEY; expected one PEM block",
        private_pem(OTHERS["RSA"], form=PrivateFormat.TraditionalOpenSSL): "it holds RSA PRIVATE KEY",
        private.replace(b"PRIVATE", b"SECRET"): "it holds an unknown block",
        private[:60] + private[70:]: "damaged",
        b"-----BEGIN PRIVATE KEY-----\n": "the END line is missing",
    }
    for content, message in cases.items():
        path = secret_file(tmp_path / "key", content)
        with pytest.raises(KeyFileError, match=message):
            read_signing_key(path)
        with pytest.raises(KeyFileError):
            read_verify_key(path)
    for content in (public + public, public[:50] + public[60:], private):
        with pytest.raises(KeyFileError):
            read_verify_key(secret_file(tmp_path / "key", content))
    assert read_verify_key(secret_file(tmp_path / "key", public)).fingerprint
    assert read_signing_key(secret_file(tmp_path / "key", b"text before\n" + private)).fingerprint


@needs_openssl
def test_keys_that_openssl_writes_are_read(tmp_path):
    """Plain, encrypted in each way that it knows, and the public part."""
    plain = tmp_path / "plain"
    openssl("genpkey", "-algorithm", "ed25519", "-out", plain)
    openssl("pkey", "-in", plain, "-pubout", "-out", tmp_path / "public")
    verify_key = read_verify_key(tmp_path / "public")
    plain.chmod(0o600)
    assert read_signing_key(plain).verify_key == verify_key
    for place, options in enumerate([["-v2", "aes-256-cbc"], ["-v2", "aes-128-cbc", "-iter", "100000"], ["-scrypt"]]):
        path = tmp_path / f"encrypted{place}"
        openssl("pkcs8", "-topk8", "-in", plain, "-out", path, "-passout", "pass:geheim", *options)
        path.chmod(0o600)
        assert read_signing_key(path, "geheim").verify_key == verify_key
    openssl("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:geheim", "-out", tmp_path / "direct")
    (tmp_path / "direct").chmod(0o600)
    read_signing_key(tmp_path / "direct", "geheim")
    text = secret_file(tmp_path / "text", openssl("pkey", "-in", plain, "-text"))
    assert read_signing_key(text).verify_key == verify_key


@needs_openssl
def test_openssl_reads_our_keys_and_agrees_on_fingerprint_and_signatures(tmp_path):
    """The command in the docstring of ``fingerprint`` gives it."""
    signing_key = SigningKey.generate()
    write_signing_key(tmp_path / "key", signing_key, "geheim")
    write_verify_key(tmp_path / "key.pub", signing_key.verify_key)
    der = openssl("pkey", "-pubin", "-in", tmp_path / "key.pub", "-outform", "DER")
    assert hashlib.sha256(der).hexdigest() == signing_key.fingerprint
    private = ["-inkey", tmp_path / "key", "-passin", "pass:geheim"]
    assert openssl("pkey", "-in", tmp_path / "key", *private[2:], "-pubout") == (tmp_path / "key.pub").read_bytes()
    (tmp_path / "message").write_bytes(b"message")
    theirs = openssl("pkeyutl", "-sign", "-rawin", "-in", tmp_path / "message", *private)
    assert theirs == signing_key.sign(b"message")


def test_what_openssl_encrypts_our_way_is_still_pbes2():
    """The private key is not in the encrypted file in plain text."""
    raw = SIGNING.private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    encrypted = private_pem(SIGNING.private_key, BestAvailableEncryption(b"x"))
    assert raw in base64.b64decode(b"".join(private_pem(SIGNING.private_key).split(b"\n")[1:-2]))
    assert raw not in base64.b64decode(b"".join(encrypted.split(b"\n")[1:-2]))
