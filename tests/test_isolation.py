"""Audit events of the interpreter (PEP 578) while everything that decodes values gets honest and hostile ones."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from ben_secure.signing.keys import MacKey, MacKeySet, write_mac_keys
from ben_secure.signing.tags import append_tag, context_bytes
from ben_secure.store.writer import PatchWriter
from support.attacks import ATTACKS
from support.databases import HONEST, SHELL, make_database
from support.geotiffs import make_pairs
from support.strategies import make_patch
from support.tensor_files import S1_FILE

SUPPORT = pathlib.Path(__file__).parent / "support"

# Each way goes over everything twice. What it imports when it is first used, it imports in the first turn.
TURNS = """
def turns(ways):
    seen, current, done = {}, "", 0
    hook = lambda event, arguments: current and seen.setdefault(event, [current, repr(arguments)[:200]])
    for turn in range(2):
        if turn:
            sys.addaudithook(hook)
        for way in ways:
            for number, step in enumerate(way()):
                current = f"{way.__name__} {number}"
                try:
                    step()
                    done += 1
                except (BenSecureError, ValueError):
                    pass
                finally:
                    current = ""
    json.dump({"seen": seen, "done": done}, sys.stdout)
"""
DECODE = """
import json, pathlib, sys
from ben_secure import PatchReader
from ben_secure.audit import scan_value
from ben_secure.batches import PatchArrays
from ben_secure.errors import BenSecureError
from support.attacks import ATTACKS
from support.databases import HONEST, make_database

folder = pathlib.Path(sys.argv[1])
values = [value for attack in ATTACKS if attack.threat in ("T1", "T3") for value in (attack.value(), attack.accepted())]
records = {b"%06d" % index: value for index, value in enumerate([*HONEST, *values]) if value}
make_database(folder / "db", records)
reader = PatchReader(folder / "db")
names = list(reader)
arrays = PatchArrays(folder / "db", bands=["B02"], size=120, labels=None)

def read():
    return (lambda: reader[name] for name in names)

def batch():
    return (lambda: arrays[[index]] for index in range(len(arrays)))

def judge():
    return (lambda: scan_value(*record) for record in records.items())

def picture():
    return (lambda: reader[name].quicklook()._repr_png_() for name in names[::15])
"""
ENCODE = """
import itertools, json, pathlib, sys
import tifffile
from ben_secure.encode import encode
from ben_secure.errors import BenSecureError
from support.geotiffs import make_pairs

folder = pathlib.Path(sys.argv[1])
make_pairs(folder)
for file in folder.glob("s2/*/*_B02.tif"):
    tifffile.imwrite(file, tifffile.imread(file), compression="zlib", metadata=None)
count = itertools.count()

def make():
    return [lambda: encode(folder / f"db {next(count)}", s2=folder / "s2", s1=folder / "s1")]
"""
CODE = "import", "exec", "compile", "marshal.", "code.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty."
REACH = "subprocess.", "socket.", "ctypes.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser."


def events(script, ways, folder):
    """Audit events in the second turn, each with the step that raised it first, and how many steps went through."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    whole = f"{script}\n{TURNS}\nturns([{ways}])"
    run = subprocess.run([sys.executable, "-c", whole, folder], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout)
    return result["seen"], result["done"]


@pytest.mark.threat("T1")
@pytest.mark.parametrize("way", ["read", "batch", "judge", "picture"])
def test_decoding_raises_no_audit_event(way, tmp_path):
    """Readers, batches, the judge and pictures: nothing is imported, opened, compiled or started for any value."""
    seen, done = events(DECODE, way, tmp_path)
    assert done
    assert seen.keys() <= {"builtins.id"}, seen


@pytest.mark.threat("T15")
def test_encoding_runs_no_code(tmp_path):
    """While GeoTIFFs and label files become a database, files are opened, but nothing is imported, run or reached."""
    seen, done = events(ENCODE, "make", tmp_path)
    assert done == 2
    assert "open" in seen  # the hook sees
    assert not {event: where for event, where in seen.items() if event.startswith((*CODE, *REACH))}


# Commands, with all of their processes, from the first value on. ``support/watched`` notes the events that are raised
# while a value is decoded.

