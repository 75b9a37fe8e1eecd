"""Installing ben_secure changes no installed package, and it works together with the field's packages.

Each environment is built by pip from the package index. Those with torch take gigabytes and minutes, and are built only
if the variable ``BEN_SECURE_ENVIRONMENTS`` is ``all``.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import venv

import pytest

CHECKOUT = pathlib.Path(__file__).parent.parent
ALL = os.environ.get("BEN_SECURE_ENVIRONMENTS") == "all"
large = pytest.mark.skipif(not ALL, reason="gigabytes of torch; BEN_SECURE_ENVIRONMENTS=all builds it")
ORIGINAL = ["bigearthnet-patch-interface==0.1.2", "pydantic<2", "numpy==1.26.*", "lmdb<2"]
MOST_PACKAGES, MOST_MB = 12, 90
SCRIPT = CHECKOUT / "tests" / "original" / "script.py"
# What pip says without a network; all else that it says is a failure.
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Max retries exceeded")

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment, and commands in it that see nothing of this process's installation."""

    def __init__(self, folder):
        venv.create(folder, with_pip=True, symlinks=True)
        self.folder = folder
        self._variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(self, program, *arguments, expected=0):
        """The output of a program of the environment on stdout."""
        command = [str(self.folder / "bin" / program), *map(str, arguments)]
        cwd = self.folder / "tmp"
        cwd.mkdir(exist_ok=True)
        done = subprocess.run(command, cwd=cwd, env=self._variables, capture_output=True, text=True, timeout=3000)
        if done.returncode != expected and program == "pip" and UNREACHABLE.search(done.stderr):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == expected, f"{shlex.join(command)}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def pip(self, *arguments):
        """Install something."""
        self.run("pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def packages(self):
        """Versions by name of all packages that are installed."""
        listed = json.loads(self.run("pip", "list", "--format=json", "--disable-pip-version-check"))
        return {package["name"]: package["version"] for package in listed}

    def megabytes(self, names):
        """Size of the files of packages, without the bytecode that is made of them."""
        code = (
            "import importlib.metadata, os, sys\n"
            "files = {os.path.realpath(file.locate()) for name in sys.argv[1:]"
            " for file in importlib.metadata.files(name) or ()}\n"
            "print(sum(os.path.getsize(file) for file in files if os.path.exists(file) and file[-4:] != '.pyc'))\n"
        )
        return int(self.run("python", "-c", code, *names)) / 1e6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that ``pip install .`` would install."""
    folder = tmp_path_factory.mktemp("wheel")
    Environment(folder / "builder").run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, CHECKOUT)
    (built,) = folder.glob("*.whl")
    return built


WRITE_AND_READ = """
import os
from ben_secure import BigEarthNet_S2_Patch, PatchReader, PatchWriter, UnsafePickleError, loads
from ben_secure.bands import S2_BANDS
from ben_secure.patches import random_ben_S2_band

bands = {band.attribute: random_ben_S2_band(band.resolution_m, original_dtype=True) for band in S2_BANDS}
patch = BigEarthNet_S2_Patch(**bands, labels=["Pastures"])
os.umask(0o077)
with PatchWriter("db") as writer:
    writer["S2A_MSIL2A_20170613T101031_87_48"] = patch
with PatchReader("db") as reader:
    ((name, read),) = reader.items()
    assert read == patch and read.get_stacked_10m_bands().shape == (4, 120, 120)
try:
    loads(b"\\x80\\x04\\x8c\\x05posix\\x8c\\x06system\\x93\\x8c\\x0ctouch canary\\x85R.")
except UnsafePickleError:
    assert not os.path.exists("canary")
else:
    raise SystemExit("accepted")
"""
READ_ORIGINAL = """
import pathlib, pickle, numpy, pydantic
from ben_secure import loads
assert numpy.__version__.startswith("1.26.") and pydantic.VERSION.startswith("1.")
files = sorted(pathlib.Path().glob("s2*.pickle"))
for path in files:
    theirs, ours = pickle.loads(path.read_bytes()), loads(path.read_bytes())
    assert numpy.array_equal(ours.get_stacked_10m_bands(), theirs.get_stacked_10m_bands()), path
assert files
"""
TRAIN = """
import torch
from ben_secure.torch import PatchDataset, batch_loader
(batch,) = batch_loader(PatchDataset("db", bands="10m", size=120, labels="multi-hot-19"), batch_size=1)
assert batch[0].shape == (1, 4, 120, 120)
"""


@pytest.mark.parametrize(
    ("installed", "code"),
    [
        pytest.param([], "", id="only the core"),
        pytest.param(ORIGINAL, READ_ORIGINAL, id="the original package"),
        pytest.param(["configilm[full]==0.7.1"], "import configilm\n" + TRAIN, id="configilm", marks=large),
        # torchgeo.datasets imports requests and does not require it.
        pytest.param(["torchgeo", "requests"], "import torchgeo.datasets\n" + TRAIN, id="torchgeo", marks=large),
        pytest.param(["lightning"], "import lightning\n" + TRAIN, id="lightning", marks=large),
    ],
)
@pytest.mark.threat("T26")
def test_installing_it_changes_no_package_that_is_there(tmp_path, wheel, installed, code):
    """Every package stays at its version, no requirement breaks, and library, audit and demo work."""
    environment = Environment(tmp_path)
    if installed:
        environment.pip(*installed)
    before = environment.packages()
    environment.pip(wheel)
    after = environment.packages()
    assert {name: after.get(name) for name in before} == before
    added = sorted(after.keys() - before.keys() - {"ben-secure"})
    print(f"{len(before)} packages before, {len(added)} added: {', '.join(added)}")
    if not installed:
        megabytes = environment.megabytes([*added, "ben-secure"])
        print(f"{megabytes:.1f} MB")
        assert len(added) <= MOST_PACKAGES, added
        assert megabytes <= MOST_MB
        environment.run("pip", "check")
    environment.run("python", "-c", WRITE_AND_READ)
    report = environment.run("ben-secure", "audit", "db")
    assert "CLEAN" in report.splitlines()[-1]
    assert "1 as in honest patches" in report  # fickling has an opinion
    assert "9 of 9 attacks refused" in environment.run("ben-secure", "demo")
    if installed is ORIGINAL:
        environment.run("python", "-W", "ignore", SCRIPT, "make", ".")
    environment.run("python", "-W", "ignore", "-c", code)
    environment.run("ben-secure", "audit", "missing", expected=2)


def test_a_package_that_is_replaced_would_be_noticed(tmp_path):
    """A package that requires another version of one that is there replaces it, and the lists differ."""
    environment = Environment(tmp_path / "environment")
    environment.pip("click==8.1.7")
    before = environment.packages()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "replaces"\nversion = "1"\ndependencies = ["click==8.1.8"]\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        "[tool.hatch.build.targets.wheel]\nbypass-selection = true\n"
    )
    environment.pip(tmp_path)
    assert (before["click"], environment.packages()["click"]) == ("8.1.7", "8.1.8")
