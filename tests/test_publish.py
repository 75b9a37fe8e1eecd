"""``publish``: from a database to a release in one command; a stage that fails leaves nothing like one."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from datetime import datetime, timezone

import pytest

from ben_secure import BenSecureError, PatchReader, loads, publish
from ben_secure.cli import main
from ben_secure.errors import ManifestMismatchError, StoreError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import SigningKey, read_verify_key, write_signing_key, write_verify_key
from support.databases import SHELL, make_database
from support.kills import kill_at_random
from support.legacy_values import small_tree, tree, write

PUBLISHER, STRANGER = SigningKey.generate(), SigningKey.generate()
LEGACY = {b"s2 %02d" % number: write(small_tree(metadata={"labels": [str(number)]})) for number in range(25)}
LEGACY |= {b"s1": write(tree("BigEarthNet_S1_Patch"))}
FILES = ["BigEarthNet-S2.lmdb", "BigEarthNet-S2.lmdb.manifest", "BigEarthNet-S2.lmdb.manifest.dsse.json"]
TEXTS = ["README.md", "RELEASE.md", "SHA256SUMS", "croissant.json"]
COMMAND = ["--signing-key", "publisher", "--name", "BigEarthNet-S2", "--version", "1.0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with databases and keys."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "legacy", LEGACY)
    make_database(tmp_path / "hostile", LEGACY | {b"a": SHELL, b"\xff": LEGACY[b"s1"]})
    make_database(tmp_path / "empty", {})
    write_signing_key("publisher", PUBLISHER)
    write_signing_key("locked", PUBLISHER, "open sesame")
    write_verify_key("stranger.pub", STRANGER.verify_key)
    return tmp_path


def run(arguments, capsys):
    """Run ``publish``: exit code, stdout, stderr."""
    code = main(["publish", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


def tree_of(directory):
    """Every file below a directory, with its content."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                found[os.path.relpath(os.path.join(folder, name), directory)] = file.read()
    return found


@pytest.mark.threat("T8")
@pytest.mark.parametrize("convert", [[], ["--convert"]])
def test_a_release_is_what_a_consumer_can_verify(place, capsys, convert):
    """Key, command, Python and checksums of the page work with only the folder and the page."""
    before = tree_of("legacy")
    code, out, err = run(["legacy", "release", *COMMAND, "--license", "CC0", *convert], capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "PUBLISHED: 26 values audited, signed and verified in release"
    assert f"fingerprint   {PUBLISHER.fingerprint}" in out.splitlines()
    assert tree_of("legacy") == before
    assert sorted(os.listdir("release")) == sorted([*FILES, *TEXTS])
    assert os.listdir("release/BigEarthNet-S2.lmdb") == ["data.mdb"]
    assert not [name for name in os.listdir() if name.startswith(".")]
    expected = {key: loads(value).dumps() for key, value in LEGACY.items()} if convert else LEGACY
    assert records("release/BigEarthNet-S2.lmdb") == expected

    os.chdir("release")
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], check=True, capture_output=True)
    with open("RELEASE.md") as file:
        page = file.read()
    assert "- Records: 26\n- Licence: CC0\n" in page
    assert page.count(PUBLISHER.fingerprint) == 1
    with open("publisher.pub", "w") as file:
        file.write(re.search(r"-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----\n", page, re.DOTALL)[0])
    assert read_verify_key("publisher.pub") == PUBLISHER.verify_key
    openssl = re.search(r"`(openssl .*)`", page)[1]
    assert subprocess.check_output(openssl, shell=True, text=True).split()[0] == PUBLISHER.fingerprint
    for command in re.findall(r"^\$ ben-secure (.*)$", page, re.MULTILINE):
        assert main(shlex.split(command)) == 0
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("...", "found = dict(patches)"), names)
    assert names["found"] == {key.decode(): loads(value) for key, value in LEGACY.items()}
    assert str(names["patches"].verified).startswith("manifest of 'BigEarthNet-S2' version '1.0'")
    assert main(["verify", FILES[0], "--verify-key", "../stranger.pub"]) == 1


