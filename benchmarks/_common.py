"""Common parts of the benchmarks: a virtual environment, the table of figures, the budgets.

The rounds of a benchmark run as a separate program, which prints one JSON object: ``figures`` (by name: value and unit)
and ``rows`` (measurement, value, and optionally a budget, at least or at most).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

# Its packages would be imported instead of the installed ones, so both revisions would be the same.
os.environ.pop("PYTHONPATH", None)


def options(description, seconds):
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=seconds, help=f"time for the rounds (default {seconds})")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is broken")
    return parser


def run(rounds, needs, *arguments):
    """Run the rounds in a new virtual environment with this package and its requirements.

    Args:
        rounds: Name of the program in this folder.
        needs: Requirements, as for pip.
        arguments: Arguments of the program, after the first one, a temporary folder.

    Returns:
        The object that it prints.
    """
    here = pathlib.Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(here.parent), *needs], check=True)
        command = [python, "-W", "ignore", str(here / rounds), folder, *map(str, arguments)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout)


def check_origin(package):
    """End the program if a package is not the one of the virtual environment that it runs in."""
    if not pathlib.Path(package.__file__).is_relative_to(sys.prefix):
        raise SystemExit(f"{package.__name__} is imported from {package.__file__}, expected one in {sys.prefix}")


def finish(figures, chosen):
    """Print the figures and write them where the options say.

    Returns:
        The exit code: 1 if a budget is broken and that was to be checked.
    """
    for name, figure in figures["figures"].items():
        print(f"{figure['value']:10.3f} {figure['unit']:<8}  {name}")
    print()
    broken = 0
    for row in figures["rows"]:
        low, high = row["at_least"], row["at_most"]
        over = (low is not None and row["value"] < low) or (high is not None and row["value"] > high)
        broken += over
        budget = f">= {low:g}" if low is not None else f"<= {high:g}" if high is not None else ""
        print(f"{row['value']:10.3f}  {budget:<8}  {'OVER' if over else 'ok  ' if budget else '    '}  {row['what']}")
    if chosen.json:
        pathlib.Path(chosen.json).write_text(json.dumps(figures, indent=1))
    return 1 if broken and chosen.check else 0
