"""Descriptors and memory at their limits, and a database that changes while it is read: no verdict that is wrong."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from ben_secure.cli import main
from ben_secure.signing.keys import MacKey, MacKeySet, write_mac_keys
from ben_secure.store.writer import PatchWriter
from support.databases import HAS_LMDB_VERIFY, HONEST, SHELL, make_database
from support.strategies import make_patch

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc as on Linux")

# Each command runs in a fork of a process that has nothing loaded but the program.
FORKS = """
import json, os, resource, sys, tempfile, traceback
from ben_secure.cli import main

def descriptors(count):
    top = max(map(int, os.listdir("/proc/self/fd")))
    while os.dup(0) < top:
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

def memory(count):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + count, resource.RLIM_INFINITY))

def ended(limit, count, line):
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            limit(count)
            status = 1  # as Python ends on an exception
            try:
                status = main(line.split())
                sys.stdout and sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read().decode()

limit, counts, lines = globals()[sys.argv[1]], json.loads(sys.argv[2]), sys.argv[3:]
json.dump([(line, count, *ended(limit, count, line)) for line in lines for count in counts], sys.stdout)
"""
GOOD = [
    "inspect good a",
    "show good a -o {count}.png --force",
    "stats good --workers 1",
    "verify good --mac-key mac/key",
]
BAD = ["inspect bad b", "show bad b -o bad.png", "stats bad --workers 1", "verify bad --mac-key mac/key"]
AUDITS = ["audit good --workers 1 --no-fickling", "audit bad --workers 2 --no-fickling"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A good database with tags, one with a hostile value, and a key."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "mac").mkdir()
    mac_key = MacKey.generate()
    write_mac_keys(folder / "mac" / "key", MacKeySet(mac_key))
    with PatchWriter(folder / "good", mac_key=mac_key) as writer:
        for seed, name in enumerate("abc"):
            writer[name] = make_patch(seed=seed)
    make_database(folder / "bad", {b"a": HONEST[0], b"b": SHELL})
    return folder


def run_script(script, place, *arguments):
    """Run a script in a place; its JSON."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def statuses(place, limit, counts, lines):
    """Exit codes of commands under each limit, by command: 1 with the words of a refusal, 2 for no verdict."""
    found = collections.defaultdict(set)
    for line, count, status, output in run_script(FORKS, place, limit, json.dumps(counts), *lines):
        case = (line, count, status, output[-2000:])
        if limit == "descriptors" and status == 2:
            assert "Too many open files" in output, case
        # Without memory, Python's hashlib logs hashes that it cannot load.
        if not (limit == "memory" and output.startswith("ERROR:root:code for hash")):
            assert "Traceback" not in output, case
        refused = "REFUSED: " in output or "the payload asks for posix.system" in output
        if limit == "memory" and status not in (0, 2) and not refused:
            # A library ends the process: OpenBLAS with code 1 or an interrupt (130), that of C++ with a signal.
            assert status in (1, 130) or status < 0, case
            if status == 1:
                assert not re.search("ben-secure: (?!interrupted)", output), case
            status = 2
        found[line].add(status)
    return found


@linux
@pytest.mark.threat("T31")
@pytest.mark.parametrize(
    ("lines", "right", "counts"),
    [
        (GOOD, 0, [0, 1, 2, 30]),
        (BAD, 1, [0, 1, 2, 30]),
        pytest.param(AUDITS[:1], 0, [*range(20), 40], marks=pytest.mark.slow),
        pytest.param(AUDITS[1:], 1, [*range(20), 40], marks=pytest.mark.slow),
    ],
    ids=["good", "bad", "audit of good", "audit of bad"],
)
def test_descriptors_at_the_limit_decide_nothing(place, lines, right, counts):
    """With few or none left, a command ends with the right verdict, or with none and the remedy."""
    for line, found in statuses(place, "descriptors", counts, lines).items():
        assert found == {right, 2}, line


@linux
@pytest.mark.threat("T31")
@pytest.mark.parametrize(
    ("lines", "right", "counts"),
    [
        (GOOD, 0, [2**18, 2**22, 2**28]),
        (BAD, 1, [2**18, 2**22, 2**28]),
        pytest.param(GOOD, 0, [2**18 * n for n in range(1, 40)] + [2**28], marks=pytest.mark.slow),
        pytest.param(BAD, 1, [2**18 * n for n in range(1, 40)] + [2**28], marks=pytest.mark.slow),
        pytest.param(AUDITS[:1], 0, [2**n for n in range(17, 29)], marks=pytest.mark.slow),
        pytest.param(AUDITS[1:], 1, [2**n for n in range(17, 29)], marks=pytest.mark.slow),
    ],
    ids=["good", "bad", "all of good", "all of bad", "audit of good", "audit of bad"],
)
def test_memory_at_the_limit_decides_nothing(place, lines, right, counts):
    """With little left, a command ends with the right verdict, or with none."""
    for line, found in statuses(place, "memory", counts, lines).items():
        assert found == {right, 2}, line


