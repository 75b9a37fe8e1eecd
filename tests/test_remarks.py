"""Remarks on metadata: none for honest patches, and one for each thing that no patch needs."""

import re
import time
import timeit
import tracemalloc

import numpy as np
import pytest
from hypothesis import given

from ben_secure import loads
from ben_secure.audit.judge.remarks import MAX_BYTES, MAX_OBJECTS, MAX_TEXT, metadata_remark
from ben_secure.store.reader import PatchReader
from support.effort import effort_below
from support.legacy_values import GENERATIONS, small_tree, write
from support.strategies import make_patch, metadata

LABELS = ["Pastures", "Land principally occupied by agriculture, with significant areas of natural vegetation"]

# Odd metadata, an accepted counterpart that differs as little as possible, and the remark.
ODD = {
    "escape": ({"note": "\x1b[31mred"}, {"note": "[31mred"}, r"'note' .* U\+001B \(control\): '\\x1b\[31mred'"),
    "delete": ({"note": "a\x7f"}, {"note": "a~"}, r"U\+007F \(control\)"),
    "C1 control": ({"note": "a\x9b31m"}, {"note": "a\xa031m"}, r"U\+009B \(control\)"),
    "carriage return": ({"note": "a\rb"}, {"note": "a\n\tb"}, r"U\+000D \(control\)"),
    "right-to-left override": ({"labels": ["\u202egnp"]}, {"labels": ["gnp"]}, r"'labels' .* U\+202E \(invisible or"),
    "zero-width space": ({"labels": ["Past\u200bures"]}, {"labels": ["Past ures"]}, r"U\+200B \(invisible or"),
    "zero-width no-break space": ({"note": "\ufeffa"}, {"note": "\ufeeca"}, r"U\+FEFF"),
    "tag character": ({"note": "a\U000e0041"}, {"note": "a\U0001f600"}, r"U\+E0041"),
    "line separator": ({"note": "a\u2028b"}, {"note": "a\u3000b"}, r"U\+2028 \(line separator\)"),
    "name": ({"no\x1bte": 1}, {"note": 1}, r"a name in the metadata holds .* U\+001B .*: 'no\\x1bte'"),
    "line break in a name": ({"no\nte": 1}, {"no te": 1}, r"a name in the metadata holds .* U\+000A"),
    "deep name": ({"a": [{"x": {"\u202e": 1}}]}, {"a": [{"x": {"y": 1}}]}, r"a name .* U\+202E"),
    "long name": ({"n" * 129: 1}, {"n" * 128: 1}, "a name .* has 129 characters, expected at most 128: 'nnn"),
    "deep": ({"a": [{"b": ({"\x07"},)}]}, {"a": [{"b": ({"7"},)}]}, r"metadata 'a' .* U\+0007"),
    "array of text": ({"a": np.array(["x", "\x07"])}, {"a": np.array(["x", "7"])}, r"metadata 'a' .* U\+0007"),
    "array of str": (
        {"a": np.array(["x", "\x07"], dtype=object)},
        {"a": np.array(["x", "7"], dtype=object)},
        r"metadata 'a' .* U\+0007",
    ),
    "numpy text": ({"a": np.str_("\x07")}, {"a": np.str_("7")}, r"metadata 'a' .* U\+0007"),
    "long text": ({"a": "x" * (MAX_TEXT + 1)}, {"a": "x" * MAX_TEXT}, "has a text of 4097 characters"),
    "bytes": ({"a": bytes(MAX_BYTES + 1)}, {"a": bytes(MAX_BYTES)}, "'a' brings the bytes in arrays to more"),
    "array": (
        {"a": np.zeros(MAX_BYTES // 8 + 1)},
        {"a": np.zeros(MAX_BYTES // 8)},
        "'a' brings the bytes in arrays to more than 131072",
    ),
    "blob in parts": ({"a": [bytes(70_000)] * 2}, {"a": [bytes(60_000)] * 2}, "'a' brings the bytes in arrays to more"),
    "array of many texts": (
        {"a": np.full(MAX_OBJECTS - 1, "x")},
        {"a": np.full(MAX_OBJECTS - 2, "x")},
        "'a' brings the objects to more than 2000",
    ),
    "array of wide texts": (
        {"a": np.full(MAX_BYTES // 400 + 1, "x" * 100)},
        {"a": np.full(MAX_BYTES // 400, "x" * 100)},
        "'a' brings the bytes in arrays to more than 131072",
    ),
    "array of many str": (
        {"a": np.array(["x"] * (MAX_OBJECTS - 1), dtype=object)},
        {"a": np.array(["x"] * 1000, dtype=object)},
        "'a' brings the objects to more than 2000",
    ),
    "many objects": (
        {"a": [0] * (MAX_OBJECTS - 1)},
        {"a": [0] * (MAX_OBJECTS - 2)},
        "'a' brings the objects to more than 2000",
    ),
    "a list too long to be labels": (
        {"labels": LABELS * 1000},
        {"labels": LABELS * 900},
        "'labels' brings the objects to more than 2000",
    ),
}  # fmt: skip


def remark(**metadata):
    """The remark on a patch with this metadata, loaded from its bytes."""
    return metadata_remark(loads(make_patch(**metadata).dumps()))


@pytest.mark.threat("T4")
@pytest.mark.parametrize("case", ODD)
def test_what_no_patch_needs_gets_a_warning(case):
    """The text is escaped and has the name of the metadata; the accepted counterpart gets no warning."""
    odd, twin, message = ODD[case]
    found = remark(**odd)
    assert found.isascii()
    assert found.isprintable()
    assert len(found) < 400
    assert re.search(message, found), found
    assert remark(**twin) is None


def test_honest_metadata_gets_none():
    """Labels, dates, coordinates, a reference map, and descriptions in any language and of several lines get none."""
    honest = {
        "labels": LABELS,
        "acquired": "2017-06-13T10:10:31",
        "bounds": {"ulx": 300000.0, "uly": 5090400, "crs": 'PROJCS["WGS 84 / UTM zone 33N",\n\tGEOGCS["WGS 84"]]'},
        "countries": {"\xd6sterreich", "\u0421\u0440\u0431\u0438\u0458\u0430", "\u65e5\u672c"},
        "reference_map": np.zeros((120, 120), np.int64),
        "hot": np.zeros(43, bool),
        "clouds": None,
        "snow": False,
        "digest": bytes(32),
    }
    assert remark(**honest) is None
    assert remark() is None


def test_legacy_values_get_none():
    """Values of the original packages get no remarks."""
    assert [metadata_remark(loads(write(small_tree(generation)))) for generation in GENERATIONS] == [None] * 4


def test_real_patches_get_none(real_data):
    """Every patch of the databases that the original packages wrote."""
    seen = 0
    for path in real_data.glob("legacy/*/*/data.mdb"):
        with PatchReader(path) as reader:
            for patch in reader.values():
                assert metadata_remark(patch) is None
                seen += 1
    assert seen == 72


def test_attributes_beside_the_stored_metadata_are_looked_at_too():
    """An attribute that was set after construction is stored separately."""
    patch = make_patch(labels=LABELS)
    patch.note = "fine"
    assert metadata_remark(loads(patch.dumps())) is None
    patch.note = "\x1bc"
    assert "U+001B" in metadata_remark(loads(patch.dumps()))


@pytest.mark.threat("T2")
@given(metadata())
def test_any_metadata_gets_an_answer(metadata):
    """For any accepted metadata, the result is a remark or none."""
    found = remark(**metadata)
    assert found is None or found.isascii()


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "metadata",
    {
        "wide texts": {"a": np.full(300, "x" * 10_000)},
        "many texts": {"a": np.full(40_000, "x")},
        "texts without a character": {"a": np.ndarray((49_000,), "<U0", b"")},
        "texts one by one": {"a": np.array(["x" * 50] * 30_000, dtype=object)},
        "long bytes": {"a": [bytes(2**20)] * 3},
        "a long text that is not printable": {"a": "\n" * 10**6},
        "many texts that are not printable": {"a": ["\n" * 1000] * 1000},
        "many objects": {"a": [list(range(200))] * 200},
    }.items(),
    ids=lambda case: case[0],
)
def test_large_metadata_costs_little(metadata):
    """Objects and bytes are counted before they are looked at: it takes few megabytes and little time."""
    patch = loads(make_patch(**metadata[1]).dumps())
    tracemalloc.start()
    try:
        with effort_below(100):
            metadata_remark(patch)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_labels_cost_little():
    """A set of labels takes some microseconds, or twenty times that on a busy machine."""
    patch = loads(make_patch(labels=LABELS, new_labels=LABELS).dumps())
    assert metadata_remark(patch) is None
    assert min(timeit.repeat(lambda: metadata_remark(patch), timer=time.process_time, number=2000, repeat=5)) < 0.2
