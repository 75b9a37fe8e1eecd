"""``sign``: a team's tags in place or in a copy, and a publisher's manifest, as a user does it, with failures."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types

import lmdb
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ben_secure import PatchReader, loads
from ben_secure.cli import main
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import footer_of
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    VerifyKey,
    read_mac_keys,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)
from ben_secure.signing.manifest import open_manifest
from ben_secure.signing.tags import append_tag, verified_payload
from support.databases import SHELL, make_database, needs_lmdb_3
from support.kills import kill_at_random
from support.legacy_values import small_tree, write
from support.tensor_files import S1_FILE

KEYS = MacKeySet(MacKey(bytes(range(32))))
OTHER_KEYS = MacKeySet(MacKey(bytes(32)))
PUBLISHER = SigningKey.generate()
BARE = {b"patch %02d" % number: write(small_tree(metadata={"labels": [str(number)]})) for number in range(30)}


def tagged(records, keys=KEYS, context=b""):
    """The same records with their tags."""
    return {lmdb_key: append_tag(keys.signing, context, lmdb_key, value) for lmdb_key, value in records.items()}


def content(path):
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with databases and keys."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "db", BARE)
    make_database(tmp_path / "empty", {})
    write_mac_keys("key", KEYS)
    write_mac_keys("other", OTHER_KEYS)
    write_signing_key("publisher", PUBLISHER)
    write_signing_key("locked", PUBLISHER, "open sesame")
    return tmp_path


def run(arguments, capsys):
    """Run a command: exit code, stdout, stderr."""
    code = main(arguments.split())
    out, err = capsys.readouterr()
    return code, out, err


# Tags


@needs_lmdb_3
def test_safetensors_values_are_not_tagged_where_they_are(place, capsys):
    """Other programs would not read them any more: the database stays as it is; a copy, or a manifest, can be made."""
    mixed = BARE | {b"s1": S1_FILE}
    make_database(place / "mixed", mixed)
    before = content("mixed/data.mdb")
    code, out, err = run("sign mixed --mac-key key", capsys)
    assert (code, out) == (2, "")
    assert re.search(r"safetensors file, .*--out NEW.*--signing-key.* LMDB key b's1' in mixed", err)
    assert content("mixed/data.mdb") == before
    code, out, err = run("sign mixed --mac-key key --out copy", capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "note: tagged 1 safetensors file; only ben_secure reads safetensors files with a tag"
    assert records("copy") == tagged(mixed)
    with PatchReader("copy", mac_key=KEYS) as reader:
        assert reader["s1"] == loads(S1_FILE)
    code, out, err = run("sign mixed --mac-key key --out again --json", capsys)
    assert (code, json.loads(out)["safetensors"]) == (0, 1)
    assert run("sign copy --mac-key key", capsys)[0] == 0
    assert run("verify copy --mac-key key", capsys)[0] == 0
    assert run("untag copy --mac-key key --out bare", capsys)[0] == 0
    assert records("bare") == mixed
    assert run("sign mixed --signing-key publisher --name n --version 1", capsys)[0] == 0
    assert run("sign db --mac-key key", capsys)[0] == 0


@needs_lmdb_3
@pytest.mark.threat("T9")
def test_sign_in_place(place, capsys):
    """All values get a tag; signing again keeps them; the key's id is shown, never the key."""
    key_id = KEYS.fingerprint
    code, out, err = run("sign db --mac-key key --context c", capsys)
    assert (code, err) == (0, "")
    assert out == f"SIGNED: all 30 values in db are tagged with the key {key_id}\n"
    assert records("db") == tagged(BARE, context=b"c")
    before = content("db/data.mdb")
    code, out, _ = run("sign db --mac-key key --context c", capsys)
    assert (code, out) == (
        0,
        f"SIGNED: all 30 values in db are tagged with the key {key_id} (30 already before)\n",
    )
    assert content("db/data.mdb") == before


