"""Metadata tables and lists of names."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

from ben_secure import MissingExtraError, StoreError, TableError
from ben_secure.labels import _columnar, _delimited, _sheet, tables
from ben_secure.labels.tables import pairs_of, read_names, read_table

CSV = "patch_id,split,s1_name\nA,train,SA\nB,test,SB\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, columns, **options):
    """A Parquet file of these columns."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, version="2.6", **options)
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
    """``patch_id``, ``name`` or ``patch`` names the patch; otherwise the refusal lists the existing columns."""
    assert list(read_table(write(tmp_path / "t.csv", f"x,{column}\n1,A\n"))) == ["A"]
    with pytest.raises(TableError, match=r"its columns are x, other, expected one named patch_id or name or patch"):
        read_table(write(tmp_path / "t.csv", "x,other\n1,A\n"))


def test_patch_id_goes_before_name(tmp_path):
    """With two such columns the other one is a column like any."""
    assert read_table(write(tmp_path / "t.csv", "name,patch_id\nx,A\n")) == {"A": {"name": "x"}}


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("patch_id,a,a\nA,1,2\n", "the column a cannot be read: two columns have this name"),
        ("patch_id,patch_id\nA,A\n", "two columns are named patch_id"),
        ("patch_id,\nA,1\n", "the column column 2 cannot be read: it has no name"),
        ("patch_id,a\nA\n", r"line 2 has 1 cells, expected 2"),
        ("patch_id,a\nA,1\nA,2\n", r"row 3 names the patch A, and so does an earlier row"),
        ("patch_id,a\nA,1\n,2\n", r"row 3 has no patch name"),
        (b"patch_id,a\nA,1\nB,\xff\n", r"line 3 is not UTF-8"),
        ("patch_id,a\nA,1\n".encode("utf-16"), r"it is UTF-16, expected UTF-8 \(in Excel: save as 'CSV UTF-8'\)"),
        ("patch_id,labels\nA,[3]\n", r'row 2 has no list of texts in labels, expected one such as \["Pastures"\]'),
        ("patch_id,labels\nA,['x' y]\n", r"row 2 has no list of texts in labels"),
        ("patch_id,labels\nA," + "[" * 9000 + "\n", r"row 2 has no list of texts in labels"),
        ('patch_id,a\nA,"1"x\n', r"line 2 is not CSV"),
        ("patch_id,a\nA," + "x" * 200_000 + "\n", r"line 2 is not CSV: field larger"),
        ("patch_id,a\nA,\x1b[31m\n\x1b[31m\x1b[31m,1\n\x1b[31m\x1b[31m,1\n", r"the patch \\x1b\[31m\\x1b\[31m,"),
    ],
)
def test_bad_csv_is_refused_by_row(tmp_path, content, message):
    """Each defect of a table is refused with the file, the row and the fault."""
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(TableError, match=rf"cannot use the table .*t\.csv: .*{message}"):
        read_table(path)


def test_a_table_has_bounds(tmp_path, monkeypatch):
    """Bytes, rows, columns and lines are bounded; a table at the bound is read."""
    path = write(tmp_path / "t.csv", CSV)
    for module, name, enough in (
        (_sheet, "MAX_FILE_BYTES", len(CSV)),
        (tables, "MAX_ROWS", 2),
        (_sheet, "MAX_COLUMNS", 3),
        (_delimited, "_MAX_LINE_BYTES", 23),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, enough)
            assert len(read_table(path)) == 2
            patched.setattr(module, name, enough - 1)
            with pytest.raises(TableError, match=r"expected at most|has more than"):
                read_table(path)


