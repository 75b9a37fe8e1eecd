"""A new database from another, or a change in place: all or nothing, and without refused values."""

import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ben_secure import PatchWriter
from ben_secure.errors import (
    LimitExceededError,
    MissingExtraError,
    PatchFormatError,
    Rule,
    StoreError,
    TagMismatchError,
)
from ben_secure.limits import Limits
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.signing.footer import FOOTER_BYTES, MAGIC
from ben_secure.signing.keys import MacKey, MacKeySet
from ben_secure.signing.tags import append_tag, verified_payload
from ben_secure.store import writer
from ben_secure.store.change import in_place
from ben_secure.store.change.in_place import change_in_place
from ben_secure.store.change.rewrite import KEPT, rewrite
from ben_secure.store.change.tag import Tagger
from support.databases import HAS_LMDB_VERIFY, faults_of, make_database, needs_lmdb_3
from support.owners import owned
from support.strategies import make_patch

KEYS = MacKeySet(MacKey(bytes(range(32))))
OTHER_KEYS = MacKeySet(MacKey(bytes(32)))
# Of every kind of page: in the leaf, in one overflow page, in several; pickles and not.
BARE = {b"%03d" % number: bytes([number]) * size for number, size in enumerate([0, 1, 900, 2000, 5000, 70_000] * 4)}


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


def tagged(bare, keys=KEYS, context=b""):
    """The same records with their tags."""
    return {lmdb_key: append_tag(keys.signing, context, lmdb_key, value) for lmdb_key, value in bare.items()}


@pytest.fixture
def bare(tmp_path):
    """A database without tags."""
    return make_database(tmp_path / "db", BARE)


