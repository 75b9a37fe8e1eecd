"""The pixels of one band of a GeoTIFF: exactly those of the file, or a refusal."""

import base64
import contextlib
import io
import json
import pathlib
import struct
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import EncodeError, MissingExtraError
from ben_secure.bands import BANDS, PIXEL_DTYPES
from ben_secure.encode import read_patch
from ben_secure.encode.geotiff import MAX_FILE_BYTES, Unknown, decode_band, unknown_pixels
from support.geotiffs import S2_NAME, make_patch, pixels, tiff

B01, B05, VV = BANDS["B01"], BANDS["B05"], BANDS["VV"]
GOOD = tiff(pixels(B01))
TILED = tiff(
    np.frombuffer(b"".join(zlib.compress(bytes(512), 0) for _ in range(4)).ljust(2200, b"1"), np.uint16).reshape(1, -1),
    tags={256: ("H", [20]), 257: ("H", [20]), 259: ("H", [8]), 322: ("H", [16]), 323: ("H", [16])}
    | {324: ("I", [8 + place * len(zlib.compress(bytes(512), 0)) for place in range(4)])}
    | {325: ("I", [len(zlib.compress(bytes(512), 0))] * 4)},
    without=[273, 278, 279],
)
# Tags that change how pixels are read, or that readers treat in ways of their own.
ODD_TAGS = (254, 266, 270, 284, 317, 322, 324, 330, 338, 347, 513, 530, 32997, 32998, 33628, 33629, 33630, 34118, 34361)
ODD_TAGS += (34412, 34665, 34680, 34853, 37706, 40965, 42113, 43314, 50838, 50839, 51123, 65426, 65432, 33471, 33560)


def same(found, expected):
    """Whether an array has these values and this dtype, in little-endian order."""
    return found.dtype == expected.dtype.newbyteorder("<") and found.tobytes() == expected.astype(found.dtype).tobytes()


@pytest.mark.parametrize("dtype", sorted(PIXEL_DTYPES))
@pytest.mark.parametrize("rows", [None, 7])
def test_stored_pixels_are_taken_as_they_are(dtype, rows):
    """Pixels of every admitted dtype, in either byte order, in one strip or several, are those of the file."""
    array = (np.random.default_rng(1).random(B01.shape) * 100).astype(dtype)
    order = ">" if dtype[0] == ">" else "<"
    for gap in (0, 3):
        assert same(decode_band(tiff(array, order=order, rows=rows, gap=gap), B01), array)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 48)}, {"rowsperstrip": 7}, {"bigtiff": True}])
