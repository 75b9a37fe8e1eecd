"""``verify``: every value is the one that was signed, or the command says which are not, and how."""

import json
import os
import pathlib
import shutil

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ben_secure.cli import _speed, main
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    Suite,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)
from ben_secure.signing.tags import append_tag
from ben_secure.store.change import verify as store_verify
from ben_secure.store.change.sign import sign_release
from ben_secure.store.change.verify import MANIFEST_KINDS, TAG_KINDS
from support.databases import damage, make_database
from support.legacy_values import small_tree, write
from support.releases import CREATED

KEYS = MacKeySet(MacKey(bytes(range(32))))
OTHER_KEYS = MacKeySet(MacKey(bytes(32)))
PUBLISHER, STRANGER = SigningKey.generate(), SigningKey.generate()
BARE = {b"patch %02d" % number: write(small_tree(metadata={"labels": [str(number)]})) for number in range(25)}
NAMES = list(BARE)


def tag(records, keys=KEYS, context=b"c"):
    """The same records with their tags."""
    return {lmdb_key: append_tag(keys.signing, context, lmdb_key, value) for lmdb_key, value in records.items()}


TAGGED = tag(BARE)
LONG = BARE | {b"long": b"\0" * (16 * 2**20 + 65)}


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    """A working directory with keys, a tagged database, and a released one."""
    monkeypatch.chdir(tmp_path)
    write_mac_keys("key", KEYS)
    write_mac_keys("other", OTHER_KEYS)
    write_signing_key("publisher", PUBLISHER)
    for name, key in (("publisher.pub", PUBLISHER), ("stranger.pub", STRANGER)):
        write_verify_key(name, key.verify_key)
    make_database(tmp_path / "tagged", TAGGED)
    make_database(tmp_path / "db", BARE)
    make_database(tmp_path / "empty", {})
    assert run("sign db --signing-key publisher --name Ben --version 1.0 --license MIT", capsys)[0] == 0
    return tmp_path


@pytest.fixture
def verify(place, capsys):
    """Make a database of some records and verify it; return the exit code, and the listed records by kind."""

    def run(records, options):
        shutil.rmtree("made", ignore_errors=True)
        make_database(place / "made", records)
        capsys.readouterr()
        code = main(["verify", "made", *options.split(), "--json"])
        document = json.loads(capsys.readouterr().out)
        part = document["tags"] or document["manifest"]
        kinds = TAG_KINDS if document["tags"] else MANIFEST_KINDS
        found = {kind: [entry["lmdb_key"].encode() for entry in part[kind]["first"]] for kind in kinds}
        assert document["exit_code"] == code
        return code, {kind: keys for kind, keys in found.items() if keys}

    return run


def run(arguments, capsys):
    """Run a command: exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(arguments.split())
    out, err = capsys.readouterr()
    return code, out, err


TAGS = "--mac-key key --context c"
LIST = "--verify-key publisher.pub --manifest db.manifest"


def test_what_was_signed_is_verified(place, capsys):
    """The check works with the team's key, the publisher's key, and both."""
    code, out, err = run(f"verify tagged {TAGS}", capsys)
    assert (code, out, err) == (0, "VERIFIED: all 25 values in tagged are as they were signed\n", "")
    code, out, err = run("verify db --verify-key publisher.pub --name Ben --version 1.0", capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "release  Ben 1.0"
    assert lines[1] == "licence  MIT"
    assert lines[2].endswith(f"by {PUBLISHER.fingerprint}")
    assert lines[3:] == ["VERIFIED: all 25 values in db are as they were signed"]
    assert run("verify db/data.mdb --verify-key publisher.pub", capsys)[0] == 0
    assert run("sign tagged --signing-key publisher --name Ben --version 1.0", capsys)[0] == 0
    code, out, _ = run(f"verify tagged {TAGS} --verify-key publisher.pub --json", capsys)
    document = json.loads(out)
    assert (code, document["checked"], document["verdict"]) == (0, 25, "verified")
    assert (document["tags"]["keys"], document["tags"]["context"]) == ([KEYS.fingerprint], "c")
    assert (document["manifest"]["name"], document["manifest"]["signed_by"]) == ("Ben", [PUBLISHER.fingerprint])
    assert run(f"verify db {TAGS} --verify-key publisher.pub", capsys)[0] == 1
    assert run("verify tagged --mac-key other --verify-key publisher.pub", capsys)[0] == 1


def test_slow_verification_says_what_is_faster(place, capsys, monkeypatch):
    """If it took long, and the key's algorithm is slow on this machine; otherwise nothing."""
    verified = "VERIFIED: all 25 values in tagged are as they were signed\n"
    monkeypatch.setattr(_speed, "measured", lambda: {Suite.HS256: 0.27, Suite.A256GMAC: 4.3})
    assert run(f"verify tagged {TAGS}", capsys) == (0, verified, "")
    monkeypatch.setattr(_speed, "ADVICE_AFTER_S", 0)
    code, out, err = run(f"verify tagged {TAGS}", capsys)
    assert (code, err) == (0, "")
    assert out.startswith(
        "HS256 is slow on this machine: HS256 0.27 GB/s, A256GMAC 4.3 GB/s. To change to A256GMAC, run "
    )
    assert out.endswith(verified)
    monkeypatch.setattr(_speed, "measured", lambda: {Suite.HS256: 1.9, Suite.A256GMAC: 4.3})
    assert run(f"verify tagged {TAGS}", capsys) == (0, verified, "")


