"""``PatchWriter`` makes a complete database or none in all cases, and liblmdb opens only its own files."""

import contextlib
import fcntl
import itertools
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ben_secure.errors import LimitExceededError, Rule, StoreError, printable
from ben_secure.limits import Limits
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.store import writer
from ben_secure.store.reader import PatchReader
from ben_secure.store.writer import PatchWriter
from support.databases import faults_of
from support.strategies import make_patch, patches

PATCH = make_patch(labels=["Sea and ocean"])
OTHER = make_patch(BigEarthNet_S1_Patch, seed=1)


def records(path):
    """All records of a database; None if it does not exist."""
    if not path.exists():
        return None
    with PageReader(path) as reader:
        return dict(reader.items())


def write(path, named_patches, finally_=lambda: None, **options):
    """Write patches in one go; ``finally_`` is called at the end of the block."""
    with PatchWriter(path, **options) as database:
        for name, patch in named_patches.items():
            database[name] = patch
        finally_()
    return path


@pytest.fixture
def old(tmp_path):
    """A database with two patches, and its content."""
    path = write(tmp_path / "old.lmdb", {"a": PATCH, "b": OTHER})
    return path, {b"a": PATCH.dumps(), b"b": OTHER.dumps()}


# Written content


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.dictionaries(st.text(min_size=1, max_size=40), patches(), max_size=4))
def test_what_is_written_is_read(tmp_path_factory, named):
    """Round trip over names and patches of every kind."""
    path = write(tmp_path_factory.mktemp("db") / "db", named)
    with PatchReader(
        path, classes={type(patch) for patch in named.values()} - set(map(type, (PATCH, OTHER)))
    ) as reader:
        assert dict(reader.items()) == named
        assert list(reader) == sorted(named, key=str.encode)


def test_writes_canonical_values_into_a_plain_database(tmp_path):
    """The value is ``dumps()``; liblmdb reads the file, ``lmdb.verify`` finds no fault; nothing else is left."""
    path = write(tmp_path / "db.lmdb", {"b": OTHER, "a": PATCH})
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        assert list(transaction.cursor()) == [(b"a", PATCH.dumps()), (b"b", OTHER.dumps())]
    assert faults_of(path) == []
    assert os.listdir(tmp_path) == ["db.lmdb"]
    assert os.listdir(path) == ["data.mdb"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((path / "data.mdb").stat().st_mode) == 0o644 & ~umask
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask


def test_an_empty_database_is_one(tmp_path):
    """It has no records and no faults."""
    assert records(write(tmp_path / "db", {})) == {}


def test_the_file_format_does_not_depend_on_the_environment(tmp_path):
    """py-lmdb's variable for the engine of new files is not heard."""
    code = "import sys; from ben_secure import PatchWriter\nwith PatchWriter(sys.argv[1]): pass"
    environment = os.environ | {"LMDB_DEFAULT_LIB_VERSION": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], env=environment, check=True)
    assert records(tmp_path / "db") == {}


@pytest.mark.parametrize("append", [False, True])
def test_a_big_endian_machine_writes_no_database(old, tmp_path, monkeypatch, append):
    """LMDB writes in the machine's order. The target stays as it was, and a little-endian machine writes it."""
    path = old[0] if append else tmp_path / "new.lmdb"
    before = records(path)
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(StoreError, match=r"(?s)this machine is big-endian.*little-endian machine"):
        write(path, {"c": PATCH}, append=append)
    assert records(path) == before
    monkeypatch.undo()
    write(path, {"c": PATCH}, append=append)
    assert records(path).keys() == {*(before or {}), b"c"}


def test_chunks_and_a_growing_map(tmp_path, monkeypatch):
    """Memory is bounded by the chunk; a chunk that does not fit into the map is written again in a larger one."""
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 300_000)
    monkeypatch.setattr(writer, "_FIRST_MAP_BYTES", 2**18)
    with PatchWriter(tmp_path / "db") as database:
        for number in range(10):
            database[f"{number}"] = PATCH
    assert records(tmp_path / "db") == {b"%d" % number: PATCH.dumps() for number in range(10)}
    with PageReader(tmp_path / "db") as reader:
        assert reader.facts.txnid == 5
        assert reader.facts.map_bytes == 2**21
    assert faults_of(tmp_path / "db") == []


