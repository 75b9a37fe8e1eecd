"""``PatchDataset`` and ``batch_loader``: tensors as ``PatchArrays`` has arrays, the same from any number of workers."""

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref

import lmdb
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Subset  # noqa: E402

from ben_secure import PatchFormatError, TagMismatchError, UnsafePickleError  # noqa: E402
from ben_secure.batches import PatchArrays  # noqa: E402
from ben_secure.signing.keys import MacKey  # noqa: E402
from ben_secure.torch import PatchDataset, batch_loader, collate  # noqa: E402
from ben_secure.torch.memory import Mapped, Pool  # noqa: E402
from support.patch_databases import KEY, database, patches  # noqa: E402

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
    assert items.whole[0].data_ptr() == items[0][0].data_ptr() == collate(items)[0].data_ptr()


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
    assert loader.collate_fn.mapped._tensors  # the batches did cross in slabs


def test_the_seed_decides_the_order(dataset):
    """And neither the number of workers nor what the global generator did; a generator in its place does the same."""

    def order(**options):
        torch.rand(3)
        batches = batch_loader(dataset, batch_size=4, **options)
        return [float(image.sum()) for images, _ in batches for image in images]

    expected = order(shuffle=True, seed=1)
    assert order(shuffle=True, seed=1) == expected
    assert order(shuffle=True, generator=torch.Generator().manual_seed(1)) == expected
    assert order(shuffle=True, seed=1, num_workers=1) == expected
    assert order(shuffle=True, seed=2) != expected
    assert sorted(order()) == sorted(expected)
    assert order(sampler=[1, 0, 1]) == [order()[1], order()[0], order()[1]]
    assert order(drop_last=True) == order()[:8]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "a seed or a generator"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "leave shuffle out"),
        ({"collate_fn": collate}, ValueError, "leave collate_fn out"),
        ({"batch_sampler": [[0]]}, ValueError, "leave batch_sampler out"),
    ],
)
def test_contradictions_are_refused(dataset, options, error, message):
    """And a dataset of another kind."""
    with pytest.raises(error, match=message):
        batch_loader(dataset, **options)
    with pytest.raises(TypeError, match="not a list"):
        batch_loader([1, 2])
    assert len(batch_loader(dataset)) == 1


def test_a_subset_is_a_dataset_too(dataset):
    """Of a subset, even; workers know whose memory it is."""
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
        {"bands": "RGB"},  # too small for a slab
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


def halved(image):
    image *= 0.5
    return image


def cropped(image):
    return image[:, 3:50, :40]


def mean_of(image):
    return {"mean": image.mean((1, 2))}


class FirstThree(PatchDataset):
    """A dataset that gives out a part of each batch, where it lies."""

    def __getitem__(self, index):
        images, labels = super().__getitem__(index)
        return images[..., :3, :, :], labels


class ChannelsLast(PatchDataset):
    """A dataset that gives out another view of each batch."""

    def __getitem__(self, index):
        images, labels = super().__getitem__(index)
        return images.movedim(-3, -1), labels


class WithPlaces(PatchDataset):
    """A dataset that gives out more than images and labels."""

    def __getitem__(self, index):
        return *super().__getitem__(index), index


class Again(PatchDataset):
    """A dataset that gives out its first batch again and again, and then others."""

    first, times = None, 0

    def __getitem__(self, index):
        self.times += 1
        if self.times > 6:
            self.first = None
            return super().__getitem__(index)
        self.first = super().__getitem__(index) if self.first is None else self.first
        return self.first


def test_one_batch_may_be_given_out_twice(tagged):
    """The training loop keeps the second while the first is gone; neither is overwritten."""
    dataset = Again(tagged, bands="all", mac_key=KEY, context=CONTEXT)
    loader = batch_loader(dataset, 3, num_workers=1, sampler=[0, 1, 2, *range(3, 9)] * 10)
    iterator = iter(loader)
    expected = next(iterator)[0].clone()
    kept = [next(iterator)[0] for _ in range(5)]
    del kept[:4]
    for _ in range(20):
        next(iterator)
    assert torch.equal(kept[0], expected)