@pytest.mark.parametrize("spec", [B05, VV], ids=str)
def test_compressed_pixels_are_unpacked(compression, layout, spec):
    """Every lossless scheme, with and without a predictor, gives the pixels that an independent writer packed."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    array = pixels(spec)
    for predictor in (False, True)[: 1 if compression == "packbits" else 2]:
        for order in "<>":
            file = io.BytesIO()
            ordered = array.astype(array.dtype.newbyteorder(order))
            tifffile.imwrite(
                file, ordered, byteorder=order, compression=compression, predictor=predictor, metadata=None, **layout
            )
            assert same(decode_band(file.getvalue(), spec), array)


def test_floating_point_differences_are_undone():
    """The predictor of floating point is undone, an edge tile included."""
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels(VV), compression="zlib", predictor=3, tile=(32, 32))
    assert same(decode_band(file.getvalue(), VV), pixels(VV))


def test_real_files_are_read_as_others_read_them(real_data, tmp_path):
    """Each GeoTIFF of the real patches gives the array and dtype that tifffile and rasterio give."""
    import tarfile

    tifffile = pytest.importorskip("tifffile")
    for archive in real_data.glob("*.tar.bz2"):
        with tarfile.open(archive) as tar, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tar.extractall(tmp_path)
    paths = sorted(tmp_path.rglob("*.tif"))
    assert len(paths) == 6 * 14
    try:
        import rasterio
    except ImportError:
        rasterio = None
    for path in paths:
        found = decode_band(path.read_bytes(), BANDS[path.stem.rpartition("_")[2]])
        assert same(found, tifffile.imread(path))
        if rasterio is not None:
            with rasterio.open(path) as file:
                assert same(found, file.read(1))


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": {256: ("H", [21])}}, r"20 rows and 21 columns, expected 20 of each"),
        ({"tags": {256: ("I", [2**31])}}, r"columns, expected 20 of each"),
        ({"tags": {257: ("I", [2**32 - 1])}}, r"4294967295 rows and 20 columns"),
        ({"tags": {258: ("H", [33])}}, r"33 bits of sample format 1"),
        ({"tags": {258: ("H", [0])}}, r"0 bits of sample format 1"),
        ({"tags": {258: ("H", [12]), 339: ("H", [2])}}, r"12 bits of sample format 2"),
        ({"tags": {258: ("H", [24]), 339: ("H", [3])}}, r"24 bits of sample format 3"),
        ({"tags": {339: ("H", [4])}}, r"16 bits of sample format 4"),
        ({"tags": {339: ("H", [5])}}, r"16 bits of sample format 5"),
        ({"tags": {277: ("H", [3])}}, r"it has 3 bands, expected 1"),
        ({"tags": {258: ("H", [16, 16, 16])}}, r"field 258 has 3 numbers, expected 1"),
        ({"tags": {266: ("H", [2])}}, r"reversed order"),
        ({"tags": {278: ("H", [0])}}, r"strips or tiles have no pixels"),
        ({"tags": {273: ("I", [10**6])}}, r"pixels lie beyond its end"),
        ({"tags": {273: ("I", [2**32 - 1])}}, r"pixels lie beyond its end"),
        ({"tags": {279: ("I", [799])}}, r"a strip of 20 rows has 799 bytes, expected 800"),
        ({"tags": {279: ("I", [0])}}, r"has an offset but no bytes"),
        ({"tags": {273: ("I", [0])}}, r"or bytes but no offset"),
        ({"tags": {259: ("H", [7])}}, r"compressed with JPEG \(scheme 7\), expected none, Deflate"),
        ({"tags": {259: ("H", [50002])}}, r"compressed with JPEG XL \(scheme 50002\)"),
        ({"tags": {259: ("H", [9])}}, r"compressed with scheme 9, expected none"),
        ({"tags": {256: ("d", [20.0])}}, r"its field 256 has values of type 12, expected whole numbers"),
        ({"without": [256]}, r"20 rows and 0 columns"),
        ({"without": [273]}, r"0 pieces of pixels and 1 lengths, expected 1 each"),
        ({"following": 2**31}, r"a directory lies beyond its end"),
    ],
)
def test_files_that_are_not_one_band_are_refused(change, message):
    """Anything else than this band is refused by its header; the unchanged file is read."""
    assert same(decode_band(GOOD, B01), pixels(B01))
    with pytest.raises(ValueError, match=message):
        decode_band(tiff(pixels(B01), **change), B01)


@pytest.mark.threat("T15")
def test_no_file_makes_the_encoder_take_more_than_its_band():
    """Pixels that unpack to more or less than their strip are refused, a bomb before it is unpacked whole."""

    def packed(data):
        return tiff(
            np.frombuffer(data.ljust(-len(data) % 2 + len(data), b"\0"), np.uint16).reshape(1, -1),
            tags={256: ("H", [20]), 257: ("H", [20]), 278: ("H", [20]), 259: ("H", [8])},
        )

    raw = pixels(B01).tobytes()
    assert same(decode_band(packed(zlib.compress(raw)), B01), pixels(B01))
    for data in (raw[:-1], raw + b"\0", bytes(50_000_000)):
        with pytest.raises(ValueError, match=r"has (799|801) bytes, expected 800|cannot be unpacked"):
            decode_band(packed(zlib.compress(data)), B01)
    with pytest.raises(ValueError, match=r"cannot be unpacked"):
        decode_band(packed(b"x" * 90), B01)
    tiles = {322: ("I", [2**16]), 323: ("I", [2**16]), 324: ("I", [8]), 325: ("I", [800])}
    with pytest.raises(ValueError, match=r"its tiles have 65536 rows"):
        decode_band(tiff(pixels(B01), tags=tiles, without=[273, 278, 279]), B01)


@pytest.mark.threat("T15")
@pytest.mark.parametrize("code", [322, 323, 324, 325])
def test_a_file_with_strips_and_tiles_is_refused(code):
    """Readers differ about its pixels; without the one or the other it is read."""
    assert same(decode_band(GOOD, B01), pixels(B01))
    assert same(decode_band(TILED, B01), np.zeros((20, 20), "<u2"))
    with pytest.raises(ValueError, match="it has strips and tiles"):
        decode_band(tiff(pixels(B01), tags={code: ("I", [16])}), B01)


@pytest.mark.threat("T15")
@pytest.mark.parametrize("name", ["lzw", "zstd", "packbits", "lzma"])
def test_bombs_of_other_schemes_are_refused(name):
    """A strip that unpacks to more than its size is refused whatever the scheme."""
    imagecodecs = pytest.importorskip("imagecodecs")
    scheme = {"lzw": 5, "zstd": 50000, "packbits": 32773, "lzma": 34925}[name]

    def packed(data):
        data = bytes(getattr(imagecodecs, f"{name}_encode")(data))
        array = np.frombuffer(data + bytes(len(data) % 2), np.uint16).reshape(1, -1)
        tags = {256: ("H", [20]), 257: ("H", [20]), 278: ("H", [20]), 259: ("H", [scheme]), 279: ("I", [len(data)])}
        return tiff(array, tags=tags)

    raw = pixels(B01).tobytes()
    assert same(decode_band(packed(raw), B01), pixels(B01))
    for data in (raw + bytes(2), bytes(1_000_000), raw[:-2]):
        with pytest.raises(ValueError, match=r"a piece of .* bytes, expected|cannot be unpacked"):
            decode_band(packed(data), B01)


@pytest.mark.threat("T15")
@given(st.data())
def test_any_bytes_give_pixels_or_a_refusal(data):
    """A file with bytes changed or cut gives an array of the band's shape or a ValueError, nothing else."""
    content = bytearray(GOOD)
    head = len(GOOD) - 200  # where this writer puts the tags
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, 15), st.integers(head, len(GOOD) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(ValueError, MissingExtraError):
        assert decode_band(content, B01).shape == (20, 20)


@pytest.mark.threat("T15")
@given(st.data())
def test_any_tags_give_pixels_or_a_refusal(data):
    """Tags made into others, of other types, counts and places, give the band's shape or a ValueError, nothing else."""
    content = bytearray(data.draw(st.sampled_from([GOOD, TILED])))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for _ in range(data.draw(st.integers(1, 3))):
        place = start + 2 + 12 * data.draw(st.integers(0, count - 1))
        if data.draw(st.booleans()):
            struct.pack_into("<H", content, place, data.draw(st.sampled_from(ODD_TAGS)))
        code, offset = data.draw(st.sampled_from([("H", 2), ("I", 4), ("I", 8)]))
        number = data.draw(st.integers(0, 18) if offset == 2 else st.integers(0, 2**32 - 1) | st.integers(0, 64))
        struct.pack_into("<" + code, content, place + offset, number)
    with contextlib.suppress(ValueError, MissingExtraError):
        assert decode_band(bytes(content), B01).shape == (20, 20)


@pytest.mark.threat("T15")
def test_a_bomb_of_4_gb_takes_little_memory(tmp_path):
    """A Deflate stream of 4 GB of zeros in a file of 4 MB is refused, with patch and file, in less than 16 MB."""
    squeezer = zlib.compressobj(9)
    start = squeezer.compress(bytes(2**24)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    again = squeezer.compress(bytes(2**24)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    bomb = start + 250 * again
    assert zlib.decompressobj().decompress(bomb, 2**20) == bytes(2**20)
    assert len(bomb) < MAX_FILE_BYTES - 4096
    band = np.frombuffer(bomb + bytes(len(bomb) % 2), np.uint16).reshape(1, -1)
    tags = {256: ("H", [20]), 257: ("H", [20]), 278: ("H", [20]), 259: ("H", [8])}
    folder, _ = make_patch(tmp_path, S2_NAME.format(1, 1))
    read_patch(folder)
    (folder / f"{folder.name}_B01.tif").write_bytes(tiff(band, tags=tags))
    tracemalloc.start()
    try:
        with pytest.raises(EncodeError, match=rf"{folder.name}.*_B01\.tif: .*(unpack)"):
            read_patch(folder)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_FILE_BYTES
    finally:
        tracemalloc.stop()


def many_tags(entries, size):
    """A file of ``size`` bytes with only these tags, each a packed entry."""
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head.ljust(size, b"1")


@pytest.mark.threat("T15")
@pytest.mark.parametrize("tag", [273, 256, 42113])
def test_tags_as_large_as_the_file_are_refused(tag):
    """A field that takes megabytes, thousands of fields and a field that is there twice are refused unread."""
    kind, width = (2, 1) if tag == 42113 else (4, 4)
    entry = struct.pack("<HHII", tag, kind, (MAX_FILE_BYTES - 60_000) // width, 60_000)
    others = [struct.pack("<HHII", code, 4, 1, 20) for code in (256, 257)]
    others += [struct.pack("<HHII", code, 4, 1, 1 if code == 277 else 16) for code in (258, 277)]
    entries = [entry, *[other for other in others if other[:2] != entry[:2]]]
    for tags, message in (
        (entries, "bytes, expected at most 65536"),
        ([entry] * 4000, f"it has the field {tag} twice"),
        ([entry] * 6000, "it has 6000 fields, expected at most"),
    ):
        content = many_tags(tags, MAX_FILE_BYTES)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message):
                unknown_pixels(content, pixels(B01)) if tag == 42113 else decode_band(content, B01)
            assert tracemalloc.get_traced_memory()[1] < MAX_FILE_BYTES
        finally:
            tracemalloc.stop()


def chained(kinds, loop=False):
    """The good file, and behind it directories with only a NewSubfileType; the last leads to the first of them."""
    content = bytearray(GOOD)
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    place = start + 2 + 12 * count
    first = len(content)
    for kind in kinds:
        struct.pack_into("<I", content, place, len(content))
        content += struct.pack("<HHHIII", 1, 254, 4, 1, kind, 0)
        place = len(content) - 4
    if loop:
        struct.pack_into("<I", content, place, first)
    return bytes(content)


@pytest.mark.threat("T15")
def test_further_images_are_overviews_and_masks():
    """Overviews and masks behind the band are passed over; another image, too many and a loop are refused."""
    assert same(decode_band(chained([1, 4, 5]), B01), pixels(B01))
    assert same(decode_band(chained([1] * 63), B01), pixels(B01))
    for kinds, loop, message in (
        ([0], False, "more than one image"),
        ([1, 2], False, "more than one image"),
        ([1] * 65, False, "more than 64 images"),
        ([1, 5], True, "more than 64 images"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_band(chained(kinds, loop), B01)


@pytest.mark.threat("T15")
def test_offsets_beyond_memory_are_refused():
    """BigTIFF has offsets that no memory has; they are behind the file's end like any that is too large."""
    content = bytearray(gdal("BigTIFF"))
    (start,) = struct.unpack_from("<Q", content, 8)
    (count,) = struct.unpack_from("<Q", content, start)
    for offset in (len(content), 2**63, 2**64 - 1):
        struct.pack_into("<Q", content, start + 8 + 20 * count, offset)
        with pytest.raises(ValueError, match="a directory lies beyond its end"):
            decode_band(bytes(content), B01)
    struct.pack_into("<Q", content, start + 8 + 20 * count, 0)
    assert decode_band(bytes(content), B01).shape == B01.shape


VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors" / "geotiffs.json").read_text())["vectors"]


def vector(entry):
    """The file of a vector and the pixels that rasterio read."""
    file, raw = (zlib.decompress(base64.b64decode(entry[name])) for name in ("file", "pixels"))
    return file, np.frombuffer(raw, entry["dtype"]).reshape(20, 20)


@pytest.mark.parametrize("entry", VECTORS, ids=lambda entry: entry["name"])
def test_files_of_gdal_give_the_pixels_that_rasterio_reads(entry):
    """Overviews, masks, predictors, sparse tiles, LERC, odd numbers of bits, and COG give equal pixels, bit for bit."""
    pytest.importorskip("imagecodecs")
    file, expected = vector(entry)
    assert same(decode_band(file, B01), expected)


def test_the_vectors_are_what_rasterio_reads():
    """The expected pixels are those that the installed rasterio reads, too."""
    rasterio = pytest.importorskip("rasterio")
    for entry in VECTORS:
        file, expected = vector(entry)
        with rasterio.MemoryFile(file) as memory, memory.open() as opened:
            assert np.array_equal(opened.read(1), expected, equal_nan=expected.dtype.kind == "f")


def gdal(name):
    """The file of the vector of this name."""
    return next(vector(entry)[0] for entry in VECTORS if entry["name"] == name)


def test_unknown_pixels_are_counted():
    """Pixels of the no-data value, others that are not finite, and whether there is a mask, as GDAL writes them."""
    pytest.importorskip("imagecodecs")
    nodata = {42113: ("s", [b"7\0"])}
    holes = np.zeros(B01.shape, "f4")
    holes[0, :3] = np.nan, np.inf, 7
    for file, expected in (
        (GOOD, Unknown(0, 0, False)),
        (gdal("mask"), Unknown(4, 0, True)),
        (gdal("overviews"), Unknown(0, 0, False)),
        (gdal("sparse tiles, no-data 65535, {}"), Unknown(144, 0, False)),
        (gdal("sparse tiles of NaN"), Unknown(32 + 144, 1, False)),
        (gdal("LERC of NaN"), Unknown(0, 41, False)),
        (tiff(holes, tags=nodata), Unknown(1, 2, False)),
        (tiff(holes, tags={42113: ("s", [b"nan"])}), Unknown(1, 1, False)),
        (tiff(holes, tags={42113: ("s", [b" inf "])}), Unknown(1, 1, False)),
        (tiff(holes, tags={42113: ("s", [b"none"])}), Unknown(0, 2, False)),
        (tiff(np.full(B01.shape, 7, "u2"), tags=nodata), Unknown(400, 0, False)),
        (tiff(np.full(B01.shape, 7, "u2"), tags={42113: ("s", [b"7.5"])}), Unknown(0, 0, False)),
        (tiff(np.full(B01.shape, 7, "u2"), tags={42113: ("s", [b"-9999"])}), Unknown(0, 0, False)),
    ):
        found = unknown_pixels(file, decode_band(file, B01))
        assert found == expected
        assert bool(found) == (expected != Unknown(0, 0, False))


@pytest.mark.parametrize(("no_data", "dtype", "filled"), [("-9999", "u2", 0), ("70000", "u2", 65535), ("nan", "u1", 0),
                         ("2.5", "i2", 2), ("-1e400", "f4", -np.inf)])  # fmt: skip
def test_what_is_left_out_has_the_nearest_value_to_no_data(no_data, dtype, filled):
    """A strip without bytes has the no-data value, or the nearest that the dtype has."""
    tags = {273: ("I", [0]), 279: ("I", [0]), 42113: ("s", [no_data.encode()])}
    assert (decode_band(tiff(np.ones(B01.shape, dtype), tags=tags), B01) == filled).all()


@pytest.mark.threat("T15")
def test_lerc_that_may_have_changed_pixels_is_refused():
    """LERC with an error, of another shape or dtype, cut or of another kind is refused; without error it is read."""
    imagecodecs = pytest.importorskip("imagecodecs")
    array = pixels(B01)

    def file(blob, inner=0):
        data = np.frombuffer(blob + bytes(len(blob) % 2), np.uint16).reshape(1, -1)
        tags = {256: ("H", [20]), 257: ("H", [20]), 278: ("H", [20]), 259: ("H", [34887]), 279: ("I", [len(blob)])}
        return tiff(data, tags=tags | {50674: ("I", [4, inner])})

    def blob(array, level=0):
        return bytes(imagecodecs.lerc_encode(array, level=level))

    assert same(decode_band(file(blob(array)), B01), array)
    for broken, message in (
        (blob(array, 3), "may have changed pixels by 3.0"),
        (blob(array[:10]), r"has 10 rows and 20 columns of u2, expected \(20, 20\)"),
        (blob(array.astype("i4")), "20 columns of i4"),
        (blob(array)[:300], "cannot be unpacked"),
        (blob(array)[:30], "truncated"),
        (b"CntZImage " + bytes(99), "an unknown version"),
        (b"Lerc2 " + struct.pack("<i", 7) + bytes(99), "an unknown version"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_band(file(broken), B01)
    with pytest.raises(ValueError, match="LERC data has compression scheme 3"):
        decode_band(file(blob(array), inner=3), B01)


def test_predictors_are_where_readers_agree():
    """A predictor that is unknown or ambiguous is refused; files without one are accepted."""
    assert same(decode_band(tiff(pixels(B01), tags={317: ("H", [1])}), B01), pixels(B01))
    for scheme, predictor, message in (
        (1, 2, "predictor 2 on pixels that are not compressed"),
        (32773, 2, "predictor 2 on pixels that are compressed with PackBits"),
        (34887, 2, "predictor 2 on pixels that are compressed with LERC"),
        (8, 3, "predictor 3 on pixels of 16 bits of kind u"),
        (8, 4, "predictor 4 on pixels of 16 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_band(tiff(pixels(B01), tags={317: ("H", [predictor]), 259: ("H", [scheme])}), B01)
    with pytest.raises(ValueError, match="predictor 2 on pixels of 12 bits"):
        decode_band(tiff(pixels(B01), tags={317: ("H", [2]), 259: ("H", [8]), 258: ("H", [12])}), B01)


def test_big_endian_files_are_read_where_readers_agree():
    """LERC, and 24 bits, in a big-endian file are refused; the same bits in a little-endian one are read."""
    pytest.importorskip("imagecodecs")
    packed = np.zeros((20, 60), "u1")
    tags = {256: ("H", [20]), 258: ("H", [24])}
    assert (decode_band(tiff(packed, tags=tags), B01) == 0).all()
    with pytest.raises(ValueError, match="24 bits are packed in a big-endian file"):
        decode_band(tiff(packed, tags=tags, order=">"), B01)
    with pytest.raises(ValueError, match="16 bits are LERC in a big-endian file"):
        decode_band(tiff(pixels(B01), tags={259: ("H", [34887])}, order=">"), B01)


def test_unpacking_is_an_extra(monkeypatch):
    """Without imagecodecs, compressed pixels are refused with the package to install; uncompressed ones are read."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match=r"compressed GeoTIFF needs imagecodecs, .*pip install imagecodecs"):
        decode_band(tiff(pixels(B01), tags={259: ("H", [5])}), B01)
    assert same(decode_band(GOOD, B01), pixels(B01))