def test_other_files_are_refused(tmp_path):
    """A missing file, a folder and a file of another kind are refused by name."""
    with pytest.raises(TableError, match=r"none\.csv: No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match=r"folder\.csv: Is a directory"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(TableError, match=r"ends in '\.txt', expected \.csv, \.tsv or \.parquet"):
        read_table(write(tmp_path / "t.txt", CSV))


def test_parquet_types_survive(tmp_path):
    """int, float, bool, str and lists are kept, missing cells are None, and times become ISO 8601 text."""
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
    """A file that is not Parquet, is truncated, or has other cells is refused with file and column."""
    pa = pytest.importorskip("pyarrow")
    good = parquet(tmp_path / "t.parquet", {"patch_id": ["A"] * 1, "x": [1]})
    assert read_table(good) == {"A": {"x": 1}}
    content = good.read_bytes()
    for broken in (b"", b"PAR1", content[:-9], content[:20] + bytes(40) + content[60:]):
        with pytest.raises(TableError, match=r"b\.parquet"):
            read_table(write(tmp_path / "b.parquet", broken))
    mapping = pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))
    with pytest.raises(TableError, match=r"the column x cannot be read: its type is map<.*, which is not plain data"):
        read_table(parquet(tmp_path / "t.parquet", {"patch_id": ["A"], "x": mapping}))
    for ids, message in (
        ([None], "row 1 has no patch name"),
        ([7], "row 1 has a patch name of type int"),
        (["A", "A"], "row 2 names the"),
    ):
        with pytest.raises(TableError, match=message):
            read_table(parquet(tmp_path / "t.parquet", {"patch_id": ids}))


@pytest.mark.threat("T15")
def test_a_table_that_ends_pyarrow_is_refused(tmp_path, monkeypatch):
    """A damaged footer that aborts pyarrow, and any other early end of its process, is an error that names the file."""
    good = parquet(tmp_path / "good.parquet", {"patch_id": ["A"], "x": [1]})
    aborts = (pathlib.Path(__file__).parent / "corpus" / "parquet" / "ends-pyarrow").read_bytes()
    with pytest.raises(TableError, match=r"cannot use the table .*aborts\.parquet"):
        read_table(write(tmp_path / "aborts.parquet", aborts))
    assert read_table(good) == {"A": {"x": 1}}
    columns = {"id": ["plain", ["A"]], "columns": {"x": ["plain", []]}, "left_out": {}}
    ends = [("kill -ABRT $$", "was ended by signal 6"), ("exit 1", "ended with exit code 1 without")]
    for document in ([], {}, 7, columns, columns | {"id": ["taken", ["plain", []], [7]]}):
        answer = json.dumps(document)
        ends.append((f"printf '\\{len(answer):o}\\0\\0\\0\\0\\0\\0\\0%s' '{answer}'", "ended with exit code 0"))
    for end, said in ends:
        script = write(tmp_path / "python", f"#!/bin/sh\n{end}\n")
        script.chmod(0o700)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(script))
            with pytest.raises(TableError, match=rf"good\.parquet: the process that reads it {said}.*; write .* CSV"):
                read_table(good)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="a worker process could not be started"):
        read_table(good)


def columnar_rows(path):
    """Rows that the other process finds in a table, in this one, where its bounds can be changed."""
    return sum(len(batch["id"][-1]) for batch in _columnar.batches(str(path), ["a", "x"]))


def test_parquet_is_read_in_batches_with_bounds(tmp_path, monkeypatch):
    """Rows after the first batch are read, too; too large content is refused before or during reading."""
    names = [f"P{i}" for i in range(10_000)]
    path = parquet(tmp_path / "t.parquet", {"patch_id": names, "x": list(range(10_000))})
    assert read_table(path) == {name: {"x": i} for i, name in enumerate(names)}
    for bound, enough in (("MAX_ROWS", 10_000), ("MAX_FILE_BYTES", 10**6), ("_MAX_BATCH_VALUES", 8_192)):
        with monkeypatch.context() as patched:
            patched.setattr(_columnar, bound, enough)
            assert columnar_rows(path) == 10_000
            patched.setattr(_columnar, bound, 4_999)
            with pytest.raises(TableError, match=r"t\.parquet"):
                columnar_rows(path)


