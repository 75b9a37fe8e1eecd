"""``PatchDataset`` and ``batch_loader``: tensors as ``PatchArrays`` has arrays, the same from any number of workers."""

import gc
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys

import lmdb
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Subset  # noqa: E402

from ben_secure import BigEarthNet_S2_Patch, PatchFormatError, TagMismatchError, UnsafePickleError  # noqa: E402
from ben_secure.batches import PatchArrays  # noqa: E402
from ben_secure.signing.keys import MacKey  # noqa: E402
from ben_secure.torch import PatchDataset, batch_loader, collate  # noqa: E402
from ben_secure.torch.memory import Pool  # noqa: E402
from support.patch_databases import KEY, database, patches  # noqa: E402
from support.strategies import make_patch  # noqa: E402

# From Python 3.12 on, forking is warned of where there are threads, and torch and forks go on as before.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

METHODS = [  # all but fork start interpreters that import torch
    pytest.param(method, marks=[] if method == "fork" else pytest.mark.slow)
    for method in ("fork", "spawn", "forkserver")
    if method in multiprocessing.get_all_start_methods()
]
CONTEXT = "BEN"


@pytest.fixture(scope="module")
def merged():
    return patches(11)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory, merged):
    return database(tmp_path_factory.mktemp("torch") / "tagged.lmdb", merged, mac_key=KEY, context=CONTEXT)


@pytest.fixture(scope="module")
def dataset(tagged):
    """With its key; batches of three are large enough for the shared slabs."""
    return PatchDataset(tagged, bands="all", mac_key=KEY, context=CONTEXT)


@pytest.fixture(scope="module")
def arrays(tagged):
    return PatchArrays(tagged, bands="all", mac_key=KEY, context=CONTEXT)


def listed(loader):
    """Copies of all batches, so that their memory may be used again meanwhile."""
    return [(images.clone(), labels.clone()) for images, labels in loader]


def same(found, expected):
    return len(found) == len(expected) and all(
        torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(found, expected, strict=True)
    )


def test_items_are_tensors(dataset, arrays):
    """The conventional pair, as numpy has it; without labels the tensor alone."""
    image, label = dataset[3]
    assert image.dtype == label.dtype == torch.float32
    assert np.array_equal(image.numpy(), arrays[3][0])
    assert np.array_equal(label.numpy(), arrays[3][1])
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == 11
    images, labels = dataset[torch.tensor([3, 4])]
    assert torch.equal(images[0], image)
    assert torch.equal(labels[0], label)


def test_tensors_are_indices(dataset):
    """Ints and masks are indices; a single bool tensor is not."""
    for index in (torch.tensor([3, -1]), [torch.tensor(3), torch.tensor(-1)]):
        assert torch.equal(dataset[index][0], dataset.batch([3, 10])[0])
    assert torch.equal(dataset[torch.tensor(3)][0], dataset[3][0])
    mask = torch.arange(11) > 8
    assert torch.equal(dataset[mask][0], dataset.batch([9, 10])[0])
    for index in (torch.tensor(True), mask[:3], list(mask[:3]), [torch.tensor(True), 1]):
        with pytest.raises((TypeError, IndexError), match="bool"):
            dataset[index]
    with pytest.raises(TypeError, match="a bool is not the index"):  # a Subset does not accept a mask
        next(iter(DataLoader(Subset(dataset, [True, False, True]))))
    assert len(next(iter(DataLoader(Subset(dataset, [1, 0, 1]))))) == 2


def test_items_can_be_collated_by_torch(dataset):
    """By its own collate function, item by item or from a batch that was read as one; ours copies nothing."""
    default = listed(DataLoader(dataset, batch_size=4))
    assert [len(images) for images, _ in default] == [4, 4, 3]
    for workers in (0, 1):
        assert same(listed(DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=workers)), default)
    assert same(listed(batch_loader(dataset, batch_size=4)), default)
    assert same([collate([dataset[0], dataset[1]])], [dataset.batch([0, 1])])
    items = dataset.__getitems__([2, 0])
    assert len(items) == len(items[:]) == 2
    assert torch.equal(items[-1][0], dataset[0][0])
    assert items[0][0].data_ptr() == collate(items)[0].data_ptr()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sample", ["tuple", "dict"])
