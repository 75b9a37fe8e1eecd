"""One walk answers who could exchange a file: each folder and link on the kernel's way to it."""

import os
import stat
import sys

import pytest

from ben_secure._system.exposure import steps_to
from support.owners import owned


@pytest.fixture
def tree(tmp_path):
    """``start/link`` leads through ``middle/link`` to ``end/file``; other users cannot write to any of them."""
    for name in ("start", "middle", "end"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "end" / "file").write_bytes(b"")
    (tmp_path / "end" / "file").chmod(0o644)
    (tmp_path / "middle" / "link").symlink_to("../end/file")
    (tmp_path / "start" / "link").symlink_to(tmp_path / "middle" / "link")
    return tmp_path


def below(tree, path):
    """The steps of the walk inside the tree, by relative path."""
    return [step.path[len(str(tree)) + 1 :] for step in steps_to(str(path)) if step.path.startswith(f"{tree}/")]


def exposed(tree, path):
    """The steps in the tree that group or others can write to."""
    return [
        os.path.relpath(step.path, tree)
        for step in steps_to(str(path))
        if step.writable and step.path.startswith(str(tree))
    ]


@pytest.mark.threat("T11")
def test_each_folder_and_link_on_the_way_is_passed_once(tree, monkeypatch):
    """In the order of the kernel, also those that a resolved path does not have; the file is the last."""
    expected = ["start", "start/link", "middle", "middle/link", "end", "end/file"]
    assert below(tree, tree / "start" / "link") == expected
    assert next(steps_to(str(tree / "start" / "link"))).path == "/"
    monkeypatch.chdir(tree / "start")
    assert below(tree, "link") == expected
    assert below(tree, "../start/./link") == expected


@pytest.mark.threat("T11")
@pytest.mark.parametrize("name", ["start", "middle", "end", "end/file", "."])
def test_whatever_others_can_write_to_is_seen(tree, name):
    """A folder between two links is found, too; nothing is found if only the owner can write."""
    assert exposed(tree, tree / "start" / "link") == []
    for bits in (0o020, 0o002):
        mode = stat.S_IMODE((tree / name).stat().st_mode)
        (tree / name).chmod(mode | bits)
        assert exposed(tree, tree / "start" / "link") == [name]
        (tree / name).chmod(mode)


@pytest.mark.threat("T11")
def test_a_link_in_a_sticky_folder_belongs_to_who_made_it(tree, monkeypatch):
    """Its owner can exchange it there; in a folder that others cannot write to, a link of any owner is safe."""
    (tree / "start").chmod(0o1777)
    owned(monkeypatch, 1000, link=1001)
    foreign = [step.path for step in steps_to(str(tree / "start" / "link")) if step.foreign({0, 1000})]
    assert foreign == [str(tree / "start" / "link")]
    assert [step.path for step in steps_to(str(tree / "start" / "link")) if step.foreign({0, 1001})] == []
    assert exposed(tree, tree / "start" / "link") == []


@pytest.mark.threat("T11")
def test_links_without_end_are_an_error(tree):
    """The error is that of the kernel, and so is the error for a missing file."""
    (tree / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        list(steps_to(str(tree / "loop")))
    with pytest.raises(FileNotFoundError):
        list(steps_to(str(tree / "nowhere")))
    (tree / "chain 0").symlink_to("end/file")
    for n in range(1, 41):
        (tree / f"chain {n}").symlink_to(f"chain {n - 1}")
    assert below(tree, tree / "chain 39")[-1] == "end/file"
    with pytest.raises(OSError, match="symbolic links"):
        list(steps_to(str(tree / "chain 40")))
    if sys.platform == "linux":  # other kernels have other numbers
        os.stat(tree / "chain 39")
        with pytest.raises(OSError, match="symbolic links"):
            os.stat(tree / "chain 40")
