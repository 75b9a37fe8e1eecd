"""``convert`` and ``untag``: a complete copy in another form or none, without hostile or unverified values."""

import datetime
import json
import os
import shutil
import subprocess
import sys

import pytest

from ben_secure import ManifestMismatchError, StoreError, Verification, loads, tensors
from ben_secure.cli import main
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNetPatch
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, write_mac_keys
from ben_secure.signing.tags import append_tag, verified_payload
from ben_secure.store.change import convert as conversion
from ben_secure.store.change.convert import convert
from ben_secure.store.change.sign import sign_database
from ben_secure.store.pairs import join
from ben_secure.tensors import SIGN
from support import assembler
from support.attacks import ATTACKS
from support.databases import SHELL, make_database
from support.kills import kill_at_random
from support.legacy_values import GENERATIONS, small_tree, tree, write
from support.strategies import make_patch

library = pytest.importorskip("safetensors.numpy")
KEYS = MacKeySet(MacKey(bytes(range(32))))
LEGACY = {generation.encode(): write(small_tree(generation)) for generation in GENERATIONS}
LEGACY |= {b"s1": write(tree("BigEarthNet_S1_Patch")), b"canonical": assembler.canonical()}


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a database of each kind and two key files."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "legacy", LEGACY)
    make_database(tmp_path / "hostile", LEGACY | {b"a": SHELL, b"\xffz": LEGACY[b"s1"]})
    make_database(tmp_path / "empty", {})
    tagged = {lmdb_key: append_tag(KEYS.signing, b"c", lmdb_key, value) for lmdb_key, value in LEGACY.items()}
    make_database(tmp_path / "tagged", tagged)
    make_database(tmp_path / "partly", tagged | {b"s1": LEGACY[b"s1"]})
    (tmp_path / "bare.csv").write_text("patch_id\na\n")
    (tmp_path / "pairs.csv").write_text("patch_id,s1_name\na,b\n")
    write_mac_keys("key", KEYS)
    write_mac_keys("other", MacKeySet(MacKey(bytes(32))))
    return tmp_path


def run(arguments, capsys):
    """Run a command: exit code, stdout, stderr."""
    code = main(arguments.split())
    out, err = capsys.readouterr()
    return code, out, err


def test_convert_keeps_the_patches(place, capsys):
    """Each value of each generation is the same patch, now canonical; the source is as it was; again it is refused."""
    before = records("legacy")
    code, out, err = run("convert legacy new", capsys)
    assert (code, out, err) == (0, "CONVERTED: 6 of 6 values are in new\n", "")
    new = records("new")
    assert records("legacy") == before
    assert list(new) == sorted(LEGACY)
    for lmdb_key, value in new.items():
        assert loads(value) == loads(LEGACY[lmdb_key])
        assert value == loads(value).dumps()
    assert run("audit new", capsys)[0] == 0
    code, out, err = run("convert legacy new", capsys)
    assert (code, out) == (2, "")
    assert err == "ben-secure: new exists and is not overwritten; choose another name\n"
    assert run("convert new again", capsys)[0] == 0
    assert records("again") == new


def test_convert_refuses_hostile_values(place, capsys):
    """All are listed and nothing is written, unless the rest is asked for; the exit code stays 1."""
    listed = sorted(os.listdir())
    code, out, err = run("convert hostile new", capsys)
    assert code == 1
    assert err == ""
    first, second, *advice, verdict = out.splitlines()
    assert first.startswith("a: ")
    assert "posix.system" in first
    assert second == r"\xffz: the LMDB key is not UTF-8 (byte 0 of 2), so no reader can name this patch"
    assert all(line.startswith("what to do: ") for line in advice)
    assert verdict == "REFUSED: 2 of 8 values in hostile; nothing was written"
    assert sorted(os.listdir()) == listed
    code, out, _ = run("convert hostile new --skip-refused", capsys)
    assert code == 1
    assert out.splitlines()[-1] == "REFUSED: 2 of 8 values in hostile; the other 6 are in new"
    assert sorted(records("new")) == sorted(LEGACY)
    assert run("audit new", capsys)[0] == 0