def test_names_and_patches_are_checked(tmp_path):
    """The caller's mistakes are Python's own errors, and patches written before and after are kept."""
    with PatchWriter(tmp_path / "db") as database:
        database["x" * 511] = PATCH
        for name, patch, error, message in (
            ("", PATCH, ValueError, "has 0 bytes, expected 1 to 511"),
            ("x" * 512, PATCH, ValueError, "has 512 bytes, expected 1 to 511"),
            ("ß" * 256, PATCH, ValueError, "has 512 bytes"),
            ("\ud800", PATCH, ValueError, "surrogates not allowed"),
            (b"a", PATCH, TypeError, "patch names are str, not bytes"),
            ("a", PATCH.dumps(), TypeError, "expected a patch, not bytes"),
        ):
            with pytest.raises(error, match=message):
                database[name] = patch
        database["a"] = PATCH
    assert list(records(tmp_path / "db")) == [b"a", b"x" * 511]


def test_duplicate_names_are_refused(old, monkeypatch):
    """Against those of this chunk, of a chunk before, and of the database that is added to."""
    path, before = old
    for chunk_bytes in (2**30, 1):
        monkeypatch.setattr(writer, "_CHUNK_BYTES", chunk_bytes)
        with PatchWriter(path, append=True) as database:
            database[f"new {chunk_bytes}"] = PATCH
            for name in ("a", "b", f"new {chunk_bytes}"):
                with pytest.raises(ValueError, match=f"there is a patch named {name} in .*old.lmdb already"):
                    database[name] = OTHER
        before[b"new %d" % chunk_bytes] = PATCH.dumps()
        assert records(path) == before


def test_values_that_a_reader_would_refuse_are_refused(tmp_path):
    """The limit is inclusive."""
    size = len(PATCH.dumps())
    with PatchWriter(tmp_path / "db", limits=Limits(max_value_bytes=size)) as database:
        database["a"] = PATCH
    with pytest.raises(LimitExceededError, match=f"has {size} bytes, expected at most {size - 1}") as caught:
        write(tmp_path / "other", {"a": PATCH}, limits=Limits(max_value_bytes=size - 1))
    assert (caught.value.lmdb_key, caught.value.rule) == (b"a", Rule.LIMIT)


def test_a_writer_works_inside_its_block_only(tmp_path):
    """Before and after, it says so."""
    database = PatchWriter(tmp_path / "db")
    with pytest.raises(ValueError, match="inside its with block only"):
        database["a"] = PATCH
    with database:
        database["a"] = PATCH
    with pytest.raises(ValueError, match="inside its with block only"):
        database["b"] = PATCH
    assert list(records(tmp_path / "db")) == [b"a"]


# What exists


def test_an_existing_target_is_refused(old, tmp_path):
    """For any kind of target; the message tells how to add to a database."""
    path, before = old
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("old.lmdb", "directory", "file"):
        with pytest.raises(StoreError, match=r"exists; expected a path at which nothing is yet: .* append=True"):
            write(tmp_path / name, {"c": PATCH})
    assert records(path) == before
    assert os.listdir(tmp_path / "directory") == []
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["directory", "file", "old.lmdb"]


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path):
    """Another program's database of the same name stays."""

    def meanwhile():
        (tmp_path / "db").mkdir()
        (tmp_path / "db" / "data.mdb").write_bytes(b"precious")

    with pytest.raises(StoreError, match="db exists and is not overwritten"):
        write(tmp_path / "db", {"a": PATCH}, finally_=meanwhile)
    assert (tmp_path / "db" / "data.mdb").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["db"]


