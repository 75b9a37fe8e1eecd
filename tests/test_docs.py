"""Every block of the documentation is run, or says why it is not."""

import re

import pytest

from ben_secure import PatchWriter
from ben_secure.demo.tour import make_patch
from support import geotiffs
from support.databases import needs_lmdb_3
from support.documents import PAGES, ROOT, Reader, blocks, fences, parse, to_run

# Pages that another test runs where a framework is installed.
ELSEWHERE = {
    "docs/frameworks.md": "test_frameworks",
    "docs/lightning.md": "test_notebooks",
    "docs/ddp.md": "test_notebooks",
    "docs/torchgeo.md": "test_notebooks",
    "docs/configilm.md": "test_notebooks",
}


def make_team(folder):
    """A database, and a key file that was received."""
    with PatchWriter(folder / "ben.lmdb") as writer:
        writer["a"] = make_patch(0, 0)
    (folder / "team.jwks").write_text('{"keys": [{"kty": "oct", "k": "' + "A" * 43 + '"}]}')


def make_folders(folder):
    """Folders of GeoTIFFs, and a table with a row for one of the patches."""
    names = geotiffs.make_pairs(folder)
    (folder / "s1").rename(folder / "BigEarthNet-S1")
    (folder / "s2").rename(folder / "BigEarthNet-S2")
    (folder / "table.csv").write_text(f"patch_id,country\n{names[0]},Finland\n")


def make_releases(folder):
    """Databases to publish, one of them signed; all of different patches."""
    names = {"train": "30_40", "validation": "a", "test": "b", "more": "c", "patches": "87_48", "ben-1.0": "d"}
    for column, (database, name) in enumerate(names.items()):
        with PatchWriter(folder / f"{database}.lmdb") as writer:
            writer[f"S2A_MSIL2A_20170613T101031_{name}"] = make_patch(column, 0)


INPUTS = {
    "README.md": make_folders,
    "docs/keys.md": make_team,
    "docs/training.md": make_folders,
    "docs/publishing.md": make_releases,
}
"""Makes the files that a page assumes."""

WALKED = [page for page in PAGES if page not in ELSEWHERE and to_run(page)]
SLOW = {"docs/start/administrator.md"}
"""Takes long; the README has the same commands."""
IN_PLACE = {"docs/keys.md", "docs/publishing.md"}
"""Tag a database in place."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW) + [needs_lmdb_3] * (page in IN_PLACE))
        for page in WALKED
    ],
)
def test_a_page_runs(tmp_path, monkeypatch, capsys, page):
    """In an empty folder, every block of a page runs and prints the lines below it."""
    reader = Reader(tmp_path, monkeypatch, capsys)
    INPUTS.get(page, lambda folder: None)(tmp_path)
    reader.run(page)


def test_each_role_has_a_page_that_runs():
    """The four walks are among the pages that run, and the first page links to them."""
    roles = [f"start/{role}.md" for role in ("researcher", "publisher", "administrator", "reviewer")]
    assert {f"docs/{role}" for role in roles} <= {*WALKED}
    for role in roles:
        assert f"({role})" in (ROOT / "docs" / "index.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes(page):
    """Each block is of the form that the reader of pages knows, so it is run or has a reason."""
    assert fences(page) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", ELSEWHERE)
def test_notebooks_run_all_that_is_not_marked(page):
    """Pages for frameworks are run as Python alone, so a command on them is marked."""
    assert {block.kind for block in to_run(page)} == {"python"}


def test_a_block_is_marked_right_above():
    """A reason counts only for the block that follows it."""
    marked = "<!-- not run: no network -->\n```sh\nls\n```\n"
    assert [block.reason for block in parse(marked)] == ["no network"]
    assert [block.reason for block in parse(marked.replace("-->\n", "-->\n\n"))] == [None]
    assert [block.reason for block in parse(marked.replace("no network", ""))] == [None]


@pytest.mark.parametrize("page", PAGES)
def test_marked_blocks_name_files_that_exist(page):
    """A command that is not run still names tests, benchmarks and extras of the repository."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for block in blocks(page):
        for path in re.findall(r"\b(?:tests|benchmarks)/[\w./]+", block.text):
            assert (ROOT / path).exists(), path
        for extras in re.findall(r"'\.\[([a-z,]+)\]'", block.text):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_pictures_are_small_and_used():
    """Each picture of the documentation is on a page and takes at most 100 kB."""
    pages = "".join((ROOT / page).read_text("utf-8") for page in PAGES)
    pictures = [*(ROOT / "docs" / "pictures").iterdir()]
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.stat().st_size <= 100_000
        assert f"pictures/{picture.name})" in pages