@needs_lmdb_3
def test_a_context_is_missed(place, capsys):
    """A line on stdout explains an empty context, except with JSON; with a context there is no such line."""
    note = "note: without --context, a value and its tag are also valid in other databases with this key"
    for options, noted in (("", True), (" --context c --retag", False), (" --out copy --json", False)):
        code, out, err = run(f"sign db --mac-key key{options}", capsys)
        assert (code, err, note in out) == (0, "", noted)
        make_database(place / "db", BARE)


def test_sign_into_a_copy(place, capsys):
    """The original stays byte for byte."""
    before = content("db/data.mdb")
    code, out, _ = run("sign db --mac-key key --out new", capsys)
    assert (code, out.splitlines()[1:]) == (
        0,
        [f"SIGNED: all 30 values in new are tagged with the key {KEYS.fingerprint}"],
    )
    assert records("new") == tagged(BARE)
    assert content("db/data.mdb") == before
    code, out, err = run("sign db --mac-key key --out new", capsys)
    assert (code, out) == (2, "")
    assert err == "ben-secure: new exists and is not overwritten; choose another name\n"
    assert run("sign new --mac-key key --out again", capsys)[0] == 0
    assert records("again") == records("new")


@needs_lmdb_3
def test_signing_resumes(place, capsys):
    """Values that have their tag already are kept, the others get one."""
    half = dict(list(BARE.items())[:11])
    make_database(place / "half", BARE | tagged(half))
    code, out, _ = run("sign half --mac-key key", capsys)
    assert (code, "(11 already before)" in out) == (0, True)
    assert records("half") == tagged(BARE)


@needs_lmdb_3
@pytest.mark.threat("T9")
@pytest.mark.parametrize("out", ["", "--out new"])
def test_foreign_tags_are_refused(place, capsys, out):
    """Of another key, for another dataset, or invalid: listed, the first 20 and the count, and nothing is written."""
    damaged = tagged(BARE)[b"patch 29"]
    mixed = BARE | tagged(dict(list(BARE.items())[5:]), OTHER_KEYS) | {b"patch 29": b"\0" + damaged[1:]}
    mixed[b"patch 04"] = tagged(BARE, context=b"another")[b"patch 04"]
    make_database(place / "mixed", mixed)
    before = content("mixed/data.mdb")
    code, text, err = run(f"sign mixed --mac-key key {out}", capsys)
    lines = text.splitlines()
    assert (code, err) == (1, "")
    assert lines[0].startswith("patch 04: the value was changed")
    assert lines[1].startswith("patch 05: the value is")
    assert OTHER_KEYS.fingerprint in lines[1]
    assert lines[20] == "and 6 more refused"
    assert any("--retag --old-mac-key FILE" in line for line in lines[21:])
    assert lines[-1] == "REFUSED: 26 of 30 values in mixed; nothing was written"
    assert content("mixed/data.mdb") == before
    assert not os.path.exists("new")
    code, text, _ = run(f"sign mixed --mac-key key --retag --old-mac-key other {out}", capsys)
    assert (code, text.splitlines()[-1]) == (1, "REFUSED: 2 of 30 values in mixed; nothing was written")
    assert content("mixed/data.mdb") == before


@needs_lmdb_3
@pytest.mark.threat("T9")
def test_retag(place, capsys):
    """The old key proves the old tags; afterwards only the new key's are there."""
    make_database(place / "old", tagged(BARE, OTHER_KEYS, b"c"))
    code, out, _ = run("sign old --mac-key key --context c --retag --old-mac-key other", capsys)
    assert code == 0
    assert records("old") == tagged(BARE, KEYS, b"c")
    assert run("keygen mac key --add", capsys)[0] == 0  # rotation: the old tags stay valid, and can be replaced
    assert run("sign old --mac-key key --context c", capsys)[0] == 0
    assert records("old") == tagged(BARE, KEYS, b"c")
    code, out, _ = run("sign old --mac-key key --context c --retag --old-mac-key key --json", capsys)
    document = json.loads(out)
    assert (code, document["written"]) == (0, 30)
    assert document["key"] != KEYS.fingerprint
    assert records("old") != tagged(BARE, KEYS, b"c")


