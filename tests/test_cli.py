"""The command line: exit codes on every path, JSON for machines, and nothing of a file interpreted by a terminal."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ben_secure
from ben_secure import Limits, cli, loads
from ben_secure.audit.report import SCHEMA, JsonWriter
from ben_secure.audit.report.disassembly import disassemble
from ben_secure.bands import S2_BANDS
from ben_secure.cli import main
from ben_secure.errors import printable
from ben_secure.pages.reader import PageReader
from ben_secure.patches import Band, BigEarthNetPatch
from support import assembler
from support.databases import HONEST, SHELL, damage, make_database, values
from support.legacy_values import GENERATIONS, labels, small_tree, tree, write
from support.locales import names_in_utf8
from support.report_samples import HOSTILE_TEXTS
from support.strategies import make_patch

RUNNER = [sys.executable, "-m", "ben_secure"]
CONSOLE_SCRIPT = [sys.executable, "-c", "from ben_secure.cli import run; run()"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with one database of each kind."""
    folder = tmp_path_factory.mktemp("databases")
    make_database(folder / "clean", {b"first": HONEST[0], b"second": HONEST[1]})
    make_database(folder / "hostile", {b"first": HONEST[0], b"second": SHELL})
    make_database(folder / "empty", {})
    damage(make_database(folder / "damaged", {b"first": HONEST[0], b"second": b"MARK" + bytes(9000)}), b"MARK")
    (folder / "nothing").mkdir()
    (folder / "text").write_text("not a database")
    return folder


def process(arguments, runner=RUNNER, **options):
    """Run a real process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*runner, *map(str, arguments)], text=True, timeout=600, **options)


# Exit codes. (arguments, exit code); a str with a slash in front is inside of the place.

PATHS = [
    (["audit", "/clean"], 0),
    (["audit", "/clean/data.mdb"], 0),
    (["audit", "/hostile"], 1),
    (["audit", "/empty"], 2),
    (["audit", "/damaged"], 1),
    (["audit", "/missing"], 2),
    (["audit", "/clean", "/hostile"], 1),
    (["audit", "/clean", "/missing"], 2),
    (["audit", "/nothing"], 2),
    (["audit", "/text"], 2),
    (["inspect", "/clean"], 0),
    (["inspect", "/empty"], 0),
    (["inspect", "/text"], 2),
    (["inspect", "/missing", "first"], 2),
    (["inspect", "/clean", "first"], 0),
    (["inspect", "/clean", "first", "--disassemble"], 0),
    (["inspect", "/clean", b"first".hex(), "--hex"], 0),
    (["inspect", "/clean", "first", "--hex"], 2),
    (["inspect", "/clean", "third"], 2),
    (["inspect", "/empty", "first"], 2),
    (["inspect", "/hostile", "second"], 1),
    (["inspect", "/hostile", "second", "--disassemble"], 1),
    (["inspect", "/damaged", "second"], 2),
]
USAGE_ERRORS = [
    ["audit"],
    ["audit", "--quick", "a"],
    ["nonsense"],
    ["demo", "a", "b"],
    ["--quick"],
]


def arguments_in(place, arguments):
    """Put paths into the place."""
    return [str(place) + argument if argument.startswith("/") else argument for argument in arguments]


@pytest.mark.parametrize(("arguments", "exit_code"), PATHS)
def test_exit_codes_of_main(place, arguments, exit_code, capsys):
    """Each path has its exit code; a problem of the input is one line on stderr, or the verdict."""
    assert main(arguments_in(place, arguments)) == exit_code
    out, err = capsys.readouterr()
    assert bool(out) != bool(err)
    assert len(err.splitlines()) <= 1


@pytest.mark.parametrize(("arguments", "exit_code"), PATHS)
def test_json_is_one_object_on_every_path(place, arguments, exit_code, capsys):
    """One object with the schema and the exit code is on stdout, and nothing anywhere else."""
    assert main([*arguments_in(place, arguments), "--json"]) == exit_code
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["schema"], document["command"], document["exit_code"]) == (
        SCHEMA if arguments[0] == "audit" else 1,
        arguments[0],
        exit_code,
    )
    facts_only = arguments[0] == "inspect" and len(arguments) == 2 and exit_code == 0
    assert document["verdict"] == (None if facts_only else ["clean", "refused", "undecided"][exit_code])
    errors = [found["error"] for found in (document, *document.get("databases", ())) if found["error"] is not None]
    assert bool(errors) == (exit_code == 2)
    assert err == ""


@pytest.mark.parametrize("arguments", USAGE_ERRORS)
def test_usage_errors(arguments, capsys):
    """A usage error is undecided, in one line or one object; --json as the value of an option is not an option."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"ben-secure: .+\n", err)
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["schema"], document["exit_code"], document["verdict"]) == (
        SCHEMA if arguments[0] == "audit" else 1,
        2,
        "undecided",
    )
    assert document["command"] == (arguments[0] if arguments[0] != "--quick" else None)
    assert main(["audit", "--", "--json"]) == 2
    assert "UNDECIDED: --json: no LMDB database" in capsys.readouterr().out