@pytest.mark.threat("T1")
def test_convert_writes_nothing_of_an_attack(tmp_path, monkeypatch, capsys):
    """Of all that would run code, with the rest asked for: only the honest value is written, nothing ran."""
    monkeypatch.chdir(tmp_path)
    payloads = [attack.value() for attack in ATTACKS if attack.threat == "T1"]
    hostile = {b"%04d" % number: payload for number, payload in enumerate(payloads)}
    make_database(tmp_path / "attacks", hostile | {b"honest": LEGACY[b"s1"]})
    assert main(["convert", "attacks", "new", "--skip-refused", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert records("new") == {b"honest": loads(LEGACY[b"s1"]).dumps()}
    assert document["refused"] == len(hostile) > 100
    assert len(document["findings"]) == 20
    assert document["findings_left_out"] == document["refused"] - 20
    assert sorted(os.listdir()) == ["attacks", "new"]


def test_a_patch_without_a_canonical_value_is_refused(place, capsys, monkeypatch):
    """One at the limits, whose canonical form is beyond them, is a refusal like others."""

    def dumps(patch):
        if patch == loads(LEGACY[b"s1"]):
            raise ValueError("this patch could not be read back, make it smaller")
        return original(patch)

    original = BigEarthNetPatch.dumps
    monkeypatch.setattr(BigEarthNetPatch, "dumps", dumps)
    code, out, _ = run("convert legacy new", capsys)
    assert code == 1
    assert out.splitlines()[0].startswith("s1: the patch has no canonical value: this patch could not be read back")


@pytest.mark.threat("T9")
def test_convert_with_keys(place, capsys):
    """Old tags are verified before anything is decoded; new ones are made; a key for one is not taken for the other."""
    assert run("convert legacy new --mac-key key --context c", capsys)[0] == 0
    for lmdb_key, value in records("new").items():
        payload = bytes(verified_payload(KEYS, b"c", lmdb_key, value))
        assert payload == loads(LEGACY[lmdb_key]).dumps()
    for source, options, refused in (
        ("tagged", "", 6),
        ("tagged", "--mac-key key --context c", 6),
        ("tagged", "--source-mac-key other --source-context c", 6),
        ("tagged", "--source-mac-key key --source-context d", 6),
        ("tagged", "--source-mac-key key", 6),
        ("legacy", "--source-mac-key key --source-context c", 6),
        ("partly", "--source-mac-key key --source-context c", 1),
    ):
        code, out, _ = run(f"convert {source} bare {options}", capsys)
        assert (code, f"REFUSED: {refused} of 6 values" in out) == (1, True)
        assert not os.path.exists("bare")
    assert run("convert tagged bare --source-mac-key key --source-context c", capsys)[0] == 0
    assert records("bare") == {lmdb_key: loads(value).dumps() for lmdb_key, value in LEGACY.items()}
    assert run("convert tagged same --source-mac-key key --mac-key key --context c", capsys)[0] == 0
    assert records("same") == records("new")


def test_there_and_back(place, capsys):
    """Converting legacy values to safetensors and then to canonical ones keeps the patches and their metadata."""
    code, out, err = run("convert legacy tensors --to safetensors", capsys)
    assert (code, out, err) == (0, "CONVERTED: 6 of 6 values are in tensors\n", "")
    for lmdb_key, value in records("tensors").items():
        assert value[4:9] == SIGN
        assert loads(value) == loads(LEGACY[lmdb_key])
        assert {name: array.tobytes() for name, array in library.load(value).items()} == {
            band.name: band.data.tobytes() for band in loads(LEGACY[lmdb_key]).bands
        }
    assert run("audit tensors", capsys)[0] == 0
    assert run("convert tensors again --to safetensors", capsys)[0] == 0
    assert records("again") == records("tensors")
    assert run("convert tensors back --to canonical", capsys)[0] == 0
    assert records("back") == {lmdb_key: loads(value).dumps() for lmdb_key, value in LEGACY.items()}


def test_what_safetensors_cannot_hold_is_refused(place, capsys):
    """Metadata that JSON would change is named with a remedy; the other patches can be converted on request."""
    patch = make_patch(BigEarthNet_S1_Patch, date=("2017", 6))
    make_database(place / "odd", {b"odd": patch.dumps(), b"plain": LEGACY[b"s1"]})
    code, out, err = run("convert odd new --to safetensors", capsys)
    assert (code, err) == (1, "")
    assert out.startswith("odd: the patch has no safetensors value: metadata 'date' is a tuple")
    assert "leave it out" in out
    assert not os.path.exists("new")
    assert run("convert odd new --to safetensors --skip-refused", capsys)[0] == 1
    assert sorted(records("new")) == [b"plain"]
    assert run("convert odd all", capsys)[0] == 0


@pytest.mark.threat("T9")
def test_tags_on_the_way_to_safetensors(place, capsys):
    """Verified before, made after; the new ones verify and come off again."""
    arguments = "convert tagged tensors --to safetensors --source-mac-key key --mac-key key --context c"
    assert run(arguments, capsys)[0] == 0
    assert run("verify tensors --mac-key key --context c", capsys)[0] == 0
    assert run("convert tensors no", capsys)[0] == 1
    assert run("convert tensors back --source-mac-key key --source-context c", capsys)[0] == 0
    assert records("back") == {lmdb_key: loads(value).dumps() for lmdb_key, value in LEGACY.items()}


TWINS = {
    b"S1A": tensors.dumps(make_patch(BigEarthNet_S1_Patch, seed=1)),
    b"S1B": make_patch(BigEarthNet_S1_Patch, seed=2).dumps(),
    b"S2A": tensors.dumps(make_patch(labels=["a"])),
    b"S2B": make_patch(seed=3).dumps(),
}
JOINED = {
    b"S2A": join(loads(TWINS[b"S2A"]), loads(TWINS[b"S1A"])),
    b"S2B": join(loads(TWINS[b"S2B"]), loads(TWINS[b"S1B"])),
}


@pytest.fixture
def twins(place):
    """Databases of pairs: together, apart, with one record too many or too few; and a table of pairs."""
    make_database(place / "both", TWINS)
    make_database(place / "s1", {name: value for name, value in TWINS.items() if name.startswith(b"S1")})
    make_database(place / "s2", {name: value for name, value in TWINS.items() if name.startswith(b"S2")})
    make_database(place / "more", TWINS | {b"S3": TWINS[b"S2B"]})
    for lmdb_key in TWINS:
        rest = {name: value for name, value in TWINS.items() if name != lmdb_key}
        make_database(place / f"without {lmdb_key.decode()}", rest)
    (place / "pairs.csv").write_text("patch_id,s1_name\nS2A,S1A\nS2B,S1B\nS2C,S1C\n")
    return place


@pytest.mark.parametrize("form", ["canonical", "safetensors"])
def test_twins_are_joined(twins, capsys, form):
    """Pairs from one database or two are joined, to either form, with tags; the numbers are printed."""
    code, out, err = run(f"convert both new --pairs pairs.csv --to {form}", capsys)
    assert (code, out, err) == (0, "CONVERTED: 2 of 4 values are in new; 2 are joined to others\n", "")
    assert {lmdb_key: loads(value) for lmdb_key, value in records("new").items()} == JOINED
    code, out, err = run(f"convert s2 apart --pairs pairs.csv --s1 s1 --to {form} --json", capsys)
    document = json.loads(out)
    assert (code, document["checked"], document["written"], "joined" in document) == (0, 2, 2, False)
    assert records("apart") == records("new")
    assert json.loads(run(f"convert both again --pairs pairs.csv --to {form} --json", capsys)[1])["joined"] == 2
    assert run("audit new", capsys)[0] == 0


def test_records_without_a_twin_are_not_lost_without_a_word(twins, capsys):
    """Each is refused with its reason; with --skip-refused the pairs are written."""
    for database, lmdb_key, why, left in (
        ("more", "S3", "the table of pairs does not name it", JOINED),
        ("without S1A", "S2A", "its Sentinel-1 record b'S1A' is missing", {b"S2B": JOINED[b"S2B"]}),
        ("without S2B", "S1B", "its Sentinel-2 record b'S2B' is missing", {b"S2A": JOINED[b"S2A"]}),
    ):
        assert main(["convert", database, "new", "--pairs", "pairs.csv"]) == 1
        out = capsys.readouterr().out
        assert out.startswith(f"{lmdb_key}: the record cannot be joined: {why}\n")
        assert "REFUSED: 1 of " in out
        assert not os.path.exists("new")
        assert main(["convert", database, "new", "--pairs", "pairs.csv", "--skip-refused"]) == 1
        capsys.readouterr()
        assert {name: loads(value) for name, value in records("new").items()} == left
        shutil.rmtree("new")
    code, out, _ = run("convert both new --pairs pairs.csv --s1 s1", capsys)
    assert code == 1
    assert "S1A: the record cannot be joined: the table of pairs does not name it" in out


@pytest.mark.threat("T1")
@pytest.mark.threat("T9")
def test_a_hostile_or_untagged_twin_is_refused(twins, capsys):
    """It is checked like any value, and the refusal names both."""
    make_database(twins / "hostile", TWINS | {b"S1A": SHELL})
    code, out, _ = run("convert hostile new --pairs pairs.csv", capsys)
    assert code == 1
    assert out.startswith("S2A: with its Sentinel-1 record b'S1A': the payload asks for posix.system")
    tagged = {lmdb_key: append_tag(KEYS.signing, b"", lmdb_key, value) for lmdb_key, value in TWINS.items()}
    make_database(twins / "half", tagged | {b"S1A": TWINS[b"S1A"]})
    code, out, _ = run("convert half new --pairs pairs.csv --source-mac-key key", capsys)
    assert code == 1
    assert out.startswith("S2A: with its Sentinel-1 record b'S1A': ")
    make_database(twins / "whole", tagged)
    assert run("convert whole new --pairs pairs.csv --source-mac-key key --mac-key key", capsys)[0] == 0
    assert run("verify new --mac-key key", capsys)[0] == 0


PUBLISHER = SigningKey.generate()
RELEASE = Verification(verify_key=PUBLISHER.verify_key, name="Ben", version="1")
PAIRS = {"S2A": "S1A", "S2B": "S1B"}


@pytest.fixture
def released(twins):
    """The databases of pairs, each with its signed manifest."""
    created = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    for name in ("both", "s1", "s2"):
        sign_database(name, [PUBLISHER], name="Ben", version="1", created=created)
    return twins


def replaced(path, records):
    """Put other records in the place of a database, whose manifest stays."""
    shutil.rmtree(path)
    make_database(path, records)


@pytest.mark.threat("T8")
def test_a_release_is_converted_as_it_was_signed(released):
    """With the Sentinel-1 records in it, or in a release of their own; a changed value on either side is refused."""
    assert convert("both", "new", verification=RELEASE, pairs=PAIRS).written == 2
    assert convert("s2", "apart", verification=RELEASE, pairs=PAIRS, s1="s1").written == 2
    assert records("new") == records("apart")
    replaced(released / "both", TWINS | {b"S1A": TWINS[b"S1B"]})
    refusals = convert("both", "no", verification=RELEASE, pairs=PAIRS).refusals
    assert [error.lmdb_key for error in refusals.first] == [b"S2A"]
    replaced(released / "s1", {b"S1A": TWINS[b"S1B"], b"S1B": TWINS[b"S1B"]})
    refusals = convert("s2", "no", verification=RELEASE, pairs=PAIRS, s1="s1").refusals
    assert [(type(error), error.lmdb_key) for error in refusals.first] == [(ManifestMismatchError, b"S2A")]
    assert not os.path.exists("no")


@pytest.mark.threat("T8")
def test_a_record_that_was_removed_is_missed(released, monkeypatch):
    """Whether it was gone at the start, or goes between the look at the manifest and the first record."""
    rewrite = conversion.rewrite

    def late(*arguments, **options):
        replaced(released / "s2", {b"S2A": TWINS[b"S2A"]})
        return rewrite(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "rewrite", late)
        with pytest.raises(StoreError, match="the database was replaced by another file"):
            convert("s2", "new", verification=RELEASE)
    with pytest.raises(ManifestMismatchError, match="has 1 record, expected 2 as signed"):
        convert("s2", "new", verification=RELEASE)
    assert not os.path.exists("new")
    replaced(released / "s2", {name: TWINS[name] for name in (b"S2A", b"S2B")})
    assert convert("s2", "new", verification=RELEASE).written == 2


def test_what_converts_nothing_is_the_callers_mistake(released):
    """One manifest for two databases, or Sentinel-1 records without a table of pairs, is a usage error."""
    named = Verification(verify_key=PUBLISHER.verify_key, manifest="s2.manifest")
    with pytest.raises(ValueError, match="manifest is for a single database"):
        convert("s2", "new", verification=named, pairs=PAIRS, s1="s1")
    with pytest.raises(ValueError, match="s1 requires pairs"):
        convert("s2", "new", s1="s1")
    assert not os.path.exists("new")
    assert convert("s2", "new", verification=named).written == 2


@pytest.mark.threat("T9")
def test_untag_gives_back_what_was_signed(place, capsys):
    """Each value is verified first."""
    code, out, err = run("untag tagged --mac-key key --context c --out bare", capsys)
    assert (code, out, err) == (0, "UNTAGGED: 6 of 6 values are in bare\n", "")
    assert records("bare") == LEGACY
    listed = sorted(os.listdir())
    for arguments, refused in (
        ("untag tagged --mac-key other --context c", 6),
        ("untag tagged --mac-key key", 6),
        ("untag legacy --mac-key key --context c", 6),
        ("untag partly --mac-key key --context c", 1),
    ):
        code, out, _ = run(f"{arguments} --out new", capsys)
        assert (code, f"REFUSED: {refused} of 6 values" in out) == (1, True)
        assert sorted(os.listdir()) == listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("convert missing new", "does not exist"),
        ("convert empty new", "the database is empty"),
        ("convert legacy no/where", "cannot write"),
        ("convert legacy new --mac-key missing", "cannot read missing"),
        ("convert legacy new --mac-key legacy/data.mdb", "so it is not a key file"),
        ("convert legacy new --context c", "--context requires"),
        ("convert legacy new --source-context c", "--source-context requires"),
        ("convert legacy", "NEW is missing"),
        ("convert legacy new --to pickle", "--to is pickle; expected canonical or safetensors"),
        ("convert legacy new --s1 legacy", "--s1 requires --pairs"),
        ("convert legacy new --pairs missing.csv", "missing.csv"),
        ("convert legacy new --pairs key", "expected .csv, .tsv or .parquet"),
        ("convert legacy new --pairs bare.csv", "s1_name"),
        ("convert legacy new --pairs pairs.csv --s1 missing", "does not exist"),
        ("untag tagged --mac-key key", "--out is missing"),
        ("untag tagged --out new", "--mac-key is missing"),
        ("untag empty --mac-key key --out new", "the database is empty"),
        ("untag tagged --mac-key key --out legacy", "exists and is not overwritten"),
        ("untag tagged --mac-key tagged --out new", "tagged"),
        ("convert legacy new --skip-refused --force", "there is no option --force"),
    ],
)
def test_what_cannot_be_done_is_said(place, capsys, arguments, message):
    """Exit code 2, one line on stderr or one object, and nothing was made."""
    listed = sorted(os.listdir())
    code, out, err = run(arguments, capsys)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert any(part in err for part in message.split("|"))
    code, out, err = run(f"{arguments} --json", capsys)
    document = json.loads(out)
    assert (code, err, document["schema"], document["exit_code"], document["verdict"]) == (2, "", 1, 2, "undecided")
    assert sorted(os.listdir()) == listed