def test_append_adds(old):
    """To a directory, by its name, with a slash, or through a link; the old values stay byte for byte."""
    path, expected = old
    (path.parent / "link").symlink_to("old.lmdb")
    for number, name in enumerate([str(path), f"{path}/", str(path.parent / "link")]):
        write(name, {f"new {number}": PATCH}, append=True)
        expected[b"new %d" % number] = PATCH.dumps()
        assert records(path) == expected
        assert faults_of(path) == []
    assert (path.parent / "link").is_symlink()
    assert sorted(os.listdir(path.parent)) == ["link", "old.lmdb"]
    assert os.listdir(path) == ["data.mdb"]


def test_append_follows_a_link_to_the_data_file(old, tmp_path):
    """The file behind the link is replaced, on its own file system."""
    path, expected = old
    (tmp_path / "elsewhere").mkdir()
    (path / "data.mdb").rename(tmp_path / "elsewhere" / "real.mdb")
    (path / "data.mdb").symlink_to(tmp_path / "elsewhere" / "real.mdb")
    write(path, {"c": PATCH}, append=True)
    assert (path / "data.mdb").is_symlink()
    assert records(tmp_path / "elsewhere" / "real.mdb") == expected | {b"c": PATCH.dumps()}
    assert os.listdir(tmp_path / "elsewhere") == ["real.mdb"]


