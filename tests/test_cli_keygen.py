"""``ben-secure keygen``: keys are made, fingerprints told, nothing overwritten, no secret shown or an argument."""

import json
import os
import pty
import re
import stat
import subprocess
import sys

import pytest

from ben_secure.cli import _speed, main
from ben_secure.signing.keys import Suite, read_mac_keys, read_signing_key, read_verify_key

pytestmark = pytest.mark.threat("T10")

RUNNER = [sys.executable, "-m", "ben_secure"]


def run(capsys, *arguments, exit_code=0):
    """The output of a command on stdout if it succeeds, otherwise on stderr."""
    assert main(["keygen", *map(str, arguments)]) == exit_code
    out, err = capsys.readouterr()
    assert (out if exit_code else err) == ""
    return out or err


def run_json(capsys, *arguments, exit_code=0):
    """The JSON object of a command, which is all that it prints."""
    assert main(["keygen", *map(str, arguments), "--json"]) == exit_code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert (document["schema"], document["command"], document["exit_code"]) == (1, "keygen", exit_code)
    assert document["verdict"] == (None if exit_code == 0 else "undecided")
    assert (document["error"] is None) == (exit_code == 0)
    return document


def passphrase_file(folder, content=b"correct horse\n"):
    path = folder / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def modes(folder):
    return {path.name: f"{stat.S_IMODE(path.lstat().st_mode):o}" for path in folder.iterdir()}


# mac.


def test_a_mac_key_is_made_and_its_fingerprint_told(tmp_path, capsys, monkeypatch):
    """The file is private; neither the text nor the JSON has the secret."""
    monkeypatch.chdir(tmp_path)
    out = run(capsys, "mac", "mac")
    keys = read_mac_keys(tmp_path / "mac")
    assert re.search(rf"^secret key   mac\nfingerprint  {keys.fingerprint}$", out, re.MULTILINE)
    document = run_json(capsys, "mac", tmp_path / "other")
    other = read_mac_keys(tmp_path / "other")
    assert document["fingerprint"] == other.fingerprint != keys.fingerprint
    assert (document["kind"], document["file"], document["checking_only"]) == ("mac", str(tmp_path / "other"), [])
    assert modes(tmp_path) == {"mac": "600", "other": "600"}
    for path, shown in ((tmp_path / "mac", out), (tmp_path / "other", json.dumps(document))):
        assert json.loads(path.read_text())["keys"][0]["k"] not in shown


def test_add_rotates(tmp_path, capsys):
    """The new key tags; the old ones are listed as still valid."""
    run(capsys, "mac", tmp_path / "mac")
    old = read_mac_keys(tmp_path / "mac")
    out = run(capsys, "mac", tmp_path / "mac", "--add")
    new = read_mac_keys(tmp_path / "mac")
    assert list(new)[1:] == list(old)
    assert f"fingerprint  {new.fingerprint}\nalgorithm    HS256\nstill valid  {old.fingerprint} (HS256)\n" in out
    document = run_json(capsys, "mac", "--add", tmp_path / "mac")
    assert document["checking_only"] == [new.fingerprint, old.fingerprint]
    assert document["fingerprint"] == read_mac_keys(tmp_path / "mac").fingerprint


def test_the_algorithm_is_chosen_by_name(tmp_path, capsys):
    """HS256 is the default; --add keeps the algorithm of the tagging key; an unknown name makes no key."""
    for arguments, expected in (
        (["mac"], "HS256"),
        (["mac", "--add", "--algorithm", "a256gmac"], "A256GMAC"),
        (["mac", "--add"], "A256GMAC"),
        (["mac", "--add", "--algorithm", "HS256"], "HS256"),
        (["mac", "--force", "--algorithm", "A256GMAC"], "A256GMAC"),
    ):
        document = run_json(capsys, *arguments, tmp_path / "mac")
        mac_keys = read_mac_keys(tmp_path / "mac")
        assert document["algorithm"] == mac_keys.signing.suite.name == expected
    before = (tmp_path / "mac").read_bytes()
    out = run(capsys, "mac", tmp_path / "mac", "--add", "--algorithm", "A128GMAC", exit_code=2)
    assert "--algorithm is A128GMAC; expected HS256 or A256GMAC" in out
    assert (tmp_path / "mac").read_bytes() == before


SLOW = {
    (
        "HS256",
        0.27,
        4.3,
    ): "HS256 is slow on this machine: HS256 0.27 GB/s, A256GMAC 4.3 GB/s. To change to A256GMAC, run ben-secure",
    ("HS256", 0.27, 0.3): None,
    ("HS256", 1.9, 9.9): None,
    ("A256GMAC", 1.9, 9.9): None,
    ("A256GMAC", 0.27, 4.3): None,
    ("A256GMAC", 0.27, 0.15): "A256GMAC is slow on this machine: .*no AES instructions.*--algorithm HS256",
}