def test_json(place, capsys):
    """One object has the numbers of read, written and refused values."""
    code, out, _ = run("convert legacy new --json", capsys)
    assert code == 0
    assert json.loads(out) == {
        "schema": 1,
        "command": "convert",
        "database": "legacy",
        "verdict": "converted",
        "exit_code": 0,
        "error": None,
        "out": "new",
        "checked": 6,
        "written": 6,
        "refused": 0,
        "findings": [],
        "findings_left_out": 0,
    }
    code, out, _ = run("untag partly --mac-key key --context c --out bare --json", capsys)
    document = json.loads(out)
    assert (code, document["verdict"], document["out"], document["written"]) == (1, "refused", None, 0)
    assert [finding["lmdb_key"] for finding in document["findings"]] == ["s1"]
    assert document["findings"][0]["rule"] == "tag-missing"
    code, out, _ = run("untag tagged --mac-key key --context c --out bare --json", capsys)
    assert (code, json.loads(out)["verdict"]) == (0, "untagged")


@pytest.mark.slow
def test_a_killed_convert_leaves_nothing_half(tmp_path):
    """A kill at a random moment leaves no new database or a complete one, and a second run completes."""
    many = {b"%03d" % number: LEGACY[b"s1"] for number in range(100)}
    complete = dict.fromkeys(many, loads(LEGACY[b"s1"]).dumps())
    make_database(tmp_path / "old", many)
    new = tmp_path / "new"
    command = [sys.executable, "-m", "ben_secure", "convert", str(tmp_path / "old"), str(new)]
    for _ in kill_at_random(command, lambda: shutil.rmtree(new, ignore_errors=True)):
        assert not new.exists() or records(new) == complete
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run(command, check=True, capture_output=True)
    assert records(new) == complete
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
