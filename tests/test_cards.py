"""Notebooks show pictures, names and labels of patches, readers and datasets, and never run content of a file."""

import html.parser
import subprocess
import sys

import numpy as np
import pytest

from ben_secure import BigEarthNet_S1_S2_Patch, BigEarthNetPatch, PatchReader
from ben_secure.batches import PatchArrays
from ben_secure.errors import printable
from ben_secure.patches import Band
from ben_secure.store.pairs import PairedReader
from ben_secure.view.cards import completions
from support.databases import make_database
from support.patch_databases import database, patches
from support.strategies import make_patch

EVIL = "</td><script>alert(1)</script>\x1b[2J\u202e"


class Elements(html.parser.HTMLParser):
    """The names of all elements, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.text += data + "\n"


def shown(thing):
    """The card of a thing, which runs nothing and fetches nothing."""
    text = thing._repr_html_()
    elements = Elements(text)
    assert {*elements.names} <= {"div", "b", "table", "tr", "th", "td", "p", "span", "br", "img"}
    assert {*elements.attributes} <= {"style", "alt", "width", "src", "colspan"}
    assert text.count("src=") == text.count('src="data:image/png;base64,')
    assert elements.text.replace("\n", "").isprintable()
    assert elements.text.isascii()
    return elements


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return database(tmp_path_factory.mktemp("cards") / "db", patches(6))


def test_a_patch():
    """The card has the class, bands by resolution, metadata, and a picture."""
    card = shown(make_patch(BigEarthNet_S1_S2_Patch, labels=["Pastures", "Airports"], country="Österreich"))
    lines = card.text.split("\n")
    assert lines[0] == "BigEarthNet_S1_S2_Patch"
    assert lines[lines.index("10 m") + 1] == "B02, B03, B04, B08, VH, VV"
    assert lines[lines.index("labels") + 1] == "Pastures, Airports"
    assert lines[lines.index("country") + 1] == r"\xd6sterreich"
    assert card.names.count("img") == 1


def test_readers_and_datasets(path):
    """The card has the database, the number of patches, and the first patches with labels."""
    reader = PatchReader(path)
    arrays = PatchArrays([reader], split=["patch 5", "patch 1"], labels=None)
    for thing, count, first in ((reader, 6, "patch 0"), (arrays, 2, "patch 5")):
        card = shown(thing)
        lines = card.text.split("\n")
        assert lines[0].startswith(printable(repr(thing))[:40])
        assert lines[lines.index("patches") + 1] == str(count)
        assert lines[lines.index("verified") + 1] == "nothing"
        assert card.names.count("img") == min(count, 4)
        place = lines.index(first)
        assert lines[place + 1] == "Pastures, Non-irrigated arable land, Airports"


@pytest.mark.threat("T24")
def test_what_a_file_says_is_text(tmp_path):
    """Names, metadata, its names, and messages are escaped; the same names without markup are shown as they are."""
    shown_evil = r"</td><script>alert(1)</script>\x1b[2J\u202e"
    for word, band, shows in ((EVIL, "</td><script>", shown_evil), ("plain", "band", "plain")):
        bands = [Band(name=band, spatial_resolution=10, data_shape=(2, 2), data=np.zeros((2, 2)))]
        patch = BigEarthNetPatch(bands, **{word: word, "labels": [word]})
        assert shown(patch).text.count(shows) == 3
        assert band in shown(patch).text
        values = {word.encode(): patch.dumps(), word.encode() + b"2": b"no patch"}
        folder = tmp_path / word.encode().hex()
        assert shows in shown(PatchReader(make_database(folder, values))).text
        assert "not a pickle" in shown(PatchReader(folder)).text


@pytest.mark.threat("T24")
def test_it_is_bounded():
    """However much metadata there is, and however large the bands."""
    rows = {f"name {number}": "x" * 10_000 for number in range(100)}
    patch = make_patch(BigEarthNet_S1_S2_Patch, **rows)
    assert len(patch._repr_html_()) < 100_000
    assert "and 91 more" in shown(patch).text
    bands = [Band(name=name, spatial_resolution=10, data_shape=shape, data=np.zeros(shape, "u1"))
             for name, shape in (("B02", (1, 3000)), ("B03", (3000, 1)), ("B04", (1, 1)))]  # fmt: skip
    assert len(BigEarthNetPatch(bands)._repr_html_()) < 100_000


def test_what_cannot_be_read_is_said(tmp_path, path):
    """A name that is not text, and a reader that is closed."""
    make_database(tmp_path / "db", {b"\xff": b"x"})
    assert "is not UTF-8" in shown(PatchReader(tmp_path / "db")).text
    reader = PatchReader(path)
    reader.close()
    assert "PatchReader" in shown(reader).text


def test_without_pillow_there_is_no_picture(path):
    """The rest of the card is unchanged."""
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from ben_secure import PatchReader\n"
        f"text = PatchReader({str(path)!r})._repr_html_()\n"
        "assert 'patch 0' in text and '<img' not in text\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_completed(tmp_path, path):
    """Those that can be typed, and not without end."""
    assert PatchReader(path)._ipython_key_completions_() == [f"patch {number}" for number in range(6)]
    make_database(tmp_path / "db", {b"good": b"x", b"go\x1bod": b"x"})
    assert PatchReader(tmp_path / "db")._ipython_key_completions_() == ["good"]
    assert len(completions(map(str, range(200_000)))) == 100_000


def test_a_pair(tmp_path):
    """The card of a pair is like that of any reader."""
    found = patches(1)
    merged = found["patch 0"]
    reader = PatchReader(database(tmp_path / "db", {"S2": merged.s2_patch, "S1": merged.s1_patch}))
    paired = PairedReader(reader, {"S2": "S1"})
    assert shown(paired).names.count("img") == 1
    assert paired._ipython_key_completions_() == ["S2"]
