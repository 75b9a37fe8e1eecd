"""The patch folders in a directory, and the files of each."""

import os

import pytest

from ben_secure.encode import folders
from ben_secure.encode.folders import FileProblem, find_patches, read_files
from support.geotiffs import S1_NAME, S2_NAME, label_file, make_patch

NAME = S2_NAME.format(1, 2)
V2_SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"


def found(root):
    """Patches and problems by name; None for files of other programs."""
    return {
        patch.name: None if patch.litter else patch.problem or os.path.relpath(patch.folder, root)
        for patch in find_patches(str(root))
    }


def test_both_layouts_are_found(tmp_path):
    """Patch folders of v1, and those in the scene folders of v2, are found for both sensors."""
    s1, s1_scene = S1_NAME.format(1, 2), "S1A_IW_GRDH_1SDV_20170613T165043"
    for path in (NAME, f"{V2_SCENE}/{V2_SCENE}_26_57", s1, f"{s1_scene}/{s1_scene}_33UUP_65_63", "S2_made_by_hand"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "S2_made_by_hand" / "x_B01.tif").touch()
    (tmp_path / "metadata.csv").touch()
    (tmp_path / ".cache").mkdir()
    assert found(tmp_path) == {
        NAME: NAME,
        f"{V2_SCENE}_26_57": f"{V2_SCENE}/{V2_SCENE}_26_57",
        s1: s1,
        f"{s1_scene}_33UUP_65_63": f"{s1_scene}/{s1_scene}_33UUP_65_63",
        "S2_made_by_hand": "S2_made_by_hand",
    }


@pytest.mark.threat("T15")
def test_links_and_strangers_are_reported(tmp_path):
    """A link to a patch or scene is not followed, and a folder that is neither is not passed over in silence."""
    (tmp_path / "elsewhere" / NAME).mkdir(parents=True)
    root = tmp_path / "root"
    (root / V2_SCENE).mkdir(parents=True)
    (root / NAME).symlink_to(tmp_path / "elsewhere" / NAME)
    (root / "S2A_MSIL2A_20170613T101031").symlink_to(tmp_path / "elsewhere")
    (root / V2_SCENE / f"{V2_SCENE}_1_1").symlink_to(tmp_path / "elsewhere" / NAME)
    (root / "notes").mkdir()
    link = "it is a link, and links are not followed"
    assert found(root) == {
        NAME: link,
        "S2A_MSIL2A_20170613T101031": link,
        f"{V2_SCENE}_1_1": link,
        "notes": "it is not a patch or scene folder",
    }


LITTER = (
    "._x",
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
    "@Recycle",
)


@pytest.mark.parametrize("name", LITTER)
def test_what_other_programs_leave_is_passed_over(tmp_path, name):
    """Folders, files and links of macOS, Windows, a NAS or a file system are counted and nothing of them is read."""
    root = tmp_path / "root"
    for place in (root, root / V2_SCENE):
        (place / name).mkdir(parents=True)
        (place / name / "x_B02.tif").touch()
    (root / V2_SCENE / f"{V2_SCENE}_1_1").mkdir()
    (root / "._link").symlink_to(tmp_path)
    (root / f"._{NAME}").touch()
    expected = {f"{V2_SCENE}_1_1": f"{V2_SCENE}/{V2_SCENE}_1_1", "._link": None, f"._{NAME}": None, name: None}
    assert found(root) == expected
    assert len(list(find_patches(str(root)))) == 5
    (root / "other").mkdir()
    assert found(root)["other"] == "it is not a patch or scene folder"


def test_files_of_other_programs_are_passed_over(tmp_path):
    """Files of macOS and reference maps beside a band are counted; a band's own file is not."""
    folder, _ = make_patch(tmp_path, NAME)
    plain = read_files(str(folder))
    (folder / f"._{NAME}_B02.tif").write_bytes(b"\0\5\x16\7")
    (folder / f"._{label_file(folder).name}").touch()
    (folder / f"{NAME}_reference_map.tif").touch()
    (folder / "@eaDir").mkdir()
    files = read_files(str(folder))
    assert (plain.passed_over, files.passed_over) == (0, 4)
    assert (files.bands, files.label_file) == (plain.bands, plain.label_file)


def test_a_patch_folder_gives_its_files_whole(tmp_path):
    """The result has the bands by the suffix of their files and the label file, and no other files."""
    folder, arrays = make_patch(tmp_path, NAME)
    (folder / "B02.aux.xml").touch()
    files = read_files(str(folder))
    assert list(files.bands) == sorted(arrays)
    for band, (file_name, content) in files.bands.items():
        assert content == (folder / file_name).read_bytes()
        assert file_name == f"{NAME}_{band}.tif"
    assert files.label_file == (label_file(folder).name, label_file(folder).read_bytes())
    assert read_files(str(folder), label_file=False).label_file is None
    assert read_files(str(folder), pixels=False).bands == {}


def _replace_by_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def _replace_by_folder(path):
    path.unlink()
    path.mkdir()


def _swell(path):
    os.truncate(path, folders.geotiff.MAX_FILE_BYTES + 1)


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_replace_by_link, "it is a link, and links are not followed"),
        (_replace_by_pipe, "it is not a regular file"),
        (_replace_by_folder, "it is not a regular file"),
        (_swell, r"it has 4194305 bytes, expected at most"),
        (lambda path: path.with_name("x_B02.TIF").touch(), r"it is a second file of B02, beside"),
        (lambda path: path.with_name("x_B10.tif").touch(), r"does not end in a known band"),
        (lambda path: path.with_name("x_b02.tif").touch(), r"does not end in a known band"),
        (lambda path: path.with_name("x_labels_metadata.json").touch(), r"it is a second label file"),
    ],
)
def test_only_small_regular_files_of_known_bands_are_read(tmp_path, harm, message):
    """Links, pipes, folders, giants, doubles and strangers among the files are refused by name, without waiting."""
    folder, _ = make_patch(tmp_path, NAME)
    assert len(read_files(str(folder)).bands) == 12
    harm(folder / f"{NAME}_B02.tif")
    with pytest.raises(FileProblem, match=message) as caught:
        read_files(str(folder))
    assert caught.value.file_name


@pytest.mark.threat("T15")
def test_a_folder_has_few_files(tmp_path, monkeypatch):
    """The number of files in a patch folder is bounded."""
    folder, _ = make_patch(tmp_path, NAME)
    monkeypatch.setattr(folders, "_MAX_ENTRIES", 13)
    read_files(str(folder))
    monkeypatch.setattr(folders, "_MAX_ENTRIES", 12)
    with pytest.raises(FileProblem, match="it contains 13 files"):
        read_files(str(folder))