@pytest.mark.threat("T25")
def test_cells_that_are_nothing_in_the_file_are_counted(tmp_path, monkeypatch):
    """Rows times columns, and values of lists over all batches, are bounded, however small the file; at the bound
    a table is read."""
    pa = pytest.importorskip("pyarrow")
    rows = 5_000  # more than one batch
    names = [f"P{i}" for i in range(rows)]
    nulls = parquet(tmp_path / "n.parquet", {"patch_id": names, "a": pa.nulls(rows, pa.int8()), "b": [0] * rows})
    lists = parquet(tmp_path / "l.parquet", {"patch_id": names, "a": [[0] * 3] * rows})
    empty = write(tmp_path / "e.csv", "patch_id,a,b\n" + "".join(f"{name},,\n" for name in names))
    for path in (nulls, empty):
        with monkeypatch.context() as patched:
            patched.setattr(tables, "MAX_CELLS", 2 * rows)
            assert len(read_table(path)) == rows
            patched.setattr(tables, "MAX_CELLS", 2 * rows - 1)
            with pytest.raises(TableError, match="cells"):
                read_table(path)
    monkeypatch.setattr(_columnar, "MAX_CELLS", 5 * rows)
    assert columnar_rows(lists) == rows
    monkeypatch.setattr(_columnar, "MAX_CELLS", 5 * rows - 1)
    with pytest.raises(TableError, match="cells"):
        columnar_rows(lists)


def test_csv_of_pandas_and_excel(tmp_path):
    """Indices without a name, semicolons, tabs, a byte order mark, spaces and empty cells and rows at the end."""
    expected = {"A": {"split": "train"}, "B": {"split": "test"}}
    for content in (
        ",patch_id,split\n0,A,train\n1,B,test\n",  # DataFrame.to_csv
        "Unnamed: 0,patch_id,split\n0,A,train\n1,B,test\n",  # the same read and written again
        ",split\nA,train\nB,test\n",  # of a frame whose index are the names
        "patch_id;split\r\nA;train\r\nB;test\r\n",  # Excel where the comma is for decimals
        "\ufeffpatch_id;split\r\nA;train\r\nB;test\r\n;\r\n",
        "\ufeffpatch_id,split,,\r\nA,train,,\r\nB,test,,\r\n,,,\r\n",
        "patch_id,split\nA,train,\nB,test,,\n",
        "patch_id\tsplit\nA\ttrain\nB\ttest\n",
        " patch_id , split \n A ,train  \nB\t, test\n",
        '"patch_id";"split"\n"A";"train"\n"B";"test"\n',
        "\ufeff\r\n \r\npatch_id;split\r\nA;train\r\nB;test\r\n",
    ):
        assert read_table(write(tmp_path / "t.csv", content)) == expected
    assert read_table(write(tmp_path / "t.tsv", "patch_id\tsplit\nA\ttrain\nB\ttest\n")) == expected
    quoted = 'patch_id;"a,b,c"\nA;"1;2,5"\n'
    assert read_table(write(tmp_path / "t.csv", quoted)) == {"A": {"a,b,c": "1;2,5"}}


def test_labels_in_csv_are_lists(tmp_path):
    """A list of labels is read from JSON, and as Python and numpy print it; other text stays text."""
    expected = ["Pastures", "Beaches, dunes, sands"]
    for cell in (
        '["Pastures", "Beaches, dunes, sands"]',
        "['Pastures', 'Beaches, dunes, sands']",
        "['Pastures' 'Beaches, dunes, sands']",
        "['Pastures'\n 'Beaches, dunes, sands']",
        "['Pastures'\r\n 'Beaches, dunes, sands']",
    ):
        quoted = cell.replace('"', '""')
        rows = read_table(write(tmp_path / "t.csv", f'patch_id,labels,x\nA,"{quoted}","{quoted}"\nB,[],\n'))
        assert rows == {"A": {"labels": expected, "x": cell}, "B": {"labels": [], "x": ""}}
    assert read_table(write(tmp_path / "t.csv", "patch_id,labels\nA,Pastures\n")) == {"A": {"labels": "Pastures"}}
    path = parquet(tmp_path / "t.parquet", {"patch_id": ["A"], "new_labels": ['["Pastures"]']})
    assert read_table(path) == {"A": {"new_labels": ["Pastures"]}}