@pytest.mark.parametrize("convert", [[], ["--convert"]])
def test_hostile_values_stop_it(place, capsys, convert):
    """All are listed, and nothing like a release is there; not even a hidden one."""
    listed = sorted(os.listdir())
    code, out, err = run(["hostile", "release", *COMMAND, *convert], capsys)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("a: ")
    assert "posix.system" in lines[0]
    assert lines[1].startswith(r"\xff: the LMDB key is not UTF-8")
    assert lines[-1] == "REFUSED: 2 of 28 values in hostile; no release was made"
    code, out, _ = run(["hostile", "release", *COMMAND, *convert, "--json"], capsys)
    document = json.loads(out)
    assert (code, document["verdict"], document["release"], document["checked"]) == (1, "refused", None, 28)
    assert [finding["lmdb_key"] for finding in document["findings"]] == ["a", r"\xff"]
    assert sorted(os.listdir()) == listed


@pytest.mark.parametrize(
    "stage", ["rewrite", "sign_release", "_verified_as_a_consumer_would", "file_sha256", "page", "card", "croissant"]
)
def test_a_stage_that_fails_leaves_nothing(place, capsys, monkeypatch, stage):
    """For any failure, even one after the stage has finished."""
    listed = sorted(os.listdir())
    original = getattr(publish, stage)

    def fail(*arguments, **options):
        original(*arguments, **options)
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(publish, stage, fail)
        code, out, err = run(["legacy", "release", *COMMAND], capsys)
    assert (code, out, err) == (2, "", "ben-secure: the disk is full\n")
    assert sorted(os.listdir()) == listed
    assert run(["legacy", "release", *COMMAND], capsys)[0] == 0


@pytest.mark.threat("T8")
def test_what_is_changed_after_signing_is_not_released(place, capsys, monkeypatch):
    """The last stage reads every patch as a consumer would."""

    def sign_then_change(databases, *arguments, **options):
        signed = original(databases, *arguments, **options)
        path = os.path.join(databases[0], "data.mdb")
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(content.replace(LEGACY[b"s1"][-2000:], LEGACY[b"s1"][-2000:-1] + b"!"))
        return signed

    original = publish.sign_release
    monkeypatch.setattr(publish, "sign_release", sign_then_change)
    listed = sorted(os.listdir())
    code, out, err = run(["legacy", "release", *COMMAND], capsys)
    assert (code, out) == (1, "")
    assert "the value was changed" in err
    assert sorted(os.listdir()) == listed
    assert issubclass(ManifestMismatchError, BenSecureError)


def test_nothing_else_ships(place):
    """A file that appears in the release during publishing, such as another writer's, stops it."""
    for name in (".x.ben-secure-writing", "BigEarthNet-S2.lmdb/lock.mdb", "note"):

        def stages(stage, name=name):
            if stage == "summing":
                (place / ".release.ben-secure-writing" / "new" / name).touch()
            return nullcontext()

        release = {"name": "BigEarthNet-S2", "version": "1.0", "created": datetime(2026, 1, 1, tzinfo=timezone.utc)}
        with pytest.raises(StoreError, match=f"{os.path.basename(name)} appeared in the release during publishing"):
            publish.publish("legacy", "release", PUBLISHER, **release, stages=stages)
        assert not [name for name in os.listdir() if "release" in name]
    publish.publish("legacy", "release", PUBLISHER, **release)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["legacy", "full", *COMMAND], "exists and is not an empty folder"),
        (["legacy", "link", *COMMAND], "exists and is not an empty folder"),
        (["legacy", "publisher", *COMMAND], "exists and is not an empty folder"),
        (["legacy", "no/where", *COMMAND], "cannot write"),
        (["missing", "release", *COMMAND], "does not exist"),
        (["empty", "release", *COMMAND], "the database is empty"),
        (["legacy", "release", *COMMAND[:2]], "needs --name and --version"),
        (["legacy", "release", *COMMAND[2:]], "--signing-key is missing"),
        (["legacy", "release", "--signing-key", "missing", *COMMAND[2:]], "cannot read missing"),
        (["legacy", "release", "--signing-key", "stranger.pub", *COMMAND[2:]], "this is the public key"),
        (["legacy", "release", "--signing-key", "locked", *COMMAND[2:]], "a passphrase is needed"),
        (["legacy", "release", *COMMAND, "--license", "x" * 300], "expected 1 to 256 printable characters"),
    ],
)
def test_what_cannot_be_done_is_said(place, capsys, arguments, message):
    """Exit code 2, one line or one object, and everything is as it was."""
    os.mkdir("full")
    with open("full/precious", "w"):
        pass
    os.mkdir("target")
    os.symlink("target", "link")
    listed = sorted(os.listdir())
    code, out, err = run(arguments, capsys)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert message in err
    assert "internal error" not in err
    code, out, err = run([*arguments, "--json"], capsys)
    document = json.loads(out)
    assert (code, err, document["schema"], document["exit_code"], document["verdict"]) == (2, "", 1, 2, "undecided")
    assert sorted(os.listdir()) == listed
    assert os.listdir("full") == ["precious"]


