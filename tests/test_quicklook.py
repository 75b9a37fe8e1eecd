"""Composites and contact sheets: right way up, right colours, bounded, and escaped."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from ben_secure.errors import StoreError
from ben_secure.patches import (
    Band,
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    BigEarthNetPatch,
)
from ben_secure.view.quicklook import KINDS, MAX_SIDE, common_stretch, contact_sheet, look, to_png
from support.strategies import make_patch, patches

RED, GREEN, BLUE = range(3)


def generic(**arrays):
    """A patch of bands of any name and shape."""
    bands = [Band(name=name, spatial_resolution=10, data_shape=a.shape, data=a) for name, a in arrays.items()]
    return BigEarthNetPatch(bands)


def composite(patch, kind=None):
    """The pixels of a composite."""
    return patch.quicklook(kind).image


def ramp(shape=(4, 5), dtype="<u2", start=0):
    """Numbers that grow from the upper left to the lower right."""
    return (np.arange(int(np.prod(shape))).reshape(shape) + start).astype(dtype)


def picture(rows=6, columns=8, colour=(200, 100, 50)):
    """A picture of one colour."""
    return np.full((rows, columns, 3), colour, np.uint8)


def decoded(png):
    """The pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize(
    ("cls", "kind"),
    [(BigEarthNet_S1_Patch, "radar"), (BigEarthNet_S2_Patch, "true-colour"), (BigEarthNet_S1_S2_Patch, "true-colour")],
)
def test_the_default_follows_the_bands(cls, kind):
    """A patch with the bands of true colour gets it, and a radar patch gets radar."""
    patch = make_patch(cls)
    assert patch.quicklook().kind == kind
    assert patch.quicklook().image.shape == (120, 120, 3)
    assert np.array_equal(patch.quicklook().image, composite(patch, kind))


@pytest.mark.parametrize("kind", ["true-colour", "infrared", "swir"])
def test_each_band_has_its_colour_and_the_first_row_stays_up(kind):
    """The bright corner of a band is bright in the band's colour, in the same corner."""
    for place, bright in enumerate(KINDS[kind]):
        arrays = {name: np.zeros((10, 10), "<u2") for name in KINDS[kind]}
        arrays[bright][0, 1] = 900
        image = composite(generic(**arrays), kind)
        assert image[0, 1, place] == 255
        assert image[:, :, place].astype(int).sum() == 255
        assert image[0, 1].argmax() == place