def test_odd_columns_are_left_out_by_name(tmp_path):
    """A column of other types does not refuse the table; it is reported, or refused if requested."""
    pa = pytest.importorskip("pyarrow")
    mapping = pa.array([[("k", 1)]] * 5000, pa.map_(pa.string(), pa.int64()))
    late = ["x"] * 4999 + ["x" * 200_000]
    columns = {"patch_id": [f"P{n}" for n in range(5000)], "m": mapping, "late": late, "split": ["train"] * 5000}
    columns["span"] = pa.array([1] * 5000, pa.duration("s"))
    columns["far"] = pa.array([2**40] * 5000, pa.timestamp("s"))
    tables_of = [
        parquet(tmp_path / "t.parquet", columns),
        write(tmp_path / "t.csv", "patch_id,a,split,a,\nP0,1,train,2,3\n"),
    ]
    reasons = [{"m": "type is map", "late": "200000 bytes", "span": "type is duration", "far": "outside the years"},
               {"a": "two columns have this name", "column 5": "it has no name"}]  # fmt: skip
    for path, expected in zip(tables_of, reasons, strict=True):
        left_out = {}
        rows = read_table(path, left_out=left_out)
        assert all(row == {"split": "train"} for row in rows.values())
        assert left_out.keys() == expected.keys()
        assert all(expected[name] in left_out[name] for name in expected)
        with pytest.raises(TableError, match=r"the column .* cannot be read"):
            read_table(path)
        assert read_table(path, ["split"]) == rows
        for name in expected.keys() - {"column 5"}:
            with pytest.raises(TableError, match=rf"the column {name} cannot be read: .*{expected[name]}"):
                read_table(path, [name])


