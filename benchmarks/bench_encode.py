"""The speed of encoding GeoTIFFs to a database, as ratios to reading them with rasterio, in one run.

    python benchmarks/bench_encode.py [--seconds 20] [--patches 48] [--json FILE] [--check]

It makes a virtual environment with this package, rasterio and the original interface, and writes patch folders with
rasterio in the layout of BigEarthNet v1. It times two programs in interleaved rounds on one core, with the files in the
page cache: ``encode`` with one worker, from the folders to the finished database; and the core of the field's encoder,
without its checks of arguments, which opens each file with rasterio, reads band 1 and the label file, fills the
original interface, pickles and puts. Only ratios of medians are meaningful. ``--check`` exits 1 if a budget is broken.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

import _common  # noqa: F401  (for the variables that it removes from the environment)

NEEDS = ["bigearthnet-patch-interface==0.1.2", "pydantic>=2", "rasterio", "tifffile", "imagecodecs"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="time for the rounds (default 20)")
    parser.add_argument("--patches", type=int, default=48, help="pairs of patches in the folders (default 48)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is broken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(__file__).resolve().parent.parent
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(root), *NEEDS], check=True)
        worker = pathlib.Path(__file__).with_name("_encode_rounds.py")
        command = [python, "-W", "ignore", str(worker), folder, str(options.seconds), str(options.patches)]
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout)
    broken = report(figures)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))
    return 1 if broken and options.check else 0


def report(figures: dict) -> int:
    """Print the figures; returns the number of broken budgets."""
    for name, microseconds in figures["microseconds"].items():
        print(f"{microseconds:10.1f} us  {name}")
    print()
    broken = 0
    for row in figures["ratios"]:
        budget = row["at_least"]
        under = budget is not None and row["ratio"] < budget
        broken += under
        verdict = "" if budget is None else f"at least {budget:4.2f}  {'UNDER' if under else 'ok'}"
        print(f"{row['ratio']:6.2f}  {verdict:<21}  {row['what']}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
