"""Reference maps as masks: values, classes, sizes, refusals, and a segmentation from end to end."""

import pickle

import lmdb
import numpy as np
import pytest

from ben_secure import PairedReader, PatchFormatError, PatchReader
from ben_secure.batches import PatchArrays
from ben_secure.batches.masks import NO_CLASS
from ben_secure.encode import encode, read_patch
from ben_secure.labels.nomenclature import BEN_19, CLC_CODES, CORINE_43, TO_19
from support.geotiffs import S1_NAME, make_map, make_pairs
from support.patch_databases import database
from support.tensor_files import raw, spell

# As torchgeo 0.8.1 numbers them (BigEarthNetV2.clc_codes).
TORCHGEO = dict(
    zip(
        (
            *(111, 112, 121, 211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244, 311, 312, 313, 321, 322, 323, 324),
            *(331, 333, 411, 412, 421, 422, 511, 512, 521, 522, 523),
        ),
        (
            *(0, 0, 1, 2, 2, 2, 3, 3, 3, 4, 3, 5, 6, 7, 8, 9, 10, 11, 12, 12, 13),
            *(14, 11, 15, 15, 16, 16, 17, 17, 18, 18, 18),
        ),
        strict=True,
    )
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a database of three patches; their names and codes."""
    root = tmp_path_factory.mktemp("maps")
    names = make_pairs(root, 3)
    codes = [make_map(root / "maps", name, seed) for seed, name in enumerate(names)]
    encode(root / "db", s2=root / "s2", reference_maps=root / "maps")
    return root, names, codes


def test_the_codes_are_those_of_the_classes():
    """43 codes for the 43 classes in their order; those with a class of the 19 are numbered as torchgeo does."""
    assert tuple(CLC_CODES.values()) == CORINE_43
    kept = {code: BEN_19.index(new) for code, label in CLC_CODES.items() if (new := TO_19[label]) is not None}
    assert kept == TORCHGEO


def test_masks_are_codes_or_classes(place):
    """The kind "codes" has the codes that are stored; "19" has torchgeo's numbers, and one for no class."""
    root, names, codes = place
    expected = np.stack(codes).astype(np.int64)
    arrays = PatchArrays(root / "db", sample="dict", mask="codes", bands="RGB")
    batch = arrays[:]
    assert batch["name"] == names
    assert batch["mask"].dtype == np.int64
    assert np.array_equal(batch["mask"], expected)
    assert np.array_equal(arrays[1]["mask"], expected[1])
    numbered = np.vectorize(lambda code: TORCHGEO.get(code, NO_CLASS))(expected)
    assert {NO_CLASS, 0, 18} <= set(np.unique(numbered))
    arrays = PatchArrays(root / "db", sample="dict", mask="19", bands="RGB", order="torchgeo")
    assert np.array_equal(arrays[:]["mask"], numbered)
    assert np.array_equal(pickle.loads(pickle.dumps(arrays))[[2, 0]]["mask"], numbered[[2, 0]])


def test_classes_of_a_mask_have_the_order_of_the_labels(place):
    """Where classes are sorted by the alphabet, mask and label vector count alike."""
    root, _, codes = place
    arrays = PatchArrays(root / "db", sample="dict", mask="19", order="configilm", bands="RGB")
    assert arrays.classes == tuple(sorted(BEN_19))
    mask = arrays[0]["mask"]
    for code in (111, 211, 523):
        assert {arrays.classes[number] for number in mask[codes[0] == code]} == {TO_19[CLC_CODES[code]]}
    without = PatchArrays(root / "db", sample="dict", mask="19", labels=None, bands="RGB")[0]
    assert "label" not in without
    assert {BEN_19[number] for number in without["mask"][codes[0] == 523]} == {"Marine waters"}


@pytest.mark.parametrize("size", [None, 60, 128])
def test_a_mask_has_the_size_of_the_images(place, size):
    """Other sizes take the nearest pixel, as torch's interpolation does; None leaves the 120 of the map."""
    root, _, codes = place
    mask = PatchArrays(root / "db", sample="dict", mask="codes", size=size, bands="10m")[0]["mask"]
    side = size or 120
    rows = [min(int(row * 120 / side), 119) for row in range(side)]
    assert np.array_equal(mask, codes[0][np.ix_(rows, rows)])


def test_a_transform_gets_the_mask(place):
    """The transform gets the whole sample, and its result is collated."""
    root, _, codes = place

    def flip(sample):
        return sample | {"image": sample["image"][..., ::-1], "mask": sample["mask"][..., ::-1]}

    batch = PatchArrays(root / "db", sample="dict", mask="codes", bands="RGB", transform=flip)[[0, 1]]
    assert np.array_equal(batch["mask"], np.stack(codes[:2])[..., ::-1])


@pytest.mark.threat("T15")
@pytest.mark.parametrize("found", [None, "x", np.zeros((120, 119), "u2"), np.zeros((120, 120), "f4"), [[1]]])
def test_other_metadata_is_no_mask(tmp_path, place, found):
    """A patch without a map, or with something else under its name, is refused by name; without a mask it is read."""
    with PatchReader(place[0] / "db") as reader:
        patch = reader[place[1][0]]
    del patch.reference_map
    if found is not None:
        patch.reference_map = found
    path = database(tmp_path / "db", {"P": patch})
    with pytest.raises(
        PatchFormatError, match=r"has no reference map; encode|reference_map of the patch is not"
    ) as caught:
        PatchArrays(path, sample="dict", mask="codes", bands="RGB")[0]
    assert caught.value.lmdb_key == b"P"
    assert "mask" not in PatchArrays(path, sample="dict", bands="RGB")[0]


def record(bands):
    """A value as rico-hdl writes it: bare tensors, by name."""
    members, start = {}, 0
    for name, array in bands.items():
        dtype = {"u": "U16", "f": "F32"}[array.dtype.kind]
        members[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    header = spell(members)
    return raw(header + " " * (-len(header) % 8), b"".join(array.tobytes() for array in bands.values()))


@pytest.mark.parametrize("paired", [False, True])
def test_records_of_rico_hdl_have_masks(tmp_path, place, paired):
    """A reference map that is a record of its own, as rico-hdl writes it, is its patch's mask and no patch itself."""
    root, names, codes = place
    s1_name = S1_NAME.format(0, 7)
    values = {}
    for folder in (root / "s2" / names[0], root / "s1" / s1_name):
        values[folder.name] = record({band.name: band.data for band in read_patch(folder, labels=False).bands})
    values[f"{names[0]}_reference_map"] = record({"Data": codes[0]})
    with lmdb.open(str(tmp_path / "rico"), map_size=2**24) as env, env.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)
    options = {"sample": "dict", "mask": "codes", "labels": None, "split": [names[0]]}
    with PatchReader(tmp_path / "rico") as reader:
        source = PairedReader(reader, {names[0]: s1_name}) if paired else reader
        arrays = PatchArrays(source, bands="all" if paired else "S2", **options)
        assert list(arrays.names) == [names[0]]
        assert np.array_equal(arrays[0]["mask"], codes[0])
    assert sorted(PatchArrays(tmp_path / "rico", labels=None).names) == sorted([names[0], s1_name])


def test_wrong_arguments_are_refused(place):
    """An unknown kind, and a mask for tuples, are a ValueError."""
    with pytest.raises(ValueError, match="mask must be one of 19, codes, or None, not 'x'"):
        PatchArrays(place[0] / "db", sample="dict", mask="x")
    with pytest.raises(ValueError, match='a mask needs sample="dict"'):
        PatchArrays(place[0] / "db", mask="codes")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_segmentation_learns(place, workers):
    """A loss falls: folders, images and masks through a loader, a convolution and torch's loss."""
    torch = pytest.importorskip("torch")
    from ben_secure.torch import PatchDataset, batch_loader

    root, *_ = place
    dataset = PatchDataset(root / "db", sample="dict", mask="19", bands="RGB", normalize="reben")
    loader = batch_loader(dataset, batch_size=2, num_workers=workers)
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 19, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(3):
        for batch in loader:
            assert batch["mask"].dtype == torch.int64
            assert batch["mask"].shape == (len(batch["name"]), 120, 120)
            loss = torch.nn.functional.cross_entropy(model(batch["image"]), batch["mask"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert dataset[0]["mask"].shape == (120, 120)


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")
def test_masks_are_those_of_torchgeo(tmp_path):
    """torchgeo reads the same files to the same numbers; pixels of no class keep their code there."""
    pytest.importorskip("rasterio")
    pandas = pytest.importorskip("pandas")
    torchgeo = pytest.importorskip("torchgeo.datasets")
    pytest.importorskip("pyarrow")
    from support.geotiffs import make_patch

    scene = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    names = [f"{scene}_{place}_57" for place in (26, 27)]
    for seed, name in enumerate(names):
        make_patch(tmp_path / "BigEarthNet-S2" / scene, name, seed=seed)
        make_map(tmp_path / "Reference_Maps", name, seed)
    (tmp_path / "BigEarthNet-S1").mkdir()
    frame = {"patch_id": names, "labels": [["Pastures"]] * 2, "split": ["train"] * 2, "s1_name": ["x", "y"]}
    pandas.DataFrame(frame).to_parquet(tmp_path / "metadata.parquet")
    theirs = torchgeo.BigEarthNetV2(tmp_path, bands="s2")
    encode(tmp_path / "db", s2=tmp_path / "BigEarthNet-S2", reference_maps=tmp_path / "Reference_Maps", labels=False)
    kinds = {"sample": "dict", "labels": None, "bands": "RGB"}
    ours = PatchArrays(tmp_path / "db", mask="19", order="torchgeo", **kinds)
    codes = PatchArrays(tmp_path / "db", mask="codes", **kinds)
    for place in range(2):
        expected = theirs[place]["mask"][0].numpy()
        classed = ours[place]["mask"] != NO_CLASS
        assert np.array_equal(np.where(classed, ours[place]["mask"], codes[place]["mask"]), expected)
