"""The pages and notebooks for each framework: they say the same, and run."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from support.notebooks import DOCS, NAMES, notebook, script

NEEDS = {
    "lightning": ["lightning"],
    "ddp": [],
    "torchgeo": ["torchgeo"],
    "configilm": ["configilm", "pyarrow"],
}
SAYS = {
    "lightning": r"tensor\(\d",
    "ddp": "rank 0 of 1: 12 of 12 patches",
    "torchgeo": r"torch.Size\(\[4, 2, 120, 120\]\) torch.int64 patch",
    "configilm": r"\('B02', 'B03', 'B04'\) \('Agro-forestry areas', 'Arable land'\) tensor\(True\)",
}
"""What the last lines of each say."""


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_what_its_page_says(name):
    """Both must change together: python tests/support/notebooks.py writes the notebooks."""
    assert (DOCS / "notebooks" / f"{name}.ipynb").read_text() == notebook(name)


@pytest.fixture
def run(tmp_path):
    """Runs the code of a page as a script, in an empty folder."""

    def start(name, *launcher):
        for package in ("torch", *NEEDS[name]):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        (tmp_path / "page.py").write_text(script(name))
        paths = os.pathsep.join([str(pathlib.Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-W", "ignore", *launcher, "page.py"]
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert found.returncode == 0, found.stderr[-4000:]
        return found.stdout

    return start


@pytest.mark.frameworks
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(run, name):
    """From its first cell to its last, on the data that it makes."""
    assert re.search(SAYS[name], run(name))


@pytest.mark.frameworks
@pytest.mark.slow
def test_two_ranks_share_the_patches(run):
    """The page on DDP is a script for torchrun; the data is there already, as it would be."""
    run("ddp")
    said = run("ddp", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert sorted(re.findall("rank . of 2: 6 of 12 patches", said)) == [
        f"rank {rank} of 2: 6 of 12 patches" for rank in "01"
    ]