@needs_lmdb_3
@pytest.mark.threat("T18")
@pytest.mark.parametrize("out", ["", "--out new"])
def test_a_database_is_moved_to_another_suite_and_back(place, capsys, out):
    """A new key in the same file, and --retag: interrupted half-way it goes on, and each step verifies."""
    make_database(place / "old", tagged(BARE))
    for algorithm in ("A256GMAC", "HS256"):
        assert run(f"keygen mac key --add --algorithm {algorithm}", capsys)[0] == 0
        keys = read_mac_keys("key")
        assert run("verify old --mac-key key", capsys)[0] == 0
        assert run("sign old --mac-key key", capsys)[0] == 0  # without --retag valid tags stay
        assert {footer_of(value).key_id for value in records("old").values()}.isdisjoint([keys.signing.key_id])
        code, text, _ = run(f"sign old --mac-key key --retag {out} --json", capsys)
        document = json.loads(text)
        assert (code, document["written"], document["algorithm"]) == (0, 30, algorithm)
        if out:
            shutil.rmtree("old")
            os.rename("new", "old")
        found = records("old")
        only = MacKeySet(keys.signing)
        assert {name: bytes(verified_payload(only, b"", name, value)) for name, value in found.items()} == BARE
        assert {footer_of(value).suite for value in found.values()} == {keys.signing.suite}
        # The remains of a killed run: some are moved, some are not. Again, and only those that were not are written.
        make_database(place / f"half-{algorithm}", tagged(BARE) | dict(list(found.items())[:7]))
        code, text, _ = run(f"sign half-{algorithm} --mac-key key --retag --json", capsys)
        assert (code, json.loads(text)["written"]) == (0, 23)
        halves = records(f"half-{algorithm}")
        assert {name: halves[name] for name in list(found)[:7]} == dict(list(found.items())[:7])
    assert run("sign old --mac-key other --retag", capsys)[0] == 1
    assert run("verify old --mac-key key", capsys)[0] == 0