def test_append_adds_to_a_single_file_and_keeps_its_mode(tmp_path):
    """An environment without directory, with values that are not patches and a key that is not UTF-8."""
    path = tmp_path / "old.mdb"
    with lmdb.open(str(path), subdir=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"\xff", b"anything")
        transaction.put(b"empty", b"")
    path.chmod(0o640)
    assert sorted(os.listdir(tmp_path)) == ["old.mdb", "old.mdb-lock"]
    write(path, {"a": PATCH}, append=True)
    assert records(path) == {b"\xff": b"anything", b"empty": b"", b"a": PATCH.dumps()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["old.mdb"]


def test_append_parts_with_the_lock_file_of_liblmdb(old):
    """A program that still has the old file open goes on with it, and the new one is read in its newest state."""
    path, expected = old
    with lmdb.open(str(path)) as env:
        for number in range(20):
            with env.begin(write=True) as transaction:
                transaction.put(b"c", b"%d" % number)
        with env.begin() as transaction:
            write(path, {"d": PATCH}, append=True)
            assert transaction.get(b"c") == b"19"
        code = "import lmdb, sys; print(lmdb.open(sys.argv[1]).begin().get(b'd') is not None)"
        child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert child.stdout == "True\n"
    assert records(path) == expected | {b"c": b"19", b"d": PATCH.dumps()}


@pytest.mark.threat("T5")
def test_append_never_gives_the_old_file_to_liblmdb(old, monkeypatch):
    """liblmdb opens one directory, the private one, in which there is nothing yet."""
    path, _ = old
    opened = []

    def spy(directory, **options):
        opened.append(
            (
                os.path.realpath(os.fsdecode(directory)),
                os.listdir(directory),
                os.stat(os.path.dirname(directory)).st_mode,
            )
        )
        return lmdb.Environment(directory, **options)

    monkeypatch.setattr(writer.lmdb, "open", spy)
    write(path, {"c": PATCH}, append=True)
    assert opened == [(str(path / ".data.mdb.ben-secure-writing" / "new"), [], stat.S_IFDIR | 0o700)]


def test_append_needs_a_sound_database(old, tmp_path):
    """Missing or damaged: refused, and left as it is."""
    path, _ = old
    with pytest.raises(StoreError, match="does not exist"):
        write(tmp_path / "missing", {"a": PATCH}, append=True)
    with pytest.raises(StoreError, match="cannot write"):
        write(tmp_path / "missing" / "db", {"a": PATCH}, append=True)
    os.truncate(path / "data.mdb", 3 * 4096)
    damaged = (path / "data.mdb").read_bytes()
    with pytest.raises(StoreError, match="truncated"):
        write(path, {"c": PATCH}, append=True)
    assert (path / "data.mdb").read_bytes() == damaged
    assert os.listdir(path) == ["data.mdb"]
    assert os.listdir(tmp_path) == ["old.lmdb"]


@pytest.mark.threat("T6")
@pytest.mark.parametrize("lmdb_key", [b"theirs", b"a"], ids=["added", "replaced"])
def test_append_does_not_lose_what_another_program_writes(old, lmdb_key):
    """If the database changes meanwhile, also if the number of records stays, the change stays; the writer gives up."""
    path, before = old

    def meanwhile():
        with lmdb.open(str(path), lock=False) as env, env.begin(write=True) as transaction:
            transaction.put(lmdb_key, b"1")

    with pytest.raises(StoreError, match="changed or replaced by another program"):
        write(path, {"c": PATCH}, append=True, finally_=meanwhile)
    assert records(path) == before | {lmdb_key: b"1"}
    assert os.listdir(path) == ["data.mdb"]


@pytest.mark.threat("T19")
def test_append_does_not_overwrite_another_file_that_was_put_there(old, tmp_path):
    """This holds even for a file with the same number of records and transactions; without one, it appends."""
    path, before = old

    def meanwhile():
        shutil.copy(path / "data.mdb", tmp_path / "copy")
        os.replace(tmp_path / "copy", path / "data.mdb")

    with pytest.raises(StoreError, match="changed or replaced by another program"):
        write(path, {"c": PATCH}, append=True, finally_=meanwhile)
    assert records(path) == before
    write(path, {"c": PATCH}, append=True)
    assert records(path).keys() == before.keys() | {b"c"}


@pytest.mark.threat("T29")
@pytest.mark.parametrize("name", ["db", "other"])
def test_a_target_is_looked_for_under_the_lock(tmp_path, monkeypatch, name):
    """A folder that appears just before the lock is taken stays; one of another name disturbs nobody."""
    flock = fcntl.flock

    def late(fd, operation):
        (tmp_path / name).mkdir(exist_ok=True)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(StoreError, match="db exists") if name == "db" else contextlib.nullcontext():
        write(tmp_path / "db", {"a": PATCH})
    assert os.listdir(tmp_path / name) == []
    assert records(tmp_path / "db") is not None if name == "other" else sorted(os.listdir(tmp_path)) == ["db"]


def test_a_directory_that_lmdb_cannot_make_is_an_error_of_ours(tmp_path, monkeypatch):
    """lmdb makes it itself, and raises what the operating system says; nothing is left."""

    def fail(*_, **__):
        raise OSError(5, os.strerror(5), "new")

    monkeypatch.setattr(lmdb, "open", fail)
    with pytest.raises(StoreError, match="Input/output error; the disk or the network failed"):
        write(tmp_path / "db", {"a": PATCH})
    assert os.listdir(tmp_path) == []


@pytest.mark.threat("T29")
@pytest.mark.parametrize("resume", [b"a", None])
def test_what_is_kept_for_a_resumption_is_synchronised_at_each_commit(tmp_path, monkeypatch, resume):
    """Liblmdb is asked for it; a database that nobody resumes is synchronised once, at the end."""
    opened = []

    def spy(directory, **options):
        opened.append(lmdb.Environment(directory, **options))
        return opened[-1]

    monkeypatch.setattr(writer.lmdb, "open", spy)
    with PatchWriter(tmp_path / "new", resume=resume) as database:
        database["a"] = PATCH
        assert [env.flags()["sync"] for env in opened] == [resume is not None]


# Failures


@pytest.mark.parametrize("append", [False, True])
def test_an_exception_in_the_block_leaves_all_as_it_was(old, tmp_path, append):
    """KeyboardInterrupt too; the writer can be used again."""
    path, before = old
    target = path if append else tmp_path / "new.lmdb"
    for error in (RuntimeError, KeyboardInterrupt):

        def fail(error=error):
            raise error

        with pytest.raises(error):
            write(target, {"c": PATCH}, append=append, finally_=fail)
        assert records(target) == (before if append else None)
        assert os.listdir(tmp_path) == ["old.lmdb"]
        assert os.listdir(path) == ["data.mdb"]
    assert b"c" in records(write(target, {"c": PATCH}, append=append))


def test_a_failing_system_call_leaves_all_as_it_was(old, tmp_path, monkeypatch):
    """A rename or a synchronisation that fails: the message is about the database that was to be."""
    path, before = old

    def fail(*_):
        raise OSError(28, "No space left on device")

    for target, names in ((path, ("replace", "fsync")), (tmp_path / "new", ("rename", "fsync"))):
        shown = re.escape(printable(str(target), 400))
        for name in names:
            with monkeypatch.context() as patched:
                patched.setattr(os, name, fail)
                with pytest.raises(
                    StoreError, match=rf"^no space left on the disk of {shown}[^ ]* \([\d,]+ bytes free"
                ):
                    write(target, {"c": PATCH}, append=target == path)
            assert records(path) == before
            assert os.listdir(tmp_path) == ["old.lmdb"]
            assert os.listdir(path) == ["data.mdb"]


@pytest.mark.parametrize("append", [False, True])
def test_the_new_database_is_durable_before_it_is_in_place(old, tmp_path, monkeypatch, append):
    """Contents and directories reach the disk in the order that survives a power failure."""
    events, names = [], {}
    fsync, name_of_rename = os.fsync, "replace" if append else "rename"
    rename = getattr(os, name_of_rename)

    def recorded_fsync(fd):
        events.append(os.fstat(fd).st_ino)
        fsync(fd)

    def recorded_rename(source, target):
        names.update({os.stat(source).st_ino: "renamed", os.stat(os.path.dirname(target)).st_ino: "parent"})
        inside = os.path.join(source, "data.mdb") if os.path.isdir(source) else source
        names.setdefault(os.stat(inside).st_ino, "data")
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, name_of_rename, recorded_rename)
    write(old[0] if append else tmp_path / "new", {"c": PATCH}, append=append)
    order = [names.get(event, event) for event in events]
    assert [event for event in order if isinstance(event, str)] == (
        ["renamed", "rename", "parent"] if append else ["data", "renamed", "rename", "parent"]
    )


