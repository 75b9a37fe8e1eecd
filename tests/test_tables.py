"""Metadata tables and lists of names."""

import datetime
import sys

import pytest

from ben_secure import EncodeError, MissingExtraError
from ben_secure.labels import tables
from ben_secure.labels.tables import pairs_of, read_names, read_table

CSV = "patch_id,split,s1_name\nA,train,SA\nB,test,SB\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, columns):
    """A Parquet file of these columns."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_csv_rows_by_patch_name(tmp_path):
    """A CSV table gives its cells as str, in the order of the file, a byte order mark and CRLF or not."""
    expected = {"A": {"split": "train", "s1_name": "SA"}, "B": {"split": "test", "s1_name": "SB"}}
    for content in (CSV, "\ufeff" + CSV.replace("\n", "\r\n"), CSV + "\n"):
        assert read_table(write(tmp_path / "t.csv", content)) == expected
    assert list(read_table(tmp_path / "t.csv")) == ["A", "B"]


def test_some_columns_are_kept(tmp_path):
    """Those that are asked for and are there, from both forms of table."""
    paths = [write(tmp_path / "t.csv", CSV), parquet(tmp_path / "t.parquet", {"patch_id": ["A", "B"], "x": [[1], [2]],
                                                                              "split": ["train", "test"]})]  # fmt: skip
    for path in paths:
        assert read_table(path, ["split", "country"]) == {"A": {"split": "train"}, "B": {"split": "test"}}
        assert read_table(path, []) == {"A": {}, "B": {}}


@pytest.mark.parametrize("column", tables.ID_COLUMNS)
def test_three_columns_can_name_the_patch(tmp_path, column):
    """``patch_id``, ``name`` or ``patch`` names the patch; any other is refused with what there is."""
    assert list(read_table(write(tmp_path / "t.csv", f"x,{column}\n1,A\n"))) == ["A"]
    with pytest.raises(EncodeError, match=r"its columns are x, other, expected one named patch_id or name or patch"):
        read_table(write(tmp_path / "t.csv", "x,other\n1,A\n"))


def test_patch_id_goes_before_name(tmp_path):
    """With two such columns the other one is a column like any."""
    assert read_table(write(tmp_path / "t.csv", "name,patch_id\nx,A\n")) == {"A": {"name": "x"}}


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("patch_id,a,a\nA,1,2\n", "a column is named 'a'"),
        ("patch_id,\nA,1\n", "a column is named ''"),
        ("patch_id,a\nA\n", r"line 2 has 1 cells, expected 2"),
        ("patch_id,a\nA,1\nA,2\n", r"row 3 names the patch A, which an earlier row"),
        ("patch_id,a\nA,1\n,2\n", r"row 3 has no patch name"),
        (b"patch_id,a\nA,1\nB,\xff\n", r"line 3 is not UTF-8"),
        ('patch_id,a\nA,"1"x\n', r"line 2 is not CSV"),
        ("patch_id,a\nA," + "x" * 200_000 + "\n", r"line 2 is not CSV: field larger"),
        ("patch_id,a\nA,\x1b[31m\n\x1b[31m\x1b[31m,1\n\x1b[31m\x1b[31m,1\n", r"the patch \\x1b\[31m\\x1b\[31m,"),
    ],
)
def test_bad_csv_is_refused_by_row(tmp_path, content, message):
    """Each defect of a table names the file, the row and what is wrong."""
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(EncodeError, match=rf"cannot use the table .*t\.csv: .*{message}"):
        read_table(path)


def test_a_table_has_bounds(tmp_path, monkeypatch):
    """Bytes, rows, columns and lines are bounded; a table at the bound is read."""
    path = write(tmp_path / "t.csv", CSV)
    for name, enough in (
        ("_MAX_FILE_BYTES", len(CSV)),
        ("_MAX_ROWS", 2),
        ("_MAX_COLUMNS", 3),
        ("_MAX_LINE_BYTES", 23),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(tables, name, enough)
            assert len(read_table(path)) == 2
            patched.setattr(tables, name, enough - 1)
            with pytest.raises(EncodeError, match=r"expected at most|has more than"):
                read_table(path)


def test_other_files_are_refused(tmp_path):
    """A missing file, a folder and a file of another kind are refused by name."""
    with pytest.raises(EncodeError, match=r"none\.csv: No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(EncodeError, match=r"folder\.csv: Is a directory"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(EncodeError, match=r"ends in '\.txt', expected \.csv or \.parquet"):
        read_table(write(tmp_path / "t.txt", CSV))


def test_parquet_types_survive(tmp_path):
    """int, float, bool, str and lists stay, missing cells are None, times become ISO 8601; all plain Python."""
    pa = pytest.importorskip("pyarrow")
    noon = datetime.datetime(2017, 6, 13, 12, 0, 1)
    columns = {
        "patch_id": ["A", "B"],
        "labels": [["Pastures", "Arable land"], None],
        "snow": [True, None],
        "count": pa.array([3, None], pa.uint16()),
        "cover": pa.array([0.5, None], pa.float32()),
        "country": pa.array(["Austria", "Austria"]).dictionary_encode(),
        "when": pa.array([noon, None], pa.timestamp("ns")),
        "zoned": pa.array([noon, None], pa.timestamp("ms", tz="UTC")),
        "day": [noon.date(), None],
        "raw": [b"\0", None],
        "__index_level_0__": [0, 1],
    }
    rows = read_table(parquet(tmp_path / "t.parquet", columns))
    assert rows == {
        "A": {
            "labels": ["Pastures", "Arable land"],
            "snow": True,
            "count": 3,
            "cover": 0.5,
            "country": "Austria",
            "when": "2017-06-13T12:00:01",
            "zoned": "2017-06-13T12:00:01+00:00",
            "day": "2017-06-13",
            "raw": b"\0",
        },
        "B": dict.fromkeys([*columns][1:-1]) | {"country": "Austria"},
    }
    assert [type(value) for value in rows["A"].values()] == [list, bool, int, float, str, str, str, str, bytes]


@pytest.mark.threat("T15")
def test_bad_parquet_is_refused(tmp_path):
    """What is no Parquet, truncated, or has cells that are no plain data, is refused by file and column."""
    pytest.importorskip("pyarrow")
    good = parquet(tmp_path / "t.parquet", {"patch_id": ["A"] * 1, "x": [1]})
    assert read_table(good) == {"A": {"x": 1}}
    content = good.read_bytes()
    for broken in (b"", b"PAR1", content[:-9], content[:20] + bytes(40) + content[60:]):
        with pytest.raises(EncodeError, match=r"b\.parquet"):
            read_table(write(tmp_path / "b.parquet", broken))
    with pytest.raises(EncodeError, match=r"the column x is of type struct"):
        read_table(parquet(tmp_path / "t.parquet", {"patch_id": ["A"], "x": [{"a": 1}]}))
    for ids, message in (([None], "row 1 has no patch name"), ([7], "row 1 has no"), (["A", "A"], "row 2 names the")):
        with pytest.raises(EncodeError, match=message):
            read_table(parquet(tmp_path / "t.parquet", {"patch_id": ids}))


def test_parquet_is_read_in_batches_with_bounds(tmp_path, monkeypatch):
    """Rows past the first batch are read like any; what is too large is refused before or while it is read."""
    names = [f"P{i}" for i in range(10_000)]
    path = parquet(tmp_path / "t.parquet", {"patch_id": names, "x": list(range(10_000))})
    assert read_table(path) == {name: {"x": i} for i, name in enumerate(names)}
    for bound in ("_MAX_ROWS", "_MAX_FILE_BYTES", "_MAX_BATCH_BYTES"):
        with monkeypatch.context() as patched:
            patched.setattr(tables, bound, 9_999)
            with pytest.raises(EncodeError, match=r"t\.parquet"):
                read_table(path)


def test_parquet_needs_an_extra_and_csv_does_not(tmp_path, monkeypatch):
    """Without pyarrow a Parquet table is refused with what to install, and CSV is read."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        read_table(write(tmp_path / "t.parquet", b"PAR1"))
    assert len(read_table(write(tmp_path / "t.csv", CSV))) == 2


