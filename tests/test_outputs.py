"""Where a command writes a file: standard output, devices, FIFOs, links, folders, and names that are not UTF-8."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from ben_secure import PatchReader
from ben_secure.cli import main
from ben_secure.signing.keys import SigningKey, write_key_pair
from ben_secure.store.writer import PatchWriter
from support.databases import needs_lmdb_3
from support.strategies import make_patch

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in a directory with a database of two patches, and keys."""
    monkeypatch.chdir(tmp_path)
    with PatchWriter("db") as writer:
        writer["a"] = make_patch()
        writer["b"] = make_patch()
    write_key_pair("key", "key.pub", SigningKey.generate())
    return tmp_path


@pytest.fixture
def ben_secure(capfdbinary):
    """Run a command: exit code, standard output and error as bytes."""

    def run(*arguments):
        code = main([os.fsdecode(argument) for argument in arguments])
        return code, *capfdbinary.readouterr()

    return run


def test_a_dash_is_standard_output(place, ben_secure):
    """Only the report or picture is on stdout; messages go to stderr."""
    code, out, _ = ben_secure("audit", "db", "--no-fickling", "--format", "html", "--output", "-")
    assert (code, out[:15]) == (0, b"<!DOCTYPE html>")
    code, out, _ = ben_secure("audit", "db", "--no-fickling", "--json", "--output", "-")
    assert (code, json.loads(out)["exit_code"]) == (0, 0)
    code, out, err = ben_secure("show", "db", "a", "--output", "-")
    assert (code, out[:8]) == (0, PNG)
    assert err.endswith(b" of a in standard output\n")
    for arguments in (("show", "db", "-o", "-", "--json"), ("stats", "db", "--plot", "-", "--json")):
        code, out, _ = ben_secure(*arguments)
        assert code == 2
        assert "cannot both go to standard output" in json.loads(out)["error"]
    assert sorted(os.listdir()) == ["db", "key", "key.pub"]


@pytest.mark.slow
def test_a_plot_on_standard_output(place, ben_secure):
    """This holds for stats."""
    code, out, err = ben_secure("stats", "db", "--plot", "-")
    assert (code, out[:8]) == (0, PNG)
    assert b"histograms written to standard output" in err


@pytest.mark.threat("T21")
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_is_no_file_is_not_replaced(place, force, ben_secure):
    """A FIFO is written to; a link and a folder are refused before any work; all stay as they were."""
    os.mkfifo("fifo")
    os.mkdir("folder")
    os.symlink("precious.png", "link.png")
    pathlib.Path("precious.png").write_bytes(b"precious")
    received = []
    reader = threading.Thread(target=lambda: received.append(pathlib.Path("fifo").read_bytes()))
    reader.start()
    assert ben_secure("audit", "db", "--no-fickling", "--format", "html", "--output", "fifo", *force)[0] == 0
    reader.join()
    assert received[0][:15] == b"<!DOCTYPE html>"
    for command in (("audit", "missing", "--output"), ("stats", "db", "--plot"), ("show", "db", "-o")):
        for name, words in (("folder", b"folder is a directory; name"), ("link.png", b"link.png is a symbolic link")):
            code, out, err = ben_secure(*command, name if command[0] == "audit" else f"{name}", *force)
            assert (code, out) == (2, b"")
            assert words in err or (name == "folder" and b"expected a name that ends in .png" in err)
    for command in (("keygen", "mac"), ("keygen", "publisher", "--no-passphrase")):
        code, _, err = ben_secure(*command, "link.png", *force)
        assert (code, b"is a symbolic link" in err) == (2, True)
    assert pathlib.Path("precious.png").read_bytes() == b"precious"
    assert sorted(os.listdir()) == ["db", "fifo", "folder", "key", "key.pub", "link.png", "precious.png"]


@needs_lmdb_3
def test_every_command_works_in_a_folder_that_is_not_utf8(place, ben_secure):
    """Databases, keys, manifests, reports, pictures and releases with such names, in such a folder."""
    odd = b"\xff\xe9"
    os.mkdir(odd)
    for name in (b"db", b"key", b"key.pub"):
        os.rename(name, os.path.join(odd, odd + name))
    os.chdir(odd)
    db, key, public = (os.path.join(os.fsencode(os.getcwdb()), odd + name) for name in (b"db", b"key", b"key.pub"))
    release = [b"--name", b"a", b"--version", b"1"]
    for arguments in (
        [b"keygen", b"mac", odd + b"mac"],
        [b"convert", db, odd + b"new", b"--mac-key", odd + b"mac"],
        [b"untag", odd + b"new", b"--mac-key", odd + b"mac", b"--out", odd + b"bare"],
        [b"sign", odd + b"bare", b"--mac-key", odd + b"mac"],
        [b"verify", odd + b"bare", b"--mac-key", odd + b"mac"],
        [b"sign", db, b"--signing-key", key, *release],
        [b"verify", db, b"--verify-key", public, *release],
        [b"audit", db, b"--verify-key", public, *release, b"--format", b"html", b"--output", odd + b"report"],
        [b"audit", db, b"--no-fickling", b"--format", b"sarif", b"--output", odd + b"sarif"],
        [b"audit", db, b"--no-fickling", b"--json", b"--resume", odd + b"state"],
        [b"audit", b"."],
        [b"inspect", db],
        [b"show", db, b"-o", odd + b".png"],
        [b"stats", db, b"--json"],
        [b"publish", db, odd + b"release", b"--signing-key", key, *release],
        [b"demo", odd + b"demo"],
    ):
        code, out, err = ben_secure(*arguments)
        assert code == 0 or arguments == [b"audit", b"."], (arguments, out, err)
        out.decode()
        assert err == b"", arguments
    with PatchReader(os.fsdecode(db)) as reader:
        assert list(reader) == ["a", "b"]
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_a_full_output_is_said_to_be_full(place, ben_secure):
    """This holds for standard output and for a device."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ben_secure", "inspect", "db"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"ben-secure: no space left on the disk of standard output")
    code, _, err = ben_secure("audit", "db", "--no-fickling", "--output", "/dev/full", "--force")
    assert (code, b"no space left on the disk of /dev/full" in err) == (2, True)
