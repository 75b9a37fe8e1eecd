"""Result files appear whole, or not at all, and never over what is there."""

import os

import pytest

from ben_secure._system.files import write_file


def test_a_file_is_written_and_replaced_only_if_asked(tmp_path):
    """A second write is an error that leaves the first, unless it is asked for."""
    path = tmp_path / "a.png"
    write_file(path, b"one")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(FileExistsError, match=r"a\.png exists, and nothing is overwritten unless you say so \(--force"):
        write_file(path, b"two")
    assert path.read_bytes() == b"one"
    write_file(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_dangling_link_is_not_followed(tmp_path):
    """A link in the way is something that exists; replacing it replaces the link, not what it points to."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="link exists"):
        write_file(tmp_path / "link", b"one")
    write_file(tmp_path / "link", b"one", overwrite=True)
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "link").read_bytes() == b"one"


def test_a_missing_directory_is_an_error(tmp_path):
    """Nothing is made but the file."""
    with pytest.raises(FileNotFoundError, match=r"No such file.*/none/a\.png.$"):
        write_file(tmp_path / "none" / "a.png", b"one")
    assert os.listdir(tmp_path) == []
