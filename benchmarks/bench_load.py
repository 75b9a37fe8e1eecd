"""How fast patches load, as ratios against the original package, in one run.

    python benchmarks/bench_load.py [--seconds 20] [--json FILE] [--check]

Makes a virtual environment with this package, the original one and safetensors, builds one corpus (the same patches
as the original pickles them, in canonical form and as safetensors), and times the ways of reading it in interleaved
rounds on one core. Only ratios of medians mean anything. ``--check`` exits 1 if a budget is broken.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

NEEDS = ["bigearthnet-patch-interface==0.1.2", "safetensors"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="time for the rounds (default 20)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is broken")
    parser.add_argument("--pydantic1", action="store_true", help="the original over pydantic 1 instead of 2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(__file__).resolve().parent.parent
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        needs = [*NEEDS, "pydantic<2" if options.pydantic1 else "pydantic>=2"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(root), *needs], check=True)
        worker = pathlib.Path(__file__).with_name("_load_rounds.py")
        command = [python, "-W", "ignore", str(worker), folder, str(options.seconds)]
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
        budget = row["budget"]
        over = budget is not None and row["ratio"] > budget
        broken += over
        verdict = "" if budget is None else f"budget {budget:5.2f}  {'OVER' if over else 'ok'}"
        print(f"{row['ratio']:6.3f}  {verdict:<18}  {row['what']}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