@pytest.mark.parametrize("kind", [FirstThree, ChannelsLast, WithPlaces])
def test_what_a_dataset_of_the_caller_s_makes_of_a_batch_crosses(tagged, kind):
    """Also where it begins in a slab and is another view of it than was lent."""
    dataset = kind(tagged, bands="all", mac_key=KEY, context=CONTEXT)
    expected = [
        [part if isinstance(part, list) else part.clone() for part in batch] for batch in batch_loader(dataset, 4)
    ]
    found = [
        [part if isinstance(part, list) else part.clone() for part in b]
        for b in batch_loader(dataset, 4, num_workers=1)
    ]
    assert str(found) == str(expected)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, expected, strict=True))


def replaced(images):
    images[10] = images[10] * 0
    return images


def turned(image):
    return image.transpose_(1, 2)


def test_a_transform_may_change_the_patch_it_was_given(tagged):
    """Put other tensors into it, or turn it: a batch has what the patches one by one have."""
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
    """What is pinned is a copy, where there is a device to pin for."""
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
    """As it would be without workers."""
    path = database(tmp_path / "db", {"a": merged["patch 0"].s1_patch})
    with pytest.raises(PatchFormatError, match=r"(?s)no band B02, it has VH, VV.*at LMDB key b'a'"):
        list(batch_loader(PatchDataset(path, labels=None), num_workers=1))
    assert len(list(batch_loader(PatchDataset(path, bands="S1", labels=None), num_workers=1))) == 1


@pytest.mark.threat("T9")
def test_it_is_pickled_with_its_demand_and_shown_without_secrets(dataset, tagged):
    """What arrives verifies as what was sent."""
    dataset.batch([0, 1, 2])
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied._pool is None
    assert copied.readers[0].verified
    assert torch.equal(copied.batch([5])[0], dataset.batch([5])[0])
    assert "tagged.lmdb" in repr(copied)
    assert bytes(range(32)).hex() not in repr(copied) + str(batch_loader(dataset).__dict__)


