"""Makes GeoTIFF files and folders of patches for tests: an independent, tiny TIFF writer, in which all can be wrong."""

import json
import pathlib
import struct

import numpy as np

from ben_secure.bands import S1_BANDS, S2_BANDS

S1_NAME = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{}_{}"
S2_NAME = "S2A_MSIL2A_20170613T101031_{}_{}"
LABELS = ["Pastures", "Airports", "Peatbogs"]
NEW_LABELS = ["Pastures", "Inland wetlands"]

_KINDS = {"u": 1, "i": 2, "f": 3, "c": 6}


def tiff(array, *, order="<", rows=None, tags=None, without=(), following=0, gap=0):
    """A TIFF file of one uncompressed band.

    Args:
        array: The pixels.
        order: Byte order.
        rows: Rows of a strip; all if None.
        tags: Instead of the true tags: type (``s`` for text) and values by number.
        without: Tags to leave out.
        following: Offset of a second image.
        gap: Unused bytes before each strip.

    Returns:
        The file.
    """
    array = np.asarray(array).astype(np.asarray(array).dtype.newbyteorder(order))
    rows = rows or len(array)
    strips = [array[top : top + rows].tobytes() for top in range(0, len(array), rows)]
    offsets, content = [], b""
    for strip in strips:
        content += bytes(gap)
        offsets.append(8 + len(content))
        content += strip
    content += bytes(len(content) % 2)
    entries = {
        256: ("H", [array.shape[1]]),
        257: ("H", [array.shape[0]]),
        258: ("H", [8 * array.itemsize]),
        259: ("H", [1]),
        262: ("H", [1]),
        273: ("I", offsets),
        277: ("H", [1]),
        278: ("H", [rows]),
        279: ("I", [len(strip) for strip in strips]),
        339: ("H", [_KINDS[array.dtype.kind]]),
    } | (tags or {})
    entries = {tag: entry for tag, entry in sorted(entries.items()) if tag not in without}
    directory = struct.pack(order + "H", len(entries))
    far = b""
    start = 8 + len(content)
    for tag, (code, values) in entries.items():
        if code == "s":
            values = [bytes([byte]) for byte in values[0]]
        data = struct.pack(f"{order}{len(values)}{code.replace('s', 'c')}", *values)
        if len(data) > 4:
            place = start + 2 + 12 * len(entries) + 4 + len(far)
            far += data
            data = struct.pack(order + "I", place)
        number = {"B": 1, "s": 2, "H": 3, "I": 4, "Q": 16, "d": 12}[code]
        directory += struct.pack(order + "HHI", tag, number, len(values)) + data.ljust(4, b"\0")
    directory += struct.pack(order + "I", following)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + content + directory + far


def pixels(spec, seed=0):
    """Random pixels of a band, in its published dtype."""
    random = np.random.default_rng([seed, sum(spec.name.encode())])
    if spec.sensor == "S1":
        return random.normal(-12, 5, spec.shape).astype(np.float32)
    return random.integers(0, 10_000, spec.shape, dtype=np.uint16)


def make_patch(root, name, *, labels=LABELS, seed=0, **more):
    """Make a patch folder; returns it and the arrays of its bands by name. ``more`` goes into the label file."""
    folder = pathlib.Path(root) / name
    folder.mkdir(parents=True)
    arrays = {}
    for spec in S1_BANDS if name.startswith("S1") else S2_BANDS:
        arrays[spec.name] = pixels(spec, seed)
        (folder / f"{name}_{spec.name}.tif").write_bytes(tiff(arrays[spec.name]))
    if labels is not None:
        label_file(folder).write_text(json.dumps({"labels": labels, "projection": "x"} | more))
    return folder, arrays


def label_file(folder):
    """Path of a patch's label file."""
    return folder / f"{folder.name}_labels_metadata.json"


def make_pairs(root, count=2):
    """Make ``count`` pairs of v1 in ``s1`` and ``s2``; returns the names of the Sentinel-2 patches."""
    names = []
    for place in range(count):
        names.append(S2_NAME.format(place, 7))
        make_patch(root / "s2", names[-1], seed=place)
        twin = S1_NAME.format(place, 7)
        make_patch(root / "s1", twin, seed=place, corresponding_s2_patch=names[-1])
    return sorted(names)


def make_map(root, name, seed=0, codes=None):
    """Make the reference map of a patch in the layout of v2; returns the codes."""
    random = np.random.default_rng(seed)
    if codes is None:
        codes = random.choice([111, 112, 121, 122, 211, 241, 312, 335, 423, 512, 523, 999], (120, 120)).astype(
            np.uint16
        )
    folder = pathlib.Path(root) / name.rsplit("_", 2)[0] / name
    folder.mkdir(parents=True)
    (folder / f"{name}_reference_map.tif").write_bytes(tiff(codes))
    return codes