def test_an_empty_folder_is_filled(place, capsys):
    """An existing empty folder is filled; a second time it is full. The JSON object has the content of the page."""
    os.mkdir("release")
    code, out, err = run(["legacy", "release", *COMMAND, "--json"], capsys)
    document = json.loads(out)
    assert (code, err, document["verdict"], document["exit_code"], document["refused"]) == (0, "", "published", 0, 0)
    release = document["release"]
    assert (release["directory"], release["database"], release["count"]) == ("release", FILES[0], 26)
    assert (release["name"], release["version"], release["license"]) == ("BigEarthNet-S2", "1.0", None)
    assert release["fingerprint"] == PUBLISHER.fingerprint
    with open("release/SHA256SUMS") as file:
        assert dict(reversed(line.split("  ")) for line in file.read().splitlines()) == release["sha256"]
    assert run(["legacy", "release", *COMMAND], capsys)[0] == 2


def test_names_make_safe_file_names_and_commands(place, capsys):
    """For any name of the dataset."""
    for number, (name, database) in enumerate(
        (("Größe / 2; rm -rf", "Gr-e-2-rm-rf.lmdb"), ("../..", "dataset.lmdb"), ("it's $HOME `x`", "it-s-HOME-x.lmdb"))
    ):
        code, _, _ = run(
            ["legacy", f"r{number}", "--signing-key", "publisher", "--name", name, "--version", "1 'beta'"], capsys
        )
        assert code == 0
        assert os.path.isdir(f"r{number}/{database}")
        with open(f"r{number}/RELEASE.md", encoding="utf-8") as file:
            page = file.read()
        command = shlex.split(re.search(r"^\$ (ben-secure .*)$", page, re.MULTILINE)[1])
        assert command[-4:] == ["--name", name, "--version", "1 'beta'"]
        write_verify_key(f"r{number}/publisher.pub", PUBLISHER.verify_key)
        os.chdir(f"r{number}")
        assert main(command[1:]) == 0
        with PatchReader(database, verify_key=read_verify_key("publisher.pub"), name=name) as patches:
            assert len(patches) == 26
        os.chdir("..")
        capsys.readouterr()


@pytest.mark.slow
def test_a_killed_publish_leaves_nothing_like_a_release(place):
    """A kill at a random moment leaves no folder or a complete one; a second run completes and removes the remains."""
    many = {b"%03d" % number: LEGACY[b"s1"] for number in range(60)}
    make_database(place / "many", many)
    command = [sys.executable, "-m", "ben_secure", "publish", "many", "release", *COMMAND]
    for _ in kill_at_random(command, lambda: shutil.rmtree("release", ignore_errors=True)):
        if os.path.exists("release"):
            subprocess.run(
                ["sha256sum", "--strict", "-c", "SHA256SUMS"], check=True, cwd="release", capture_output=True
            )
    shutil.rmtree("release", ignore_errors=True)
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(os.listdir("release")) == sorted([*FILES, *TEXTS])
    assert not [name for name in os.listdir() if name.startswith(".")]


@pytest.mark.threat("T8")
def test_several_databases_under_one_signature(place, capsys):
    """Each keeps its name and opens with the one signature; the page, the card and the sums are of all of them."""
    make_database(place / "train.lmdb", {b"a": LEGACY[b"s1"], b"b": LEGACY[b"s1"]})
    make_database(place / "my test!.mdb", {b"c": LEGACY[b"s1"]})
    arguments = ["train.lmdb", "my test!.mdb", "release", *COMMAND, "--license", "CDLA-Permissive-1.0"]
    code, out, err = run([*arguments, "--json"], capsys)
    assert (code, err) == (0, "")
    release = json.loads(out)["release"]
    assert (release["databases"], release["database"], release["count"]) == (["train.lmdb", "my-test.lmdb"], None, 3)
    assert sorted(release["sha256"]) == sorted(
        path
        for name in release["databases"]
        for path in (f"{name}/data.mdb", f"{name}.manifest", f"{name}.manifest.dsse.json")
    )
    write_verify_key("release/publisher.pub", PUBLISHER.verify_key)
    os.chdir("release")
    with open("README.md") as file:
        front, page = file.read().split("---\n", 2)[1:]
    assert "license: cdla-permissive-1.0\n" in front
    assert "size_categories:\n- n<1K\n" in front
    with open("RELEASE.md") as file:
        assert file.read() == page.lstrip("\n")
    commands = re.findall(r"^\$ ben-secure (.*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)) == 0
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], check=True, capture_output=True)
    os.rename("train.lmdb", "kept.lmdb")
    for suffix in (".manifest", ".manifest.dsse.json"):
        os.rename(f"train.lmdb{suffix}", f"kept.lmdb{suffix}")
    capsys.readouterr()
    verify = ["verify", "kept.lmdb", "--verify-key", "publisher.pub"]
    assert main(verify) == 1
    assert "this is train.lmdb, expected kept.lmdb" in capsys.readouterr().err
    assert main([*verify, "--subject", "train.lmdb"]) == 0


