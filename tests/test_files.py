"""Files appear complete or not at all, and never replace existing ones."""

import os
import stat
import threading
from datetime import datetime, timezone

import pytest

from ben_secure._system.files import Access, check_free, new_files, write_file
from ben_secure.cli import main
from ben_secure.errors import KeyFileError, StoreError
from ben_secure.signing.keys import SigningKey
from ben_secure.store.change.sign import sign_database
from support.databases import make_database
from support.locales import names_in_utf8
from support.owners import owned


def mode(path):
    """Permissions of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_file_is_written_and_replaced_only_if_asked(tmp_path):
    """A second write is an error that leaves the first, unless it is asked for."""
    path = tmp_path / "a.png"
    write_file(path, b"one")
    assert path.read_bytes() == b"one"
    with pytest.raises(StoreError, match=r"a\.png exists and is not overwritten; .* \(--force"):
        write_file(path, b"two")
    assert path.read_bytes() == b"one"
    write_file(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.threat("T21")
def test_a_link_is_neither_followed_nor_replaced(tmp_path):
    """Whether it leads to a file or nowhere, and whether overwriting is asked for or not."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    for name in ("link", "dangling"):
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="is a symbolic link, which is neither followed nor replaced"):
                write_file(tmp_path / name, b"one", overwrite=overwrite)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "precious"]
    write_file(tmp_path / "precious", b"one", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_said_to_be_one(tmp_path, overwrite):
    """Before anything is made."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"/folder is a directory; name a file$"):
        write_file(tmp_path / "folder", b"one", overwrite=overwrite)
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.threat("T21")
@pytest.mark.threat("T21")
@pytest.mark.parametrize(
    "note",
    [
        None,
        "[" * 100_000,
        '[{"source": "0", "target": "a\\u0000", "size": 1, "sha256": "", "replaces": false}]',
        '[{"source": "0", "target": "../other", "size": 1, "sha256": "", "replaces": true}]',
    ],
    ids=["FIFO", "deep", "NUL", "path"],
)
def test_a_folder_that_somebody_sent_stops_nobody(tmp_path, note):
    """A private folder of a killed writer can come out of a tar file: its notes are not waited for, nor believed."""
    place = tmp_path / "set" / ".report.ben-secure-writing"
    (place / "old").mkdir(parents=True)
    place.chmod(0o700)
    (place / "old" / "0").write_bytes(b"hostile")
    for name in ("placing", "holding", "resume"):
        if note is None:
            os.mkfifo(place / name)
        else:
            (place / name).write_text(note)
    write_file(tmp_path / "set" / "report", b"report")
    assert os.listdir(tmp_path) == ["set"]
    assert os.listdir(tmp_path / "set") == ["report"]


@pytest.mark.threat("T21")
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (1001, 0o755)])
def test_who_could_write_to_a_replaced_file_of_another_cannot_write_to_ours(tmp_path, monkeypatch, owner, mode):
    """If the owner cannot be kept, neither are permissions that the other had given; of one's own file they are."""
    report = tmp_path / "report"
    report.write_bytes(b"old")
    report.chmod(0o4777 if owner else 0o777)
    real = os.geteuid()
    owned(monkeypatch, 0, report=owner or real)

    def refused(*_):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "chown", refused)
    write_file(report, b"new", overwrite=True)
    found = report.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode), report.read_bytes()) == (real, mode, b"new")