def test_names_of_labels_stay_with_their_patch(tmp_path, sample, workers):
    """Torch's own collate function would turn plain tuples round, and fail where their lengths differ."""
    labels = [("Pastures", "Airports"), ("Airports", "Pastures"), ("Pastures",), ()]
    found = {f"{at}": make_patch(BigEarthNet_S2_Patch, labels=list(names)) for at, names in enumerate(labels)}
    dataset = PatchDataset(database(tmp_path / "db", found), bands="RGB", labels="names", sample=sample)
    for data, make in itertools.product((dataset, Subset(dataset, range(4))), (DataLoader, batch_loader)):
        batches = list(make(data, 2, num_workers=workers))
        assert [batch["label"] if sample == "dict" else batch[1] for batch in batches] == [labels[:2], labels[2:]]


@pytest.mark.threat("T9")
@pytest.mark.parametrize("method", METHODS)
def test_workers_give_what_one_process_gives(dataset, method):
    """However they are started: the same batches in the same order, verified in the worker with the key."""
    expected = listed(batch_loader(dataset, batch_size=3, shuffle=True, seed=7))
    loader = batch_loader(
        dataset, batch_size=3, shuffle=True, seed=7, num_workers=2, multiprocessing_context=method,
        persistent_workers=True,
    )  # fmt: skip
    assert len(loader) == len(expected) == 4
    assert same(listed(loader), expected)
    second = listed(loader)
    assert not same(second, expected)  # another epoch, another order
    assert sorted(float(image.sum()) for images, _ in second for image in images) == sorted(
        float(image.sum()) for images, _ in expected for image in images
    )


def test_the_seed_decides_the_order(dataset):
    """The number of workers and the global generator have no effect; a generator's order is torch's own."""

    def order(**options):
        torch.rand(3)
        batches = batch_loader(dataset, batch_size=4, **options)
        return [float(image.sum()) for images, _ in batches for image in images]

    expected = order(shuffle=True, seed=1)
    assert order(shuffle=True, seed=1) == expected
    assert order(shuffle=True, seed=1, num_workers=1) == expected
    plain = DataLoader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert order(shuffle=True, generator=torch.Generator().manual_seed(3)) == [
        float(image.sum()) for images, _ in plain for image in images
    ]
    assert order(shuffle=True, seed=2) != expected
    assert sorted(order()) == sorted(expected)
    assert order(sampler=[1, 0, 1]) == [order()[1], order()[0], order()[1]]
    assert order(drop_last=True) == order()[:8]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "a seed or a generator"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "leave out shuffle"),
        ({"batch_sampler": [[0]]}, ValueError, "has its own batch size"),
        ({"epoch": 1, "seed": 1}, ValueError, "requires shuffle=True and a seed"),
        ({"epoch": -1, "seed": 1, "shuffle": True}, ValueError, "counted from 0"),
    ],
)
def test_contradictions_are_refused(dataset, options, error, message):
    """Before anything is read."""
    with pytest.raises(error, match=message):
        batch_loader(dataset, **options)
    assert len(batch_loader(dataset)) == 1