def test_several_that_cannot_be_told_apart(place, capsys):
    """Two names that are one on some systems, or the same records twice; nothing is left."""
    make_database(place / "A.lmdb", {b"a": LEGACY[b"s1"]})
    make_database(place / "b.lmdb", {b"a": LEGACY[b"s1"]})
    os.mkdir("folder")
    make_database(place / "folder" / "a.lmdb", {b"b": LEGACY[b"s1"]})
    listed = sorted(os.listdir())
    for sources, words in (
        (["A.lmdb", "folder/a.lmdb"], "give each database a different name"),
        (["A.lmdb", "b.lmdb"], "have the same records"),
    ):
        code, _, err = run([*sources, "release", *COMMAND], capsys)
        assert code == 2
        assert words in err
        assert "internal error" not in err
    assert sorted(os.listdir()) == listed
    assert run(["A.lmdb", "hostile", "release", *COMMAND], capsys)[0] == 1
    assert sorted(os.listdir()) == listed


def test_metadata_for_machines(place, capsys):
    """Croissant names every file with its size and digest; a licence that the hub does not know is named in full."""
    run(["legacy", "release", *COMMAND, "--license", 'My "own"'], capsys)
    with open("release/croissant.json") as file:
        document = json.load(file)
    assert (document["@type"], document["name"], document["version"]) == ("sc:Dataset", "BigEarthNet-S2", "1.0")
    assert document["license"] == 'My "own"'
    with open("release/SHA256SUMS") as file:
        sums = dict(reversed(line.split("  ")) for line in file.read().splitlines())
    assert {entry["contentUrl"]: entry["sha256"] for entry in document["distribution"]} == sums
    for entry in document["distribution"]:
        assert entry["contentSize"] == f"{os.path.getsize(os.path.join('release', entry['contentUrl']))} B"
    with open("release/README.md") as file:
        assert 'license: other\nlicense_name: "My \\"own\\""\npretty_name: "BigEarthNet-S2"\n' in file.read()


@pytest.mark.slow
def test_croissant_is_valid(place, capsys):
    """The validator of the specification finds no error, and misses only facts that only a publisher knows."""
    mlcroissant = pytest.importorskip("mlcroissant")
    run(["legacy", "release", *COMMAND, "--license", "CDLA-Permissive-1.0"], capsys)
    code = (
        "import mlcroissant, sys; issues = mlcroissant.Dataset(sys.argv[1]).metadata.ctx.issues; "
        "print(sorted(issues.errors), sorted(warning.rsplit('/')[-1][:6] for warning in issues.warnings))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "release/croissant.json"], capture_output=True, text=True, check=True
    )
    assert mlcroissant.__name__ == "mlcroissant"
    assert done.stdout == "[] ['citeAs']\n"
    assert "not standard" not in done.stderr


@pytest.mark.slow
def test_a_killed_publish_of_several_leaves_nothing_like_a_release(place):
    """At random moments: no folder, or a whole one in which each database verifies."""
    for name in ("train", "test"):
        make_database(place / name, {b"%s %03d" % (name.encode(), number): LEGACY[b"s1"] for number in range(30)})
    command = [sys.executable, "-m", "ben_secure", "publish", "train", "test", "release", *COMMAND]
    for _ in kill_at_random(command, lambda: shutil.rmtree("release", ignore_errors=True)):
        if os.path.exists("release"):
            for name in ("train", "test"):
                with PatchReader(f"release/{name}.lmdb", verify_key=PUBLISHER.verify_key) as patches:
                    assert len(list(patches.values())) == 30
    shutil.rmtree("release", ignore_errors=True)
    subprocess.run(command, check=True, capture_output=True)
    assert not [name for name in os.listdir() if name.startswith(".")]
