"""Label files of v1, labels of tables, and the metadata that come of both."""

import json

import pytest

from ben_secure.encode.labels import LabelFile, metadata_of, parse_label_file
from ben_secure.labels.nomenclature import BEN_19, CORINE_43, to_19

GOOD = {"labels": ["Pastures", "Peatbogs"], "corresponding_s2_patch": "S2", "projection": "x"}


def parsed(**change):
    """The result of the good label file after changing one field."""
    return parse_label_file(json.dumps(GOOD | change).encode())


def test_a_label_file_gives_labels_and_twin():
    """Labels keep the order of the file; only the file of a Sentinel-1 patch names its pair."""
    assert parsed() == LabelFile(["Pastures", "Peatbogs"], "S2")
    assert parsed(labels=list(CORINE_43)[::-1]).labels == list(CORINE_43)[::-1]
    assert parsed(corresponding_s2_patch=None).s2_name is None


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"\xff{}", "it is not JSON: 'utf-8' codec"),
        # CPython 3.14 bounds the depth by the stack that is left, and may come to the end.
        (b"[" * 60_000, "it is (nested too deep|no JSON)"),
        (b'{"a":' * 12_000, "it is (nested too deep|no JSON)"),
        (b"[" * 60_000 + b"]" * 60_000, "it is (nested too deeply|not a JSON object)"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "it has no list of labels"),
        (b'{"labels": "Pastures"}', "it has no list of labels"),
        (b'{"labels": ["Pastures"], "labels": []}', "an object has a duplicate name"),
        (b'{"labels": ["Pastures", "pastures"]}', "the label 'pastures' is not one of the 43"),
        (b'{"labels": ["Urban fabric"]}', "the label 'Urban fabric' is not one of the 43"),
        (b'{"labels": [["Pastures"]]}', r"the label '\[.*\]' is not one of the 43"),
        (b'{"labels": [7]}', "the label '7' is not one of the 43"),
        (b'{"labels": ["\\u001b[31m"]}', r"x1b\[31m' is not one of the 43"),
        (b'{"labels": ["Pastures", "Pastures"]}', "the label 'Pastures' occurs twice"),
        (b'{"labels": [], "corresponding_s2_patch": ["x"]}', "corresponding_s2_patch is not a text"),
    ],
)
def test_bad_label_files_are_refused(content, message):
    """A file that is not a label file, has duplicates or names an unknown class is refused with its fault."""
    with pytest.raises(ValueError, match=message):
        parse_label_file(content)


def test_labels_are_stored_in_both_nomenclatures():
    """Labels are stored unchanged and in the 19 classes; None means that all were dropped, as in the field."""
    assert metadata_of(LabelFile(["Pastures", "Airports"], None), None, True) == {
        "labels": ["Pastures", "Airports"],
        "new_labels": ["Pastures"],
    }
    assert metadata_of(LabelFile(["Airports"], None), None, True) == {"labels": ["Airports"], "new_labels": None}
    assert metadata_of(LabelFile([], None), None, True) == {"labels": [], "new_labels": []}


def test_labels_of_v2_come_from_the_table():
    """Labels of the 19 classes are stored as both, labels of the 43 are translated; other columns follow."""
    row = {"split": "train", "labels": list(BEN_19), "snow": False}
    stored = metadata_of(None, row, True)
    assert stored == {"labels": list(BEN_19), "new_labels": list(BEN_19), "split": "train", "snow": False}
    assert stored["labels"] is not stored["new_labels"]
    assert metadata_of(None, {"labels": list(CORINE_43)}, True)["new_labels"] == to_19(CORINE_43)


def test_without_labels_only_columns_are_stored():
    """If labels are not wanted, those of file and table are left out, and the other columns stay."""
    row = {"labels": ["Pastures"], "new_labels": ["Pastures"], "split": "train"}
    assert metadata_of(LabelFile(["Pastures"], None), row, False) == {"split": "train"}
    assert metadata_of(None, None, False) == {}


def test_labels_must_be_there_and_agree():
    """Missing labels, other types, and two different sources are refused; two equal sources are accepted."""
    file = LabelFile(["Pastures"], None)
    for cell in (["Pastures"], None, ""):
        assert metadata_of(file, {"labels": cell}, True)["labels"] == ["Pastures"]
    for label_file, row, message in (
        (None, None, "it has no labels"),
        (None, {"split": "train"}, "it has no labels"),
        (None, {"labels": ""}, "it has no labels"),
        (None, {"labels": "['Pastures']"}, r"not a list, expected one such as \["),
        (None, {"labels": ["Pasture"]}, "'Pasture' is not one of the 43"),
        (None, {"labels": ["Pastures", "Pastures"]}, "occurs twice"),
        (file, {"labels": ["Peatbogs"]}, "its labels differ between"),
    ):
        with pytest.raises(ValueError, match=message):
            metadata_of(label_file, row, True)
