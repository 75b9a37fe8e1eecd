"""The speed of loading patches, as ratios to the original package and to another revision of this one, in one run.

    python benchmarks/bench_load.py [--seconds 20] [--against CHECKOUT] [--json FILE] [--check]

It makes a virtual environment with this package, the original one and safetensors, and another with the package of the
other checkout. It builds one corpus (the same patches as the original pickles them, in canonical form and as
safetensors). Each environment has one process. All run on one core and take turns, so the ratios of medians are
meaningful even on a noisy machine. ``--check`` exits 1 if a budget is broken.
"""

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv

import _common

HERE = pathlib.Path(__file__).resolve().parent
NEEDS = ["bigearthnet-patch-interface==0.1.2", "safetensors"]

BUDGETS = [
    ("ours: canonical loads + stacks", "original: loads + stacks", 0.08),
    ("ours: reader + stacks", "original: get + loads + stacks", 0.15),
    ("ours: reader", "preadv into new memory", None),
    ("ours: legacy loads + stacks", "original: loads + stacks", 0.5),
    ("ours: reader + stacks", "safetensors: get + load + stack", 0.7),
    ("ours: safetensors reader + stacks", "safetensors: get + load + stack", 0.7),
    ("ours: legacy loads, S2", "original: loads, S2", 1.35),
    ("ours: legacy loads, S1+S2", "original: loads, S1+S2", 1.35),
    ("ours: legacy loads, S2, labels never seen", "original: loads, S2, labels never seen", None),
    ("ours: legacy loads + stacks, labels never seen", "original: loads + stacks, labels never seen", None),
    ("ours: canonical loads + stacks, labels never seen", "original: loads + stacks, labels never seen", None),
    ("import ben_secure", "import numpy", 1.3),
]
"""Numerator, denominator and maximum of each ratio; None without a budget."""


class Worker:
    """A process in an environment of its own that times one way at a time."""

    def __init__(self, python: str, folder: str) -> None:
        command = [python, "-W", "ignore", str(HERE / "_load_rounds.py"), "serve", folder]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder)
        self.ways: list[str] = self._receive()

    def time(self, way: str) -> float:
        """Seconds a patch."""
        self._process.stdin.write(way + "\n")
        self._process.stdin.flush()
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _receive(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker of the benchmark ended early; see its message above")
        return json.loads(line)


def install(folder, checkout, needs):
    """Make a virtual environment with the package of a checkout; return its Python."""
    venv.create(folder, with_pip=True)
    python = f"{folder}/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(checkout), *needs], check=True)
    return python


def rounds(workers, seconds):
    """Run interleaved rounds; return the samples of each worker and measurement."""
    turns = [(number, way) for number, worker in enumerate(workers) for way in worker.ways]
    samples = {turn: [] for turn in turns}
    stop = time.monotonic() + seconds
    while time.monotonic() < stop or len(samples[turns[0]]) < 3:
        # The same measurement in all environments, one after the other, so the state of the machine is the same.
        for way in sorted({way for _, way in turns}, key=lambda _: random.random()):
            for number, worker in random.sample(list(enumerate(workers)), len(workers)):
                if way in worker.ways:
                    samples[number, way].append(worker.time(way))
    return samples


def main() -> int:
    parser = _common.options(__doc__, seconds=20)
    parser.add_argument("--pydantic1", action="store_true", help="the original over pydantic 1 instead of 2")
    parser.add_argument("--against", help="checkout of another revision, compared in the same run")
    chosen = parser.parse_args()
    needs = [*NEEDS, "pydantic<2" if chosen.pydantic1 else "pydantic>=2"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        pythons = [install(f"{folder}/ours", HERE.parent, needs)]
        if chosen.against:
            pythons.append(install(f"{folder}/other", chosen.against, needs))
        subprocess.run([pythons[0], str(HERE / "_load_rounds.py"), "build", folder], check=True)
        workers = [Worker(python, folder) for python in pythons]
        samples = rounds(workers, chosen.seconds)
        for worker in workers:
            worker.close()
    return _common.finish(report(samples), chosen)


def row(what, value, at_most=None):
    """A row of the table of ratios."""
    return {"what": what, "value": value, "at_most": at_most, "at_least": None}


def report(samples):
    """Figures and rows as ``_common.finish`` prints them."""
    medians = {turn: statistics.median(seconds) for turn, seconds in samples.items()}
    figures = {
        way if number == 0 else f"other revision: {way}": {"value": value * 1e6, "unit": "us"}
        for (number, way), value in medians.items()
    }
    rows = [row(f"{ours} / {theirs}", medians[0, ours] / medians[0, theirs], most) for ours, theirs, most in BUDGETS]
    rows += [
        row(f"{way} / the same in the other revision", value / medians[1, way])
        for (number, way), value in medians.items()
        if number == 0 and (1, way) in medians and way.startswith("ours")
    ]
    return {"figures": figures, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
