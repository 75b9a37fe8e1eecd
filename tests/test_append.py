"""``append``: records of one database go into another, all or none; a released one is never changed."""

import os
import sys

import pytest

from ben_secure import PatchReader, PatchWriter, StoreError
from ben_secure.cli import main
from ben_secure.errors import TagMismatchError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, write_mac_keys
from ben_secure.store.change.append import append
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.tag import Tagger
from support.databases import HONEST, SHELL, make_database
from support.kills import kill_at_random
from support.patch_databases import KEY, database, patches
from support.releases import CREATED

OLD = {b"a": HONEST[0], b"c": HONEST[1]}
NEW = {b"b": HONEST[1], b"d": HONEST[0]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with two databases."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "old.lmdb", OLD)
    make_database(tmp_path / "new.lmdb", NEW)
    return tmp_path


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


def test_records_are_added(place):
    """To the database itself, or into a copy; the new one is only read, and liblmdb's lock file is not mistaken."""
    done = append("old.lmdb", "new.lmdb", out="copy.lmdb")
    assert (done.checked, done.added, done.kept, done.refusals.count) == (2, 2, 2, 0)
    assert records("copy.lmdb") == OLD | NEW
    assert records("old.lmdb") == OLD
    done = append("old.lmdb", "new.lmdb")
    assert (done.added, done.kept) == (2, 2)
    assert records("old.lmdb") == OLD | NEW
    assert records("new.lmdb") == NEW
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_nothing_is_replaced(place):
    """A key that is in both stops it, the same value or not; one key less does not."""
    make_database(place / "more.lmdb", NEW | {b"c": HONEST[1]})
    with pytest.raises(StoreError, match=r"1 of the new LMDB keys .* the first is b'c'; nothing is replaced"):
        append("old.lmdb", "more.lmdb")
    with pytest.raises(StoreError, match="2 of the new LMDB keys"):
        append("old.lmdb", "old.lmdb")
    assert records("old.lmdb") == OLD
    assert append("old.lmdb", "new.lmdb").added == 2


@pytest.mark.threat("T1")
@pytest.mark.parametrize(
    "bad", [{b"e": SHELL}, {b"\xff": HONEST[0]}, {b"e": b"x" * 2**25}], ids=["attack", "key", "long"]
)
def test_hostile_values_stop_it(place, bad):
    """All new values are judged; one that is refused means that none is added."""
    make_database(place / "bad.lmdb", NEW | bad)
    listed = sorted(os.listdir())
    for out in (None, "copy.lmdb"):
        done = append("old.lmdb", "bad.lmdb", out=out)
        assert (done.checked, done.added, done.refusals.count) == (3, 0, 1)
        assert [error.lmdb_key for error in done.refusals.first] == list(bad)
    assert sorted(os.listdir()) == listed
    assert records("old.lmdb") == OLD


@pytest.mark.threat("T8")
def test_a_released_database_is_not_changed(place):
    """A signed database is not changed under its name, by a link or by its data file; a copy is, without signature."""
    sign_database("old.lmdb", [SigningKey.generate()], name="n", version="1", created=CREATED)
    os.symlink("old.lmdb", "link.lmdb")
    for name in ("old.lmdb", "old.lmdb/data.mdb", "link.lmdb"):
        with pytest.raises(StoreError, match=r"is signed: the manifest .*old.lmdb.manifest .*--out COPY"):
            append(name, "new.lmdb")
    assert append("old.lmdb", "new.lmdb", out="copy.lmdb").added == 2
    assert records("old.lmdb") == OLD
    os.unlink("old.lmdb.manifest")
    assert append("old.lmdb", "new.lmdb").added == 2


@pytest.mark.threat("T8")
@pytest.mark.parametrize("signs", [True, False])
def test_a_database_that_is_signed_meanwhile(place, signs):
    """It keeps the records that were signed: nothing is added; it gets the new ones if it was not signed."""

    def write():
        with PatchWriter("old.lmdb", append=True) as writer:
            writer.put_stored(b"z", HONEST[0])
            if signs:
                sign_database("old.lmdb", [SigningKey.generate()], name="n", version="1", created=CREATED)

    if signs:
        with pytest.raises(StoreError, match="is signed: the manifest"):
            write()
        assert records("old.lmdb") == OLD
    else:
        write()
        assert records("old.lmdb") == OLD | {b"z": HONEST[0]}


@pytest.mark.threat("T9")
def test_tags(tmp_path, monkeypatch):
    """All values of a database are tagged or none is, under one key and context."""
    monkeypatch.chdir(tmp_path)
    database("tagged", patches(2), mac_key=KEY, context="c")
    database("bare", patches(2))
    database("new", patches(2, start=2))
    database("foreign", patches(2, start=4), mac_key=KEY, context="d")
    tagger = Tagger(MacKeySet(KEY), "c")
    for arguments, error, match in (
        (("tagged", "new"), StoreError, "are tagged, and the new ones must be"),
        (("bare", "new", tagger), StoreError, "are not tagged"),
        (("tagged", "new", Tagger(MacKeySet(KEY), "d")), TagMismatchError, "changed"),
        (("tagged", "new", Tagger(MacKeySet(MacKey.generate()), "c")), TagMismatchError, "key"),
    ):
        with pytest.raises(error, match=match):
            append(*arguments[:2], tagger=(*arguments, None)[2])
    assert append("tagged", "foreign", tagger=tagger).refusals.count == 2
    assert append("bare", "foreign").refusals.count == 2
    assert append("tagged", "new", tagger=tagger).added == 2
    assert append("bare", "new").added == 2
    with PatchReader("tagged", mac_key=KEY, context="c") as tagged, PatchReader("bare") as bare:
        assert {name: patch.dumps() for name, patch in tagged.items()} == {
            name: patch.dumps() for name, patch in bare.items()
        }
        assert len(tagged) == 4


def test_command(place, capsys):
    """The command has the right exit codes, last line and JSON object."""
    write_mac_keys("team.jwks", MacKeySet(KEY))
    make_database(place / "bad.lmdb", {b"e": SHELL})
    make_database(place / "empty.lmdb", {})
    for code, arguments, words in (
        (0, ["old.lmdb", "new.lmdb", "--out", "copy.lmdb"], "APPENDED: 2 records to 2 in copy.lmdb"),
        (2, ["old.lmdb", "new.lmdb", "--out", "copy.lmdb"], "exists"),
        (2, ["old.lmdb", "empty.lmdb"], "nothing to add"),
        (2, ["old.lmdb", "missing"], "does not exist"),
        (2, ["missing", "new.lmdb"], "does not exist"),
        (1, ["old.lmdb", "bad.lmdb"], "REFUSED: 1 of 1 value in bad.lmdb; old.lmdb was not changed"),
        (2, ["old.lmdb", "new.lmdb", "--context", "c"], "--context requires --mac-key"),
        (2, ["old.lmdb", "new.lmdb", "--mac-key", "team.jwks"], "are not tagged"),
        (0, ["old.lmdb", "new.lmdb"], "APPENDED: 2 records to 2 in old.lmdb"),
        (2, ["old.lmdb", "new.lmdb"], "2 of the new LMDB keys"),
    ):
        assert main(["append", *arguments]) == code, arguments
        out, err = capsys.readouterr()
        assert words in (err if code == 2 else out.splitlines()[-1]), arguments
        assert "internal error" not in err
    import json

    make_database(place / "more.lmdb", {b"z": HONEST[0]})
    assert main(["append", "old.lmdb", "more.lmdb", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["added"], document["kept"], document["refused"]) == ("appended", 1, 4, 0)


@pytest.mark.parametrize("changed", ["old.lmdb", "new.lmdb"])
def test_a_database_that_is_exchanged_meanwhile(place, changed):
    """Stops it, whether a writer has committed or another file has its name; nothing is written."""

    def exchange(done, total):
        if done == total:
            make_database(place / "other.lmdb", OLD)
            os.replace("other.lmdb/data.mdb", f"{changed}/data.mdb")

    with pytest.raises(StoreError, match=r"replaced|replaced by another file|changed by another program|written to"):
        append("old.lmdb", "new.lmdb", progress=exchange)
    with pytest.raises(StoreError, match=r"replaced|replaced by another file|written to|already"):
        append("old.lmdb", "new.lmdb", out="copy.lmdb", progress=exchange)
    assert not os.path.exists("copy.lmdb")
    assert records("old.lmdb") == OLD


@pytest.mark.slow
def test_a_killed_append_loses_nothing(place):
    """A kill at a random moment leaves the old records or all; a second run completes and removes the remains."""
    many = {b"%03d" % number: HONEST[0] for number in range(60)}
    make_database(place / "many.lmdb", many)
    begin = (place / "old.lmdb" / "data.mdb").read_bytes()

    def prepare():
        (place / "old.lmdb" / "data.mdb").write_bytes(begin)

    command = [sys.executable, "-m", "ben_secure", "append", "old.lmdb", "many.lmdb"]
    for _ in kill_at_random(command, prepare):
        assert records("old.lmdb") in (OLD, OLD | many)
    prepare()
    assert main(command[3:]) == 0
    assert records("old.lmdb") == OLD | many
    assert not [name for name in os.listdir() if name.startswith(".")]