def test_parquet_of_the_world(tmp_path):
    """Categories, large types, lists of them, structs, decimals and times of any unit are plain data.

    So is a batch whose cells are all null, in the second table.
    """
    pa = pytest.importorskip("pyarrow")
    decimal = [Decimal("1.25"), None]
    fine = 1_497_355_801_123_456_789
    columns = {
        "patch_id": pa.array(["A", "B"], pa.large_string()),
        "category": pa.array(["x", None]).dictionary_encode(),
        "whole": pa.array([7, None]).dictionary_encode(),
        "large": pa.array(["u", None], pa.large_string()),
        "blob": pa.array([b"u", None], pa.large_binary()),
        "lists": pa.array([["x", None, "x"], None], pa.large_list(pa.large_string())),
        "inner": pa.array([[[1], []], None], pa.list_(pa.list_(pa.int8()))),
        "choices": pa.array([["x"], []], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "bbox": pa.array([{"xmin": 1.5, "names": ["x"]}, None]),
        "boxes": pa.array([[{"a": 1}, None], []]),
        "small": pa.array(decimal, pa.decimal128(15, 2)),
        "long": pa.array(decimal, pa.decimal128(30, 20)),
        "units": pa.array([Decimal(3), None], pa.decimal128(30, 0)),
        "ns": pa.array([fine, None], pa.timestamp("ns")),
        "us": pa.array([fine // 1000, None], pa.timestamp("us", tz="+02:00")),
        "ms": pa.array([fine // 10**6, None], pa.timestamp("ms", tz="Europe/Berlin")),
        "s": pa.array([-1, None], pa.timestamp("s")),
        "day": pa.array([0, None], pa.date32()),
        "date": pa.array([-86_400_000, None], pa.date64()),
        "clock": pa.array([1, None], pa.time64("ns")),
        "minute": pa.array([61, None], pa.time32("s")),
        "half": pa.array([np.float16(0.5), None], pa.float16()),
    }
    if int(pa.__version__.split(".")[0]) < 15:  # which cannot store half precision
        columns["half"] = [0.5, None]
    first = {
        "category": "x",
        "whole": 7,
        "large": "u",
        "blob": b"u",
        "lists": ["x", None, "x"],
        "inner": [[1], []],
        "choices": ["x"],
        "bbox": {"xmin": 1.5, "names": ["x"]},
        "boxes": [{"a": 1}, None],
        "small": 1.25,
        "long": "1.25000000000000000000",
        "units": 3,
        "ns": "2017-06-13T12:10:01.123456789",
        "us": "2017-06-13T14:10:01.123456+02:00",
        "ms": "2017-06-13T14:10:01.123000+02:00",
        "s": "1969-12-31T23:59:59",
        "day": "1970-01-01",
        "date": "1969-12-31",
        "clock": "00:00:00.000000001",
        "minute": "00:01:01",
        "half": 0.5,
    }
    second = dict.fromkeys(first) | {"choices": [], "boxes": []}
    rows = read_table(parquet(tmp_path / "t.parquet", columns))
    assert rows == {"A": first, "B": second}
    assert [type(cell) for cell in rows["A"].values()] == [type(cell) for cell in first.values()]
    names = columns.pop("patch_id")
    kinds = {name: cells.type if isinstance(cells, pa.Array) else pa.float64() for name, cells in columns.items()}
    columns = {"patch_id": names} | {name: pa.nulls(2, kind) for name, kind in kinds.items()}
    rows = read_table(parquet(tmp_path / "n.parquet", columns | {"empty": pa.array([[], []], pa.list_(pa.string()))}))
    assert rows == dict.fromkeys("AB", dict.fromkeys(kinds) | {"empty": []})


def test_parquet_in_row_groups(tmp_path):
    """A batch of rows may lie in several row groups, each with its own dictionary of the texts in lists and structs."""
    columns = {
        "patch_id": [f"P{n}" for n in range(30)],
        "labels": [["Pastures", f"{n}"] for n in range(30)],
        "place": [{"country": f"{n}", "codes": [n]} for n in range(30)],
    }
    path = parquet(tmp_path / "t.parquet", columns, row_group_size=7)
    assert read_table(path) == {
        name: {"labels": labels, "place": place} for name, labels, place in zip(*columns.values(), strict=True)
    }


def test_parquet_under_any_name(tmp_path):
    """The name of the file may be bytes that are not UTF-8."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.parquet"
    parquet(tmp_path / "t.parquet", {"patch_id": ["A"], "x": [1]})
    try:
        os.rename(tmp_path / "t.parquet", path)
    except OSError:
        pytest.skip("this file system stores only names in UTF-8")
    assert read_table(os.fsdecode(path)) == {"A": {"x": 1}}


def test_parquet_views(tmp_path):
    """Views of text and of lists, which newer releases of pyarrow store, are read like text and lists."""
    pa = pytest.importorskip("pyarrow", minversion="18")
    columns = {
        "patch_id": pa.array(["A", "B"], pa.string_view()),
        "blob": pa.array([b"x", None], pa.binary_view()),
        "texts": pa.array([["x"], None], pa.list_(pa.string_view())),
        "list": pa.array([["x", "y"], None], pa.list_view(pa.string())),
        "null": pa.nulls(2, pa.string_view()),
    }
    rows = read_table(parquet(tmp_path / "t.parquet", columns))
    assert rows == {
        "A": {"blob": b"x", "texts": ["x"], "list": ["x", "y"], "null": None},
        "B": {"blob": None, "texts": None, "list": None, "null": None},
    }


def test_parquet_whose_index_are_the_names(tmp_path):
    """pandas' index without a name is the patch name if no column is, and passed over otherwise."""
    columns = {"split": ["train", "test"], "__index_level_0__": ["A", "B"]}
    rows = {"A": {"split": "train"}, "B": {"split": "test"}}
    assert read_table(parquet(tmp_path / "t.parquet", columns)) == rows
    assert read_table(parquet(tmp_path / "t.pq", {"patch_id": ["A", "B"], "split": ["train", "test"],
                                                  "__index_level_0__": [5, 6]})) == rows  # fmt: skip


def test_tables_are_what_pandas_reads(tmp_path):
    """Tables written by pandas and geopandas are read with their values."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "patch_id": ["A", "B"],
            "category": pandas.Categorical(["x", "y"], ordered=True),
            "when": pandas.to_datetime(["2017-06-13T12:10:01.123456789", "2018-01-01"], format="ISO8601"),
            "labels": [["Pastures"], ["Airports", "Peatbogs"]],
            "cover": [0.5, 0.25],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet", version="2.6")
    read = pandas.read_parquet(tmp_path / "t.parquet")
    rows = read_table(tmp_path / "t.parquet")
    for place, name in enumerate("AB"):
        cells = read.iloc[place].to_dict()
        assert cells.pop("patch_id") == name
        cells |= {"when": cells["when"].isoformat(), "labels": list(cells["labels"])}
        assert rows[name] == cells
    read.to_csv(tmp_path / "t.csv")
    rows = read_table(tmp_path / "t.csv")
    assert [rows[name]["labels"] for name in "AB"] == [["Pastures"], ["Airports", "Peatbogs"]]
    geopandas = pytest.importorskip("geopandas")
    shapely = pytest.importorskip("shapely")
    points = geopandas.GeoDataFrame(frame, geometry=[shapely.Point(1, 2), shapely.Point(3, 4)], crs=32633)
    points.to_parquet(tmp_path / "g.parquet", write_covering_bbox=True)
    rows = read_table(tmp_path / "g.parquet")
    assert rows["B"]["bbox"] == {"xmin": 3.0, "ymin": 4.0, "xmax": 3.0, "ymax": 4.0}
    assert shapely.from_wkb(rows["B"]["geometry"]) == shapely.Point(3, 4)


MEASURED = """
import sys, tracemalloc
from resource import RUSAGE_CHILDREN, getrusage
from ben_secure.labels.tables import read_table
left_out = {}
read_table(sys.argv[2])
usual = getrusage(RUSAGE_CHILDREN).ru_maxrss

def more():
    # Megabytes that the other process has had, beyond those for a small table.
    return (getrusage(RUSAGE_CHILDREN).ru_maxrss - usual) * (1 if sys.platform == "darwin" else 1024) // 2**20

"""


@pytest.mark.threat("T25")
@pytest.mark.parametrize("schema", [True, False])
def test_a_dictionary_takes_no_more_memory_than_its_values(tmp_path, schema):
    """A text of 100 kB that 4,000 rows share, and others of 1 MB, take a few MB to read."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = 4_000
    places = pa.array([0] * rows, pa.int32())
    columns = {"patch_id": [f"P{n}" for n in range(rows)]}
    columns["country"] = pa.DictionaryArray.from_arrays(places, pa.array(["x" * 100_000]))
    columns["bomb"] = pa.DictionaryArray.from_arrays(places, pa.array(["x" * 1_000_000]))
    columns["list"] = pa.ListArray.from_arrays(
        pa.array(range(rows + 1), pa.int32()), pa.array(["x" * 1_000_000]).dictionary_encode().take(places)
    )
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=schema)
    assert path.stat().st_size < 100_000
    script = (
        MEASURED + "tracemalloc.start(); rows = read_table(sys.argv[1], left_out=left_out); "
        "here = tracemalloc.get_traced_memory()[1] // 2**20; "
        "print(len(rows), *left_out, len(rows['P3999']['country']), here + more())"
    )
    command = [sys.executable, "-c", script, path, parquet(tmp_path / "small.parquet", {"patch_id": ["A"]})]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    *found, megabytes = run.stdout.split()
    assert found == ["4000", "bomb", "list", "100000"]
    assert int(megabytes) < 48


def test_parquet_needs_an_extra_and_csv_does_not(tmp_path, monkeypatch):
    """Without pyarrow a Parquet table is refused with the package to install, and CSV is read."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        read_table(write(tmp_path / "t.parquet", b"PAR1"))
    assert len(read_table(write(tmp_path / "t.csv", CSV))) == 2


def test_pairs_of_a_table():
    """Pairs are the rows that have an ``s1_name``; a table without any is refused."""
    rows = {"A": {"s1_name": "SA"}, "B": {"s1_name": None}, "C": {}, "D": {"s1_name": ""}}
    assert pairs_of(rows) == {"A": "SA"}
    with pytest.raises(TableError, match=r"the metadata table has no pairs; add a column s1_name"):
        pairs_of({"B": {"s1_name": None}})
    with pytest.raises(TableError, match=r"s1_name of patch A in the metadata table is not a text"):
        pairs_of({"A": {"s1_name": 3}})


@pytest.mark.parametrize(
    "content",
    [
        "A\nB\n",
        "A;SA\nB;SB\n",
        "\ufeffpatch;x\r\nA;1\r\nB;2\r\n",
        "A\r\n\r\nB",
        "A,SA\nB,SB\n",
        "s1_name,patch_id\nSA,A\nSB,B\n",
        '"A"\nB \n',
        "\npatch_id;x\nA;1\nB;2\n",
        '"s1\nname",name\nSA,A\nSB,B\n',
    ],
)
def test_names_of_a_split(tmp_path, content):
    """One name a line, the first cell, or the column that a header names."""
    assert read_names(write(tmp_path / "train.csv", content)) == ["A", "B"]


@pytest.mark.threat("T15")
def test_bad_lists_are_refused(tmp_path):
    """A list without names, with duplicate or missing names, or that is not text, is refused by line."""
    for content, message in (
        ("", "it has no patch names"),
        ("A\nB\nA\n", "line 3 names the patch A, and so does an earlier line"),
        ("A\n,x\n", "line 2 has no patch name"),
        (b"A\n\xff\n", "line 2 is not UTF-8"),
    ):
        with pytest.raises(TableError, match=message):
            read_names(write(tmp_path / "train.csv", content))


def test_the_published_splits_are_read(tmp_path):
    """A list in the spelling of the published splits of v1 is read whole."""
    lines = "".join(f"S2A_MSIL2A_20170717T113321_28_{i}\r\n" for i in range(90))
    assert len(read_names(write(tmp_path / "train.csv", lines))) == 90


@pytest.mark.threat("T25")
def test_lists_of_one_number_take_no_memory(tmp_path):
    """A list of 20 million zeros, which is small in the file, is left out unread; a short one is read."""
    pa = pytest.importorskip("pyarrow")
    count = 20_000_000
    zeros = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, "i8")))
    columns = {"patch_id": ["A"], "zeros.of": zeros, "short": [[0] * 1000]}
    path = parquet(tmp_path / "t.parquet", columns)
    script = (
        MEASURED + "rows = read_table(sys.argv[1], left_out=left_out); "
        "print(len(rows['A']['short']), *left_out, more())"
    )
    command = [sys.executable, "-c", script, path, parquet(tmp_path / "small.parquet", {"patch_id": ["A"]})]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    *found, megabytes = run.stdout.split()
    assert found == ["1000", "zeros.of"]
    assert int(megabytes) < 16
    with pytest.raises(
        TableError, match=r"the column zeros\.of cannot be read: its lists have 20,000,000 values per row"
    ):
        read_table(path)