def sound(path):
    """Whether liblmdb and its verifier are content with a database."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return dict(transaction.cursor()) == records(path) and faults_of(path) == []


# Tags


@pytest.mark.threat("T9")
@given(
    value=st.binary(max_size=80) | st.binary(max_size=80).map(lambda payload: payload + MAGIC),
    lmdb_key=st.binary(min_size=1, max_size=9),
    context=st.text(max_size=5),
)
def test_tagging_laws(value, lmdb_key, context):
    """Tagging twice equals tagging once, and untagging restores the payload, even of a value that ends in the magic."""
    tagger = Tagger(KEYS, context)
    stored = tagger.tagged(lmdb_key, value)
    assert stored == append_tag(KEYS.signing, context.encode(), lmdb_key, value)
    assert tagger.tagged(lmdb_key, stored) is stored
    assert tagger.bare(lmdb_key, stored) == value
    with pytest.raises(TagMismatchError):
        tagger.tagged(lmdb_key + b"x", stored)
    with pytest.raises(TagMismatchError):
        Tagger(OTHER_KEYS, context).bare(lmdb_key, stored)


@pytest.mark.threat("T9")
def test_retagging_asks_an_old_key():
    """A tag is replaced if an old key proves it; one that is of the key that tags stays; nothing else passes."""
    rotated = KEYS.rotated(MacKey(bytes([7]) * 32))
    retagger = Tagger(rotated, "c", old_mac_keys=OTHER_KEYS)
    new = append_tag(rotated.signing, b"c", b"k", b"value")
    assert retagger.tagged(b"k", append_tag(OTHER_KEYS.signing, b"c", b"k", b"value")) == new
    assert retagger.tagged(b"k", append_tag(KEYS.signing, b"c", b"k", b"value")) == new  # of the set, but not the one
    assert retagger.tagged(b"k", new) is new
    assert retagger.tagged(b"k", b"value") == new
    for context, lmdb_key in ((b"", b"k"), (b"c", b"l")):
        with pytest.raises(TagMismatchError):
            retagger.tagged(b"k", append_tag(OTHER_KEYS.signing, context, lmdb_key, b"value"))
    without = Tagger(rotated, "c")
    old = append_tag(KEYS.signing, b"c", b"k", b"value")
    assert without.tagged(b"k", old) is old


def test_what_is_too_long_is_not_tagged():
    """A value that a reader would refuse is not tagged; the limit is inclusive, and the tag does not count."""
    tagger = Tagger(KEYS, limits=Limits(max_value_bytes=100))
    assert len(tagger.tagged(b"k", bytes(100))) == 100 + FOOTER_BYTES
    with pytest.raises(LimitExceededError, match="has 101 bytes, expected at most 100"):
        tagger.tagged(b"k", bytes(101))


# A new database


def test_rewrite_makes_each_value_anew(bare, tmp_path):
    """The source stays; the new database is plain and sound, and nothing else is left."""
    before = (bare / "data.mdb").read_bytes()
    seen = []
    done = rewrite(bare, tmp_path / "new", Tagger(KEYS, "c").tagged, progress=lambda *both: seen.append(both))
    assert (done.checked, done.written, done.refusals.count) == (24, 24, 0)
    assert records(tmp_path / "new") == tagged(BARE, context=b"c")
    assert sound(tmp_path / "new")
    assert (bare / "data.mdb").read_bytes() == before
    assert seen == [(number, 24) for number in range(1, 25)]
    assert sorted(os.listdir(tmp_path)) == ["db", "new"]
    rewrite(tmp_path / "new", tmp_path / "back", Tagger(KEYS, "c").bare)
    assert records(tmp_path / "back") == BARE


def refuse_some(refused):
    """A transform that refuses some keys."""

    def transform(lmdb_key, value):
        if lmdb_key in refused:
            raise PatchFormatError("not a patch", rule=Rule.PATCH)
        return value + b"!"

    return transform


def test_rewrite_is_all_or_nothing(bare, tmp_path):
    """With one refused value there is no database; all are counted and the first are kept, unless told to continue."""
    for refused in ({b"000"}, {b"023"}, set(BARE)):
        done = rewrite(bare, tmp_path / "new", refuse_some(refused))
        assert (done.checked, done.written, done.refusals.count) == (24, 0, len(refused))
        assert [error.lmdb_key for error in done.refusals.first] == sorted(refused)[:KEPT]
        assert os.listdir(tmp_path) == ["db"]
    done = rewrite(bare, tmp_path / "new", refuse_some(set(BARE)), skip_refused=True)
    assert done.written == 0
    assert os.listdir(tmp_path) == ["db"]
    done = rewrite(bare, tmp_path / "new", refuse_some({b"003"}), skip_refused=True)
    assert (done.checked, done.written, done.refusals.count) == (24, 23, 1)
    assert records(tmp_path / "new") == {
        lmdb_key: value + b"!" for lmdb_key, value in BARE.items() if lmdb_key != b"003"
    }


def test_rewrite_refuses_what_is_too_long_and_goes_on(bare, tmp_path):
    """Too long to read, or too long to write: refused like others."""
    limits = Limits(max_value_bytes=4000)
    done = rewrite(bare, tmp_path / "new", refuse_some(()), skip_refused=True, limits=limits)
    too_long = [lmdb_key for lmdb_key, value in BARE.items() if len(value) >= 4000]
    assert [error.lmdb_key for error in done.refusals.first] == too_long
    assert {error.rule for error in done.refusals.first} == {Rule.LIMIT}
    assert done.written == 24 - len(too_long)


def test_rewrite_needs_a_source_and_no_target(bare, tmp_path):
    """Missing, empty and existing ones leave everything as it was."""
    make_database(tmp_path / "empty", {})
    (tmp_path / "there").symlink_to("nowhere")
    for source, target, message in (
        ("missing", "new", "does not exist"),
        ("empty", "new", "the database is empty"),
        ("db", "empty", "exists and is not overwritten"),
        ("db", "there", "exists and is not overwritten"),
        ("db", "db", "exists and is not overwritten"),
        ("db", "no/where", "cannot write"),
    ):
        with pytest.raises(StoreError, match=message):
            rewrite(tmp_path / source, tmp_path / target, refuse_some(()))
        assert sorted(os.listdir(tmp_path)) == ["db", "empty", "there"]
    assert records(bare) == BARE


def test_rewrite_notices_a_writer(bare, tmp_path):
    """A change during the copy would give a mixture of two states."""

    def transform(lmdb_key, value):
        if lmdb_key == b"010":
            with lmdb.open(str(bare), lock=False) as env, env.begin(write=True) as transaction:
                transaction.put(b"000", b"theirs")
        return value

    with pytest.raises(StoreError, match="written to while it was read"):
        rewrite(bare, tmp_path / "new", transform)
    assert not (tmp_path / "new").exists()


# Where it is


@needs_lmdb_3
def test_change_in_place(bare):
    """Every value gets its tag; again, nothing is written; liblmdb and its verifier are content."""
    tagger = Tagger(KEYS)
    seen = []
    done = change_in_place(bare, tagger.tagged, progress=lambda *both: seen.append(both))
    assert (done.checked, done.changed, done.refusals.count) == (24, 24, 0)
    assert seen[-1] == (24, 24)
    assert records(bare) == tagged(BARE)
    assert sound(bare)
    before = (bare / "data.mdb").read_bytes()
    assert change_in_place(bare, tagger.tagged).changed == 0
    assert (bare / "data.mdb").read_bytes() == before
    assert sorted(os.listdir(bare)) == ["data.mdb", "lock.mdb"]


@needs_lmdb_3
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 1900, 2000, 2040, 4000, 4080, 9000, 40_000]), min_size=1, max_size=60),
    had=st.sets(st.integers(0, 59)),
    chunk=st.sampled_from([1, 5000, 60_000, 2**26]),
)
def test_any_database_stays_sound(tmp_path_factory, monkeypatch, sizes, had, chunk):
    """Tagged and untagged values mixed, for any sizes and transactions; twice, and with a new key."""
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(in_place, "_SPARE_MAP_BYTES", 0)
    bare = {b"%05d" % number: bytes([number]) * size for number, size in enumerate(sizes)}
    mixed = {
        lmdb_key: append_tag(KEYS.signing, b"", lmdb_key, value) if int(lmdb_key) in had else value
        for lmdb_key, value in bare.items()
    }
    path = make_database(tmp_path_factory.mktemp("db") / "db", mixed)
    done = change_in_place(path, Tagger(KEYS).tagged)
    assert done.changed == len(bare) - len([number for number in had if number < len(bare)])
    assert records(path) == tagged(bare)
    assert sound(path)
    assert change_in_place(path, Tagger(OTHER_KEYS, old_mac_keys=KEYS).tagged).changed == len(bare)
    assert records(path) == tagged(bare, OTHER_KEYS)
    assert sound(path)


@needs_lmdb_3
def test_a_single_file_can_be_changed(tmp_path):
    """An environment without directory, a link to it, and a data file as the path are accepted."""
    path = make_database(tmp_path / "one.mdb", BARE, subdir=False)
    (tmp_path / "link").symlink_to("one.mdb")
    assert change_in_place(tmp_path / "link", Tagger(KEYS).tagged).changed == 24
    assert records(path) == tagged(BARE)
    make_database(tmp_path / "db", BARE)
    assert change_in_place(tmp_path / "db" / "data.mdb", Tagger(KEYS).tagged).changed == 24
    assert records(tmp_path / "db") == tagged(BARE)


@needs_lmdb_3
def test_nothing_is_written_if_one_is_refused(bare):
    """And all are counted."""
    before = (bare / "data.mdb").read_bytes()
    done = change_in_place(bare, refuse_some({b"003", b"023"}))
    assert (done.checked, done.changed, done.refusals.count) == (24, 0, 2)
    assert [error.lmdb_key for error in done.refusals.first] == [b"003", b"023"]
    assert (bare / "data.mdb").read_bytes() == before


@needs_lmdb_3
def test_a_value_that_changes_between_check_and_write_ends_it(bare):
    """The transaction in which it happens is undone."""
    calls = itertools.count()

    def transform(lmdb_key, value):
        if next(calls) == len(BARE) + 5:
            raise TagMismatchError("changed")
        return value + b"!"

    with pytest.raises(TagMismatchError):
        change_in_place(bare, transform)
    assert records(bare) == BARE
    assert sound(bare)


@needs_lmdb_3
def test_an_empty_database_is_not_signed(tmp_path):
    """Nothing to do is not success."""
    with pytest.raises(StoreError, match="the database is empty"):
        change_in_place(make_database(tmp_path / "db", {}), Tagger(KEYS).tagged)


@pytest.mark.threat("T19")
@pytest.mark.parametrize("which", ["source", "other", None])
def test_a_source_that_is_replaced_meanwhile_is_not_copied(bare, tmp_path, which):
    """The copy would be of a file that does not exist any more; nothing is written. A source that stays is copied."""
    other = make_database(tmp_path / "other", BARE)

    def transform(lmdb_key, value):
        if lmdb_key == b"010" and which is not None:
            path = bare if which == "source" else other
            path.rename(tmp_path / "before")
            shutil.copytree(tmp_path / "before", path)
        return value

    with PageReader(other) as read:
        if which is None:
            assert rewrite(bare, tmp_path / "new", transform, others=[(read, read.facts)]).written == 24
            return
        with pytest.raises(StoreError, match="the database was replaced by another file"):
            rewrite(bare, tmp_path / "new", transform, others=[(read, read.facts)])
    assert sorted(os.listdir(tmp_path)) == ["before", "db", "other"]


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_liblmdb_gets_only_what_its_verifier_passes(bare, monkeypatch):
    """A fault that a reader does not notice leaves the file unchanged, and the message recommends --out."""
    data_file = bare / "data.mdb"
    content = bytearray(data_file.read_bytes())
    with lmdb.open(str(bare), readonly=True, lock=False) as env:
        psize = env.stat()["psize"]
    newer = max((0, psize), key=lambda meta: content[meta + 16 + 24 + 96 + 8])
    free_depth = newer + 16 + 24 + 6  # of the free-page database, which a reader has no use for
    content[free_depth] = 9
    data_file.write_bytes(content)
    assert records(bare) == BARE
    monkeypatch.setattr(in_place.lmdb, "open", None)
    with pytest.raises(StoreError, match=r"lmdb\.verify finds \d+ fault.*nonzero counters.*--out NEW"):
        change_in_place(bare, Tagger(KEYS).tagged)
    assert data_file.read_bytes() == content
    assert sorted(os.listdir(bare)) == ["data.mdb", "lock.mdb"]


def test_without_lmdb_verify_nothing_is_changed_in_place(bare, monkeypatch):
    """liblmdb trusts every byte, so it does not open a file that was not checked; a new database is made instead."""
    before = (bare / "data.mdb").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("ben_secure.store.change.in_place.has_lmdb_verify", lambda: False)
        with pytest.raises(MissingExtraError, match=r"lmdb 3 has, .* write a new one \(--out NEW\), or: pip install"):
            change_in_place(bare, Tagger(KEYS).tagged)
        assert rewrite(bare, bare.parent / "new", Tagger(KEYS).tagged).written == 24
    assert (bare / "data.mdb").read_bytes() == before
    assert not HAS_LMDB_VERIFY or change_in_place(bare, Tagger(KEYS).tagged).changed == 24


@needs_lmdb_3
def test_a_report_that_may_be_no_fault_says_so(tmp_path):
    """lmdb.verify takes a value that was made smaller by the transaction that wrote it for damage; --out works."""
    path = make_database(tmp_path / "db", {})
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        transaction.put(b"a", bytes(20_000))
        transaction.put(b"a", bytes(9_000))
    with pytest.raises(StoreError, match=r"lmdb.verify also reports a value .*made smaller.*--out NEW"):
        change_in_place(path, Tagger(KEYS).tagged)
    assert rewrite(path, tmp_path / "new", Tagger(KEYS).tagged).written == 1
    assert change_in_place(tmp_path / "new", Tagger(KEYS).tagged).checked == 1


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_what_others_can_write_is_not_changed_in_place(bare, monkeypatch):
    """They could change the file after it was verified."""
    for place in (bare, bare / "data.mdb"):
        for mode in (0o020, 0o002):
            before = place.stat().st_mode
            place.chmod(before | mode)
            with pytest.raises(StoreError, match=r"others can write to .* chmod go-w it, or write a new database"):
                change_in_place(bare, Tagger(KEYS).tagged)
            place.chmod(before)
    for name in ("db", "data"):
        with monkeypatch.context() as patched:
            owned(patched, 12345, **{name: 1001})
            with pytest.raises(StoreError, match=r"others can write to .*owner 1001.* only user 12345"):
                change_in_place(bare, Tagger(KEYS).tagged)
    assert records(bare) == BARE
    assert change_in_place(bare, Tagger(KEYS).tagged).changed == 24


@needs_lmdb_3
@pytest.mark.threat("T19")
def test_a_folder_above_that_others_can_write_to_is_enough(bare):
    """They could exchange the whole database between the check and liblmdb; a sticky folder protects it."""
    above = bare.parent
    before = above.stat().st_mode
    above.chmod(0o777)
    with pytest.raises(StoreError, match=r"others can write to .*mode 0777"):
        change_in_place(bare, Tagger(KEYS).tagged)
    above.chmod(0o1777)
    assert change_in_place(bare, Tagger(KEYS).tagged).changed == 24
    above.chmod(before)


@needs_lmdb_3
@pytest.mark.threat("T19")
@pytest.mark.parametrize("exchanged", [None, "folder", "file"])
def test_liblmdb_opens_the_file_that_was_verified(bare, tmp_path, monkeypatch, exchanged):
    """A new file at the path has no effect: the folder is held open, and the file in it is compared."""
    other = make_database(tmp_path / "other", {b"planted": b"nobody has verified it"})
    verify = in_place.lmdb.verify.verify

    def verified(*arguments, **options):
        found = verify(*arguments, **options)
        if exchanged == "folder":
            bare.rename(tmp_path / "honest")
            other.rename(bare)
        elif exchanged == "file":
            (other / "data.mdb").rename(bare / "data.mdb")
        return found

    seen = set()

    def transform(lmdb_key, value):
        seen.add(lmdb_key)
        return value + b"!"

    monkeypatch.setattr(in_place.lmdb.verify, "verify", verified)
    if exchanged == "file":
        with pytest.raises(StoreError, match="the database was replaced by another file"):
            change_in_place(bare, transform)
    else:
        assert change_in_place(bare, transform).changed == 24
        changed = records(tmp_path / "honest" if exchanged else bare)
        assert changed == {lmdb_key: value + b"!" for lmdb_key, value in BARE.items()}
    assert b"planted" not in seen
    if exchanged:
        assert records(bare) == {b"planted": b"nobody has verified it"}


@needs_lmdb_3
def test_a_data_file_that_is_a_link_is_not_changed_in_place(bare, tmp_path):
    """Others may use it, as in a snapshot of a cache of downloads; a copy can be written."""
    (tmp_path / "snapshot").mkdir(mode=0o755)
    (tmp_path / "snapshot" / "data.mdb").symlink_to(bare / "data.mdb")
    with pytest.raises(StoreError, match=r"data\.mdb is a link to .*--out NEW"):
        change_in_place(tmp_path / "snapshot", Tagger(KEYS).tagged)
    assert records(bare) == BARE
    assert rewrite(tmp_path / "snapshot", tmp_path / "new", Tagger(KEYS).tagged).written == 24


@needs_lmdb_3
@pytest.mark.threat("T19")
@pytest.mark.parametrize("through", ["db", "link", "chain", "db/data.mdb", "link/data.mdb"])
def test_a_release_is_not_changed_through_whatever_link(bare, tmp_path, through):
    """The manifest is beside the database or beside a link to it; without a manifest, links are followed."""
    (tmp_path / "link").symlink_to("db")
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "elsewhere" / "chain").symlink_to("../link")
    (tmp_path / "chain").symlink_to("elsewhere/chain")
    path = tmp_path / through
    for manifest in ("db.manifest", *(["link.manifest"] if through == "chain" else [])):
        (tmp_path / manifest).write_bytes(b"")
        with pytest.raises(StoreError, match=r"the database is signed: the manifest .*--out NEW"):
            change_in_place(path, Tagger(KEYS).tagged)
        with pytest.raises(StoreError, match=r"the database is signed: .*add to a copy of it and sign that"):
            PatchWriter(path, append=True).__enter__()
        (tmp_path / manifest).unlink()
    assert records(bare) == BARE
    with PatchWriter(path, append=True):
        pass
    assert change_in_place(path, Tagger(KEYS).tagged).changed == 24


@needs_lmdb_3
def test_use_is_exclusive(bare):
    """Not while another program has the database open, nor while another writer of ours is at work."""
    code = "import lmdb, sys; env = lmdb.open(sys.argv[1], readonly=True); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(bare)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        with pytest.raises(StoreError, match="another program has the database open; expected exclusive use"):
            change_in_place(bare, Tagger(KEYS).tagged)
        child.stdin.close()
    with PatchWriter(bare, append=True), pytest.raises(StoreError, match="another writer is at work"):
        change_in_place(bare, Tagger(KEYS).tagged)
    assert change_in_place(bare, Tagger(KEYS).tagged).changed == 24


@needs_lmdb_3
def test_a_lock_file_that_is_something_else_is_not_written_to(bare, tmp_path):
    """liblmdb would make a lock file at the target of a link."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (bare / "lock.mdb").unlink()
    for lay in ((bare / "lock.mdb").symlink_to, (bare / "lock.mdb").hardlink_to):
        lay(precious)
        with pytest.raises(StoreError, match="cannot use the lock file"):
            change_in_place(bare, Tagger(KEYS).tagged)
        (bare / "lock.mdb").unlink()
        assert precious.read_bytes() == b"precious"
    assert change_in_place(bare, Tagger(KEYS).tagged).changed == 24