def test_a_subset_is_a_dataset_too(dataset):
    """This holds for a subset of a subset, too."""
    subset = Subset(Subset(dataset, range(1, 11)), [0, 2, 4])
    for workers in (0, 1):
        (found,) = listed(batch_loader(subset, num_workers=workers))
        assert torch.equal(found[0], dataset.batch([1, 3, 5])[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_every_form_of_batch_crosses(tagged, workers):
    """Bands by resolution, names as labels, no labels, a transform in place, one that makes something else."""
    keys = {"mac_key": KEY, "context": CONTEXT}
    for options in (
        {"size": None},
        {"labels": "names"},
        {"labels": None},
        {"labels": None, "size": None},
        {"transform": halved},
        {"transform": cropped},
        {"transform": mean_of},
        {"bands": "RGB"},
    ):
        dataset = PatchDataset(tagged, **options, **keys)
        (found,) = batch_loader(dataset, num_workers=workers, sampler=range(6), batch_size=6)
        expected = dataset.batch(range(6))
        assert str(found) == str(expected)
        if options.get("labels", "") is None:
            found, expected = (found, None), (expected, None)
        first, second = (each if isinstance(each, dict) else {0: each} for each in (found[0], expected[0]))
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in second)


def test_each_sample_is_transformed_once(tagged):
    """However often it is asked for."""
    dataset = PatchDataset(tagged, bands="RGB", transform=halved, mac_key=KEY, context=CONTEXT)
    samples = dataset.__getitems__([0, 1, 2])
    for _ in range(2):
        for place in range(3):
            assert torch.equal(samples[place][0], dataset[place][0])
    assert torch.equal(samples.whole()[0], dataset.batch([0, 1, 2])[0])


def halved(image):
    image *= 0.5
    return image


def cropped(image):
    return image[:, 3:50, :40]


def mean_of(image):
    return {"mean": image.mean((1, 2))}


class WithPlaces(PatchDataset):
    """A dataset whose items have more than images and labels."""

    def __getitem__(self, index):
        return *super().__getitem__(index), index


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_dataset_of_the_caller_s_makes_of_an_item_is_in_the_batch(tagged, workers):
    """Nothing reads past its ``__getitem__``."""
    dataset = WithPlaces(tagged, bands="S1", mac_key=KEY, context=CONTEXT)
    images, labels, places = next(iter(batch_loader(dataset, 4, num_workers=workers)))
    assert torch.equal(images, torch.stack([dataset[place][0] for place in range(4)]))
    assert places.tolist() == [0, 1, 2, 3]
    assert labels.shape == (4, 19)


@pytest.mark.parametrize("workers", [0, 1])
def test_dicts_cross(tagged, workers):
    """Whole as they were read, or item by item; with names, which stay as they are."""
    for options in ({}, {"labels": "names"}, {"labels": None}, {"transform": doubled}):
        dataset = PatchDataset(tagged, sample="dict", mac_key=KEY, context=CONTEXT, **options)
        expected = dataset.batch(range(6))
        assert expected["name"] == list(dataset.names)[:6]
        for loader in (
            batch_loader(dataset, 6, num_workers=workers),
            batch_loader(dataset, 6, num_workers=workers, collate_fn=item_by_item),
        ):
            found = next(iter(loader))
            assert list(found) == list(expected)
            assert torch.equal(found["image"], expected["image"])
            assert found["name"] == expected["name"]
            if options.get("labels") == "names":
                assert found["label"] == expected["label"]
            elif "labels" not in options:
                assert torch.equal(found["label"], expected["label"])


def doubled(sample):
    return {**sample, "image": sample["image"] * 2}


def item_by_item(items):
    return collate(list(items))


def replaced(images):
    images[10] = images[10] * 0
    return images


def turned(image):
    return image.transpose_(1, 2)


def test_a_transform_may_change_the_patch_it_was_given(tagged):
    """It may replace or transpose tensors: a batch equals the single patches."""
    for options in ({"size": None, "transform": replaced}, {"transform": turned}):
        dataset = PatchDataset(tagged, mac_key=KEY, context=CONTEXT, **options)
        one, batch = dataset[1][0], dataset.batch([0, 1])[0]
        if isinstance(one, dict):
            assert not batch[10].any()
            assert batch[20].any()
            assert all(torch.equal(batch[name][1], one[name]) for name in one)
        else:
            assert torch.equal(batch[1], one)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_pinned_memory_gives_the_same(dataset, workers):
    """Pinned memory is a copy, if there is a device to pin for."""
    expected = listed(batch_loader(dataset, batch_size=4))
    assert same(listed(batch_loader(dataset, batch_size=4, num_workers=workers, pin_memory=True)), expected)


@pytest.mark.threat("T9")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_key_is_refused_in_the_worker(tagged, workers):
    """The error keeps its class, and names database and LMDB key."""
    dataset = PatchDataset(tagged, bands="S1", mac_key=MacKey.generate(), context=CONTEXT)
    with pytest.raises(TagMismatchError, match=r"(?s)not among the keys given.*at LMDB key b'patch 0' in .*tagged"):
        list(batch_loader(dataset, num_workers=workers))
    right = PatchDataset(tagged, bands="S1", mac_key=KEY, context=CONTEXT)
    assert len(list(batch_loader(right, num_workers=workers))) == 1


@pytest.mark.threat("T1")
def test_a_hostile_value_is_refused_in_the_worker(tmp_path, merged, monkeypatch):
    """Nothing of it runs there; the others are read."""
    monkeypatch.chdir(tmp_path)
    path = database(tmp_path / "db", merged)
    with lmdb.open(str(path), map_size=2**28) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"patch 4", b"\x80\x04cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85R.")
    dataset = PatchDataset(path, bands="S1")
    with pytest.raises(UnsafePickleError, match=r"(?s)at LMDB key b'patch 4' in .*db"):
        list(batch_loader(dataset, num_workers=1))
    assert not (tmp_path / "canary").exists()
    honest = [name for name in dataset.names if name != "patch 4"]
    assert len(list(batch_loader(PatchDataset(path, bands="S1", split=honest), batch_size=10, num_workers=1))) == 1


