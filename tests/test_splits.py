"""Splits and exclusions: a list or a table selects the patches; ambiguous input is refused."""

import re

import pytest

from ben_secure import BigEarthNet_S1_Patch, PatchFormatError, TableError
from ben_secure.batches import PatchArrays
from ben_secure.labels.nomenclature import BEN_19
from support.patch_databases import database, patches
from support.strategies import make_patch

TABLE = """patch_id,split,contains_seasonal_snow,contains_cloud_or_shadow
patch 4,train,False,False
patch 0,train,False,True
patch 1,test,False,False
patch 2,validation,True,False
patch 3,train,True,True
"""
SNOW, CLOUD = "contains_seasonal_snow", "contains_cloud_or_shadow"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Patches 0 to 4."""
    return database(tmp_path_factory.mktemp("splits") / "db", patches(5, BigEarthNet_S1_Patch))


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path):
    return write_table(tmp_path / f"metadata.{request.param}", TABLE)


def write_table(file, text):
    """As CSV, or as Parquet with bools."""
    if file.suffix == ".csv":
        file.write_text(text)
        return file
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    header, *rows = [line.split(",") for line in text.splitlines()]
    plain = {"True": True, "False": False, "": None}
    columns = {name: [plain.get(row[at], row[at]) for row in rows] for at, name in enumerate(header)}
    pq.write_table(pa.table(columns), file)
    return file


def chosen(path, **options):
    return [name.removeprefix("patch ") for name in PatchArrays(path, bands="S1", **options).names]


class TestTables:
    """A metadata table says which patches are in a split, and which are to be left out."""

    def test_a_split_by_its_name(self, path, table):
        """In key order, for any order of the table."""
        assert chosen(path, split="train", table=table) == ["0", "3", "4"]
        assert chosen(path, split="test", table=str(table)) == ["1"]
        assert chosen(path, split="validation", table=[table]) == ["2"]

    def test_columns_exclude(self, path, table):
        """From a split, a list, or all patches; by one column or both, and by names."""
        assert chosen(path, split="train", table=table, exclude=CLOUD) == ["4"]
        assert chosen(path, split="train", table=table, exclude=[SNOW]) == ["0", "4"]
        assert chosen(path, table=table, exclude=SNOW) == ["0", "1", "4"]
        assert chosen(path, table=table, exclude=(SNOW, CLOUD, "patch 1")) == ["4"]
        assert chosen(path, split=["patch 3", "patch 1", "patch 0"], table=table, exclude=[SNOW]) == ["1", "0"]

    def test_several_tables(self, path, tmp_path):
        """As BigEarthNet v2 has a second table for patches with snow or clouds."""
        header, *rows = TABLE.splitlines(keepends=True)
        tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
        tables[0].write_text(header + "".join(rows[:2]))
        tables[1].write_text(header + "".join(rows[2:]))
        assert chosen(path, split="train", table=tables) == ["0", "3", "4"]
        tables[1].write_text(header + "".join(rows[1:]))
        with pytest.raises(ValueError, match="patch 0 is in two of the tables"):
            chosen(path, split="train", table=tables)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "table= has no effect without a named split, exclude= or"),
            ({"split": ["patch 1"]}, "table= has no effect without a named split, exclude= or"),
            ({"split": "val"}, "does not have the split 'val'; its splits are train, test, validation"),
            ({"split": "train", "exclude": ["patch 9"]}, "exclude names the patch patch 9, which is not in"),
            ({"split": "test", "exclude": ["patch 1"]}, "leave no patch of"),
        ],
    )
    def test_what_a_table_does_not_say_is_refused(self, path, table, options, message):
        """With any other arguments."""
        with pytest.raises(ValueError, match=message):
            chosen(path, table=table, **options)
        assert chosen(path, table=table, split="test", exclude=["patch 0"]) == ["1"]

    def test_patches_that_the_database_lacks_are_missed(self, path, tmp_path):
        """They are an error unless excluded; patches that the table lacks have no split and no columns."""
        more = write_table(tmp_path / "more.csv", TABLE + "patch 5,train,False,True\n")
        with pytest.raises(ValueError, match=r"1 of the 4 patches of the split are not in .*for example patch 5"):
            chosen(path, split="train", table=more)
        assert chosen(path, split="train", table=more, exclude=CLOUD) == ["4"]
        fewer = write_table(tmp_path / "fewer.csv", TABLE.replace("patch 3,train,True,True\n", ""))
        assert chosen(path, split="train", table=fewer) == ["0", "4"]
        with pytest.raises(ValueError, match="the table has no row for the patch patch 3"):
            chosen(path, table=fewer, exclude=CLOUD)

    @pytest.mark.parametrize("cell", ["maybe", "", "2"])
    def test_a_flag_is_yes_or_no(self, path, tmp_path, cell):
        """Anything else is neither."""
        bad = TABLE.replace("patch 1,test,False", f"patch 1,test,{cell}")
        with pytest.raises(ValueError, match=f"the table has '{cell}' in {SNOW} for the patch patch 1"):
            chosen(path, table=write_table(tmp_path / "t.csv", bad), exclude=SNOW)
        for yes in ("true", "1", "True"):
            good = TABLE.replace("patch 1,test,False", f"patch 1,test,{yes}")
            assert chosen(path, table=write_table(tmp_path / "t.csv", good), exclude=SNOW) == ["0", "4"]

    def test_a_column_needs_its_table(self, path):
        """It is not taken for a file."""
        with pytest.raises(ValueError, match=f"'{CLOUD}' is a column of a metadata table; name the table"):
            chosen(path, exclude=CLOUD)
        with pytest.raises(ValueError, match=r"split='train' is not a file; .* pass table="):
            chosen(path, split="train")


class TestLabels:
    """Labels of a table, for databases of patches without labels."""

    @pytest.fixture
    def table(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        names = [f"patch {place}" for place in (4, 2, 0, 1)]
        labels = [["Pastures"], ["Arable land", "Pastures"], ["Pastures"], None]
        pq.write_table(pa.table({"patch_id": names, "labels": labels, "split": list("aaab")}), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    @pytest.fixture
    def bare(self, tmp_path):
        found = {name: make_patch(BigEarthNet_S1_Patch) for name in patches(5)}
        return database(tmp_path / "bare", found)

    def test_labels_come_from_the_table(self, path, bare, table):
        """If that is asked for, also in the place of those that patches have; rows are looked up by name."""
        for source, kind in ((bare, "names"), (path, "names"), (bare, "multi-hot-19")):
            options = {"table": table, "split": "a", "bands": "S1", "fill": 0, "labels": kind}
            labels = PatchArrays(source, labels_from="table", **options)[:][1]
            wanted = [("Pastures",), ("Arable land", "Pastures"), ("Pastures",)]
            if kind == "names":
                assert labels == wanted
            else:
                assert [{BEN_19[place] for place in row.nonzero()[0]} for row in labels] == list(map(set, wanted))
        with pytest.raises(PatchFormatError, match=r"no labels; .*labels_from='table'"):
            PatchArrays(bare, bands="S1", fill=0)[0]
        assert PatchArrays(path, bands="S1", labels="names")[0][1] != ("Pastures",)

    def test_a_patch_without_labels_is_named(self, bare, table, tmp_path):
        """No row, no list in it, or no table at all."""
        for options, name in (({"split": "b"}, 1), ({"exclude": ["patch 1"]}, 3)):
            with pytest.raises(ValueError, match=f"no list of labels for the patch patch {name}"):
                PatchArrays(bare, table=table, labels_from="table", **options)
        text = write_table(tmp_path / "t.csv", "patch_id,labels\npatch 0,Pastures\n")
        with pytest.raises(ValueError, match="no list of labels for the patch patch 0"):
            PatchArrays(bare, table=text, labels_from="table", split=["patch 0"])
        for options in ({"labels_from": "table"}, {"labels_from": "both", "table": table}):
            with pytest.raises(ValueError, match="labels_from must be patch, or table with table="):
                PatchArrays(bare, **options)
        assert len(PatchArrays(bare, table=table, labels_from="table", exclude=["patch 1", "patch 3"])) == 3


class TestLists:
    """A file of names is accepted in any form; a table of several splits is not."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("train.csv", "patch 3\npatch 0\n"),
            ("train.txt", "patch 3\n\npatch 0"),
            ("train.csv", "patch 3,S1 a\npatch 0,S1 b\n"),
            ("train.csv", "country,patch_id\nSerbia,patch 3\nIreland,patch 0\n"),
            ("train.csv", "patch,split\npatch 3,train\npatch 0,train\n"),
            ("train.parquet", "patch_id,split\npatch 3,train\npatch 0,train\n"),
            ("train.parquet", "patch_id,country\npatch 3,Serbia\npatch 0,Ireland\n"),
        ],
    )
    def test_a_file_of_names(self, path, tmp_path, name, text):
        """With or without a header, in the order of the file; to use or to leave out."""
        file = tmp_path / name
        write_table(file, text) if file.suffix == ".parquet" else file.write_text(text)
        for given in (file, str(file)):
            assert chosen(path, split=given) == ["3", "0"]
            assert chosen(path, exclude=given) == ["1", "2", "4"]

    def test_a_table_of_several_splits_is_no_list(self, path, table):
        """Train and test are not taken together without a word."""
        for options in ({"split": table}, {"exclude": str(table)}):
            with pytest.raises(
                ValueError, match=r"metadata.* has patches of several splits \(train, test, validation\)"
            ):
                chosen(path, **options)

    def test_a_header_that_is_not_known_is_named(self, path, tmp_path):
        """It would be the name of a missing patch."""
        file = tmp_path / "train.csv"
        file.write_text("Sentinel-2 patch\npatch 1\n")
        with pytest.raises(ValueError, match="example Sentinel-2 patch; if this is a header, name its column"):
            chosen(path, split=file)
        file.write_text("patch 1\npatch 7\n")
        with pytest.raises(ValueError, match=re.escape("example patch 7; add the database")):
            chosen(path, split=file)

    def test_published_lists_exclude_what_is_there(self, path, tmp_path):
        """They name patches of the whole dataset; a name that the caller writes has to be there."""
        file = tmp_path / "patches_with_seasonal_snow.csv"
        file.write_text("patch 1\npatch 77\n")
        assert chosen(path, exclude=file) == ["0", "2", "3", "4"]
        assert chosen(path, exclude=["patch 1"]) == ["0", "2", "3", "4"]
        with pytest.raises(ValueError, match="exclude names the patch patch 77"):
            chosen(path, exclude=["patch 1", "patch 77"])
        with pytest.raises(TypeError, match="exclude must hold names of patches as str"):
            chosen(path, exclude=[1])

    def test_nothing_left_is_refused(self, path, tmp_path):
        """A missing file is refused, too."""
        with pytest.raises(ValueError, match=r"leave no patch of"):
            chosen(path, split=["patch 1"], exclude=["patch 1"])
        with pytest.raises(TableError, match=r"train.csv: No such file"):
            chosen(path, split=tmp_path / "train.csv")