@pytest.mark.parametrize(("algorithm", "first", "second"), SLOW)
def test_speed_is_told_where_it_matters(algorithm, first, second, tmp_path, capsys, monkeypatch):
    """If the chosen algorithm is slow on this machine, both speeds and the remedy are printed."""
    monkeypatch.setattr(_speed, "measured", lambda: {Suite.HS256: first, Suite.A256GMAC: second})
    out = run(capsys, "mac", tmp_path / "mac", "--algorithm", algorithm)
    expected = SLOW[algorithm, first, second]
    if expected is None:
        assert "slow" not in out
    else:
        assert re.search(expected, out)


def test_speeds_are_measured():
    """Both, in GB/s: no machine makes tags at less than 1 MB/s or more than 1 TB/s."""
    speeds = _speed.measured()
    assert set(speeds) == set(Suite)
    assert all(0.001 < speed < 1000 for speed in speeds.values())


def test_add_needs_a_file_that_is_a_kept_secret(tmp_path, capsys, monkeypatch):
    """Otherwise it says what to do and changes nothing."""
    monkeypatch.chdir(tmp_path)
    assert "No such file" in run(capsys, "mac", "--add", "mac", exit_code=2)
    run(capsys, "mac", "mac")
    (tmp_path / "mac").chmod(0o644)
    before = (tmp_path / "mac").read_bytes()
    assert "type chmod 600 -- mac" in run(capsys, "mac", "--add", "mac", exit_code=2)
    assert (tmp_path / "mac").read_bytes() == before


def test_only_force_overwrites(tmp_path, capsys):
    """And never together with --add."""
    run(capsys, "mac", tmp_path / "mac")
    before = (tmp_path / "mac").read_bytes()
    assert "exists and is not overwritten" in run(capsys, "mac", tmp_path / "mac", exit_code=2)
    assert "exists and is not overwritten" in run_json(capsys, "mac", tmp_path / "mac", exit_code=2)["error"]
    assert "give only one of the two" in run(capsys, "mac", tmp_path / "mac", "--add", "--force", exit_code=2)
    assert (tmp_path / "mac").read_bytes() == before
    run(capsys, "mac", tmp_path / "mac", "--force")
    assert (tmp_path / "mac").read_bytes() != before
    assert len(read_mac_keys(tmp_path / "mac")) == 1


def test_no_key_is_made_in_a_database(tmp_path, capsys):
    """A key in a database would be published with it."""
    (tmp_path / "data.mdb").touch()
    assert "is in the database's folder" in run(capsys, "mac", tmp_path / "mac", exit_code=2)
    arguments = ["publisher", tmp_path / "key", "--no-passphrase"]
    assert "is in the database's folder" in run(capsys, *arguments, exit_code=2)
    assert modes(tmp_path).keys() == {"data.mdb"}


# publisher.


def test_a_pair_is_made_without_a_passphrase_if_asked_for(tmp_path, capsys, monkeypatch):
    """The fingerprint is that of both files."""
    monkeypatch.chdir(tmp_path)
    out = run(capsys, "publisher", "key", "--no-passphrase")
    verify_key = read_verify_key(tmp_path / "key.pub")
    assert read_signing_key(tmp_path / "key").verify_key == verify_key
    assert "private key  key (not encrypted)\n" in out
    assert f"public key   key.pub\nfingerprint  {verify_key.fingerprint}\n" in out
    assert modes(tmp_path) == {"key": "600", "key.pub": "644"}


@pytest.mark.parametrize("content", [b"correct horse", b"correct horse\n", b"correct horse\r\n", b"correct horse\nx\n"])
def test_a_passphrase_from_a_file(content, tmp_path, capsys):
    """Its first line, without the line's end."""
    path = passphrase_file(tmp_path, content)
    document = run_json(capsys, "publisher", tmp_path / "key", "--passphrase-file", path)
    assert document["encrypted"] is True
    assert document["public_file"] == str(tmp_path / "key.pub")
    assert read_signing_key(tmp_path / "key", "correct horse").fingerprint == document["fingerprint"]
    assert "correct" not in json.dumps(document)


