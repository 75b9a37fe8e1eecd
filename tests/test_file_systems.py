"""Every writing command works on file systems that lack locks, links, permissions or durable folders, or says which."""

import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from ben_secure._system import appear, locks
from ben_secure._system.files import Access, write_file
from ben_secure.cli import main
from ben_secure.errors import StoreError
from ben_secure.publish import publish
from ben_secure.signing.keys import read_signing_key
from ben_secure.store.writer import PatchWriter
from support import fault_points
from support.strategies import make_patch

SUPPORT = pathlib.Path(__file__).parent / "support"
LACKS = ["flock38 nolink norename dirsync nochmod", "flock37 nochmod", "flock95 nolink", "dirsync norename"]


@pytest.fixture(scope="module")
def lacking():
    """Build the library that makes a file system lack something; skip without a compiler."""
    if shutil.which("gcc") is None or sys.platform != "linux":
        pytest.skip("no gcc, or not Linux")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # LD_PRELOAD takes no path with a space
        library = pathlib.Path(folder) / "file_system.so"
        source = SUPPORT / "file_system.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        yield library


@pytest.fixture
def without(lacking, monkeypatch):
    """Run commands on a file system that lacks something."""

    def choose(lacks):
        monkeypatch.setenv("LD_PRELOAD", str(lacking))
        monkeypatch.setenv("LACKS", lacks)

    return choose


CREATE = """
import sys
from ben_secure._system.files import Access, write_file
write_file(sys.argv[1], b"one", access=Access[sys.argv[2]])
"""


def create(path, access="OPEN"):
    """Write a file in a process of its own; exit code and the last line of its error."""
    done = subprocess.run([sys.executable, "-c", CREATE, path, access], capture_output=True, text=True)
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("lacks", ["flock38 nolink norename dirsync nochmod", "norename"])
def test_a_file_appears_and_is_not_replaced(lacks, tmp_path, without):
    """On file systems that lack any of these features."""
    without(lacks)
    for access in ("OPEN", "SECRET"):
        assert create(tmp_path / access, access) == (0, "")
        code, said = create(tmp_path / access, access)
        assert (code, "exists and is not overwritten" in said) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["OPEN", "SECRET"]


@pytest.mark.threat("T21")
def test_a_secret_needs_permissions(tmp_path, without):
    """If everybody can read all files, no secret is written, but other files are."""
    without("nomodes nochmod")
    assert create(tmp_path / "report", "OPEN") == (0, "")
    assert create(tmp_path / "state", "PRIVATE") == (0, "")
    code, said = create(tmp_path / "secret", "SECRET")
    assert code == 1
    assert "would be a secret that others can use (mode 0755): this file system keeps no permissions" in said
    assert sorted(os.listdir(tmp_path)) == ["report", "state"]