@needs_lmdb_3
def test_signing_does_not_decode(place, capsys):
    """It says "these bytes": a hostile value is signed as it is, and the audit still refuses it."""
    make_database(place / "hostile", {b"a": SHELL, b"b": b"no pickle"})
    assert run("sign hostile --mac-key key", capsys)[0] == 0
    assert bytes(verified_payload(KEYS, b"", b"a", records("hostile")[b"a"])) == SHELL
    assert not os.path.exists("canary")
    assert run("audit hostile", capsys)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sign db", "--mac-key FILE, --signing-key FILE or --signer URI"),
        ("sign db --mac-key key --signing-key publisher", "--mac-key FILE, --signing-key FILE or --signer URI"),
        (
            "sign db --signing-key publisher --signer hsm:2 --public-key p --name n --version 1",
            "give one key to sign with",
        ),
        (
            "sign db --signer hsm:2 --name n --version 1",
            "--signer requires --public-key, and --public-key requires --signer",
        ),
        ("sign db --mac-key missing", "cannot read missing"),
        ("sign db --mac-key publisher", "does not hold MAC keys"),
        ("sign missing --mac-key key", "does not exist"),
        pytest.param("sign empty --mac-key key", "the database is empty", marks=needs_lmdb_3),
        ("sign empty --mac-key key --out new", "the database is empty"),
        ("sign publisher --mac-key key", "not an LMDB file"),
        ("sign db --mac-key key --out empty", "exists and is not overwritten"),
        ("sign db --mac-key key --out db", "exists and is not overwritten"),
        ("sign db --mac-key key --old-mac-key other", "--old-mac-key requires --retag"),
        ("sign db --mac-key key --force", "require --signing-key"),
        ("sign db --mac-key key --name n", "require --signing-key"),
        ("sign db --mac-key key --context " + 300 * "x", "300 bytes"),
        ("sign db --signing-key publisher --name n", "--name and --version"),
        ("sign db --signing-key publisher --version 1", "--name and --version"),
        ("sign db --signing-key publisher --name n --version 1 --context c", "require --mac-key"),
        ("sign db --signing-key missing --name n --version 1", "cannot read missing"),
        ("sign db --signing-key key --name n --version 1", "cannot be used to sign: it holds MAC keys"),
        ("sign db --signing-key locked --name n --version 1", "a passphrase is needed"),
        ("sign db --signing-key locked --name n --version 1 --passphrase-env NOT_SET", "no passphrase in"),
        ("sign db --signing-key locked --name n --version 1 --passphrase-env WRONG", "the passphrase is wrong"),
        ("sign db --signing-key publisher --name n --version 1 --passphrase-env WRONG", "it is not encrypted"),
        ("sign db --signing-key publisher --name n --version " + 300 * "1", "expected 1 to 256 printable characters"),
        ("sign db --signing-key publisher --name \x1b[31m --version 1", "expected 1 to 256 printable characters"),
        ("sign empty --signing-key publisher --name n --version 1", "the database is empty"),
        ("sign missing --signing-key publisher --name n --version 1", "does not exist"),
        ("sign db --signing-key publisher --name n --version 1 --out-manifest db/m", "is inside the database"),
        ("sign db --signing-key publisher --name n --version 1 --out-manifest no/where", "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said(place, capsys, monkeypatch, arguments, message):
    """The exit code is 2, with one line on stderr or one object, no output files, and no secret."""
    monkeypatch.setenv("WRONG", "guessed")
    listed = sorted(os.listdir())
    code, out, err = run(arguments, capsys)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
    assert "internal error" not in err
    code, out, err = run(f"{arguments} --json", capsys)
    document = json.loads(out)
    assert (code, err, document["schema"], document["exit_code"], document["verdict"]) == (2, "", 1, 2, "undecided")
    assert "guessed" not in out
    assert sorted(os.listdir()) == listed
    assert records("db") == BARE


def test_a_secret_must_be_kept_as_one(place, capsys):
    """Readable by others, or inside of the database's folder: the message has the command to type."""
    os.chmod("key", 0o640)
    for arguments in ("sign db --mac-key key", "verify db --mac-key key", "untag db --mac-key key --out new"):
        code, _, err = run(arguments, capsys)
        assert (code, "chmod 600 -- key" in err) == (2, True), err
    os.chmod("key", 0o600)
    for name in ("key", "publisher"):
        shutil.copy(name, f"db/{name}")
    for arguments in (
        "sign db --mac-key db/key",
        "sign db --signing-key db/publisher --name n --version 1",
        "verify db --mac-key db/key",
        "convert db new --mac-key db/key",
    ):
        code, _, err = run(arguments, capsys)
        assert (code, "is in the database's folder" in err) == (2, True), err
    assert records("db") == BARE


@needs_lmdb_3
def test_use_in_place_is_exclusive(place, capsys):
    """While another program has the database open it is not touched; a copy can be made."""
    code = "import lmdb, sys; env = lmdb.open('db', readonly=True); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        exit_code, _, err = run("sign db --mac-key key", capsys)
        assert (exit_code, "another program has the database open" in err) == (2, True)
        assert run("sign db --mac-key key --out new", capsys)[0] == 0
        child.stdin.close()
    assert records("db") == BARE


@needs_lmdb_3
def test_json(place, capsys):
    """One object has the key and the numbers of read, written and refused values."""
    code, out, err = run("sign db --mac-key key --context c --json", capsys)
    expected = {
        "schema": 1,
        "command": "sign",
        "database": "db",
        "verdict": "signed",
        "exit_code": 0,
        "error": None,
        "key": KEYS.fingerprint,
        "algorithm": "HS256",
        "context": "c",
        "out": None,
        "checked": 30,
        "written": 30,
        "refused": 0,
        "findings": [],
        "findings_left_out": 0,
    }
    assert (code, err, json.loads(out)) == (0, "", expected)
    code, out, _ = run("sign db --mac-key other --context c --json", capsys)
    document = json.loads(out)
    assert (code, document["verdict"], document["written"], document["refused"]) == (1, "refused", 0, 30)
    assert document["findings"][0]["rule"] == "tag-foreign"
    assert (len(document["findings"]), document["findings_left_out"]) == (20, 10)


@pytest.mark.slow
@pytest.mark.threat("T9")
def test_a_killed_sign_can_be_done_again(place):
    """At random moments of a real process: every value is as before or rightly tagged, and a rerun completes."""
    many = {b"%04d" % number: bytes([number % 251]) * 100_000 for number in range(250)}
    make_database(place / "original", many)
    command = [sys.executable, "-m", "ben_secure", "sign", "db", "--mac-key", "key"]

    def prepare():
        shutil.rmtree("db")
        shutil.copytree("original", "db")

    for _ in kill_at_random(command, prepare):
        with lmdb.open("db", readonly=True, lock=False) as env, env.begin() as transaction:
            found = dict(transaction.cursor())
        done = [lmdb_key for lmdb_key in many if found[lmdb_key] != many[lmdb_key]]
        for lmdb_key in done:
            assert verified_payload(KEYS, b"", lmdb_key, found[lmdb_key]) == many[lmdb_key]
        subprocess.run(command, check=True, capture_output=True)
        assert records("db") == tagged(many)


# The manifest


@pytest.mark.threat("T8")
def test_sign_as_a_publisher(place, capsys):
    """Manifest and envelope are beside the unchanged database; the public key opens them."""
    before = content("db/data.mdb"), sorted(os.listdir("db"))
    arguments = "sign db --signing-key publisher --name Ben --version 1.0 --license CDLA-Permissive-1.0"
    code, out, err = run(arguments, capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"SIGNED: 30 records of db, by {PUBLISHER.fingerprint}"
    assert (content("db/data.mdb"), sorted(os.listdir("db"))) == before
    manifest = open_manifest("db.manifest", [PUBLISHER.verify_key], name="Ben", version="1.0")
    assert (manifest.statement.license, len(manifest)) == ("CDLA-Permissive-1.0", 30)
    signed = {name: content(name) for name in ("db.manifest", "db.manifest.dsse.json")}
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert "exists" in err
    assert "--force" in err
    assert {name: content(name) for name in signed} == signed
    assert run(arguments.replace("1.0 ", "1.1 ") + " --force", capsys)[0] == 0
    open_manifest("db.manifest", [PUBLISHER.verify_key], name="Ben", version="1.1")
    assert not [name for name in os.listdir() if name.startswith(".")]


@needs_lmdb_3
def test_a_release_is_not_changed_in_place(place, capsys):
    """Its values would not be those of the manifest any more; a copy can be tagged, or one that is tagged released."""
    assert run("sign db --signing-key publisher --name n --version 1", capsys)[0] == 0
    code, out, err = run("sign db --mac-key key", capsys)
    assert (code, out) == (2, "")
    assert "db.manifest lists its values as they are" in err
    assert records("db") == BARE
    assert run("sign db --mac-key key --out new", capsys)[0] == 0
    assert run("sign new --signing-key publisher --name n --version 1", capsys)[0] == 0
    assert run("sign new --mac-key key", capsys)[0] == 0  # nothing to change
    assert records("new") == tagged(BARE)


def test_the_manifest_goes_where_it_is_told(place, capsys):
    """Any path is accepted except one inside the database."""
    os.mkdir("elsewhere")
    code, out, _ = run(
        "sign db/data.mdb --signing-key publisher --name n --version 1 --out-manifest elsewhere/m --json", capsys
    )
    document = json.loads(out)
    assert (code, document["verdict"], document["count"]) == (0, "signed", 30)
    assert (document["manifest"], document["envelope"]) == ("elsewhere/m", "elsewhere/m.dsse.json")
    assert document["fingerprint"] == PUBLISHER.fingerprint
    assert sorted(os.listdir("elsewhere")) == ["m", "m.dsse.json"]
    assert document["manifest_sha256"] == subprocess.check_output(["sha256sum", "elsewhere/m"], text=True).split()[0]


def test_a_passphrase_is_asked_for_if_one_is_needed(place, capsys, monkeypatch):
    """The command asks only for an encrypted key, and names it."""
    asked = []

    def getpass(prompt):
        asked.append(prompt)
        return "open sesame"

    monkeypatch.setattr("getpass.getpass", getpass)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    for number, key in enumerate(("locked", "publisher")):
        code, out, err = run(f"sign db --signing-key {key} --name n --version 1 --out-manifest m{number}", capsys)
        assert (code, err) == (0, "")
        assert f"by {PUBLISHER.fingerprint}" in out
    assert asked == ["Passphrase for the private key locked: "]


def test_a_passphrase_comes_from_a_file_or_a_variable(place, capsys, monkeypatch):
    """And is seen nowhere."""
    monkeypatch.setenv("PASSPHRASE", "open sesame")
    with open(os.open("passphrase", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("open sesame\n")
    for number, option in enumerate(("--passphrase-env PASSPHRASE", "--passphrase-file passphrase")):
        code, out, err = run(
            f"sign db --signing-key locked --name n --version {number} --out-manifest m{number} {option}", capsys
        )
        assert (code, err) == (0, "")
        assert "sesame" not in out
        assert isinstance(open_manifest(f"m{number}", [PUBLISHER.verify_key]).signed_by[0], VerifyKey)
    os.chmod("passphrase", 0o644)
    code, _, err = run(
        "sign db --signing-key locked --name n --version 1 --passphrase-file passphrase --out-manifest m", capsys
    )
    assert (code, "chmod 600 -- passphrase" in err) == (2, True)


def piped(command, given):
    """Run a command of a user with something in a pipe: exit code and all that it says."""
    done = subprocess.run([sys.executable, "-m", "ben_secure", *command.split()], input=given, capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.threat("T23")
@needs_lmdb_3
def test_keys_come_from_standard_input(place):
    """A dash means standard input, for every kind of key and several databases; only one key can come that way."""
    make_database(place / "db2", BARE)
    for database in ("db", "db2"):
        code, said = piped(f"sign {database} --mac-key -", content("key"))
        assert (code, f"tagged with the key {KEYS.fingerprint}" in said) == (0, True)
    assert piped("audit db db2 --mac-key -", content("key"))[0] == 0
    code, said = piped("sign db --signing-key - --name n --version 1", content("publisher"))
    assert (code, f"by {PUBLISHER.fingerprint}" in said) == (0, True)
    public = PUBLISHER.verify_key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert piped("verify db --verify-key -", public)[0] == 0
    code, said = piped("verify db --verify-key -", content("publisher"))
    assert (code, "/dev/stdin cannot be used to verify: this is the private key" in said) == (2, True)
    code, said = piped("verify db --mac-key - --verify-key -", content("key"))
    assert (code, "/dev/stdin cannot be used to verify: it is empty" in said) == (2, True)
    code, said = piped("sign db2 --signing-key - --name n --version 1", content("locked"))
    assert (code, "a passphrase is needed for the private key /dev/stdin" in said) == (2, True)


@pytest.mark.threat("T23")
def test_a_public_key_where_a_private_one_belongs(place, capsys):
    """The message names the file to use, and nothing about its permissions."""
    write_verify_key("publisher.pub", PUBLISHER.verify_key)
    code, _, err = run("sign db --signing-key publisher.pub --name n --version 1", capsys)
    assert code == 2
    assert "publisher.pub cannot be used to sign: this is the public key; --signing-key takes publisher\n" in err
    assert run("sign db --signing-key publisher --name n --version 1", capsys)[0] == 0
    code, _, err = run("verify db --verify-key publisher", capsys)
    assert (code, "this is the private key; --verify-key takes the public one" in err) == (2, True)
    assert run("verify db --verify-key publisher.pub", capsys)[0] == 0


def test_a_release_since_another(place, capsys):
    """Name and licence are kept, and changes are reported before signing; verify --from reports the same."""
    sign = ["sign", "db", "--signing-key", "publisher"]
    assert main([*sign, "--name", "n", "--version", "1", "--license", "CC0"]) == 0
    for suffix in (".manifest", ".manifest.dsse.json"):
        os.rename(f"db{suffix}", f"old{suffix}")
    write_verify_key("publisher.pub", PUBLISHER.verify_key)
    write_verify_key("stranger.pub", SigningKey.generate().verify_key)
    make_database(place / "more", {b"added": BARE[b"patch 00"]})
    assert main(["append", "db", "more"]) == 0
    capsys.readouterr()
    count = len(BARE) + 1
    for wrong, words in (
        (["--version", "1"], "expected the same --name and another --version"),
        (["--version", "2", "--name", "m"], "name n, expected m"),
        (["--version", "2", "--since-key", "stranger.pub"], "signed by 0 of the keys"),
        ([], "with --since only --version"),
    ):
        assert main([*sign, "--since", "old.manifest", *wrong]) in (1, 2)
        assert words in capsys.readouterr().err
        assert not os.path.exists("db.manifest")
    assert main([*sign, "--since", "old.manifest", "--version", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"since 1: 1 added, 0 changed, 0 removed, {count - 1} unchanged", "  added: added"]
    assert lines[-1].startswith(f"SIGNED: {count} records of db")
    verify = ["verify", "db", "--verify-key", "publisher.pub", "--from", "old.manifest"]
    assert main(verify) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["release", "n", "2"] in [line.split() for line in lines]
    assert ["licence", "CC0"] in [line.split() for line in lines]
    assert f"since 1: 1 added, 0 changed, 0 removed, {count - 1} unchanged" in lines
    assert main([*verify, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["since"]["version"], document["since"]["is_predecessor"]) == ("1", True)
    assert document["since"]["added"]["count"] == 1
    assert main([*sign, "--name", "n", "--version", "3", "--force"]) == 0
    capsys.readouterr()
    assert main(verify) == 0
    assert "since 1 (the publisher names no release as the predecessor): 1 added" in capsys.readouterr().out
    assert main([*verify[:2], "--mac-key", "key", "--from", "old.manifest"]) == 2
    if importlib.util.find_spec("blake3"):
        assert main([*sign, "--since", "old.manifest", "--version", "4", "--hash", "blake3", "--force"]) == 2
        assert "use the same hash" in capsys.readouterr().err
        assert main([*sign, "--name", "n", "--version", "4", "--hash", "blake3", "--force"]) == 0
        assert main(verify) == 2
        assert "cannot be compared" in capsys.readouterr().err
    os.rename("old.manifest", "lost")
    assert main(verify) == 2


@pytest.mark.slow
def test_a_killed_signature_since_another_is_whole_or_not_there(place):
    """At random moments: the release before as it was, and none or all of the new one."""
    sign = [sys.executable, "-m", "ben_secure", "sign", "db", "--signing-key", "publisher"]
    subprocess.run([*sign, "--name", "n", "--version", "1"], check=True, capture_output=True)
    for suffix in (".manifest", ".manifest.dsse.json"):
        os.rename(f"db{suffix}", f"old{suffix}")
    before = content("old.manifest")

    def prepare():
        for suffix in (".manifest", ".manifest.dsse.json"):
            if os.path.exists(f"db{suffix}"):
                os.unlink(f"db{suffix}")

    command = [*sign, "--since", "old.manifest", "--version", "2"]
    for _ in kill_at_random(command, prepare):
        assert content("old.manifest") == before
        if os.path.exists("db.manifest.dsse.json"):
            assert open_manifest("db.manifest", [PUBLISHER.verify_key]).statement.predecessor.version == "1"
    prepare()
    subprocess.run(command, check=True, capture_output=True)
    assert not [name for name in os.listdir() if name.startswith(".")]