def test_a_missing_band_is_named_by_the_worker(tmp_path, merged):
    """The error is the same as without workers."""
    path = database(tmp_path / "db", {"a": merged["patch 0"].s1_patch})
    with pytest.raises(PatchFormatError, match=r"(?s)does not have band B02; its bands are VH, VV.*at LMDB key b'a'"):
        list(batch_loader(PatchDataset(path, labels=None), num_workers=1))
    assert len(list(batch_loader(PatchDataset(path, bands="S1", labels=None), num_workers=1))) == 1


@pytest.mark.threat("T9")
@pytest.mark.threat("T32")
def test_it_is_pickled_with_its_demand_and_shown_without_secrets(dataset, tagged):
    """The received dataset verifies like the sent one."""
    dataset.batch([0, 1, 2])
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied.readers[0].verified
    assert torch.equal(copied.batch([5])[0], dataset.batch([5])[0])
    assert "tagged.lmdb" in repr(copied)
    assert bytes(range(32)).hex() not in repr(copied) + str(batch_loader(dataset).__dict__)


class TestMemory:
    """Memory is used again when nothing refers to it any more, and never before."""

    def test_batches_that_are_kept_stay_as_they_are(self, dataset, arrays):
        """This holds with and without workers, for whole batches, views of them, and numpy arrays made from them."""
        order = [*range(11)] * 3
        expected = [arrays.batch(order[at : at + 3])[0] for at in range(0, 33, 3)]
        for workers in (0, 1):
            kept = []
            for place, (images, _) in enumerate(batch_loader(dataset, 3, sampler=order, num_workers=workers)):
                kept.append((images, images[1:], images.numpy(), images.numpy()[1:])[place % 4])
                del images
            gc.collect()
            for place, (found, wanted) in enumerate(zip(kept, expected, strict=True)):
                assert np.array_equal(np.asarray(found), wanted[1:] if place % 2 else wanted)

    def test_memory_is_used_again(self, dataset):
        """A few pieces of memory serve any number of batches, of changing sizes, too."""
        loader = batch_loader(dataset, 3, sampler=[*range(9)] * 8)
        assert 1 < len({images.data_ptr() for images, _ in loader}) <= 4
        sizes = [2, 5, 3, 5, 2, 5]
        for size in sizes:
            assert torch.equal(dataset.batch([4] * size)[0], dataset.batch([4] * 6)[0][:size])

    def test_a_pool_lends_what_is_free(self):
        """Memory in use by a tensor or a view is not reused; only a few large arrays are kept."""
        pool = Pool()
        first = pool.take(2**20)
        view, address = first[5:], first.data_ptr()
        del first
        others = [pool.take(2**20) for _ in range(9)]
        assert len({address, *(other.data_ptr() for other in others)}) == 10
        del view
        assert pool.take(2**20).data_ptr() == address
        larger = pool.take(2**21)
        assert len(larger) == 2**21
        assert len(pool.take(10)) == 10

    def test_a_forked_process_has_memory_of_its_own(self, dataset):
        """Its batches do not appear in those of its parent."""
        images, _ = dataset.batch([0, 1, 2])
        before = images.clone()
        child = os.fork()
        if child == 0:  # where torch's own threads are not
            del images
            wrong = not np.array_equal(dataset.batch([3, 4, 5])[0][0].numpy(), dataset[3][0].numpy())
            os._exit(wrong)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.equal(images, before)


def test_without_torch_the_error_names_it():
    """And ``ben_secure.batches`` goes on working."""
    code = (
        "import sys, ben_secure.batches\nsys.modules['torch'] = None\n"
        "try:\n    import ben_secure.torch\n"
        "except ben_secure.MissingExtraError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"pip install torch; ben_secure.batches.PatchArrays" in found.stdout, found.stderr