@pytest.mark.threat("T21")
def test_a_file_in_the_place_of_a_fifo_is_not_written_to(tmp_path, monkeypatch):
    """A link that is put there between the look and the opening leads to a file that stays as it is."""
    fifo, precious = tmp_path / "fifo", tmp_path / "precious"
    os.mkfifo(fifo)
    precious.write_bytes(b"precious")
    opened = os.open

    def exchanged(path, flags, *mode, **options):
        if os.fspath(path) == str(fifo):
            fifo.unlink()
            fifo.symlink_to(precious)
        return opened(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(StoreError, match="was exchanged while it was opened"):
        write_file(fifo, b"report")
    assert precious.read_bytes() == b"precious"


def test_a_fifo_is_written_to(tmp_path):
    """Through the FIFO itself or a link to it, overwriting or not; a secret and a set of files are refused."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    received = []

    def read():
        received.append(fifo.read_bytes())

    for path, overwrite in ((fifo, False), (fifo, True), (tmp_path / "link", False)):
        reader = threading.Thread(target=read)
        reader.start()
        write_file(path, b"report", overwrite=overwrite)
        reader.join()
    assert received == [b"report"] * 3
    write_file("/dev/null", b"report", overwrite=True)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(KeyFileError, match="is a FIFO, which is not replaced"):
        write_file(fifo, b"secret", access=Access.SECRET, overwrite=True, error=KeyFileError)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]
    check_free(str(fifo), streams=True)
    with pytest.raises(StoreError, match="is a FIFO"):
        check_free(str(fifo))


def test_a_full_device_is_told():
    """The message reports that the disk is full."""
    words = "^no space left on the disk of /dev/full; /dev/full was not written: free some space"
    with pytest.raises(StoreError, match=words):
        write_file("/dev/full", b"report")


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_the_umask_is_honoured_except_by_secrets(tmp_path, umask):
    """A report may be read as the user's other files; a secret by its owner only."""
    before = os.umask(umask)
    try:
        write_file(tmp_path / "report", b"one")
        write_file(tmp_path / "secret", b"one", access=Access.SECRET)
    finally:
        os.umask(before)
    assert mode(tmp_path / "report") == 0o666 & ~umask
    assert mode(tmp_path / "secret") == 0o600


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    """It is the same file to those who read it; a secret is private whatever was there."""
    for name, access in (("report", Access.OPEN), ("secret", Access.SECRET)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o640)
        write_file(tmp_path / name, b"one", overwrite=True, access=access)
    assert mode(tmp_path / "report") == 0o640
    assert mode(tmp_path / "secret") == 0o600


def write_both(first, second, meanwhile, **options):
    """Write a set of two files; something happens before they get their names."""
    with new_files([first, second], [Access.OPEN, Access.OPEN], **options) as files:
        for number, file in enumerate(files):
            file.write(b"%d" % number)
        meanwhile()


def test_a_set_appears_as_a_whole(tmp_path):
    """If a name is taken at the end, no other file appears, and replaced files are restored."""
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(StoreError, match="second exists"):
        write_both(first, second, lambda: second.write_bytes(b"other"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"second": b"other"}
    first.write_bytes(b"old")
    second.unlink()
    with pytest.raises(StoreError, match=r"cannot write .*/second: Is a directory"):
        write_both(first, second, lambda: (second.mkdir(), (second / "full").touch()), overwrite=True)
    assert first.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]
    (second / "full").unlink()
    second.rmdir()
    write_both(first, second, lambda: None, overwrite=True)
    assert (first.read_bytes(), second.read_bytes()) == (b"0", b"1")
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


def sign(folder):
    """Sign a database of one record; returns the names of the new files."""
    database, created = make_database(folder / "db", {b"a": b"value"}), datetime(2026, 1, 1, tzinfo=timezone.utc)
    sign_database(database, [SigningKey.generate()], name="a", version="1", created=created)
    return {"db.manifest", "db.manifest.dsse.json"}


def report(folder):
    """Write the report of an audit of a database that does not exist."""
    main(["audit", str(folder / "missing"), "--format", "json", "--output", str(folder / "report"), "--no-fickling"])
    return {"report"}


def replace(folder):
    """Replace a file."""
    (folder / "new").write_bytes(b"old")
    write_file(folder / "new", b"new", overwrite=True)
    return {"new"}


@pytest.mark.threat("T29")
@pytest.mark.parametrize("write", [sign, report, replace])
def test_files_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch, write):
    """Then the list of several, and after all names have been given the folder."""
    fsync, synced = os.fsync, []

    def recorded(fd):
        synced.append((os.fstat(fd).st_ino, {path.stat().st_ino for path in tmp_path.iterdir()}))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    names = write(tmp_path)
    new = {(tmp_path / name).stat().st_ino for name in names}
    last = max(number for number, (inode, _) in enumerate(synced) if inode in new)
    before, after = synced[: last + 1], synced[last + 1 :]
    assert new <= {inode for inode, _ in before}
    assert not any(named & new for _, named in before)
    if len(names) > 1:
        note, named = after.pop(0)
        assert note not in new | {tmp_path.stat().st_ino}
        assert not named & new
    assert [inode for inode, named in after if new <= named] == [tmp_path.stat().st_ino]


def test_one_writer_at_a_time(tmp_path):
    """A second one is refused while the first has the file, and not after."""
    with new_files([tmp_path / "a"], [Access.OPEN]) as (file,):
        file.write(b"one")
        with pytest.raises(StoreError, match=r"another writer is at work on .*/a; wait until it is done"):
            write_file(tmp_path / "a", b"two")
    write_file(tmp_path / "a", b"two", overwrite=True)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.png", pytest.param("ü" * 120 + ".png", marks=names_in_utf8), "n" * 255, b"\xff" * 255]
)
def test_any_name_that_the_file_system_takes(tmp_path, name):
    """Bytes that are not UTF-8, and the longest names, are accepted."""
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    write_file(os.fsdecode(path), b"one")
    with pytest.raises(StoreError, match=r"^[ -~]+ exists"):
        write_file(os.fsdecode(path), b"one")
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 256, "none/a.png", ""])
def test_names_that_cannot_be_are_told(tmp_path, monkeypatch, name):
    """As an error about the file, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"^[ -~]*(cannot write|cannot be the name of a file)[ -~]+$"):
        write_file(name, b"one")
    assert os.listdir(tmp_path) == []