def test_help_and_version(capsys):
    """Both succeed; without arguments the help is shown, but nothing was checked."""
    assert main(["--help"]) == 0
    assert "Exit codes: 0 good" in capsys.readouterr().out
    assert main(["inspect", "-h"]) == 0
    assert "KEY]  LMDB key (patch name) of one value." in capsys.readouterr().out
    assert main(["inspect", "--help"]) == 0
    assert "--disassemble" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ben-secure {ben_secure.__version__}\n"
    assert main([]) == 2
    assert "Usage: ben-secure" in capsys.readouterr().out


@pytest.mark.parametrize("runner", [RUNNER, CONSOLE_SCRIPT])
@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["inspect", "/clean"], 0),
        (["inspect", "/hostile", "second"], 1),
        (["nonsense", "--json"], 2),
    ],
)
def test_exit_codes_of_the_process(place, runner, arguments, exit_code):
    """Both ways to start it pass the code on."""
    done = process(arguments_in(place, arguments), runner)
    assert done.returncode == exit_code
    assert done.stderr == ""
    if "--json" in arguments:
        assert json.loads(done.stdout)["exit_code"] == exit_code


@pytest.mark.parametrize("arguments", [["audit", "/hostile"], ["inspect", "/clean", "--json"], ["--help"]])
def test_a_broken_pipe_is_undecided_and_silent(place, arguments):
    """Nobody has read the verdict, so it is undecided; rich and click would exit with 1, which means refused."""
    reader, writer = os.pipe()
    os.close(reader)
    done = process(arguments_in(place, arguments), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["audit", "/hostile", "--json"], ["inspect", "/clean"]])
def test_a_full_disk_is_undecided(place, arguments):
    """A verdict that could not be written was not given."""
    with open("/dev/full", "w") as full:
        assert process(arguments_in(place, arguments), stdout=full).returncode == 2


def test_a_closed_stdout_does_not_change_the_verdict(place):
    """Scripts that want the exit code only may close it."""
    shell = ["sh", "-c", '"$@" >&-', "sh", *RUNNER]
    assert process(["audit", place / "hostile"], shell).returncode == 1
    assert process(["inspect", place / "clean", "first"], shell).returncode == 0


def failing(error):
    """An audit that ends with an error."""

    def audit_many(*arguments, **options):
        raise error

    return audit_many


UNFINISHED = "UNDECIDED: interrupted before the audit was finished\n"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd \x1b[31m"), 2, r"internal error, please report it: RuntimeError: odd \x1b[31m"),
        (MemoryError(), 2, "there is not enough memory; free some, or raise the limit (ulimit -v), and try again"),
        (PermissionError(13, "Permission denied", "a\nb"), 2, r"[Errno 13] Permission denied: 'a\nb'"),
        (ben_secure.UnsafePickleError("odd"), 1, "odd"),
        (ben_secure.StoreError("torn"), 2, "torn"),
    ],
)
def test_every_exception_becomes_an_exit_code(monkeypatch, capsys, error, exit_code, words, as_json):
    """No exception leaves main, and the message is one line."""
    monkeypatch.setattr("ben_secure.cli.commands.audit.audit_paths", failing(error))
    assert main(["audit", "a"] + ["--json"] * as_json) == exit_code
    out, err = capsys.readouterr()
    if as_json:
        assert (json.loads(out)["error"], json.loads(out)["exit_code"], err) == (words, exit_code, "")
    else:
        assert (out, err) == (UNFINISHED if exit_code == 130 else "", f"ben-secure: {words}\n")


