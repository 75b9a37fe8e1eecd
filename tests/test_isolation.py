"""What the interpreter sees (PEP 578) while values, honest and hostile, go through everything that decodes them."""

import json
import os
import subprocess
import sys

import pytest

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
values = [value for attack in ATTACKS if attack.threat in ("T1", "T3") for value in (attack.value(), attack.twin())]
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
from ben_secure.encode import encode
from ben_secure.errors import BenSecureError
from support.geotiffs import make_pairs

folder = pathlib.Path(sys.argv[1])
make_pairs(folder)
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
