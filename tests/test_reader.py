"""``PatchReader`` is a mapping of patches that can be shared, forked and pickled, and returns only patches."""

import os
import pickle
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest

from ben_secure import tensors
from ben_secure.audit import scan_value
from ben_secure.errors import (
    LimitExceededError,
    PatchFormatError,
    ResourceError,
    StoreError,
    UnsafePickleError,
    printable,
)
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNet_S2_Patch
from ben_secure.store.reader import PatchReader
from support.databases import SHELL
from support.strategies import TwoBandPatch, make_patch, noise

NAMES = ["S2A_0", "S2A_1", "S2B_0", "größe"]


def build(path, values):
    """A database of raw values."""
    with lmdb.open(str(path), map_size=2**26, sync=False, lock=False) as env, env.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name if isinstance(name, bytes) else name.encode(), value)
    return path


@pytest.fixture(scope="module")
def patches():
    """Patches of two kinds, by name."""
    kinds = [BigEarthNet_S2_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_Patch, BigEarthNet_S2_Patch]
    return {name: make_patch(kind, seed=i, number=i) for i, (name, kind) in enumerate(zip(NAMES, kinds, strict=True))}


@pytest.fixture(scope="module")
def path(tmp_path_factory, patches):
    """A database of those patches."""
    return build(tmp_path_factory.mktemp("reader") / "db", {name: patch.dumps() for name, patch in patches.items()})


def test_is_a_mapping_in_key_order(path, patches):
    """It has the behaviour of ``Mapping``, for patches."""
    with PatchReader(path) as reader:
        assert list(reader) == list(reader.keys()) == sorted(NAMES, key=str.encode)
        assert len(reader) == 4
        assert dict(reader.items()) == patches
        assert all(reader[name] == patch for name, patch in patches.items())
        assert "S2A_1" in reader
        assert "S2A_2" not in reader
        assert reader.get("S2A_1") == patches["S2A_1"]
        assert reader.get("S2A_2") is None
        assert reader.get("S2A_2", 7) == 7
        assert reader.get_many(["größe", "S2A_0", "größe"]) == [patches[n] for n in ("größe", "S2A_0", "größe")]
        assert reader.raw("S2B_0") == patches["S2B_0"].dumps()
        assert reader.facts.entries == 4
        assert repr(reader) == f"PatchReader({str(path)!r})"


def test_patches_are_their_owners(path, patches):
    """Each owns the memory of its value: writing to one changes no other patch and no file."""
    with PatchReader(path) as reader:
        for _ in range(3):
            read = {name: reader[name] for name in reader}
            assert read == patches
            for patch in read.values():
                patch.bands[0].data[...] = 1
                patch.note = "mine"
        assert {name: reader[name] for name in reader} == patches


def test_missing_names_are_key_errors(path):
    """The message has the name and the database; names that no LMDB key can be are missing like others."""
    with PatchReader(path) as reader:
        for name, shown in (("S2A_2", "S2A_2"), ("", ""), ("x" * 512, r"xxx\.\.\."), ("\ud800", r"\\ud800")):
            assert name not in reader
            for read in (reader.__getitem__, reader.raw, lambda name: reader.get_many([name])):
                with pytest.raises(KeyError, match=f"no patch named .*{shown} in .*{path.name}"):
                    read(name)


def test_names_are_str(path):
    """Passing the LMDB key is a TypeError; ``in`` is answered, as in any mapping."""
    with PatchReader(path) as reader:
        assert "S2A_0" in reader
        for other in (b"S2A_0", 0, None, ["S2A_0"]):
            assert other not in reader
        for read in (reader.__getitem__, reader.raw, reader.get):
            with pytest.raises(TypeError, match="patch names are str, not bytes"):
                read(b"S2A_0")


def test_readers_are_equal_only_to_themselves(path, patches):
    """``==`` of mappings would read and compare two databases."""
    with PatchReader(path) as reader, PatchReader(path) as other:
        assert reader == reader
        assert reader != other
        assert reader != dict(patches)
        assert len({reader, other, reader}) == 2


def test_refusals_say_where(tmp_path, patches):
    """A hostile value is refused with database and key; ``get`` does not take it for a missing one; others load."""
    hostile = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    path = build(
        tmp_path / "db", {"bad": hostile, "cut": patches["S2A_0"].dumps()[:-1], "good": patches["S2A_0"].dumps()}
    )
    with PatchReader(path) as reader:
        assert list(reader) == ["bad", "cut", "good"]
        assert reader.raw("bad") == hostile
        for read in (reader.__getitem__, reader.get):
            with pytest.raises(UnsafePickleError) as caught:
                read("bad")
            for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
                assert (error.database, error.lmdb_key) == (str(path), b"bad")
                assert f"[at LMDB key b'bad' in {printable(str(path), 400)}]" in str(error)
        with pytest.raises(PatchFormatError):
            reader["cut"]
        assert reader["good"] == patches["S2A_0"]