NONE_LEFT = """
import json, os, resource, sys
import numpy as np
from ben_secure import loads
from ben_secure.errors import BenSecureError
from support.attacks import ATTACKS
from support.databases import HONEST
from support.strategies import make_patch

def verdict(value):
    try:
        return sorted(loads(value).__stored_args__)
    except BenSecureError as error:
        return [type(error).__name__, error.message]

texts = [make_patch(a="\\x1b", b=np.str_("x")), make_patch(a=np.array(["a", "bc"]))]
values = [attack.value() for attack in ATTACKS] + [attack.accepted() for attack in ATTACKS] + HONEST
values += [patch.dumps() for patch in texts]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    without = [verdict(value) for value in values]
for fd in held:
    os.close(fd)
json.dump([without, [verdict(value) for value in values]], sys.stdout)
"""


@pytest.mark.threat("T31")
def test_a_value_needs_no_descriptor(tmp_path):
    """Verdicts and messages are the same where no file can be opened."""
    without, usual = run_script(NONE_LEFT, tmp_path)
    assert without == usual
    assert len(without) > 100


# A database that changes.

READ = """
import collections, json, os, sys, threading
import numpy as np
from ben_secure import BenSecureError, PatchReader, UndecidedError
from ben_secure.signing.keys import read_mac_keys

mac_keys = read_mac_keys("mac/key")
found, failures, bad = collections.Counter(), collections.Counter(), []

def read():
    while not os.path.exists("stop"):
        try:
            with PatchReader("db/data.mdb", mac_key=mac_keys) as reader:
                for name in "abc" * 4:
                    patch = reader[name]
                    pixels = {int(value) for band in patch.bands for value in np.unique(band.data)}
                    if pixels != {patch.__stored_args__["generation"]}:
                        bad.append(f"{name}: {pixels} in {patch.__stored_args__}")
                    found.update(pixels)
        except UndecidedError as error:
            failures[str(error)[:200]] += 1
        except Exception as error:
            bad.append(f"{type(error).__name__}: {error}")

threads = [threading.Thread(target=read) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
print("reading", flush=True)
for thread in threads:
    thread.join()
json.dump({"found": found, "failures": failures, "bad": bad}, sys.stdout)
"""


def write_generation(path, number, mac_key, names="abc"):
    """Write patches whose every pixel, and whose metadata, say in which turn they were written."""
    with PatchWriter(path, mac_key=mac_key, append=names != "abc") as writer:
        for name in names:
            patch = make_patch(generation=number)
            for band in patch.bands:
                band.data[:] = number
            writer[name] = patch


def change(folder, number, mac_keys):
    """Append to the database, give it the other key's tags, or replace it by rename, in turn; what was done."""
    if number % 3 == 0:
        write_generation(folder / "db", number, mac_keys.signing, names=[f"more {number}"])
        return
    if number % 3 == 1:
        write_generation(folder / "next", number, mac_keys.signing)
    else:
        keys = ["--mac-key", str(folder / "mac" / f"{number % 2}"), "--old-mac-key", str(folder / "mac" / "key")]
        place = [] if HAS_LMDB_VERIFY else ["--out", str(folder / "next")]
        assert main(["sign", str(folder / "db"), *keys, "--retag", *place]) == 0
    if (folder / "next").exists():
        os.rename(folder / "next" / "data.mdb", folder / "db" / "data.mdb")
        shutil.rmtree(folder / "next")


@pytest.mark.threat("T31")
@pytest.mark.parametrize(
    ("processes", "threads", "changes"), [(2, 4, 12), pytest.param(8, 16, 60, marks=pytest.mark.slow)]
)
def test_a_database_that_changes_is_read_as_it_was_or_is(processes, threads, changes, tmp_path, capsys):
    """Every patch is of one generation; a read that meets a change may end undecided, with the database named."""
    (tmp_path / "mac").mkdir()
    one, other = MacKey.generate(), MacKey.generate()
    for name, keys in (("key", [one, other]), ("0", [one]), ("1", [other])):
        write_mac_keys(tmp_path / "mac" / name, MacKeySet(*keys))
    write_generation(tmp_path / "db", 1, one)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", READ, str(threads)]
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        assert {process.stdout.readline() for process in running} == {"reading\n"}
        for number in range(2, 2 + changes):
            change(tmp_path, number, MacKeySet(one, other))
        (tmp_path / "stop").touch()
        results = [json.load(process.stdout) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()
    assert [result["bad"] for result in results] == [[]] * processes
    found = sum((collections.Counter(result["found"]) for result in results), collections.Counter())
    assert len(found) > 2
    assert all("data.mdb" in text for result in results for text in result["failures"])