def test_pairs_of_a_table():
    """Pairs are the rows that have an ``s1_name``; a table without any is refused."""
    rows = {"A": {"s1_name": "SA"}, "B": {"s1_name": None}, "C": {}, "D": {"s1_name": ""}}
    assert pairs_of(rows) == {"A": "SA"}
    with pytest.raises(EncodeError, match=r"pairs no patches: it needs a column s1_name"):
        pairs_of({"B": {"s1_name": None}})
    with pytest.raises(EncodeError, match=r"patch A an s1_name that is no text"):
        pairs_of({"A": {"s1_name": 3}})


@pytest.mark.parametrize(
    "content",
    [
        "A\nB\n",
        "A\r\n\r\nB",
        "A,SA\nB,SB\n",
        "s1_name,patch_id\nSA,A\nSB,B\n",
        '"A"\nB \n',
    ],
)
def test_names_of_a_split(tmp_path, content):
    """One name a line, the first cell, or the column that a header names."""
    assert read_names(write(tmp_path / "train.csv", content)) == ["A", "B"]


@pytest.mark.threat("T15")
def test_bad_lists_are_refused(tmp_path):
    """A list without names, with a doubled or missing one, or that is no text, is refused by line."""
    for content, message in (
        ("", "it names no patch"),
        ("A\nB\nA\n", "line 3 names the patch A again"),
        ("A\n,x\n", "line 2 has no patch name"),
        (b"A\n\xff\n", "line 2 is not UTF-8"),
    ):
        with pytest.raises(EncodeError, match=message):
            read_names(write(tmp_path / "train.csv", content))


def test_the_published_splits_are_read(tmp_path):
    """A list in the spelling of the published splits of v1 is read whole."""
    lines = "".join(f"S2A_MSIL2A_20170717T113321_28_{i}\r\n" for i in range(90))
    assert len(read_names(write(tmp_path / "train.csv", lines))) == 90