def test_file_descriptors_are_given_back(old, tmp_path):
    """By writers that finish, that are refused, and that lose the race for the place."""
    path, _ = old
    before = set(os.listdir("/dev/fd"))
    with PatchWriter(path, append=True), pytest.raises(StoreError, match="another writer") as caught:
        write(path, {}, append=True)
    write(tmp_path / "new", {})
    assert set(os.listdir("/dev/fd")) == before, caught


def test_a_place_that_cannot_be_cleared_is_given_up(tmp_path, monkeypatch):
    """And can be taken when the trouble is over."""
    (tmp_path / ".db.ben-secure-writing").mkdir(0o700)
    (tmp_path / ".db.ben-secure-writing" / "new").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(StoreError, match="cannot write"):
            write(tmp_path / "db", {})
    assert records(write(tmp_path / "db", {})) == {}


def in_a_child(work):
    """Run in a forked process; the exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_that_grows_too_large_leaves_all_as_it_was(old):
    """Writing fails in the middle of a chunk."""
    path, before = old

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        with pytest.raises(StoreError, match=r"^cannot write .*/old.lmdb: Input/output error; the disk"):
            write(path, {f"{number}": PATCH for number in range(10)}, append=True)

    assert in_a_child(work) == 0
    assert records(path) == before
    assert os.listdir(path) == ["data.mdb"]


def test_one_writer_at_a_time(old):
    """The second is refused while the first is at work, in this process or another, and not after."""
    path, before = old
    with PatchWriter(path, append=True) as database:
        database["c"] = PATCH
        with pytest.raises(StoreError, match=r"another writer is at work on .*data\.mdb"):
            write(path, {"d": PATCH}, append=True)
    write(path, {"d": PATCH}, append=True)
    assert records(path) == before | {b"c": PATCH.dumps(), b"d": PATCH.dumps()}


def test_a_place_that_is_not_ours_is_not_used(tmp_path):
    """In a directory that others may write to, they could prepare it: a link, or a directory open to them."""
    place = tmp_path / ".db.ben-secure-writing"
    place.mkdir(0o700)
    (place / "new").mkdir()
    (place / "new" / "left over").touch()
    assert records(write(tmp_path / "db", {})) == {}  # a private one is the remains of a killed writer
    (tmp_path / "db" / "data.mdb").unlink()
    (tmp_path / "db").rmdir()
    (tmp_path / "elsewhere").mkdir(0o700)
    cases = [
        (lambda: place.symlink_to("elsewhere"), place.unlink),
        (lambda: place.mkdir(0o755), place.rmdir),
        (lambda: place.touch(0o600), place.unlink),
    ]
    if not os.geteuid():  # nobody else can give a folder to another user
        cases.append((lambda: (place.mkdir(0o700), os.chown(place, 12345, -1)), place.rmdir))
    for prepare, remove in cases:
        prepare()
        with pytest.raises(StoreError, match="is in the way and is not a private directory of this user"):
            write(tmp_path / "db", {})
        remove()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not (tmp_path / "db").exists()


def test_a_lock_on_a_removed_file_holds_nothing(tmp_path, monkeypatch):
    """A place given up between opening its lock and taking it is taken anew, a bounded number of times."""
    answers = itertools.chain([False, False], itertools.repeat(True))
    monkeypatch.setattr(os.path, "samestat", lambda *_: next(answers))
    assert records(write(tmp_path / "db", {})) == {}
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(StoreError, match="other writers keep working on"):
        write(tmp_path / "other", {})


def kill_at(step):
    """Make the process kill itself at the ``step``-th time that a system call of these begins or ends."""
    moments = itertools.count()

    def deadly(call):
        def wrapper(*args, **kwargs):
            if next(moments) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if next(moments) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper

    for name in ("mkdir", "open", "fsync", "rename", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


def left_over(directory):
    """What killed writers left behind."""
    return list(directory.rglob(".*.ben-secure-writing"))


@pytest.mark.parametrize("append", [False, True])
def test_killed_at_every_step(tmp_path, monkeypatch, append):
    """A writer killed at any system call leaves the old database or the new one; other remains are removed."""
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 1)
    new = {"c": PATCH, "d": OTHER}
    became_new, status = [], -signal.SIGKILL
    for step in itertools.count():
        directory = tmp_path / f"{step}"
        directory.mkdir()
        target = directory / "db"
        if append:
            write(target, {"a": OTHER})
        before = records(target)
        complete = (before or {}) | {name.encode(): patch.dumps() for name, patch in new.items()}

        def work(step=step, target=target):
            kill_at(step)
            write(target, new, append=append)

        status = in_a_child(work)
        assert status in (0, -signal.SIGKILL)
        after = records(target)
        assert after in (before, complete)
        became_new.append(after == complete)
        if after == before:
            write(target, new, append=append)
            assert records(target) == complete
            assert left_over(directory) == []
        assert [path for path in left_over(directory) if list(path.rglob("*.mdb"))] == []
        if status == 0:
            break
    assert became_new == sorted(became_new)  # there is one moment at which it becomes the new one
    assert sum(became_new) > 4
    assert became_new.count(False) > 10


@pytest.mark.slow
@pytest.mark.parametrize("append", [False, True])
def test_killed_at_random_moments(tmp_path, monkeypatch, append):
    """The same holds inside liblmdb, and between any two instructions."""
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 500_000)
    many = {f"{number:03}": PATCH for number in range(60)}
    begin = time.perf_counter()
    write(tmp_path / "timed", many)
    duration = time.perf_counter() - begin
    rng = random.Random(append)
    interrupted = attempt = 0
    while interrupted < 3 or attempt < 12:
        attempt += 1
        assert attempt < 100
        target = tmp_path / f"{attempt}" / "db"
        target.parent.mkdir()
        if append:
            write(target, {"old": OTHER})
        before = records(target)
        child = os.fork()
        if child == 0:
            write(target, many, append=append)
            os._exit(0)
        time.sleep(rng.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            duration *= 0.9  # the machine may have become faster than when it was timed
        interrupted += left_over(target.parent) != []
        if records(target) == before:
            write(target, many, append=append)
            assert left_over(target.parent) == []
        assert records(target) == (before or {}) | {name.encode(): PATCH.dumps() for name in many}


# Going on after an interruption


def interrupt(path, count, resume):
    """Write so many patches, then leave the block by an exception."""

    def write_and_stop():
        with PatchWriter(path, resume=resume) as database:
            for number in range(count):
                if str(number) not in database:
                    database[str(number)] = PATCH
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()


def test_what_was_written_is_found_again(tmp_path, monkeypatch):
    """With the same ``resume`` an interrupted writer's patches are there, with another or none they are not."""
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 1)
    path = tmp_path / "new"
    interrupt(path, 2, b"a")
    interrupt(path, 3, b"a")
    assert not path.exists()
    with PatchWriter(path, resume=b"a") as database:
        assert [str(number) in database for number in range(4)] == [True, True, True, False]
        with pytest.raises(ValueError, match=r"there is a patch named 2"):
            database["2"] = OTHER
        database["3"] = OTHER
    payload = PATCH.dumps()
    assert records(path) == {b"0": payload, b"1": payload, b"2": payload, b"3": OTHER.dumps()}
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(path) == ["data.mdb"]
    for other in (b"b", b"aa", None):
        path = tmp_path / f"new {other}"
        interrupt(path, 2, b"a")
        with PatchWriter(path, resume=other) as database:
            assert "0" not in database
        assert records(path) == {}
    assert not list(tmp_path.glob(".*"))