# Lists


@pytest.mark.threat("T9")
def test_tags_tell_what_is_wrong(verify):
    """Untagged, changed (also moved here, or from another dataset), of an unknown key; each under its name."""
    first, second, third, *_ = NAMES
    flipped = bytearray(TAGGED[first])
    flipped[10] ^= 1
    for changes, expected in (
        ({}, {}),
        ({first: BARE[first]}, {"untagged": [first]}),
        ({first: b""}, {"untagged": [first]}),
        ({first: bytes(flipped)}, {"changed": [first]}),
        ({first: TAGGED[first][1:]}, {"changed": [first]}),
        ({first: TAGGED[second], second: TAGGED[first]}, {"changed": [first, second]}),
        ({first: tag(BARE, context=b"d")[first]}, {"changed": [first]}),
        ({first: tag(BARE, OTHER_KEYS)[first]}, {"unknown_key": [first]}),
        ({b"patch 99": TAGGED[first]}, {"changed": [b"patch 99"]}),
        (
            {first: BARE[first], second: TAGGED[first], third: tag(BARE, OTHER_KEYS)[third]},
            {"untagged": [first], "changed": [second], "unknown_key": [third]},
        ),
    ):
        assert verify(TAGGED | changes, TAGS) == (1 if expected else 0, expected)


def test_only_keys_that_are_unknown_are_named_as_such(place, capsys):
    """Their key ids, each once; the keys that verify are not among them."""
    first, second, *_ = NAMES
    for records, unknown in (
        (TAGGED, []),
        (TAGGED | {first: BARE[first]}, []),
        (TAGGED | {name: tag(BARE, OTHER_KEYS)[name] for name in (first, second)}, [OTHER_KEYS.fingerprint]),
    ):
        shutil.rmtree("mixed", ignore_errors=True)
        make_database(pathlib.Path("mixed"), records)
        document = json.loads(run(f"verify mixed {TAGS} --json", capsys)[1])
        assert document["tags"]["unknown_keys"] == unknown


@pytest.mark.threat("T8")
def test_the_manifest_tells_what_is_wrong(verify):
    """Missing, added, changed, moved; each under its name."""
    first, second, third, *_ = NAMES
    without = {lmdb_key: value for lmdb_key, value in BARE.items() if lmdb_key != first}
    for records, expected in (
        (BARE, {}),
        (without, {"missing": [first]}),
        (BARE | {b"new": b"value"}, {"added": [b"new"]}),
        (BARE | {second: b"value"}, {"changed": [second]}),
        (BARE | {first: BARE[second], second: BARE[first]}, {"moved": [first, second]}),
        (
            without | {b"zzz": BARE[first], second: b"value", third: BARE[first]},
            {"missing": [first], "added": [b"zzz"], "changed": [second], "moved": [third]},
        ),
    ):
        assert verify(records, LIST) == (1 if expected else 0, expected)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(min_value=0), number=st.integers(0, 24), mask=st.integers(1, 255))
@pytest.mark.threat("T8")
@pytest.mark.threat("T9")
def test_any_changed_byte_is_found(verify, position, number, mask):
    """A changed byte of a value or of its tag is found."""
    lmdb_key = NAMES[number]
    for records, options in ((TAGGED, TAGS), (BARE, LIST)):
        value = bytearray(records[lmdb_key])
        value[position % len(value)] ^= mask
        code, found = verify(records | {lmdb_key: bytes(value)}, options)
        assert code == 1
        assert list(found.values()) == [[lmdb_key]]