class TestMemory:
    """Memory is used again when nobody has it any more, and never before."""

    def test_batches_that_are_kept_stay_as_they_are(self, dataset, arrays):
        """With and without workers, as whole batches, views of them, or numpy arrays made of them."""
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

    def test_slabs_are_used_again(self, dataset):
        """A worker makes a few, however many batches there are."""
        loader = batch_loader(dataset, 3, sampler=[*range(9)] * 8, num_workers=1, persistent_workers=True)
        places = {images.data_ptr() for images, _ in loader}
        assert 1 <= len(loader.collate_fn.mapped._tensors) <= 5
        assert len(places) <= 5

    def test_slabs_of_workers_that_ended_are_forgotten(self, dataset):
        """When the last batch of theirs is gone, and when the loader is."""
        loader = batch_loader(dataset, 3, num_workers=1)
        mapped = loader.collate_fn.mapped
        for batch in loader:
            assert len(batch[0])
        assert mapped._tensors
        del batch
        assert not mapped._tensors
        delivery = weakref.ref(loader.collate_fn)
        del loader, mapped
        gc.collect()
        assert delivery() is None

    def test_copies_of_a_loader_are_loaders(self, dataset):
        """As frameworks make them."""
        loader = copy.deepcopy(batch_loader(dataset, 4, num_workers=1))
        assert same(listed(loader), listed(batch_loader(dataset, 4)))
        assert loader.collate_fn.mapped is copy.copy(loader.collate_fn).mapped

    def test_leaving_a_loop_early_is_harmless(self, dataset, arrays):
        """With workers that stay and with others; what was read ahead is dropped."""
        for persistent in (True, False):
            loader = batch_loader(dataset, 2, num_workers=1, persistent_workers=persistent)
            for _ in range(6):
                for images, _labels in loader:
                    assert np.array_equal(images.numpy(), arrays.batch([0, 1])[0])
                    break
            assert len(loader.collate_fn.mapped._tensors) <= 8

    def test_a_pool_lends_what_is_free(self):
        """Of enough room; at most so many; nothing small. What a tensor or a view of it has is not free."""
        pool = Pool(shared=False, most=2)
        assert pool.lend(10) is None
        first = torch.from_numpy(pool.lend(2**18))
        view = first[5:]
        address = first.data_ptr()
        del first
        second = pool.lend(2**18)
        assert second.ctypes.data != address
        assert pool.lend(2**18) is None
        assert pool.slab_at(address).floats == 2**18
        del view
        assert pool.slab_at(address) is None
        assert pool.lend(2**18).ctypes.data == address
        larger = pool.lend(2**19)
        assert len(larger) == 2**19

    def test_the_other_side_has_a_slab_until_it_lets_go(self):
        """Both sides in one process; only the first time the slab itself is sent."""
        pool, mapped = Pool(shared=True, most=1), Mapped()
        lent = torch.from_numpy(pool.lend(2**18))
        lent[:] = 3
        slab = pool.slab_at(lent.data_ptr())
        assert slab.is_free() is False
        received = mapped.open(slab.token, slab.send(), 2**18)
        del lent
        assert pool.lend(2**18) is None
        assert (received == 3).all()
        part = received[7:9]
        del received
        assert pool.lend(2**18) is None
        del part
        assert torch.from_numpy(pool.lend(2**18)).is_shared() is False
        assert slab.send() is None

    def test_a_fork_does_not_let_go_for_its_parent(self):
        """Its copies of tensors are not the ones that count."""
        pool, mapped = Pool(shared=True, most=1), Mapped()
        lent = torch.from_numpy(pool.lend(2**18))
        slab = pool.slab_at(lent.data_ptr())
        received = mapped.open(slab.token, slab.send(), 2**18)
        del lent
        child = os.fork()
        if child == 0:
            del received
            os._exit(0)
        os.waitpid(child, 0)
        assert not slab.is_free()
        assert not slab.is_retired()
        del received
        assert slab.is_retired()

    def test_what_a_fork_may_see_is_not_lent_again(self, dataset):
        """A forked process shares the memory of a batch, and the worker cannot know when it has done with it."""
        loader = batch_loader(dataset, 3, num_workers=1, persistent_workers=True)
        iterator = iter(loader)
        images, _labels = next(iterator)
        before = images.numpy().copy()
        (begin, begun), (answer, answered) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.read(begin, 1)
            os.write(answered, b"%d" % np.array_equal(images.numpy(), before))
            os._exit(0)
        del images
        for _ in range(3):
            expected = listed(batch_loader(dataset, 3))
            found = listed(loader)
            assert same(found, expected)
        os.write(begun, b"x")
        assert os.read(answer, 1) == b"1"
        os.waitpid(child, 0)
        for end in (begin, begun, answer, answered):
            os.close(end)

    def test_a_slab_that_a_fork_may_see_is_given_up(self):
        """One that arrives after the fork is lent again, as without one."""
        pool, mapped = Pool(shared=True, most=1), Mapped()
        for forks in (True, False):
            lent = torch.from_numpy(pool.lend(2**18))
            slab = pool.slab_at(lent.data_ptr())
            received = mapped.open(slab.token, slab.send(), 2**18)
            del lent
            if forks:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            del received
            assert slab.is_free() is not forks
            assert slab.is_retired() is forks
            assert (slab.token in mapped._tensors) is not forks
        assert torch.from_numpy(pool.lend(2**18)) is not None


def test_without_torch_the_error_names_the_extra(tmp_path):
    """And ``ben_secure.batches`` goes on working."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    code = (
        "import ben_secure.batches\n"
        "try:\n    import ben_secure.torch\n"
        "except ben_secure.MissingExtraError as error:\n    print(error)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert b"pip install 'ben-secure[torch]'" in found.stdout, found.stderr
