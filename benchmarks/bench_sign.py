"""What signing and verifying cost, as ratios in one run: tags, manifest, whole archives, the first verified patch.

    python benchmarks/bench_sign.py [--seconds 20] [--megabytes 1000] [--json FILE] [--check]

Makes a virtual environment with this package, the original one and OpenSSF model signing, builds the archives and
times the ways in interleaved rounds: those of one patch on one core, those of an archive on all, with the files in
the page cache. Only ratios mean anything, and those of an archive only on an idle machine. ``--check`` exits 1 if a
budget is broken.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import venv

# model-signing 1.1.1 imports pyOpenSSL without asking for it.
NEEDS = ["bigearthnet-patch-interface==0.1.2", "pydantic>=2", "safetensors", "model-signing", "pyopenssl"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="time for the rounds of one patch (default 20)")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the archive (default 1000)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a budget is broken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(__file__).resolve().parent.parent
        venv.create(f"{folder}/venv", with_pip=True)
        python = f"{folder}/venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(root), *NEEDS], check=True)
        worker = pathlib.Path(__file__).with_name("_sign_rounds.py")
        command = [python, "-W", "ignore", str(worker), folder, str(options.seconds), str(options.megabytes)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout)
    broken = report(figures)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))
    return 1 if broken and options.check else 0


def report(figures: dict) -> int:
    """Print the figures; returns the number of broken budgets."""
    for name, figure in figures["figures"].items():
        print(f"{figure['value']:10.3f} {figure['unit']:<4}  {name}")
    print()
    broken = 0
    for row in figures["rows"]:
        low, high = row["at_least"], row["at_most"]
        over = (low is not None and row["value"] < low) or (high is not None and row["value"] > high)
        broken += over
        budget = f">= {low:g}" if low is not None else f"<= {high:g}" if high is not None else ""
        print(f"{row['value']:10.3f}  {budget:<8}  {'OVER' if over else 'ok  ' if budget else '    '}  {row['what']}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