def test_a_passphrase_from_the_environment(tmp_path, capsys, monkeypatch):
    """The option names the variable; bytes that are not text are accepted, too."""
    monkeypatch.setitem(os.environb, b"PUBLISHER", b"gr\xfc\xdfe")
    out = run(capsys, "publisher", tmp_path / "key", "--passphrase-env", "PUBLISHER")
    assert "(encrypted)" in out
    assert read_signing_key(tmp_path / "key", b"gr\xfc\xdfe").fingerprint in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--passphrase-env", "EMPTY"], "no passphrase in the environment variable EMPTY"),
        (["--passphrase-env", "UNSET"], "no passphrase in the environment variable UNSET"),
        (["--passphrase-file", "empty"], "no passphrase in .*empty"),
        (["--passphrase-file", "missing"], "No such file"),
        (["--passphrase-file", "exposed"], "type chmod 600 -- "),
        (["--passphrase-env", "GOOD", "--passphrase-file", "good"], "not both"),
        (["--passphrase-env", "GOOD", "--no-passphrase"], "cannot be combined with --passphrase-file"),
        (["--passphrase", "correct horse"], "there is no option --passphrase"),
        ([], "there is no terminal to ask on"),
    ],
)
def test_a_pair_is_not_made_without_a_clear_passphrase(options, message, tmp_path, capsys, monkeypatch):
    """Nothing is written, and no passphrase is shown; that it can be made is shown by the tests above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("GOOD", "correct horse")
    monkeypatch.setattr(sys, "stdin", None)
    for name, content, mode in (("empty", "\nx", 0o600), ("exposed", "correct horse", 0o644), ("good", "x", 0o600)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    text = run(capsys, "publisher", "key", *options, exit_code=2)
    assert re.search(message, text)
    assert "horse" not in text
    assert not (tmp_path / "key").exists()
    assert not (tmp_path / "key.pub").exists()


def test_neither_file_of_a_pair_is_overwritten(tmp_path, capsys):
    """Nothing is asked either; --force overwrites both."""
    for name in ("key", "key.pub"):
        (tmp_path / name).write_text("precious")
        assert f"{name} exists" in run(capsys, "publisher", tmp_path / "key", "--no-passphrase", exit_code=2)
        assert f"{name} exists" in run(capsys, "publisher", tmp_path / "key", exit_code=2)
        assert (tmp_path / name).read_text() == "precious"
        assert len(modes(tmp_path)) == 1
        (tmp_path / name).unlink()
    for name in ("key", "key.pub"):
        (tmp_path / name).write_text("old")
    run(capsys, "publisher", tmp_path / "key", "--no-passphrase", "--force")
    assert read_signing_key(tmp_path / "key").verify_key == read_verify_key(tmp_path / "key.pub")


def dialogue(folder, *answers):
    """Run the command on a terminal and answer its questions; return exit code, stdout, and the terminal's content."""
    manager, terminal = pty.openpty()
    command = [*RUNNER, "keygen", "publisher", "key", "--json"]
    # A session of its own makes the terminal the one that /dev/tty is.
    code = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=folder,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    for answer in answers:
        # Not before the question: getpass discards earlier input.
        begin = len(shown)
        while b": " not in shown[begin:]:
            shown += os.read(manager, 1000)
        os.write(manager, answer)
    out = process.communicate(timeout=600)[0]
    while True:
        try:
            more = os.read(manager, 1000)
        except OSError:  # Linux, if nobody has the terminal any more
            break
        if not more:
            break
        shown += more
    os.close(manager)
    return process.returncode, out.decode(), shown.decode()


def test_a_passphrase_is_asked_for_twice_and_not_shown(tmp_path):
    """On the terminal, so that stdout has the result alone."""
    exit_code, out, shown = dialogue(tmp_path, b"correct horse\n", b"correct horse\n")
    assert exit_code == 0
    assert read_signing_key(tmp_path / "key", "correct horse").fingerprint == json.loads(out)["fingerprint"]
    assert "Passphrase for the new private key key: " in shown
    assert "Repeat the passphrase: " in shown
    assert "horse" not in shown + out


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([b"correct horse\n", b"correct house\n"], "the two passphrases differ"),
        ([b"\n"], "no passphrase was entered"),
        ([b"\x04"], "no passphrase was entered"),
    ],
)
def test_a_passphrase_must_be_typed_twice_alike(answers, message, tmp_path):
    """Otherwise no key is made."""
    exit_code, out, shown = dialogue(tmp_path, *answers)
    assert (exit_code, json.loads(out)["exit_code"]) == (2, 2)
    assert message in json.loads(out)["error"]
    assert "horse" not in shown + out
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_asking_ends_with_130(tmp_path):
    """And no key is made."""
    exit_code, out, _ = dialogue(tmp_path, b"\x03")
    assert (exit_code, json.loads(out)["error"]) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


# Usage.


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["mac"], ["mac", "a", "b"], ["publisher", "--add", "a"]])
def test_usage_errors(arguments, capsys):
    """A usage error is one line or one object."""
    assert re.fullmatch(r"ben-secure: .+\n", run(capsys, *arguments, exit_code=2))
    assert run_json(capsys, *arguments, exit_code=2)["error"]


def test_hostile_paths_are_shown_escaped(tmp_path, capsys):
    """This holds for text and for JSON."""
    path = tmp_path / "\x1b[31mred\n"
    for arguments in (["mac", path], ["mac", path]):  # the second time it exists
        main(["keygen", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert re.fullmatch(r"[ -~\n]*", out + err)
        assert r"\x1b[31mred\n" in out + err
    assert read_mac_keys(path)