@pytest.mark.slow
@pytest.mark.parametrize("lacks", LACKS)
@pytest.mark.parametrize("name", fault_points.CASES)
def test_every_command_without_a_feature(name, lacks, tmp_path, without):
    """It does its work and leaves nothing else; a second time it refuses, or does it again."""
    case = fault_points.CASES[name]
    fault_points.make_place(tmp_path)
    case.prepare(tmp_path)
    without(lacks)
    done = fault_points.command(case.arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert case.complete(tmp_path)
    assert fault_points.hidden(tmp_path) == []
    again = fault_points.command(case.arguments, tmp_path)
    assert again.returncode == (0 if case.repeats else 2)
    assert case.repeats or any(words in again.stderr for words in fault_points.REFUSES)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("name", ["keygen publisher", "sign (manifest)", "convert"])
def test_failed_or_killed_at_any_call(name):
    """At every so-many-th of the points of ``support.fault_points``, which has them all."""
    for _, call, fault, outcomes in fault_points.table([name], ["KILL", "EIO"], every=3):
        assert not [outcome for outcome in outcomes if outcome.startswith("BAD")], (call, fault, outcomes)


# Locks


def held_by(folder, process, host="other"):
    """Leave the remains of a writer without flock: a file with the name of its process."""
    folder.mkdir(mode=0o700)
    boot, namespace, pid, start = process
    (folder / f"held-{boot}-{namespace}-{pid}-{start}-0123abcd-{host}").touch()


@pytest.mark.threat("T21")
def test_a_stale_file_is_one_whose_process_has_ended(tmp_path, monkeypatch):
    """It is removed only then; another number, boot, namespace or machine may be at work, and is named."""
    monkeypatch.setattr(locks.fcntl, "flock", functools.partial(refuse, 38))
    child = subprocess.Popen(["sleep", "60"])
    running = locks.identity(child.pid)
    place = tmp_path / ".db.ben-secure-writing"
    boot, namespace, pid, start = running
    for process in (
        running,
        ("1234", namespace, pid, start),
        (boot, "1234", pid, start),
        ("0", "0", pid, "0"),
        (boot, namespace, "x", start),
    ):
        held_by(place, process)
        with pytest.raises(
            StoreError, match=r"another writer is at work on .*/db; it is process \w+ on other;"
        ) as caught:
            write_file(tmp_path / "db", b"one")
        command = re.search(r"remove its file: (rm -- .*)$", caught.value.message)[1]
        subprocess.run(command, shell=True, check=True, executable=shutil.which("bash"))
        write_file(tmp_path / "db", b"one", overwrite=True)
        assert os.listdir(tmp_path) == ["db"]
    child.send_signal(signal.SIGKILL)
    held_by(place, running)
    while child.poll() is None:
        pass
    write_file(tmp_path / "db", b"one", overwrite=True)
    held_by(place, (boot, namespace, str(os.getpid()), "1"))  # this number was another process's before
    write_file(tmp_path / "db", b"one", overwrite=True)
    assert os.listdir(tmp_path) == ["db"]


def refuse(number, *_):
    """Fail as the operating system does."""
    raise OSError(number, os.strerror(number))


def test_one_writer_at_a_time_without_locks(tmp_path, monkeypatch):
    """This holds for two writers in one process, too."""
    monkeypatch.setattr(locks.fcntl, "flock", functools.partial(refuse, 95))
    with PatchWriter(tmp_path / "db") as writer:
        writer["a"] = make_patch()
        with pytest.raises(StoreError, match=rf"another writer is at work on .*/db; it is process {os.getpid()} on"):
            PatchWriter(tmp_path / "db").__enter__()
    assert os.listdir(tmp_path) == ["db"]


@pytest.mark.parametrize(("failure", "attempts"), [(errno.ENOENT, 1), (errno.ENOTEMPTY, 1), (errno.EIO, 2)])
def test_nothing_is_removed_twice(failure, attempts):
    """What another writer has removed it may have made again; what the system could not remove is tried once more."""
    tried = []

    def remove(path):
        tried.append(path)
        raise OSError(failure, "no")

    locks.removed(remove, "lock")
    assert len(tried) == attempts


def test_a_lock_that_fails_is_not_one_that_is_lacking(tmp_path, monkeypatch):
    """A disk error is reported, and nothing is left."""
    monkeypatch.setattr(locks.fcntl, "flock", functools.partial(refuse, 5))
    with pytest.raises(StoreError, match="Input/output error; the disk or the network failed"):
        write_file(tmp_path / "a", b"one", access=Access.OPEN)
    assert os.listdir(tmp_path) == []


# Places


def test_a_mount_point_is_refused_before_any_work(tmp_path, monkeypatch):
    """Whether it is another file system or a folder of the same one; an empty folder that is neither is filled."""
    with PatchWriter(tmp_path / "db") as writer:
        writer["a"] = make_patch()
    main(["keygen", "publisher", str(tmp_path / "key"), "--no-passphrase"])
    target = tmp_path / "a b"
    target.mkdir()
    release = {"name": "a", "version": "1", "created": fault_points.NOW}
    key = read_signing_key(tmp_path / "key")
    with monkeypatch.context() as patched:
        patched.setattr(appear.os.path, "ismount", lambda path: path == str(target))
        with pytest.raises(StoreError, match="is a mount point, which cannot be replaced; name a new folder"):
            publish(tmp_path / "missing", target, key, **release)
    with monkeypatch.context() as patched:
        patched.chdir(target)
        with pytest.raises(StoreError, match="is the folder that you are in"):
            publish(tmp_path / "missing", target, key, **release)
    with pytest.raises(StoreError, match="missing does not exist"):
        publish(tmp_path / "missing", target, key, **release)
    publish(tmp_path / "db", target, key, **release)
    assert (target / "RELEASE.md").exists()


def test_appending_keeps_owner_and_permissions(tmp_path):
    """The database belongs to whom it belonged, and is open to whom it was."""
    path = tmp_path / "db"
    with PatchWriter(path) as writer:
        writer["a"] = make_patch()
    data = path / "data.mdb"
    owner = (1234, 1235) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(data, *owner)
    for mode in (0o640, 0o666, 0o600):
        data.chmod(mode)
        with PatchWriter(path, append=True) as writer:
            writer[f"{mode}"] = make_patch()
        found = data.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (*owner, mode)


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_a_database_honours_the_umask(tmp_path, umask):
    """Folder and data file have the permissions of the umask."""
    before = os.umask(umask)
    try:
        with PatchWriter(tmp_path / "db") as writer:
            writer["a"] = make_patch()
    finally:
        os.umask(before)
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "db" / "data.mdb").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_a_complete_database_has_left_is_collected(tmp_path):
    """A writer was killed between renaming and releasing its folder; work that can be resumed is not touched."""
    with PatchWriter(tmp_path / "db") as writer:
        writer["a"] = make_patch()
    place = tmp_path / ".db.ben-secure-writing"
    place.mkdir(mode=0o700)
    (place / "resume").write_bytes(b"a digest")
    (place / "lock").touch()
    with pytest.raises(StoreError, match="exists"):
        appear.refuse_taken(str(tmp_path / "db"))
    assert os.listdir(tmp_path) == ["db"]
    place.mkdir(mode=0o700)
    (place / "new").mkdir()
    (place / "resume").write_bytes(b"a digest")
    with pytest.raises(StoreError, match="exists"):
        appear.refuse_taken(str(tmp_path / "db"))
    assert sorted(os.listdir(place)) == ["new", "resume"]


