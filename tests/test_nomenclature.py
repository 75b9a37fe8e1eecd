"""The published classes and the mapping between them."""

import collections

import pytest

from ben_secure import PatchReader
from ben_secure.labels.nomenclature import BEN_19, CORINE_43, TO_19, to_19

# label_conversion of the authors' label_indices.json: for each of the 19, the indices of the 43 that fall into it.
LABEL_CONVERSION = [
    [0, 1], [2], [11, 12, 13], [14, 15, 16, 18], [17], [19], [20], [21], [22], [23], [24], [25, 31], [26, 27], [28],
    [29], [33, 34], [35, 36], [38, 39], [40, 41, 42],
]  # fmt: skip


def test_there_are_as_many_classes_as_published():
    """43 and 19 different names, and 11 of the 43 are dropped."""
    assert len(set(CORINE_43)) == len(CORINE_43) == 43
    assert len(set(BEN_19)) == len(BEN_19) == 19
    assert sum(new is None for new in TO_19.values()) == 11


def test_the_mapping_is_the_published_one_index_by_index():
    """Index by index, the mapping is ``label_conversion`` of the authors."""
    found = collections.defaultdict(list)
    for place, old in enumerate(CORINE_43):
        if TO_19[old] is not None:
            found[BEN_19.index(TO_19[old])].append(place)
    assert [found[place] for place in range(19)] == LABEL_CONVERSION


def test_tables_cannot_be_changed():
    """The mapping is read-only."""
    with pytest.raises(TypeError):
        TO_19["Airports"] = "Airports"


def test_labels_keep_their_order_and_number():
    """Labels are translated one by one: in order, twice if two fall into one class, dropped ones left out."""
    assert to_19(["Water bodies", "Airports", "Peatbogs", "Inland marshes"]) == [
        "Inland waters",
        "Inland wetlands",
        "Inland wetlands",
    ]
    assert to_19(["Airports", "Bare rock"]) == to_19([]) == []


def test_one_spelling_changes():
    """Of a label that means the same in both, only the slash of the transitional woodland changes."""
    assert to_19(["Transitional woodland/shrub"]) == ["Transitional woodland, shrub"]
    with pytest.raises(KeyError):
        to_19(["Transitional woodland, shrub"])


def test_it_translates_as_the_archives_of_the_field(real_data):
    """In real databases ``new_labels`` is the result of ``to_19`` for ``labels``."""
    for path in sorted(real_data.glob("legacy/*/*.lmdb")):
        with PatchReader(path) as reader:
            for patch in reader.values():
                assert to_19(patch.labels) == patch.new_labels