def test_keys_that_are_not_utf8_are_reported(tmp_path, patches):
    """By the walk, when it comes to them, escaped; every patch that has a name can still be read."""
    value = patches["S2A_0"].dumps()
    path = build(tmp_path / "db", {b"a": value, b"b\xff\x1b[2J": value, b"c": value})
    with PatchReader(path) as reader:
        walk = iter(reader)
        assert next(walk) == "a"
        with pytest.raises(
            PatchFormatError, match=r"the LMDB key is not UTF-8 .*LMDB key b'b\\xff\\x1b\[2J'"
        ) as caught:
            next(walk)
        assert caught.value.lmdb_key == b"b\xff\x1b[2J"
        assert "\x1b" not in str(caught.value)
        assert reader["c"] == patches["S2A_0"]
        assert len(reader) == 3


def test_limits_hold_for_store_and_pickle(path, patches):
    """The length of the value and the counts of the trusted core are limited."""
    size = len(patches["S2A_0"].dumps())
    with PatchReader(path, limits=Limits(max_value_bytes=size)) as reader:
        assert reader["S2A_0"] == patches["S2A_0"]
    for limits in (Limits(max_value_bytes=size - 1), Limits(max_opcodes=5)):
        with PatchReader(path, limits=limits) as reader, pytest.raises(LimitExceededError) as caught:
            reader["S2A_0"]
        assert caught.value.lmdb_key == b"S2A_0"
    # A value that is read without decoding may have the footer of a tagged value besides.
    with PatchReader(path, limits=Limits(max_value_bytes=size - 64)) as reader:
        assert len(reader.raw("S2A_0")) == size
    with PatchReader(path, limits=Limits(max_value_bytes=size - 65)) as reader, pytest.raises(LimitExceededError):
        reader.raw("S2A_0")


def test_classes_are_declared_by_the_caller(tmp_path):
    """A subclass is admitted if the caller names it, and only then."""
    patch = TwoBandPatch(noise((3, 3), "<u2"), noise((60, 60), "<u2"))
    path = build(tmp_path / "db", {"a": patch.dumps()})
    with PatchReader(path, classes=[TwoBandPatch]) as reader:
        assert reader["a"] == patch
        assert type(reader["a"]) is TwoBandPatch
    with PatchReader(path) as reader, pytest.raises(UnsafePickleError):
        reader["a"]


def test_sees_what_another_process_commits(tmp_path, patches):
    """A reader that was opened before the commit sees it."""
    path = build(tmp_path / "db", {"a": patches["S2A_0"].dumps()})
    with PatchReader(path) as reader:
        assert list(reader) == ["a"]
        build(path, {"b": patches["S2A_1"].dumps()})
        assert list(reader) == ["a", "b"]
        assert reader["b"] == patches["S2A_1"]