@needs_lmdb_3
def test_the_map_grows(tmp_path, monkeypatch):
    """It grows even during the work, with a transaction larger than the free space."""
    monkeypatch.setattr(in_place, "_SPARE_MAP_BYTES", 0)
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", 2**20)
    many = {b"%03d" % number: bytes(70_000) for number in range(60)}
    path = make_database(tmp_path / "db", many)
    assert change_in_place(path, Tagger(KEYS).tagged).changed == 60
    assert records(path) == tagged(many)
    assert sound(path)
    # Two transactions' worth of pages wait to be used again; the file does not grow by all that was written.
    assert (path / "data.mdb").stat().st_size < 60 * 70_000 + 5 * 2**20


def in_a_child(work):
    """Start a forked process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


@needs_lmdb_3
def test_a_full_disk_ends_it_between_transactions(tmp_path, monkeypatch):
    """Committed values stay and the others are unchanged; with free space, a second run completes."""
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", 200_000)
    bare = {b"%03d" % number: bytes([number]) * 20_000 for number in range(60)}
    path = make_database(tmp_path / "db", bare)
    room = (path / "data.mdb").stat().st_size + 300_000

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(StoreError, match=r"cannot write .*/db: Input/output error; .*values are complete"):
            change_in_place(path, Tagger(KEYS).tagged)

    assert os.waitstatus_to_exitcode(os.waitpid(in_a_child(work), 0)[1]) == 0
    assert 0 < check_and_finish(path, bare) < 60


def check_and_finish(path, bare):
    """After a kill: sound, each value as before or rightly tagged; and doing it again does the rest."""
    assert sound(path)
    found = records(path)
    assert list(found) == list(bare)
    done = [lmdb_key for lmdb_key in found if found[lmdb_key] != bare[lmdb_key]]
    for lmdb_key in done:
        assert verified_payload(KEYS, b"", lmdb_key, found[lmdb_key]) == bare[lmdb_key]
    assert change_in_place(path, Tagger(KEYS).tagged).changed == len(bare) - len(done)
    assert records(path) == tagged(bare)
    assert sound(path)
    assert not [name for name in os.listdir(path) if name.startswith(".")]
    return len(done)


@needs_lmdb_3
def test_killed_at_every_value(tmp_path, monkeypatch):
    """With several values per transaction: committed values stay, and the others are unchanged."""
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", 100_000)
    bare = {b"%03d" % number: bytes([number]) * (30_000 + number) for number in range(12)}
    original = make_database(tmp_path / "original", bare)
    finished = []
    for step in range(2 * len(bare)):
        path = shutil.copytree(original, tmp_path / f"{step}")
        calls = itertools.count()

        def deadly(lmdb_key, value, step=step, calls=calls):
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return Tagger(KEYS).tagged(lmdb_key, value)

        child = in_a_child(lambda path=path, deadly=deadly: change_in_place(path, deadly))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        finished.append(check_and_finish(path, bare))
    assert finished == [0] * 16 + [4] * 4 + [8] * 4


@needs_lmdb_3
@pytest.mark.slow
@pytest.mark.parametrize("where", ["in place", "new"])
def test_killed_at_random_moments(tmp_path, monkeypatch, where):
    """A kill may come between any two instructions, in liblmdb, too."""
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", 200_000)
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 200_000)
    bare = {b"%03d" % number: bytes([number]) * 20_000 for number in range(100)}
    original = make_database(tmp_path / "original", bare)
    tagger = Tagger(KEYS)

    def work(path):
        if where == "new":
            rewrite(path, path / "new", tagger.tagged)
        else:
            change_in_place(path, tagger.tagged)

    begin = time.perf_counter()
    work(shutil.copytree(original, tmp_path / "timed"))
    duration = time.perf_counter() - begin
    rng = random.Random(where)
    partly = killed = attempt = 0
    while killed < 6 or (where == "in place" and not partly):
        attempt += 1
        assert attempt < 100
        path = shutil.copytree(original, tmp_path / f"{attempt}")
        child = in_a_child(lambda path=path: work(path))
        time.sleep(rng.uniform(0.05, 1.0) * duration)
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
            killed += 1
        else:
            duration *= 0.8  # the machine has become faster than when it was timed
        if where == "in place":
            done = check_and_finish(path, bare)
            partly += 0 < done < len(bare)
            if not done:
                duration *= 1.2  # or slower
            continue
        assert records(path) == bare
        if not (path / "new").exists():
            work(path)
        assert records(path / "new") == tagged(bare)
        assert list(path.rglob(".*/**/*.mdb")) == []  # at most an empty place is left over


# The writer


@pytest.mark.threat("T9")
def test_a_writer_with_a_key_tags_what_it_writes(tmp_path):
    """Under its name and the context, with a key or a set; existing values are copied unchanged."""
    patch, other = make_patch(), make_patch(BigEarthNet_S1_Patch)
    with PatchWriter(tmp_path / "db", mac_key=KEYS.signing, context="größe") as database:
        database["a"] = patch
    with PatchWriter(tmp_path / "db", append=True, mac_key=OTHER_KEYS.rotated(KEYS.signing)) as database:
        database["b"] = other
        database.put_stored(b"c", b"as it is")
    with PatchWriter(tmp_path / "db", append=True) as database:
        database["d"] = other
    found = records(tmp_path / "db")
    assert verified_payload(KEYS, "größe".encode(), b"a", found[b"a"]) == patch.dumps()
    assert verified_payload(KEYS, b"", b"b", found[b"b"]) == other.dumps()
    assert (found[b"c"], found[b"d"]) == (b"as it is", other.dumps())


def test_a_writer_asks_for_sound_keys(tmp_path):
    """The caller's mistakes, before anything is touched."""
    for options, error, message in (
        ({"mac_key": bytes(32)}, TypeError, "must be a MacKey or a MacKeySet, not bytes"),
        ({"context": "c"}, ValueError, "context requires mac_key"),
        ({"mac_key": KEYS, "context": b"c"}, TypeError, "context must be a str"),
        ({"mac_key": KEYS, "context": "x" * 256}, ValueError, "256 bytes"),
    ):
        with pytest.raises(error, match=message):
            PatchWriter(tmp_path / "db", **options)
    assert os.listdir(tmp_path) == []


def test_a_writer_takes_stored_values(tmp_path):
    """Raw keys and bytes are accepted, within the same bounds as patches."""
    with PatchWriter(tmp_path / "db", limits=Limits(max_value_bytes=10)) as database:
        database.put_stored(b"\xff", bytes(10))
        database.put_stored(b"tagged", longest := append_tag(KEYS.signing, b"", b"tagged", bytes(10)))
        for lmdb_key, value, error in (
            (b"\xff", b"", ValueError),
            (b"", b"", ValueError),
            (bytes(512), b"", ValueError),
            (b"a", bytes(11), LimitExceededError),
            (b"a", append_tag(KEYS.signing, b"", b"a", bytes(11)), LimitExceededError),
        ):
            with pytest.raises(error):
                database.put_stored(lmdb_key, value)
    with pytest.raises(ValueError, match="inside its with block only"):
        database.put_stored(b"a", b"")
    assert records(tmp_path / "db") == {b"tagged": longest, b"\xff": bytes(10)}