def test_lists_are_cut_and_counted(place, capsys):
    """The first 20 of each kind are listed, then the number of others; names are escaped, origins are shown."""
    make_database(place / "made", {b"\x1b[31m": BARE[NAMES[0]]})
    code, out, err = run(f"verify made {LIST}", capsys)
    lines = out.splitlines()
    assert (code, err) == (1, "")
    assert lines[3] == "25 missing:"
    assert lines[4] == "  patch 00"
    assert lines[24:27] == ["and 5 more missing", "1 added:", r"  \x1b[31m (the value of patch 00)"]
    assert lines[-1] == "REFUSED: made is not as it was signed; fetch it again from its source"
    _, out, _ = run(f"verify made {LIST} --json", capsys)
    document = json.loads(out)["manifest"]
    assert (document["missing"]["count"], len(document["missing"]["first"])) == (25, 20)
    assert document["added"]["first"] == [
        {"lmdb_key": r"\x1b[31m", "lmdb_key_hex": "1b5b33316d", "belongs_to": "patch 00"}
    ]
    code, out, _ = run("verify tagged --mac-key key --context wrong", capsys)
    assert code == 1
    assert out.splitlines()[0] == "25 changed:"
    assert out.splitlines()[-1].endswith("has no valid tag; check that the tags were made for --context 'wrong'")


def test_what_fails_for_one_reason_says_it_in_the_last_line(place, capsys):
    """No tag at all, another key, no context: each has its own advice; a single changed value is fetched again."""
    for database, options, expected in (
        ("db", "key", "was never tagged: ben-secure sign db --mac-key FILE tags it, if you trust it as it is"),
        (
            "tagged",
            "other --context c",
            f"is tagged with the key {KEYS.fingerprint}, but you gave {OTHER_KEYS.fingerprint}",
        ),
        (
            "tagged",
            "key",
            "has no valid tag, and no --context was given; check whether the tags were made for a context",
        ),
        ("tagged", "key --context d", "has no valid tag; check that the tags were made for --context 'd'"),
    ):
        code, out, _ = run(f"verify {database} --mac-key {options}", capsys)
        assert (code, out.splitlines()[-1].startswith(f"REFUSED: {database} {expected}")) == (1, True)
    make_database(place / "made", TAGGED | {b"patch 03": BARE[b"patch 03"]})
    _, out, _ = run(f"verify made {TAGS}", capsys)
    assert out.splitlines()[-1] == "REFUSED: made is not as it was signed; fetch it again from its source"
    assert f"25 tagged with key {KEYS.fingerprint}:" in run("verify tagged --mac-key other --context c", capsys)[1]


def test_one_value_is_written_as_one(place, capsys):
    """In each command that counts values."""
    make_database(place / "one", {NAMES[0]: BARE[NAMES[0]]})
    last = run("sign one --mac-key key --out tagged1", capsys)[1].splitlines()[-1]
    assert last.startswith("SIGNED: 1 value in tagged1 is tagged with")
    assert run("verify tagged1 --mac-key key", capsys)[1] == "VERIFIED: 1 value in tagged1 is as it was signed\n"


@pytest.mark.threat("T8")
def test_what_is_too_long_is_refused(place, capsys):
    """A value that no reader would take is not skipped, neither in a sample."""
    make_database(place / "made", LONG)
    for options in (TAGS, LIST, f"{TAGS} --sample {len(LONG) - 1}"):
        code, out, _ = run(f"verify made {options}", capsys)
        assert code == 1
        assert "not every value was verified: the value has 16777281 bytes" in out


@pytest.mark.threat("T8")
def test_another_release_is_refused(place, capsys):
    """Another name or version than asked for, another key, too few keys, a changed manifest or envelope."""
    for options, message in (
        ("--verify-key publisher.pub --version 2.0", "version 1.0, expected 2.0"),
        ("--verify-key publisher.pub --name Other", "name Ben, expected Other"),
        ("--verify-key stranger.pub", "expected 1 of"),
        ("--verify-key publisher.pub --verify-key stranger.pub --threshold 2", "expected 2 of"),
    ):
        code, out, err = run(f"verify db {options}", capsys)
        assert (code, out, message in err) == (1, "", True), err
    assert run("verify db --verify-key stranger.pub --verify-key publisher.pub", capsys)[0] == 0
    for name in ("db.manifest", "db.manifest.dsse.json"):
        with open(name, "r+b") as file:
            before = file.read()
            file.seek(-40, os.SEEK_END)
            file.write(bytes([before[-40] ^ 1]))
        assert run("verify db --verify-key publisher.pub", capsys)[0] == 1
        with open(name, "wb") as file:
            file.write(before)
    assert run("verify db --verify-key publisher.pub", capsys)[0] == 0