def test_threads_share_a_reader(path, patches):
    """Many threads read at once."""
    wrong = []

    def read(reader):
        for _ in range(20):
            wrong.extend(name for name in NAMES if reader[name] != patches[name])

    with PatchReader(path) as reader:
        threads = [threading.Thread(target=read, args=(reader,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_forked_workers_share_a_reader(path, patches):
    """As DataLoader workers do on Linux, while the parent goes on."""
    with PatchReader(path) as reader:
        assert reader["S2A_0"] == patches["S2A_0"]
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os._exit(0 if dict(reader.items()) == patches else 1)
            children.append(child)
        assert dict(reader.items()) == patches
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def test_readers_travel_to_spawned_workers(path, patches, monkeypatch):
    """They keep limits and classes, and work in another working directory."""
    monkeypatch.chdir(path.parent)
    limits = Limits(max_opcodes=DEFAULT_LIMITS.max_opcodes - 1)
    with PatchReader(path.name, limits=limits, classes=[TwoBandPatch]) as reader:
        pickled = pickle.dumps(reader)
    with pickle.loads(pickled) as twin:
        assert (twin.path, twin.limits, twin.classes) == (str(path), limits, (TwoBandPatch,))
        assert dict(twin.items()) == patches
    with PatchReader(path.name) as reader:
        code = "import pickle, sys; print(*pickle.loads(sys.stdin.buffer.read()))"
        environment = os.environ | {"PYTHONUTF8": "1"}
        child = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(reader), cwd="/", env=environment, capture_output=True
        )
        assert child.stdout.decode().split() == list(reader)


def test_closed_and_missing(path, tmp_path):
    """A closed reader is a caller's mistake; a missing database is not."""
    reader = PatchReader(path)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader["S2A_0"]
    with pytest.raises(StoreError, match="does not exist"):
        PatchReader(tmp_path / "missing")


@pytest.mark.threat("T5")
def test_liblmdb_is_not_loaded(path):
    """A program that only reads does not even import lmdb."""
    code = (
        f"import sys, ben_secure; r = ben_secure.PatchReader({str(path)!r}); r['S2A_0']; print('lmdb' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"


@pytest.mark.threat("T7")
def test_truncation_under_an_open_reader_is_an_error(tmp_path, patches):
    """And not the end of the process."""
    path = build(tmp_path / "db", {"a": patches["S2A_0"].dumps()})
    with PatchReader(path) as reader:
        assert reader["a"] == patches["S2A_0"]
        os.truncate(path / "data.mdb", 3 * 4096)
        with pytest.raises(StoreError, match="truncated") as caught:
            reader["a"]
        assert (caught.value.database, caught.value.lmdb_key) == (str(path), b"a")


def test_page_reader_and_patch_reader_agree(path, patches):
    """The same records, one by raw key, one by name."""
    with PatchReader(path) as reader, PageReader(path) as records:
        assert [(name.encode(), reader.raw(name)) for name in reader] == list(records.items())


@pytest.mark.threat("T2")
def test_too_little_memory_to_read_is_no_verdict(path, patches, monkeypatch):
    """It is an error of its own, for a page as for a value; afterwards the value is read."""

    def fails(*arguments):
        raise MemoryError

    with PatchReader(path) as reader:
        for module, function in ((os, "pread"), (np, "empty")):
            with monkeypatch.context() as patched:
                patched.setattr(module, function, fails)
                with pytest.raises(ResourceError, match="were not judged"):
                    reader["S2A_0"]
            assert reader["S2A_0"] == patches["S2A_0"]


def test_patches_of_either_format_have_memory_of_their_own(tmp_path):
    """In any order: where values are copied anyway, they are read into memory that is used again."""
    forms = ["tensors", "tensors", "pickle", "pickle", "tensors", "pickle", "tensors"]
    made = [make_patch(BigEarthNet_S2_Patch, seed=seed) for seed in range(len(forms))]
    values = {f"{place}".encode(): tensors.dumps(patch) if form == "tensors" else patch.dumps()
              for place, (form, patch) in enumerate(zip(forms, made, strict=True))}  # fmt: skip
    with PatchReader(build(tmp_path / "db", values)) as reader:
        for order in (range(len(forms)), reversed(range(len(forms)))):
            found = {place: reader[str(place)] for place in order}
            assert all(patch == made[place] for place, patch in found.items())
            for patch in found.values():  # writable, and nobody else's
                patch.band02.data[...] += 1
            assert all(reader[str(place)] == made[place] for place in found)


FOREIGN = {
    "length": (b"590326", "the number of its records"),
    "__len__": (pickle.dumps(590326), "the number of its records"),
    "num-samples": (b"3", "the number of its records"),
    "__keys__": (pickle.dumps([b"a", b"b"]), "the list of its keys"),
    "meta_info": (b"{}", "notes on the database"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_records_of_other_tools_are_named(tmp_path, name):
    """A refused record under another tool's name is called that, by reader and audit alike."""
    value, content = FOREIGN[name]
    path = build(tmp_path / "db", {name: value, "S2A_0": value})
    with PatchReader(path) as reader:
        with pytest.raises(PatchFormatError) as caught:
            reader[name]
        assert f"{name!r} is not a patch but a record of another tool, with {content} (" in str(caught.value)
        with pytest.raises(PatchFormatError) as other:
            reader["S2A_0"]
    assert "another tool" not in str(other.value)
    finding = scan_value(name.encode(), value)
    assert (finding.message, finding.rule) == (caught.value.message, caught.value.rule)


@pytest.mark.threat("T1")
def test_an_attack_under_the_name_of_another_tools_record_stays_one(tmp_path):
    """A hostile value keeps its own words whatever its LMDB key; a patch under such a key is a patch."""
    path = build(tmp_path / "db", {"length": SHELL, "__keys__": make_patch(BigEarthNet_S1_Patch).dumps()})
    with PatchReader(path) as reader:
        with pytest.raises(UnsafePickleError) as caught:
            reader["length"]
        assert "another tool" not in str(caught.value)
        assert type(reader["__keys__"]) is BigEarthNet_S1_Patch
    assert "another tool" not in scan_value(b"length", SHELL).message
