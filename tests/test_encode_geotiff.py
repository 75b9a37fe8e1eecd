"""The pixels of one band of a GeoTIFF: exactly those of the file, or a refusal."""

import contextlib
import io
import struct
import sys
import time
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
from ben_secure.encode.geotiff import MAX_FILE_BYTES, decode_band
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
# Tags that tifffile reads in ways of their own: of planes, JPEG, microscopes, Exif and GDAL.
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
    for predictor in (False, True):
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
        ({"tags": {258: ("H", [12])}}, r"12 bits of sample format 1"),
        ({"tags": {258: ("H", [24])}}, r"24 bits of sample format 1"),
        ({"tags": {339: ("H", [4])}}, r"16 bits of sample format 4"),
        ({"tags": {277: ("H", [3])}}, r"it has 3 bands, expected 1"),
        ({"tags": {258: ("H", [16, 16, 16])}}, r"3 numbers of bits a pixel, expected 1"),
        ({"tags": {266: ("H", [2])}}, r"reversed order"),
        ({"tags": {278: ("H", [0])}}, r"it has no pixels"),
        ({"tags": {273: ("I", [10**6])}}, r"pixels lie behind its end"),
        ({"tags": {273: ("I", [2**32 - 1])}}, r"pixels lie behind its end"),
        ({"tags": {279: ("I", [799])}}, r"a strip of 20 rows has 799 bytes, expected 800"),
        ({"tags": {279: ("I", [0]), 273: ("I", [0])}}, r"a strip of 20 rows has 0 bytes"),
        ({"tags": {259: ("H", [7])}}, r"compressed with scheme 7, expected none, Deflate"),
        ({"tags": {256: ("d", [20.0])}}, r"its imagewidth is 20\.0, expected one whole number"),
        ({"without": [256]}, r"20 rows and 0 columns"),
        ({"without": [273]}, r"0 pieces of pixels and 1 lengths, expected 1 each"),
        ({"following": 8}, r"more than one image"),
    ],
)
def test_files_that_are_not_one_band_are_refused(change, message):
    """Whatever makes a file something else than this band is refused from its header; unchanged it is read."""
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
        with pytest.raises(ValueError, match=r"unpack to (799|801) bytes, expected 800|cannot be unpacked"):
            decode_band(packed(zlib.compress(data)), B01)
    with pytest.raises(ValueError, match=r"cannot be unpacked"):
        decode_band(packed(b"x" * 90), B01)
    tiles = {322: ("I", [2**16]), 323: ("I", [2**16]), 324: ("I", [8]), 325: ("I", [800])}
    with pytest.raises(ValueError, match=r"its tiles have 65536 rows"):
        decode_band(tiff(pixels(B01), tags=tiles), B01)


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
        with pytest.raises(ValueError, match=r"unpack to|cannot be unpacked"):
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
@pytest.mark.parametrize(
    ("tag", "kind", "width"), [(270, 2, 1), (273, 4, 4), (33628, 4, 4), (42113, 7, 1), (34665, 4, 4)]
)
def test_tags_that_all_point_at_the_same_megabytes_are_refused(tag, kind, width):
    """Thousands of tags, each as large as the file, are refused at once and without taking memory for them."""
    size = MAX_FILE_BYTES
    entry = struct.pack("<HHII", tag, kind, (size - 60_000) // width, 60_000)
    content = many_tags([entry] * 4000, size)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=r"tags have more than|expected 20 of each|expected one whole number"):
            decode_band(content, B01)
        assert tracemalloc.get_traced_memory()[1] < 6 * size
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 10


@pytest.mark.threat("T15")
def test_a_chain_of_images_is_not_followed():
    """Images that follow each other in a loop are refused at the first step; of images alone, one is read."""
    (start,) = struct.unpack_from("<I", GOOD, 4)
    with pytest.raises(ValueError, match="more than one image"):
        decode_band(tiff(pixels(B01), following=start), B01)
    assert same(decode_band(tiff(pixels(B01), following=0), B01), pixels(B01))


def test_what_the_library_says_of_a_file_is_not_repeated(caplog):
    """tifffile's log is silent about files that are judged here, and says what it said about those of others."""
    tifffile = pytest.importorskip("tifffile")
    odd = tiff(pixels(B01), tags={42113: ("H", [7])})
    decode_band(odd, B01)
    with pytest.raises(ValueError, match=r"damaged|0 pieces of pixels"):
        decode_band(tiff(pixels(B01), without=[273]), B01)
    assert not caplog.records
    tifffile.TiffFile(io.BytesIO(tiff(pixels(B01), without=[273])))
    assert caplog.records


def test_predictors_are_of_compressed_pixels_only():
    """A predictor on stored pixels, which readers take in different ways, is refused; none is accepted."""
    assert same(decode_band(tiff(pixels(B01), tags={317: ("H", [1])}), B01), pixels(B01))
    with pytest.raises(ValueError, match="predictor 2 on pixels that are not compressed"):
        decode_band(tiff(pixels(B01), tags={317: ("H", [2])}), B01)


def test_the_libraries_are_an_extra(monkeypatch):
    """Without imagecodecs, compressed pixels are refused with what to install; without tifffile, all are."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "imagecodecs", None)
        with pytest.raises(MissingExtraError, match=r"scheme 5, .*pip install 'ben-secure\[encode\]'"):
            decode_band(tiff(pixels(B01), tags={259: ("H", [5])}), B01)
        assert same(decode_band(GOOD, B01), pixels(B01))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"tifffile, which is not .*pip install 'ben-secure\[encode\]'"):
        decode_band(GOOD, B01)
