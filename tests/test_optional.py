"""Optional libraries: absent, each is missed only where it is used, by name, and before any work."""

import importlib.util
import os
import subprocess
import sys

import pytest

import ben_secure
from ben_secure import MissingExtraError
from ben_secure._system.optional import require
from ben_secure.cli import main
from support.databases import HONEST, make_database
from test_layers import HOMES, modules

LIBRARIES = sorted(set(HOMES) - {"lmdb", "pickle", "pickletools", "click", "rich", "cryptography", "fickling"})
HAS_TORCH = importlib.util.find_spec("torch") is not None
ABSENT = [[library] for library in LIBRARIES] + [LIBRARIES]
# A library that is looked for and not found, in a process that has imported nothing yet.
WITHOUT = """
import importlib.abc, sys
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
"""


def python(absent, code):
    """Run code in a process without libraries."""
    code = WITHOUT.format(absent=absent) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("absent", ABSENT, ids=lambda absent: absent[0] if len(absent) == 1 else "all")
def test_every_module_is_imported_without_optional_libraries(absent):
    """Only ``ben_secure.torch`` is not, without torch, and it says so."""
    names = [f"ben_secure.{name}" for name in sorted(modules()) if name and name != "__main__"]
    code = (
        "import importlib, ben_secure\n"
        f"for name in {names!r}:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except ben_secure.MissingExtraError as error:\n"
        "        if not name.startswith('ben_secure.torch') or 'pip install torch' not in str(error): raise\n"
        f"        if {HAS_TORCH and 'torch' not in absent}: raise\n"
        f"print(*sorted(set({absent!r}) & {{name.partition('.')[0] for name in sys.modules}}))\n"
    )
    done = python(absent, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a database, a Parquet table by name, and an empty folder of GeoTIFFs."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "db", {b"first": HONEST[0]})
    (tmp_path / "s2").mkdir()
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    return tmp_path


@pytest.mark.parametrize(
    ("absent", "arguments", "message"),
    [
        ("PIL", "show db -o a.png", "a picture needs pillow, which is not installed: pip install pillow"),
        ("matplotlib", "stats db --plot a.png", "a plot needs matplotlib, which is not installed: "),
        ("imagecodecs", "encode --s2 s2 new", "encoding GeoTIFFs needs imagecodecs, which is not installed: "),
        ("pyarrow", "encode --s2 s2 --metadata table.parquet new", "the Parquet table table.parquet needs pyarrow, "),
        ("pyarrow", "convert db new --pairs table.parquet", "the Parquet table table.parquet needs pyarrow, "),
        ("distributed", "audit db --dask tcp://127.0.0.1:1", "an audit on a Dask cluster needs distributed, "),
    ],
)
def test_a_command_misses_its_library_before_any_work(place, monkeypatch, capsys, absent, arguments, message):
    """Exit code 2, the library by a name that pip knows, nothing written, and the database is not even opened."""
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr("ben_secure.pages.reader.PageReader.__init__", None)
    before = sorted(os.listdir())
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ben-secure: {message}")
    assert "pip install " in err
    assert "ben-secure[" not in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("arguments", ["audit db/data.mdb", "inspect db first", "stats db", "convert db new", "demo"])
def test_the_other_commands_miss_nothing(place, arguments):
    """Without any optional library they work as usual."""
    done = python(LIBRARIES, f"from ben_secure.cli import main\nsys.exit(main({arguments.split()!r}))\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_all_that_is_missing_is_named_at_once():
    """So that one call of pip is enough; a library that is there is not named."""
    with pytest.raises(MissingExtraError) as caught:
        require("this", "no_such_library", "numpy", "nor_such", otherwise="do without")
    assert str(caught.value) == (
        "this needs no_such_library and nor_such, which are not installed: pip install no_such_library nor_such; "
        "do without"
    )
    require("this", "numpy")


def test_a_broken_library_is_not_called_missing(tmp_path, monkeypatch):
    """The message has the cause of the failed import, and does not advise to install it again."""
    (tmp_path / "broken_library.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="cannot be imported: No module named 'nothing_of_the_kind'"):
        require("this", "broken_library")


@pytest.mark.threat("T26")
def test_no_message_names_an_extra_of_the_package():
    """Somebody else could register a name that the package index does not have."""
    package = os.path.dirname(ben_secure.__file__)
    for folder, _, files in os.walk(package):
        for file in files:
            if file.endswith(".py"):
                with open(os.path.join(folder, file)) as source:
                    assert "ben-secure[" not in source.read(), file