def test_only_what_is_committed_is_kept(tmp_path):
    """Pending patches are lost at an interruption, and if nothing was committed nothing is left."""
    interrupt(tmp_path / "new", 2, b"a")
    assert os.listdir(tmp_path) == []


def test_a_resumed_file_may_be_large(tmp_path, monkeypatch):
    """A file larger than the first map is resumed, and grows."""
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 1)
    interrupt(tmp_path / "new", 8, b"a")
    monkeypatch.setattr(writer, "_FIRST_MAP_BYTES", 100_000)
    with PatchWriter(tmp_path / "new", resume=b"a") as database:
        for number in range(8, 40):
            database[str(number)] = PATCH
    assert len(records(tmp_path / "new")) == 40


def test_a_failed_publication_is_not_the_end(tmp_path, monkeypatch):
    """If a complete database cannot be put in place, the next writer has it and only puts it in place."""

    def rename(source, target):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with (
            pytest.raises(StoreError, match=r"cannot write .*/new: Input/output error; the disk or the network failed"),
            PatchWriter(tmp_path / "new", resume=b"a") as database,
        ):
            database["0"] = PATCH
    with PatchWriter(tmp_path / "new", resume=b"a") as database:
        assert "0" in database
    assert records(tmp_path / "new") == {b"0": PATCH.dumps()}


def test_resume_is_a_digest_and_for_new_databases(tmp_path):
    """An empty or long ``resume``, or one with ``append``, is refused as the caller's mistake."""
    for wrong in ({"resume": b""}, {"resume": bytes(65)}, {"resume": b"a", "append": True}):
        with pytest.raises(ValueError, match=r"resume takes 1 to 64 bytes, and not with append"):
            PatchWriter(tmp_path / "new", **wrong)
    PatchWriter(tmp_path / "new", resume=bytes(64))


def test_payloads_are_written_as_they_are(tmp_path):
    """``put_payload`` stores what ``dumps`` returned, under the rules for names."""
    with PatchWriter(tmp_path / "new") as database:
        database.put_payload("a", PATCH.dumps())
        with pytest.raises(ValueError, match=r"there is a patch named a"):
            database.put_payload("a", PATCH.dumps())
        with pytest.raises(TypeError, match=r"patch names are str"):
            database.put_payload(b"b", PATCH.dumps())
    assert records(tmp_path / "new") == {b"a": PATCH.dumps()}
    with pytest.raises(ValueError, match=r"inside its with block"):
        "a" in database  # noqa: B015