@pytest.mark.parametrize("interrupted", [True, False])
def test_json_is_whole_if_it_is_interrupted_while_it_is_written(place, capsys, monkeypatch, interrupted):
    """The report that is begun is written to its end, and the object says that it was interrupted."""
    write = JsonWriter.database

    def written(writer, report):
        if interrupted:
            signal.raise_signal(signal.SIGINT)
        write(writer, report)

    monkeypatch.setattr(JsonWriter, "database", written)
    assert main(["audit", str(place / "clean"), "--json"]) == (130 if interrupted else 0)
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == ("interrupted" if interrupted else None)
    assert [found["verdict"] for found in document["databases"]] == ["clean"]


def test_an_interrupted_process_ends_with_130(place):
    """The code of an interrupt is that of a shell."""
    code = (
        "import ben_secure.cli.commands.audit as a, signal, os\n"
        "a.audit_paths = lambda *x, **y: os.kill(os.getpid(), signal.SIGINT)\n"
        "from ben_secure.cli import run; run()"
    )
    done = process(["audit", place / "clean"], [sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (130, UNFINISHED, "ben-secure: interrupted\n")


def test_interrupted_while_it_loads_it_ends_with_130(place):
    """Modules that are half loaded cannot report the interruption, but code and words are the same."""
    code = (
        "import sys, ben_secure.cli as cli\n"
        "def interrupted(arguments):\n"
        "    sys.modules['ben_secure.cli._common'] = None\n"
        "    raise KeyboardInterrupt\n"
        "cli._run = interrupted\n"
        "cli.run()"
    )
    done = process(["audit", place / "clean"], [sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ben-secure: interrupted\n")


@pytest.mark.parametrize("name", ["ben_secure.cli", "click.exceptions", None])
def test_interrupted_at_any_import_it_ends_with_130(name):
    """Before there is a command, too. Undisturbed it ends with 0."""
    code = (
        "import runpy, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {name!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "runpy.run_module('ben_secure', run_name='__main__')"
    )
    done = process(["--version"], [sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == ((130, "ben-secure: interrupted\n") if name else (0, ""))


def test_interrupted_after_its_command_it_ends_with_130(monkeypatch, capsys):
    """The console script."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    assert (stopped.value.code, capsys.readouterr().err) == (130, "ben-secure: interrupted\n")


def test_a_report_that_cannot_be_written_is_said_at_once(place, monkeypatch, capsys):
    """Not after all values were judged."""
    monkeypatch.setattr("ben_secure.cli.commands.audit.audit_paths", failing(AssertionError()))
    assert main(["audit", str(place / "clean"), "--output", str(place / "none" / "report")]) == 2
    assert "the directory of --output" in capsys.readouterr().err


def test_a_broken_installation_is_undecided(place):
    """Even if nothing can be imported, the code is not that of a refusal."""
    code = "import sys; sys.modules['rich.console'] = None\nfrom ben_secure.cli import run; run()"
    done = process(["audit", place / "clean"], [sys.executable, "-c", code])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_module_is_light():
    """Importing the command line does not load click and rich; running it does."""
    code = "import sys, ben_secure.cli; print({'click', 'rich', 'numpy'} & set(sys.modules))"
    assert process([], [sys.executable, "-c", code]).stdout == "set()\n"


def test_progress_goes_to_a_terminal_only(place):
    """On a terminal stderr shows progress, and stdout has the result alone."""
    manager, terminal = pty.openpty()
    parts = []

    def read():
        with contextlib.suppress(OSError):  # EIO: the other side was closed
            while part := os.read(manager, 10_000):
                parts.append(part)

    reading = threading.Thread(target=read)
    reading.start()
    done = process(["audit", place / "clean"], stderr=terminal, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    reading.join()
    os.close(manager)
    shown = b"".join(parts).decode()
    assert "checking" in shown
    assert "2/2" in shown
    elsewhere = process(["audit", place / "clean"], env=os.environ | {"TERM": "xterm"})
    assert (elsewhere.returncode, elsewhere.stdout, elsewhere.stderr) == (0, done.stdout, "")
    assert done.stdout.splitlines()[-1].startswith("CLEAN: all 2 values")


def test_a_pipe_gets_no_colours_and_long_lines(place, monkeypatch, capsys):
    """Without a terminal the verdict is one line of any width, without escape sequences."""
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["audit", str(place / "hostile")]) == 1
    out = capsys.readouterr().out
    path = printable(str(place / "hostile"), 400)
    assert (
        out.splitlines()[-1]
        == f"REFUSED: 1 of 2 values in {path}: 1 could run code; do not load it with pickle, and find out who wrote it"
    )
    assert "\x1b" not in out


# inspect.


def inspect(capsys, *arguments):
    """The JSON of inspect."""
    main(["inspect", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_inspect_shows_the_facts_of_a_database(place, capsys):
    """They are those of the reader."""
    document = inspect(capsys, place / "clean")
    with PageReader(place / "clean") as reader:
        assert document["facts"] == {name: getattr(reader.facts, name) for name in reader.facts.__slots__}
    assert document["facts"]["entries"] == 2
    assert document["first_lmdb_keys"] == ["first", "second"]
    assert main(["inspect", str(place / "clean")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^records +2 *$", out, re.MULTILINE)
    assert re.search(r"^pages +4,096 bytes each: 0 branch, 1 leaf, 0 overflow", out, re.MULTILINE)


def test_inspect_shows_a_patch(tmp_path, capsys):
    """The output has class, bands with statistics, and metadata, as JSON and as tables."""
    patch = make_patch(labels=["Pastures", "Airports"], cloud=0.25)
    database = make_database(tmp_path / "db", {b"name": patch.dumps()})
    document = inspect(capsys, database, "name")
    assert document["patch_class"] == "BigEarthNet_S2_Patch"
    assert document["format"] == "canonical, pickle protocol 5"
    assert document["globals"] == ["ben_secure.patches.rebuild_patch"]
    assert [band["name"] for band in document["bands"]] == [spec.name for spec in S2_BANDS]
    for band in document["bands"]:
        data = patch.get_band_data_by_name(band["name"])
        assert (band["min"], band["max"], band["shape"]) == (data.min(), data.max(), list(data.shape))
        assert band["mean"] == pytest.approx(data.mean())
        assert (band["dtype"], band["resolution_m"]) == ("uint16", 1200 // data.shape[0])
    assert document["metadata"] == [
        {"name": "labels", "type": "list", "value": "['Pastures', 'Airports']"},
        {"name": "cloud", "type": "float", "value": "0.25"},
    ]
    assert main(["inspect", str(database), "name"]) == 0
    out = capsys.readouterr().out
    for band in document["bands"]:
        line = next(line for line in out.splitlines() if line.startswith(band["name"]))
        assert re.search(
            rf"{band['resolution_m']} m .* uint16 +{band['min']} +{band['mean']:.6g} +{band['max']}$", line
        )
    assert re.search(r"^labels +list +\['Pastures', 'Airports'\]$", out, re.MULTILINE)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_inspect_tells_the_generation(generation, tmp_path, capsys):
    """The program that wrote a value, as the audit names it, and the globals in it."""
    made = GENERATIONS[generation]
    database = make_database(tmp_path / "db", {b"name": write(tree("BigEarthNet_S1_Patch", generation))})
    document = inspect(capsys, database, "name")
    expected = f"interface {made.interface}, numpy {made.numpy}, pydantic {made.pydantic}"
    assert document["format"] == f"legacy: {expected}, pickle protocol 4"
    assert document["globals"] == [
        "bigearthnet_patch_interface.band_interface.BenS1_Band",
        "bigearthnet_patch_interface.s1_interface.BigEarthNet_S1_Patch",
        f"{made.core}.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
    ]


def test_inspect_describes_odd_numbers(tmp_path, capsys):
    """NaN, infinity and complex numbers are valid JSON; half precision does not overflow."""
    bands = {
        "nan": np.array([[1, np.nan]], "<f4"),
        "inf": np.array([[1, np.inf]], "<f8"),
        "complex": np.array([[1 + 2j, 3]], "<c8"),
        "half": np.full((300, 300), 60000, "<f2"),
        "big": np.full((1, 2), 2**64 - 1, ">u8"),
    }
    patch = BigEarthNetPatch(
        bands=[Band(name=n, data=a, spatial_resolution=10, data_shape=a.shape) for n, a in bands.items()]
    )
    database = make_database(tmp_path / "db", {b"name": patch.dumps()})
    found = {
        band["name"]: (band["min"], band["mean"], band["max"]) for band in inspect(capsys, database, "name")["bands"]
    }
    assert found == {
        "nan": ("nan", "nan", "nan"),
        "inf": (1, "inf", "inf"),
        "complex": ("(1+2j)", "(2+1j)", "(3+0j)"),
        "half": (60000, 60000, 60000),
        "big": (2**64 - 1, 2**64, 2**64 - 1),
    }
    assert main(["inspect", str(database), "name"]) == 0
    assert re.search(r"^half .* 60000 +60000 +60000$", capsys.readouterr().out, re.MULTILINE)


@pytest.fixture
def shown_metadata(tmp_path, capsys):
    """A function that gives the types and values that are shown of metadata."""

    def shown(**metadata):
        database = make_database(tmp_path / "db", {b"name": make_patch(**metadata).dumps()})
        return [(entry["type"], entry["value"]) for entry in inspect(capsys, database, "name")["metadata"]]

    return shown


def test_metadata_is_shown_as_python_writes_it(shown_metadata):
    """Each admitted kind of metadata is named and shown."""
    assert shown_metadata(
        a="text", b=3, c=None, d=True, e=b"\0", f=(1, [2.5, {"x": {4}}]), g=np.arange(3, dtype=">u2"),
        h=np.float32(0.5), i=np.array(["a", "b"], dtype=object), j=np.str_("s"), k={}, l=np.array(7),
    ) == [
        ("str", "text"), ("int", "3"), ("NoneType", "None"), ("bool", "True"), ("bytes", r"b'\x00'"),
        ("tuple", "(1, [2.5, {'x': ...}])"), ("array >u2 (3,)", "[0, 1, 2]"), ("float32", "0.5"),
        ("array object (2,)", "['a', 'b']"), ("str_", "s"), ("dict", "{}"), ("array int64 ()", "[7]"),
    ]  # fmt: skip


@pytest.mark.threat("T2")
def test_huge_metadata_is_cut_before_it_is_written_out(shown_metadata):
    """The text of a value is bounded, for content of any size and any sharing."""
    huge = "A" * 10**5  # near the most that metadata may have in all
    for value in (huge, huge.encode(), [huge] * 9, {huge: huge}, np.array([huge[:9999]]), [[[huge] * 3] * 3]):
        [(_, text)] = shown_metadata(x=value)
        assert len(text) <= 200
        assert text.endswith("...")
    assert shown_metadata(x=list(range(20))) == [("list", "[0, 1, 2, 3, 4, 5, 6, 7, ... 12 more]")]


def test_inspect_shows_a_refusal(place, capsys):
    """The finding is that of the audit."""
    document = inspect(capsys, place / "hostile", "second")
    main(["audit", str(place / "hostile"), "--json"])
    found = json.loads(capsys.readouterr().out)["databases"][0]["findings"][0]
    assert found["position"] == 1
    assert document["finding"] == found | {"position": None}
    assert document["finding"]["global"] == "posix.system"
    assert main(["inspect", str(place / "hostile"), "second"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^refused by +forbidden-global \(global outside the allow-list\) *$", out, re.MULTILINE)
    assert re.search(r"^global +posix\.system *$", out, re.MULTILINE)
    assert out.splitlines()[-1] == ("REFUSED: it could run code; do not load it with pickle, and find out who wrote it")


@pytest.mark.threat("T1")
def test_disassembly_lists_what_a_value_would_do_and_runs_nothing(place, capsys, tmp_path, monkeypatch):
    """The opcodes are listed with the refused one marked; the file that they would create does not exist."""
    monkeypatch.chdir(tmp_path)
    document = inspect(capsys, place / "hostile", "second", "--disassemble")
    assert document["disassembly"] == [
        "          0  PROTO             4",
        "          2  SHORT_BINUNICODE  'posix'",
        "          9  SHORT_BINUNICODE  'system'",
        ">        17  STACK_GLOBAL",
        "         18  MARK",
        "         19  SHORT_BINUNICODE  'touch canary'",
        "         33  TUPLE",
        "         34  REDUCE",
        "         35  STOP",
    ]
    assert main(["inspect", str(place / "hostile"), "second", "--disassemble"]) == 1
    assert ">        17  STACK_GLOBAL\n" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_disassembly_goes_on_behind_a_stop():
    """A second pickle is listed too."""
    lines = disassemble(b"\x80\x04N." + SHELL, 4)
    assert lines[3:5] == [f"{'':13}-- after the STOP --", ">         4  PROTO             4"]
    assert lines[-1].endswith("STOP")


def test_disassembly_is_bounded_and_says_what_it_left_out():
    """The beginning and the surroundings of the place are kept."""
    value = b"\x80\x04" + b"N0" * 20_000 + SHELL[2:] + b"N" * 1000
    refused_at = value.index(b"\x93")
    lines = disassemble(value, refused_at)
    assert len(lines) == 12 + 1 + 40 + 12 + 1
    assert [line for line in lines if line.startswith(">")] == [f"> {refused_at:>9,}  STACK_GLOBAL"]
    assert any("'touch canary'" in line for line in lines)
    # PROTO, 40,000 times N or 0, three of SHELL, 12 behind the place; 12 and 52 of them are listed.
    assert lines[12].strip() == f"... {1 + 40_000 + 3 + 12 - 12 - 52:,} opcodes left out ..."
    assert re.search(r"the rest, from byte [\d,]+ of [\d,]+, left out", lines[-1])
    beginning = disassemble(value, None)
    assert len(beginning) == 1 + 12 + 40 + 1
    assert "left out" in beginning[-1]


@pytest.mark.parametrize(
    ("value", "last"),
    [
        (b"\x80\x04\x8c\x09short", "expected 9 bytes in a unicodestring1, but only 5 remain"),
        (b"\x80\x04\xff.", "unknown"),
        (b"\x80\x04N", "pickle exhausted before seeing STOP"),
        (b"L" + b"9" * 5000 + b"L\n.", "-- cannot decode the rest: "),
        (b"\x80\x04\x8b" + (600).to_bytes(4, "little") + b"\x7f" * 600 + b".", "STOP"),
    ],
)
def test_disassembly_survives_what_cannot_be_decoded(value, last):
    """The last line is the error of pickletools."""
    lines = disassemble(value, None)
    assert last in lines[-1]
    assert all(len(line) < 200 for line in lines)


def test_disassembly_does_not_write_out_long_arguments():
    """An argument is cut, and an integer of many digits never computed."""
    integer = b"\x8b" + (600).to_bytes(4, "little") + b"\x7f" * 600
    value = assembler.program(integer, assembler.text("x" * 10**5), assembler.blob(bytes(10**5)))
    lines = disassemble(value, None)
    assert lines[1].endswith("(integer of 4,799 bits)")
    assert lines[2].endswith("x'...")
    assert lines[3].endswith("... (100,000 bytes)")
    assert max(map(len, lines)) < 120


@pytest.mark.threat("T4")
@given(values() | st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_disassembly_takes_any_bytes(value, refused_at):
    """For any bytes, the lines are few, short and printable ASCII."""
    lines = disassemble(value, refused_at)
    assert len(lines) <= 70
    assert all(re.fullmatch(r"[ -~]{0,200}", line) for line in lines)


@pytest.mark.threat("T2")
def test_a_value_that_is_too_long_to_be_read_is_refused(tmp_path, capsys):
    """Audit and inspect report it without reading the value."""
    database = make_database(tmp_path / "db", {b"long": bytes(Limits().max_value_bytes + 65), b"short": HONEST[0]})
    assert main(["audit", str(database), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["checked"], document["clean"], document["rules"]["limit-exceeded"]) == (2, 1, 1)
    document = inspect(capsys, database, "long", "--disassemble")
    assert (document["finding"]["rule"], document["disassembly"], document["exit_code"]) == ("limit-exceeded", [], 1)


# Hostile text.


def records_with(text):
    """Records that contain the text in every part; two of them are refused."""
    metadata = {**labels(), f"odd {text}": [text, {text: text}], "plain": text}
    program = assembler.program(assembler.name(text, "x"), assembler.text(text), assembler.blob(text.encode()))
    return {
        f"bad {text}".encode(): program,
        f"good {text}".encode(): write(small_tree(metadata=metadata)),
        b"bad \xff" + text.encode(): HONEST[0],
    }


def run_in_colour(capsys, *command):
    """The output of a command on a terminal with colours, and as JSON, which has no styles except our own."""
    for more in ([], ["--json"]):
        main([*command, *more])
        out, err = capsys.readouterr()
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out) if not more else out
        assert re.fullmatch(r"[ -~─\n]*", plain + err)
        assert "\x1b[31mred" not in out
        yield plain


@pytest.fixture
def colours(monkeypatch):
    """A terminal with colours, for code that asks for one."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", [" ".join(HOSTILE_TEXTS[start::4]) for start in range(4)])
@pytest.mark.usefixtures("colours")
@names_in_utf8
def test_no_text_of_a_file_is_interpreted(text, tmp_path, capsys):
    """Keys, globals, names, labels, opcode arguments and paths are plain text, on a terminal with colours too."""
    records = records_with(text)
    database = str(make_database(tmp_path / f"db {text}".replace("/", "").replace("\0", ""), records))
    assert loads(records[f"good {text}".encode()]).plain == text
    for arguments in ([database], [text], [database, f"none {text}"]):
        assert len(list(run_in_colour(capsys, "inspect", *arguments))) == 2
    for name in records:
        assert len(list(run_in_colour(capsys, "inspect", database, name.hex(), "--hex", "--disassemble"))) == 2
    assert len(list(run_in_colour(capsys, text))) == 2


@pytest.mark.threat("T4")
@pytest.mark.usefixtures("colours")
def test_no_text_of_a_file_is_interpreted_in_a_report(tmp_path, capsys):
    """The same of the audit of a database that holds all of the texts, below a folder that is named after one."""
    records = {name: value for text in HOSTILE_TEXTS for name, value in records_with(text).items()}
    database = make_database(tmp_path / "db [red]x[/red] \x1b[31mred :smile:".replace("/", ""), records)
    for plain in run_in_colour(capsys, "audit", str(database), *(f"missing {text}" for text in HOSTILE_TEXTS)):
        assert [text for text in HOSTILE_TEXTS if text.startswith("[") and text not in plain] == []


@pytest.mark.threat("T4")
def test_a_key_that_is_not_utf8_can_be_inspected(tmp_path, capsys):
    """The hexadecimal form that audit gives is taken by inspect."""
    database = make_database(tmp_path / "db", {b"\xff\x1b[2J": HONEST[0]})
    assert main(["audit", str(database), "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)["databases"][0]["findings"][0]
    assert (finding["rule"], finding["lmdb_key"]) == ("invalid-lmdb-key", r"\xff\x1b[2J")
    document = inspect(capsys, database, finding["lmdb_key_hex"], "--hex")
    assert document["finding"]["rule"] == "invalid-lmdb-key"


def test_the_tools_of_these_tests_are_live(tmp_path):
    """The hostile value is one: stock pickle runs it (in a process of its own)."""
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, SHELL.hex()], cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert cli.main is main
    assert lmdb.version()
