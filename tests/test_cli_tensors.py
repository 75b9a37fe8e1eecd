"""``inspect`` of safetensors values: the header as a table, or as it is if it cannot be read; bounded and escaped."""

import json

import pytest

from ben_secure import tensors
from ben_secure.cli import main
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.signing.keys import MacKey
from ben_secure.signing.tags import append_tag
from support.databases import make_database
from support.strategies import make_patch
from support.tensor_files import S1_FILE, S1_NAMES, file, raw, sentinel, table

NOTED = tensors.dumps(make_patch(BigEarthNet_S1_Patch, labels=["Pastures"]))
RECORDS = {
    b"s1": S1_FILE,
    b"tagged": append_tag(MacKey(bytes(32)), b"", b"tagged", S1_FILE),
    b"noted": NOTED,
    b"escape": file(table({"\x1b[31m": [120, 120]})),
    b"hole": S1_FILE.replace(b"14400,28800", b"14401,28801"),
    b"long": raw('{"' + "\x1b" * 40_000),
    b"longer": raw('{"' + "a" * 70_000),
    b"many": file({"__metadata__": {f"\x1b{n}": "x" for n in range(500)}, **sentinel(S1_NAMES)}),
}


@pytest.fixture
def inspect(tmp_path, capsys):
    """Run ``inspect`` on a record; return the exit code, and the object or the output."""
    make_database(tmp_path / "db", RECORDS)

    def run(lmdb_key, *options):
        code = main(["inspect", str(tmp_path / "db"), lmdb_key, *options])
        out = capsys.readouterr().out
        return code, json.loads(out) if "--json" in options else out

    return run


@pytest.mark.parametrize("lmdb_key", ["s1", "tagged"])
def test_a_value_and_its_header(inspect, lmdb_key):
    """Class, format and tensors with their bytes in the value; no globals; a tag changes nothing."""
    code, document = inspect(lmdb_key, "--json", "--disassemble")
    assert (code, document["verdict"], document["globals"]) == (0, "clean", [])
    assert document["patch_class"] == "BigEarthNet_S1_Patch"
    size = int.from_bytes(S1_FILE[:8], "little")
    assert document["format"] == f"safetensors, header of {size} bytes"
    assert document["tensors"] == [
        {"name": "VH", "dtype": "U8", "shape": [120, 120], "bytes": [8 + size, 14_408 + size]},
        {"name": "VV", "dtype": "U8", "shape": [120, 120], "bytes": [14_408 + size, 28_808 + size]},
    ]
    assert [line.split()[-1] for line in document["disassembly"]] == ["VH", "VV"]
    code, out = inspect(lmdb_key)
    assert (code, out.splitlines()[-1]) == (0, "CLEAN: a patch and nothing else")
    assert "safetensors, header of" in out


def test_metadata_is_shown_as_that_of_any_patch(inspect):
    """The note by its name and length, the metadata in it by value."""
    code, document = inspect("noted", "--json", "--disassemble")
    assert code == 0
    assert [entry["name"] for entry in document["metadata"]] == ["labels"]
    assert document["disassembly"][-1].split()[:2] == ["metadata", "ben_secure.patch.v1:"]
    code, document = inspect("many", "--json", "--disassemble")
    assert (code, len(document["metadata"]), len(document["disassembly"])) == (0, 500, 62)
    assert all(line.isprintable() and line.isascii() for line in document["disassembly"])


@pytest.mark.threat("T4")
@pytest.mark.parametrize(
    ("lmdb_key", "rule"),
    [("escape", "invalid-patch"), ("hole", "invalid-safetensors"), ("long", "invalid-safetensors"),
     ("longer", "limit-exceeded")],
)  # fmt: skip
def test_a_refused_header_is_shown_as_it_is(inspect, lmdb_key, rule):
    """Nothing but printable ASCII, at most some hundred lines, and the rule that was broken."""
    code, document = inspect(lmdb_key, "--json", "--disassemble")
    assert (code, document["verdict"], document["finding"]["rule"]) == (1, "refused", rule)
    assert 1 <= len(document["disassembly"]) <= 65
    code, out = inspect(lmdb_key, "--disassemble")
    assert code == 1
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())
    last = out.splitlines()[-1]
    assert last.startswith("REFUSED: it is not a patch; " if rule == "invalid-safetensors" else "REFUSED: it ")