# What cannot be decided


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("verify db", "nothing to verify with"),
        ("verify missing --mac-key key", "does not exist"),
        ("verify tagged --mac-key missing", "cannot read missing"),
        ("verify tagged --mac-key publisher", "does not hold MAC keys"),
        ("verify db --verify-key missing", "cannot read missing"),
        ("verify db --verify-key publisher", "this is the private key; --verify-key takes the public one"),
        ("verify tagged --verify-key publisher.pub", "fetch the manifest and its envelope"),
        ("verify db --verify-key publisher.pub --manifest publisher", "the file does not exist"),
        ("verify db --verify-key publisher.pub --threshold 2", "threshold"),
        ("verify db --verify-key publisher.pub --threshold 0", "threshold"),
        ("verify db --verify-key publisher.pub --context c", "--context requires --mac-key"),
        ("verify tagged --mac-key key --manifest db.manifest", "require --verify-key"),
        ("verify tagged --mac-key key --name Ben", "require --verify-key"),
        ("verify tagged --mac-key key --threshold 2", "require --verify-key"),
        ("verify publisher --mac-key key", "not an LMDB file"),
        ("verify tagged --mac-key key --force", "there is no option --force"),
    ],
)
def test_what_cannot_be_decided_is_said(place, capsys, arguments, message):
    """Exit code 2, in one line on stderr or one object; never a hint to read without verification."""
    code, out, err = run(arguments, capsys)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert message in err
    assert "internal error" not in err
    code, out, err = run(f"{arguments} --json", capsys)
    document = json.loads(out)
    assert (code, err, document["schema"], document["exit_code"], document["verdict"]) == (2, "", 1, 2, "undecided")


def test_an_empty_database_is_undecided(place, capsys):
    """Nothing was verified, so the verdict is undecided; but missing records are refused."""
    for options in (TAGS, "--mac-key other"):
        code, out, _ = run(f"verify empty {options}", capsys)
        assert code == 2
        assert out.splitlines()[-1] == "UNDECIDED: empty: nothing was verified"
        code, out, _ = run(f"verify empty {options} --json", capsys)
        document = json.loads(out)
        assert (code, document["verdict"], document["error"]) == (
            2,
            "undecided",
            "the database is empty, so nothing was verified",
        )
    assert run(f"verify empty {LIST}", capsys)[0] == 1


def test_a_damaged_database_is_undecided(place, capsys):
    """A database that cannot be read to its end is never verified."""
    damage(make_database(place / "made", tag(BARE | {b"x": b"MARK" + bytes(9000)})), b"MARK")
    code, out, err = run(f"verify made {TAGS}", capsys)
    assert (code, out) == (2, "")
    assert "damaged" in err


def test_a_database_that_is_written_to_is_undecided(place, capsys, monkeypatch):
    """Some of the values would belong to another state."""

    def verified_payload(*arguments):
        patched.undo()
        with lmdb.open("tagged", lock=False, create=False) as env, env.begin(write=True) as transaction:
            transaction.put(b"zzz", b"theirs")
        return check(*arguments)

    check = store_verify.verified_payload
    with monkeypatch.context() as patched:
        patched.setattr(store_verify, "verified_payload", verified_payload)
        code, out, err = run(f"verify tagged {TAGS}", capsys)
    assert (code, out) == (2, "")
    assert "written to" in err


@pytest.mark.threat("T22")
def test_an_earlier_release_of_several_is_compared_by_database(place, capsys):
    """A manifest of another database of it is refused, also as the one since which is signed; its own is taken."""
    for release, more in (("r1", {}), ("r2", {b"more": BARE[NAMES[0]]})):
        os.mkdir(release)
        make_database(place / release / "train.lmdb", {name: BARE[name] for name in NAMES[:5]} | more)
        make_database(place / release / "test.lmdb", {name: BARE[name] for name in NAMES[5:]} | more)
        both = [f"{release}/train.lmdb", f"{release}/test.lmdb"]
        sign_release(both, [PUBLISHER], name="N", version=release, created=CREATED)
    write_signing_key("several.pem", PUBLISHER)
    write_verify_key("several.pub", PUBLISHER.verify_key)
    os.mkdir("swapped")
    for suffix in ("", ".dsse.json"):
        shutil.copy(f"r1/test.lmdb.manifest{suffix}", f"swapped/train.lmdb.manifest{suffix}")
        shutil.copy(f"r1/train.lmdb.manifest{suffix}", f"swapped/renamed.manifest{suffix}")
    show = ["verify", "r2/train.lmdb", "--verify-key", "several.pub", "--from"]
    sign = [
        "sign",
        "r2/train.lmdb",
        "--signing-key",
        "several.pem",
        "--version",
        "r3",
        "--out-manifest",
        "new",
        "--since",
    ]
    for arguments in (show, sign):
        for honest in ("r1/train.lmdb.manifest", "swapped/renamed.manifest"):
            assert main([*arguments, honest, *(["--force"] if arguments is sign else [])]) == 0
            assert "1 added, 0 changed, 0 removed, 5 unchanged" in capsys.readouterr().out
        shutil.rmtree("gone", ignore_errors=True)
        os.mkdir("gone")
        for made in ("new", "new.dsse.json"):
            if os.path.exists(made):
                os.rename(made, f"gone/{made}")
        assert main([*arguments, "swapped/train.lmdb.manifest"]) == 1
        assert "is for the database test.lmdb, expected train.lmdb" in capsys.readouterr().err
        assert not os.path.exists("new")