REFUSED = {
    "audit, one worker": "audit all --workers 1",
    "audit, two workers": "audit all --workers 2 --no-fickling",
    "inspect": "inspect all 000000",
    "show": "show all 000000 -o new.png",
    "stats, one worker": "stats all --workers 1",
    "stats, two workers": "stats all --workers 2",
    "convert": "convert all new",
    "append": "append copy all",
}
ACCEPTED = {
    "audit": "audit honest --workers 1",
    "inspect": "inspect honest a",
    "show": "show honest a b -o new.png",
    "stats": "stats honest --workers 1",
    "convert": "convert honest new",
    "append": "append copy honest",
    "encode, one worker": "encode new --s2 s2 --s1 s1 --workers 1",
    "encode, two workers": "encode new --s2 s2 --s1 s1 --workers 2",
}
BYTES = {
    "sign": "sign all --mac-key mac --out new",
    "verify": "verify tagged --mac-key mac",
    "untag": "untag tagged --out new --mac-key mac",
}
FAST = {"audit, two workers", "show", "stats, one worker", "encode", "encode, one worker", "verify"}


def cases(commands):
    """Parameters of a test; the fast suite has some of them."""
    return [
        pytest.param(line, id=name, marks=() if name in FAST else pytest.mark.slow) for name, line in commands.items()
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Databases and files that the commands work on."""
    folder = tmp_path_factory.mktemp("isolation")
    attacks = (
        value for attack in ATTACKS if attack.threat in ("T1", "T3") for value in (attack.value(), attack.accepted())
    )
    records = {b"%06d" % index: value for index, value in enumerate([SHELL, *HONEST, S1_FILE, *attacks]) if value}
    make_database(folder / "all", records)
    mac_key = MacKey.generate()
    write_mac_keys(folder / "mac", MacKeySet(mac_key))
    tagged = {name: append_tag(mac_key, context_bytes(""), name, value) for name, value in records.items()}
    make_database(folder / "tagged", tagged)
    make_database(folder / "few", {b"000000": SHELL, b"000001": HONEST[0]})
    for path, names in (("honest", "ab"), ("copy", "c")):
        with PatchWriter(folder / path) as writer:
            for seed, name in enumerate(names):
                writer[name] = make_patch(seed=seed)
    make_pairs(folder)
    return folder


@pytest.fixture
def watch(model, tmp_path):
    """Run a command under the watch; its exit status, what it did while it decoded, and whether a payload ran."""
    place = tmp_path / "place"
    shutil.copytree(model, place)

    def run(line, plain=""):
        paths = os.pathsep.join([str(SUPPORT / "watched"), *filter(None, sys.path)])
        log = tmp_path / "log"
        env = {**os.environ, "PYTHONPATH": paths, "WATCHED": str(log), "PLAIN": plain}
        done = subprocess.run(
            [sys.executable, "-m", "ben_secure", *line.split()], cwd=place, env=env, capture_output=True
        )
        return done.returncode, log.read_text().splitlines(), (place / "canary").exists()

    return run


@pytest.mark.threat("T30")
@pytest.mark.parametrize("line", cases(REFUSED))
def test_a_command_that_refuses_does_nothing_else(line, watch):
    """While it decodes, none of its processes imports, opens, compiles, starts or reaches anything."""
    assert watch(line) == (1, [], False)


@pytest.mark.threat("T30")
@pytest.mark.parametrize("line", cases(ACCEPTED))
def test_a_command_that_succeeds_does_nothing_else(line, watch):
    """Nor while it decodes values or GeoTIFFs that are accepted."""
    assert watch(line) == (0, [], False)


@pytest.mark.threat("T30")
@pytest.mark.parametrize("line", cases(REFUSED | {"encode": ACCEPTED["encode, two workers"]}))
def test_the_watch_sees_a_payload_run(line, watch):
    """Were values given to ``pickle.loads``, each of these commands would run them, and the watch would see it."""
    status, noted, ran = watch(line.replace("all", "few"), plain="geotiffs" if line.startswith("encode") else "pickles")
    assert status in (1, 2)
    assert ran
    assert any(event.startswith("os.system in") for event in noted)


@pytest.mark.threat("T30")
@pytest.mark.parametrize("line", cases(BYTES))
def test_tags_are_handled_without_decoding(line, watch):
    """Were values given to ``pickle.loads``, these commands would still run none: they decode nothing."""
    assert watch(line, plain="pickles") == (0, [], False)
