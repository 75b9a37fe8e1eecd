"""Lightning, Accelerate and torchdata themselves: their batches of ours are those of a plain list of the items."""

import importlib.util
import itertools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ben_secure import BigEarthNet_S1_Patch  # noqa: E402
from ben_secure.torch import EpochSampler, PatchDataset, batch_loader, collate  # noqa: E402
from support.framework_cases import KINDS, numbers  # noqa: E402
from support.patch_databases import database, patches  # noqa: E402

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata calls it
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

COUNT = 23


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Patches whose pixels are their number, an odd number of them."""
    values = [np.full((120, 120), number, np.float32) for number in range(COUNT)]
    found = {f"patch {number:02}": BigEarthNet_S1_Patch(bandVV=value, bandVH=value, labels=["Pastures"])
             for number, value in enumerate(values)}  # fmt: skip
    return database(tmp_path_factory.mktemp("frameworks") / "db", found)


def launch(framework, path, folder, options):
    tests = pathlib.Path(__file__).parent
    paths = {"PYTHONPATH": f"{tests.parent}:{tests}", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    run = ["-m", "support.run_framework", framework, path, folder, json.dumps(options)]
    found = subprocess.run([sys.executable, "-W", "ignore", *run], env=paths, capture_output=True, timeout=600)
    assert found.returncode == 0, found.stderr.decode()[-4000:]


def lightning(folder, numbered, kinds=KINDS, **options):
    """Per kind what each rank got."""
    launch("lightning", numbered, folder, {"kinds": kinds, **options})
    return read(folder, kinds)


def read(folder, kinds=KINDS):
    return {kind: [json.loads(file.read_text()) for file in sorted(folder.glob(f"{kind}-*"))] for kind in kinds}


def fitted(ranks, epoch):
    """Numbers of patches by rank."""
    return [[number for at, batch in rank["fit"] if at == epoch for number in batch] for rank in ranks]


@needs("lightning")
class TestLightning:
    """One process and two ranks, however they are started."""

    @pytest.mark.parametrize(
        ("strategy", "form", "workers", "start"),
        [
            ("ddp", "by hand", 2, None),
            ("ddp_fork", "seeded", 2, None),
            ("ddp_fork", "in order", 0, None),
            ("ddp_fork", "subset", 0, None),
            ("ddp_spawn", "shuffled", 2, "forkserver"),
            pytest.param("ddp", "shuffled", 0, None, marks=pytest.mark.by_hand),
            pytest.param("ddp", "seeded", 2, "forkserver", marks=pytest.mark.by_hand),
            pytest.param("ddp_fork", "shuffled", 2, "spawn", marks=pytest.mark.by_hand),
            pytest.param("ddp_spawn", "shuffled", 0, None, marks=pytest.mark.by_hand),
        ],
    )
    def test_two_ranks(self, tmp_path, numbered, strategy, form, workers, start):
        """Each patch is on one rank (except one that makes the ranks equal), in a new order each epoch."""
        kinds = ("loader",) if strategy == "ddp_spawn" or start else KINDS  # each spawned process imports torch
        options = {"form": form, "workers": workers}
        found = lightning(tmp_path, numbered, kinds, **options, strategy=strategy, start=start)
        if "list" not in found:
            start = start and "fork"
            found |= lightning(tmp_path, numbered, ("list",), **options, strategy="ddp_fork", start=start)
        expected = found["list"]
        assert len(expected) == 2
        assert all(found[kind] == expected for kind in kinds)
        wanted = set(range(form == "subset", COUNT))
        for epoch in range(2):
            one, other = fitted(found["loader"], epoch)
            assert set(one) | set(other) == wanted
            assert len(set(one) & set(other)) == len(wanted) % 2
        if form == "in order":
            assert all(len(rank["predict"]) == 3 for rank in expected)
        else:
            assert fitted(expected, 0)[0] != fitted(expected, 1)[0]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_two_ranks_overfit(self, tmp_path, numbered, workers):
        """The ranks share a few batches, the same ones in each epoch."""
        options = {"form": "shuffled", "workers": workers, "overfit": 2}
        found = lightning(tmp_path, numbered, strategy="ddp_fork", **options)
        assert all(found[kind] == found["list"] for kind in KINDS)
        one, other = fitted(found["loader"], 0)
        assert sorted(one + other) == [*range(16)]
        assert fitted(found["loader"], 1) == [one, other]

    @pytest.mark.parametrize("options", [{"form": "seeded"}, {"form": "shuffled", "overfit": 3}, {"form": "in order"}])
    def test_one_process(self, tmp_path, numbered, options):
        """It works even if the framework disables shuffling to overfit, and wraps the sampler to predict."""
        found = lightning(tmp_path, numbered, strategy=None, workers=0, **options)
        assert all(found[kind] == found["list"] for kind in KINDS)
        (first,), (second,) = fitted(found["loader"], 0), fitted(found["loader"], 1)
        if "overfit" in options:
            assert first == second == [*range(12)]
        else:
            assert sorted(first) == sorted(second) == [*range(COUNT)]
            assert (first != second) == (options["form"] == "seeded")


@needs("accelerate")
def test_accelerate(tmp_path, numbered):
    """Two ranks, with every way of dealing batches out; torchdata's stateful loader in the place of torch's.

    No worker is forked: Accelerate broadcasts just before it starts workers, and CPython 3.11 can hang in a process
    that is forked while a thread of gloo enters the interpreter. Lightning has forked workers above.
    """
    ways = {
        f"{form}, {dispatch}, {split}, {even}": {
            "form": form, "workers": 0, "dispatch_batches": dispatch,
            "split_batches": split, "even_batches": even, "use_seedable_sampler": not even,
        }
        for dispatch, split, even in itertools.product((None, False, True), (False, True), (False, True))
        for form in (("shuffled", "in order") if even else ("shuffled",))
    }  # fmt: skip
    if importlib.util.find_spec("torchdata") is not None:
        for dispatch in (False, True):
            stateful = {"use_stateful_dataloader": True, "dispatch_batches": dispatch}
            ways[f"stateful, {dispatch}"] = {"form": "shuffled", "workers": 0, **stateful}
    for start, dispatch in (("spawn", None), ("forkserver", None), ("forkserver", True)):
        started = {"form": "shuffled", "workers": 2, "start": start}
        ways[f"{start}, {dispatch}"] = {**started, "dispatch_batches": dispatch}
    for way in ways:
        (tmp_path / way).mkdir()
    launch("accelerate", numbered, tmp_path, ways)
    for way, options in ways.items():
        found = read(tmp_path / way)
        assert len(found["list"]) == 2
        assert all(found[kind] == found["list"] for kind in KINDS), way
        for epoch in range(2):
            assert set().union(*fitted(found["loader"], epoch)) == set(range(COUNT)), way
        if options["form"] == "shuffled":
            assert fitted(found["loader"], 0) != fitted(found["loader"], 1), way


@needs("torchdata")
class TestStatefulDataLoader:
    """torchdata's loader goes on in the middle of an epoch, from the state that it saved."""

    def loader(self, path, workers, sampled, start=None):
        from torchdata.stateful_dataloader import StatefulDataLoader

        dataset = PatchDataset(path, bands="S1")
        order = {"sampler": EpochSampler(dataset, seed=5)} if sampled else {"shuffle": True}
        torch.manual_seed(6)
        return StatefulDataLoader(
            dataset, batch_size=4, num_workers=workers, collate_fn=collate, multiprocessing_context=start, **order
        )

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("sampled", [True, False])
    def test_it_goes_on_where_it_was(self, numbered, workers, sampled):
        """With the rest of the epoch, and the epochs that would have come then; torch's own order, and ours."""
        loader = self.loader(numbered, workers, sampled)
        expected = [[numbers(batch) for batch in loader] for _ in range(3)]
        assert expected[0] != expected[1]
        for epoch, batches in ((0, 2), (1, 1), (1, 5)):
            loader = self.loader(numbered, workers, sampled)
            for _ in range(epoch):
                assert len(list(loader)) == 6
            iterator = iter(loader)
            for _ in range(batches):
                next(iterator)
            state = loader.state_dict()
            del iterator, loader
            again = self.loader(numbered, workers, sampled)
            again.load_state_dict(state)
            assert [numbers(batch) for batch in again] == expected[epoch][batches:]
            assert [numbers(batch) for batch in again] == expected[epoch + 1]

    @pytest.mark.parametrize("start", ["spawn", "forkserver"])
    def test_however_its_workers_start(self, numbered, start):
        """It gives the epochs that it gives without workers, and goes on."""
        plain, loader = self.loader(numbered, 0, True), self.loader(numbered, 2, True, start)
        expected = [[numbers(batch) for batch in plain] for _ in range(2)]
        iterator = iter(loader)
        assert [numbers(next(iterator)) for _ in range(2)] == expected[0][:2]
        again = self.loader(numbered, 2, True, start)
        again.load_state_dict(loader.state_dict())
        assert [numbers(batch) for batch in again] == expected[0][2:]
        assert [numbers(batch) for batch in again] == expected[1]

    def test_it_goes_on_after_an_epoch(self, numbered):
        """It continues with the next epoch."""
        loader = self.loader(numbered, 0, True)
        expected = [[numbers(batch) for batch in loader] for _ in range(3)]
        loader = self.loader(numbered, 0, True)
        assert [numbers(batch) for batch in loader] == expected[0]
        again = self.loader(numbered, 0, True)
        again.load_state_dict(loader.state_dict())
        assert [[numbers(batch) for batch in again] for _ in range(2)] == expected[1:]

    def test_batch_loader_gives_the_same_epochs(self, numbered):
        """So a run may change from one to the other."""
        loader = batch_loader(PatchDataset(numbered, bands="S1"), 4, shuffle=True, seed=5)
        stateful = self.loader(numbered, 0, True)
        assert [[numbers(batch) for batch in loader] for _ in range(2)] == [
            [numbers(batch) for batch in stateful] for _ in range(2)
        ]


RECIPES = pathlib.Path(__file__).parent.parent / "docs" / "frameworks.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", RECIPES.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore")  # warnings of the frameworks
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_recipes_run(tmp_path, monkeypatch, block):
    """Every block of docs/frameworks.md whose packages are installed."""
    for package in re.findall(r"^from (accelerate|torchdata)", block, re.MULTILINE):
        pytest.importorskip(package)
    database(tmp_path / "train.lmdb", patches(12))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(RECIPES), "exec"), {})