def test_true_colour_keeps_the_hue_and_the_others_stretch_each_band():
    """One stretch over three bands leaves a dim blue dim; a stretch for each band makes it bright."""
    arrays = {"B04": ramp(), "B03": ramp(), "B02": ramp() // 4, "B08": ramp() // 4}
    patch = generic(**arrays)
    assert composite(patch, "true-colour")[-1, -1, BLUE] < 80 < composite(patch, "true-colour")[-1, -1, RED]
    assert composite(patch, "infrared")[-1, -1, RED] == 255


def test_blue_of_radar_is_the_ratio():
    """VV - VH in decibel: where the two differ most, blue is brightest."""
    vv, vh = np.zeros((3, 3), "<f4"), np.zeros((3, 3), "<f4")
    vv[0], vh[0], vh[1] = 10, -10, 5
    image = composite(generic(VV=vv, VH=vh), "radar")
    assert image[:, 0, BLUE].tolist() == [255, 0, pytest.approx(51, abs=1)]
    assert image[0, 0].tolist() == [255, 0, 255]


def test_bands_are_brought_to_the_finest_by_nearest():
    """A pixel of a coarse band covers the block of fine pixels that it measures."""
    coarse, fine = ramp((2, 2)), ramp((6, 6))
    image = composite(generic(B12=coarse, B8A=ramp((3, 3)), B04=fine), "swir")
    red = image[:, :, RED]
    assert image.shape == (6, 6, 3)
    assert np.array_equal(red, red[::3, ::3].repeat(3, axis=0).repeat(3, axis=1))
    assert len(np.unique(image[:, :, BLUE])) > len(np.unique(red)) == 4


def test_percentiles_are_drawn_black_and_white_and_the_rest_between():
    """2 % of the pixels on each side are clipped, and the middle is mid-grey."""
    image = composite(generic(VV=ramp((10, 100), "<f4"), VH=ramp((10, 100), "<f4")), "radar")[:, :, RED].ravel()
    assert 15 <= (image == 0).sum() <= 25
    assert 15 <= (image == 255).sum() <= 25
    assert image[500] in (127, 128)
    assert (np.diff(image.astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_band_without_contrast_is_grey(value):
    """A constant band neither divides by zero nor shows noise."""
    flat = np.full((4, 4), value, "<u2")
    assert (composite(generic(B04=flat, B03=flat, B02=flat)) == 128).all()


def test_nan_is_black_and_does_not_count():
    """NaN and infinities leave the stretch of the other pixels as it is."""
    clean = ramp((4, 100), "<f4")
    holes = clean.copy()
    holes[0, 50], holes[1, 50], holes[2, 50] = np.nan, np.inf, -np.inf
    images = [composite(generic(VV=vv, VH=clean), "radar")[:, :, RED] for vv in (clean, holes)]
    assert images[1][0, 50] == 0
    assert images[1][1, 50] == 255
    assert images[1][2, 50] == 0
    assert np.abs(np.delete(images[0], 50, 1).astype(int) - np.delete(images[1], 50, 1)).max() <= 1
    assert (composite(generic(VV=np.full((2, 2), np.nan, "<f4"), VH=clean), "radar")[:, :, RED] == 0).all()


@given(patches())
def test_any_patch_is_drawn_or_refused_with_a_reason(patch):
    """For any numbers in a patch, the result is a picture without a warning, or a ValueError that lists bands."""
    for kind in KINDS:
        if {band.name for band in patch.bands}.issuperset(KINDS[kind]):
            image = composite(patch, kind)
            assert image.dtype == np.uint8
            assert image.ndim == 3
        else:
            with pytest.raises(ValueError, match=r"takes bands .*, and this patch has "):
                composite(patch, kind)


@pytest.mark.threat("T2")
def test_long_sides_are_sampled():
    """A wide and a high band together do not make a picture of all their rows and columns."""
    long = generic(B04=np.zeros((16384, 1), "<u2"), B03=np.zeros((1, 16384), "<u2"), B02=np.zeros((1, 1), "<u2"))
    assert composite(long).shape == (MAX_SIDE, MAX_SIDE, 3)


def test_missing_bands_are_named():
    """The error names the missing bands, the existing ones and the possible composites."""
    with pytest.raises(
        ValueError, match="infrared takes bands B08, B04, B03, and this patch has VH, VV, so choose radar"
    ):
        make_patch(BigEarthNet_S1_Patch).quicklook("infrared")
    assert make_patch(BigEarthNet_S2_Patch).quicklook("infrared").kind == "infrared"
    with pytest.raises(ValueError, match=r"unknown, expected one of true-colour, infrared, swir, radar"):
        make_patch().quicklook("ndvi\x1b")
    with pytest.raises(ValueError, match=r"true-colour takes bands B04, B03, B02, and this patch has x\\x1b$"):
        look({"x\x1b": ramp()})


def test_png_is_lossless_and_repeatable(tmp_path):
    """A PNG has exactly the picture; a scale repeats pixels, and pictures for people are scaled."""
    quicklook = make_patch().quicklook()
    assert np.array_equal(decoded(to_png(quicklook.image)), quicklook.image)
    assert np.array_equal(decoded(to_png(quicklook.image, scale=3))[::3, ::3], quicklook.image)
    assert to_png(quicklook.image) == to_png(quicklook.image)
    assert decoded(quicklook._repr_png_()).shape == (480, 480, 3)
    quicklook.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == quicklook._repr_png_()
    with pytest.raises(StoreError, match=r"a\.png exists and is not overwritten"):
        make_patch().quicklook("swir").save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == quicklook._repr_png_()
    make_patch().quicklook("swir").save(tmp_path / "a.png", overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == make_patch().quicklook("swir")._repr_png_()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_large_picture_is_not_enlarged():
    """A picture as large as a screen is written unscaled."""
    picture = generic(VV=ramp((481, 2), "<f4"), VH=ramp((481, 2), "<f4")).quicklook()
    assert decoded(picture._repr_png_()).shape == (481, 2, 3)


def test_one_stretch_makes_pictures_comparable():
    """With the stretch of another picture, equal values have equal brightness; without it, each has the full range."""
    dark, bright = (ramp(start=start) for start in (0, 100))
    pictures = [look(dict.fromkeys(("VV", "VH"), band)) for band in (dark, bright)]
    assert np.array_equal(pictures[0].image[..., 0], pictures[1].image[..., 0])
    again = look(dict.fromkeys(("VV", "VH"), bright), stretch=pictures[0].stretch)
    assert (again.image[..., 0] == 255).all()
    assert again.stretch == pictures[0].stretch


def test_the_common_stretch_is_that_of_most():
    """The median of the limits: one bright patch changes nothing, one without contrast does not count."""
    *usual, snow = [look({"VV": ramp(dtype="f4", start=n), "VH": ramp(dtype="f4")[::-1]}) for n in (1, 2, 3, 9000)]
    flat = look(dict.fromkeys(("VV", "VH"), ramp() * 0))
    assert common_stretch(usual) == usual[1].stretch
    assert common_stretch([*usual[1:], usual[2], snow]) == usual[2].stretch
    assert common_stretch([flat, usual[0]]) == usual[0].stretch
    assert common_stretch([flat]) == flat.stretch


def test_a_sheet_shows_every_picture_with_its_texts():
    """Pictures of any size are on the sheet in order, row by row, and name and note below them."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)]
    images = [picture(rows, 8, colour) for rows, colour in zip((8, 4, 100, 8), colours, strict=True)]
    sheet = contact_sheet([*zip(["one", "two", "three", "four"], ["a", "b", "b", "b"], images, strict=True)])
    assert [tuple(sheet[centre]) for centre in [(128, 128), (128, 376), (128, 624), (402, 128)]] == colours
    name, note = slice(248, 261), slice(263, 274)
    assert (sheet[name, 8:40] < 100).any()
    assert not np.array_equal(sheet[name, 8:248], sheet[name, 256:496])
    assert (sheet[note, 8:40] < 100).any()
    assert not np.array_equal(sheet[note, 8:248], sheet[note, 256:496])
    assert np.array_equal(sheet[note, 256:496], sheet[note, 504:744])
    assert (sheet[248:274, 248:256] == 255).all()


def test_the_texts_of_a_sheet_are_bounded():
    """A long name and a long note have two lines each, and a sheet without notes no room for them."""
    heights = [
        contact_sheet([(name, note, picture())]).shape[0]
        for name, note in (
            ("x", ""),
            ("x", "y"),
            ("x x " * 9000, ""),
            ("x x " * 9000, "y y " * 9000),
            ("x", "y y " * 20),
        )
    ]
    line = heights[1] - heights[0]
    assert line > 8
    assert heights == [heights[0] + lines * line for lines in (0, 1, 1, 3, 2)]


def test_thin_pictures_are_on_the_sheet():
    """A picture that is thousands of times as wide as it is high has a row of pixels left."""
    for thin in (picture(1, MAX_SIDE), picture(MAX_SIDE, 1)):
        assert (contact_sheet([("thin", "", thin)]) == (200, 100, 50)).all(axis=2).sum() == 240


@pytest.mark.threat("T4")
def test_texts_are_escaped():
    """A name or note with control characters or other scripts is drawn as its escape, and does not fail."""
    hostile, escaped = "\x1b[31m\n\u202e\U0001f4a9", "\\x1b[31m\\n\\u202e\\U0001f4a9"
    for before, after in (((hostile, ""), (escaped, "")), (("a", hostile), ("a", escaped))):
        assert np.array_equal(contact_sheet([(*before, picture())]), contact_sheet([(*after, picture())]))


def test_pillow_is_loaded_only_for_pictures():
    """Patches and composites need numpy only."""
    code = (
        "import sys, numpy as np; from ben_secure.patches import BigEarthNet_S1_Patch as P;"
        "z = np.zeros((120, 120)); P(z, z).quicklook(); print('PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_quicklook_is_no_name_for_metadata():
    """Metadata cannot hide the method."""
    with pytest.raises(ValueError, match="quicklook"):
        make_patch(quicklook=1)
    assert make_patch(quick_look=1).quick_look == 1


def test_real_patches(real_data):
    """The patches of the example databases have all composites, each with the full range of brightness."""
    from ben_secure import PatchReader

    with PatchReader(real_data / "legacy" / "numpy1-pydantic1" / "s1_s2.lmdb") as reader:
        for patch in reader.values():
            for kind in KINDS:
                image = patch.quicklook(kind).image
                assert image.shape == (120, 120, 3)
                assert image.min() == 0
                assert image.max() == 255