@pytest.mark.threat("T21")
def test_a_note_does_not_lead_elsewhere(tmp_path):
    """An incomplete set is only removed from its own folder, for any content of the note."""
    folder = tmp_path / "a"
    folder.mkdir()
    digest = hashlib.sha256(b"half").hexdigest()
    for name, stays in (("../half", True), ("half", False)):
        half = folder / name
        half.write_bytes(b"half")
        place = folder / ".first.ben-secure-writing"
        place.mkdir(mode=0o700)
        placed = {"source": "0", "target": name, "size": 4, "sha256": digest, "replaces": False}
        last = placed | {"source": "1", "target": "last"}
        (place / "placing").write_text(json.dumps([placed, last]))
        write_file(folder / "first", b"one", overwrite=True)
        assert half.exists() == stays
        assert os.listdir(folder) == ["first"]


def test_a_replaced_file_whose_folder_fails_stays_and_is_told(tmp_path, monkeypatch):
    """The old file is gone and the new one is complete; a new file is removed."""
    for name, overwrite in (("old", True), ("new", False)):
        (tmp_path / "old").write_bytes(b"old")
        fsync = os.fsync

        def failing(fd, fsync=fsync):
            if os.fstat(fd).st_ino == tmp_path.stat().st_ino:
                raise OSError(5, "Input/output error")
            fsync(fd)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing)
            words = "check it, and do it again" + ("; the new file is in place, .*" if overwrite else "") + "$"
            with pytest.raises(StoreError, match=words):
                write_file(tmp_path / name, b"new", overwrite=overwrite)
    assert os.listdir(tmp_path) == ["old"]
    (tmp_path / "old").unlink()
    write_file(tmp_path / "old", b"new")
