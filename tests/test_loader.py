"""``batch_loader`` is a ``DataLoader``: all operations on one give the batches of a list of the items."""

import inspect
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)

from ben_secure import BenSecureError  # noqa: E402
from ben_secure.torch import EpochSampler, PatchDataset, batch_loader, collate  # noqa: E402
from support.databases import make_database  # noqa: E402
from support.patch_databases import database, patches  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

COUNT = 11
HALVES = 2  # ranks


class Listed(Dataset):
    """The items of a dataset in a list, which every loader must reproduce."""

    def __init__(self, dataset):
        self.items = [dataset[place] for place in range(len(dataset))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[place]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return PatchDataset(database(tmp_path_factory.mktemp("loader") / "db", patches(COUNT)), bands="10m_20m")


@pytest.fixture(scope="module")
def listed(dataset):
    return Listed(dataset)


def ours(dataset, batch_size=3, **options):
    return batch_loader(dataset, batch_size, **options)


def with_collate(dataset, batch_size=3, **options):
    return DataLoader(dataset, batch_size, collate_fn=collate, **options)


def plain(dataset, batch_size=3, **options):
    return DataLoader(dataset, batch_size, **options)


def in_order(make, dataset, **options):
    return [make(dataset, **options)]


def shuffled(make, dataset, **options):
    return [make(dataset, shuffle=True, **options)]


def with_generator(make, dataset, **options):
    return [make(dataset, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(8), **options)]


def whole_batch(make, dataset, **options):
    return [make(dataset, batch_size=len(dataset), shuffle=True, **options)]


def ranks(make, dataset, **options):
    """By hand, as in a loop of one's own under DDP."""
    samplers = [DistributedSampler(dataset, HALVES, rank, seed=2) for rank in range(HALVES)]
    return [make(dataset, sampler=sampler, **options) for sampler in samplers]


def weighted(make, dataset, **options):
    return [make(dataset, sampler=WeightedRandomSampler(range(1, 1 + len(dataset)), 20), **options)]


def subset_sampler(make, dataset, **options):
    return [make(dataset, sampler=SubsetRandomSampler([9, 2, 4, 5]), **options)]


def subset(make, dataset, **options):
    return [make(Subset(Subset(dataset, range(1, COUNT)), [7, 0, 2, 1]), shuffle=True, **options)]


def splits(make, dataset, **options):
    parts = random_split(dataset, [7, COUNT - 7], torch.Generator().manual_seed(1))
    return [make(part, shuffle=True, **options) for part in parts]


def joined(make, dataset, **options):
    return [make(ConcatDataset([dataset, Subset(dataset, [1, 3])]), shuffle=True, **options)]


def remade(make, dataset, **options):
    """As frameworks do it: from the attributes, with another sampler."""
    return [remake(loader, DistributedSampler(dataset, HALVES, 1)) for loader in shuffled(make, dataset, **options)]


def remade_in_order(make, dataset, **options):
    """As Lightning's overfit mode does it."""
    return [remake(loader, SequentialSampler(dataset)) for loader in shuffled(make, dataset, **options)]


def remake(loader, sampler):
    names = set(inspect.signature(type(loader).__init__).parameters) & set(vars(loader)) - {"batch_sampler"}
    return type(loader)(**{**{name: getattr(loader, name) for name in names}, "sampler": sampler})


FORMS = [
    in_order, shuffled, with_generator, whole_batch, ranks, weighted, subset_sampler, subset, splits, joined, remade,
    remade_in_order,
]  # fmt: skip


def epochs(form, make, dataset, **options):
    """Copies of the batches of two epochs of each loader, and a random number drawn with each batch."""
    torch.manual_seed(4)
    found = []
    for loader in form(make, dataset, **options):
        for epoch in range(2):
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            found.append([(images.clone(), labels.clone(), torch.rand(1)) for images, labels in loader])
            assert len(loader) == len(found[-1])
    return found


def equal(found, expected):
    return len(found) == len(expected) and all(
        len(one) == len(other) and all(map(torch.equal, a, b))
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_batches_are_those_of_a_list(dataset, listed, form, workers):
    """From each kind of loader, in the same order, batch axis and all, for two epochs; other draws stay the same."""
    expected = epochs(form, plain, listed)
    if form not in (in_order, remade_in_order):
        assert any(not equal([first], [second]) for first, second in zip(expected[::2], expected[1::2], strict=True))
    for make in (ours, with_collate, plain):
        assert equal(epochs(form, make, dataset, num_workers=workers), expected)


# A worker has the dataset and no sampler, so the slowest way needs only the forms whose datasets differ.
STARTED = [
    (method, form)
    for method, forms in (("forkserver", FORMS), ("spawn", [subset, joined]))
    if method in multiprocessing.get_all_start_methods()
    for form in forms
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "form"), STARTED)
def test_batches_are_those_of_a_list_however_workers_start(dataset, listed, method, form):
    """Of a list with as many workers, which draw from torch's global generator as well."""
    multiprocessing.set_forkserver_preload(["ben_secure.torch"])
    workers = {"num_workers": 2, "persistent_workers": True}
    expected = epochs(form, plain, listed, **workers)
    assert equal(epochs(form, ours, dataset, **workers, multiprocessing_context=method), expected)


def test_ranks_share_the_patches(dataset, listed):
    """No patch is with two of them, each epoch is dealt out otherwise, and none is left out."""
    sums = [float(image.sum()) for image, _ in listed.items]
    found = epochs(ranks, ours, Subset(dataset, range(10)))
    by_epoch = [[float(image.sum()) for images, _, _ in found[rank + epoch] for image in images]
                for epoch in range(2) for rank in (0, 2)]  # fmt: skip
    for first, second in (by_epoch[:2], by_epoch[2:]):
        assert sorted(first + second) == sorted(sums[:10])
    assert by_epoch[0] != by_epoch[2]


@pytest.fixture
def watched(dataset, monkeypatch):
    """A dataset, and the threads in which its batches were read."""
    samples, found = dataset.samples, []

    def watch(places):
        found.append(threading.current_thread())
        return samples(places)

    monkeypatch.setattr(dataset, "samples", watch)
    return dataset, found


class TestAhead:
    """The next batch is read while the loop trains, without visible effects."""

    def test_it_is_read_in_a_thread(self, watched):
        """All batches except the first are read there; no thread is left after the loop or an early exit."""
        dataset, threads = watched
        before = set(threading.enumerate())
        for leave in (False, True):
            threads.clear()
            for _ in batch_loader(dataset, 3):
                if leave:
                    break
            assert threads[0] is threading.current_thread()
            assert len(threads) == 2 if leave else len(set(threads)) == 2
            threads[1].join(10)
            assert set(threading.enumerate()) <= before

    def test_it_is_read_while_the_loop_trains(self, dataset, monkeypatch):
        """The loop need not come back for it."""
        samples, begun = dataset.samples, threading.Semaphore(0)
        monkeypatch.setattr(dataset, "samples", lambda places: (begun.release(), samples(places))[1])
        for place, _ in enumerate(batch_loader(dataset, 3)):
            assert begun.acquire(timeout=10)
            if place == 0:
                assert begun.acquire(timeout=10)  # the second batch
                break

    def test_code_of_the_caller_s_runs_in_the_caller_s_thread(self, watched):
        """Transforms, collation, samplers, and datasets that do more than read."""
        dataset, threads = watched
        others = set()

        def note(value):
            others.add(threading.current_thread())
            return value

        class Sampler(SequentialSampler):
            def __iter__(self):
                return map(note, super().__iter__())

        class Noting(PatchDataset):
            def __getitem__(self, index):
                return note(super().__getitem__(index))

        dataset.transform = note
        try:
            loader = batch_loader(dataset, 3, sampler=Sampler(dataset), collate_fn=lambda items: note(list(items)))
            assert len([item for items in loader for item in items]) == COUNT
        finally:
            dataset.transform = None
        for _ in batch_loader(Noting([reader.path for reader in dataset.readers], bands="RGB"), 3):
            pass
        assert len(set(threads)) == 2
        assert others == {threading.current_thread()}

    @pytest.mark.parametrize("make", [ours, with_collate])
    def test_random_transforms_draw_as_without(self, dataset, listed, make):
        """Item by item, in order, between the draws of the loop: with a seed, a run is the same."""

        def noisy(image):
            return image + torch.rand(1)

        torch.manual_seed(1)
        expected = []
        for places in ([0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]):
            images = torch.stack([noisy(listed[place][0]) for place in places])
            expected.append((images, torch.rand(1)))
        torch.manual_seed(1)
        loader = make(dataset, generator=torch.Generator())
        dataset.transform = noisy
        try:
            found = [(images, torch.rand(1)) for images, _ in loader]
        finally:
            dataset.transform = None
        assert equal([found], [expected])

    def test_several_passes_at_once(self, dataset):
        """Each has its own place."""
        loader = batch_loader(dataset, 4)
        for (one, _), (other, _), (late, _) in zip(loader, loader, list(loader), strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, late)

    @pytest.mark.parametrize("make", [ours, with_collate])
    def test_an_error_comes_in_its_turn(self, tmp_path, make):
        """The error comes after the earlier batches; the loop can continue with the later ones."""
        found = patches(6)
        values = {name.encode(): patch.dumps() for name, patch in found.items()} | {b"patch 2": b"no patch"}
        make_database(tmp_path / "db", values)
        iterator = iter(make(PatchDataset(tmp_path / "db", bands="RGB"), 1))
        for place in range(6):
            if place == 2:
                with pytest.raises(BenSecureError, match="at LMDB key b'patch 2'"):
                    next(iterator)
            else:
                assert np.array_equal(next(iterator)[0][0][0].numpy(), found[f"patch {place}"].s2_patch.band04.data)
        with pytest.raises(StopIteration):
            next(iterator)

    def test_a_forked_process_goes_on_with_its_copy(self, dataset, monkeypatch):
        """From where its parent was, and so does its parent; a batch that is being read is waited for."""
        expected = [float(images.sum()) for images, _ in with_collate(dataset, 2)]
        samples = dataset.samples
        monkeypatch.setattr(dataset, "samples", lambda places: (time.sleep(0.3), samples(places))[1])
        iterator = iter(batch_loader(dataset, 2))
        assert float(next(iterator)[0].sum()) == expected[0]
        child = os.fork()
        if child == 0:  # where torch's own threads are not
            signal.alarm(60)
            rest = [float(images.numpy().astype("f8").sum()) for images, _ in iterator]
            os._exit(not np.allclose(rest, expected[1:], rtol=1e-4))
        assert os.waitpid(child, 0)[1] == 0
        assert [float(images.sum()) for images, _ in iterator] == expected[1:]


class TestEpochs:
    """A run that goes on elsewhere takes the patches in the order that it would have taken them."""

    @staticmethod
    def order(loader):
        return [float(image.sum()) for images, _ in loader for image in images]

    def test_a_loader_that_is_made_anew_begins_at_an_epoch(self, dataset):
        """With as many workers as one likes; the seed and the epoch decide, and each epoch is another order."""
        loader = batch_loader(dataset, 4, shuffle=True, seed=3)
        expected = [self.order(loader) for _ in range(4)]
        assert len({tuple(epoch) for epoch in expected}) == 4
        for workers in (0, 1):
            again = batch_loader(dataset, 2, shuffle=True, seed=3, epoch=2, num_workers=workers)
            assert [self.order(again), self.order(again)] == expected[2:]
        loader.sampler.set_epoch(1)
        assert self.order(loader) == expected[1]
        assert self.order(batch_loader(dataset, 4, shuffle=True, seed=-3)) != expected[0]

    def test_workers_draw_other_numbers_in_another_epoch(self, dataset):
        """A run that goes on does not augment as its first epoch did; one that is repeated does."""
        dataset.transform = torch.rand_like
        try:
            first, again, later = (
                [images for images, _ in batch_loader(dataset, 6, shuffle=True, seed=1, epoch=epoch, num_workers=1)]
                for epoch in (0, 0, 1)
            )
        finally:
            dataset.transform = None
        assert all(map(torch.equal, first, again))
        assert not any(map(torch.equal, first, later))

    def test_an_order_counts_when_it_begins(self):
        """Torchdata's loader, with workers, asks for two and uses one: no epoch is left out."""
        sampler = EpochSampler(range(20), 1)
        unused, order = iter(sampler), iter(sampler)
        first = list(order)
        assert first == list(EpochSampler(range(20), 1))
        assert list(unused) == list(EpochSampler(range(20), 1, epoch=1))
        assert list(sampler) == list(EpochSampler(range(20), 1, epoch=2))

    def test_the_order_has_every_patch_once(self):
        """Of anything that has a length."""
        for epoch in (0, 10**6):
            assert sorted(EpochSampler(range(20), 2**70, epoch)) == [*range(20)]
        with pytest.raises(ValueError, match="counted from 0"):
            EpochSampler(range(20), 1).set_epoch(-1)


LONG_RUN = """
import os, signal, sys
from ben_secure.torch import PatchDataset, batch_loader

def main(path, workers, batches):
    dataset = PatchDataset(path, bands="10m_20m")
    epoch = batch_loader(dataset, 3, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    seen, kept = 0, 0
    while seen < batches:
        for images, labels in epoch:
            seen += 1
            if seen == batches // 5:
                kept = resident()
            if seen == 50:
                print("reading", flush=True)
    print((resident() - kept) // 1024, flush=True)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def long_run(tmp_path, dataset):
    """Starts a process that reads many batches; it writes how much its memory grew, in kB."""
    script = tmp_path / "long_run.py"
    script.write_text(LONG_RUN)
    started = []

    def start(workers, batches):
        command = [sys.executable, "-W", "ignore", script, dataset.readers[0].path, str(workers), str(batches)]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "reading\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="there is no /proc that tells memory")
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow(long_run, workers):
    """However many batches are read; a page a batch would be 9 MB."""
    output, errors = long_run(workers, 3_000).communicate(timeout=600)
    assert int(output) < 4_000, errors


LIMITED = """
import os, resource, sys
from ben_secure import StoreError
from ben_secure.torch import PatchDataset, batch_loader

def main(path, spare):
    dataset = PatchDataset(path, bands="10m_20m")
    if spare:
        most = len(os.listdir("/proc/self/fd")) + spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        print(sum(1 for _ in batch_loader(dataset, 3, num_workers=2)))
    except StoreError as error:
        print(error.message)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture
def limited(tmp_path, dataset):
    """Read an epoch in a process with limits; return the last line of output."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)

    def run(spare=0, within=()):
        command = [*within, sys.executable, "-W", "ignore", script, dataset.readers[0].path, str(spare)]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.threat("T31")
@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest.mark.parametrize("spare", [3, 6, 10, 13, 14, 15, 18])
def test_workers_without_descriptors_are_an_error(limited, spare):
    """Torch would print an error of its sending thread and wait forever."""
    assert "Too many open files" in limited(spare)


@pytest.mark.slow
@pytest.mark.threat("T31")
@pytest.mark.parametrize(
    ("options", "expected"), [("ro", "cannot be started"), ("size=600k", "cannot send a batch"), ("size=64m", "4\n")]
)
def test_workers_without_shared_memory_are_an_error(limited, options, expected):
    """Which names /dev/shm and another way; with enough of it, all batches come."""
    within = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces")
    printed = limited(within=within)
    assert expected in printed
    assert printed == "4\n" or ("/dev/shm" in printed and "num_workers=0" in printed)


def shared_files():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("torch", "psm"))}


def children(process):
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/shm"), reason="shared memory has no files here")
@pytest.mark.parametrize("victim", ["trainer", "worker"])
def test_no_file_is_left_in_shared_memory(long_run, victim):
    """Whichever process is killed; the others end."""
    before = shared_files()
    process = long_run(2, 10**9)
    workers = children(process.pid)
    os.kill(process.pid if victim == "trainer" else workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    # Torch names the worker, unless it was killed while a batch was fetched from it.
    named = "killed by signal", "exited unexpectedly", "ConnectionResetError", "ConnectionRefusedError", "EOFError"
    assert victim == "trainer" or any(words in errors for words in named), errors
    stop = time.monotonic() + 60
    # Files of other tests come and go meanwhile.
    while any(os.path.exists(f"/proc/{worker}") for worker in workers) or not shared_files() <= before:
        assert time.monotonic() < stop
        time.sleep(0.1)
