"""The speed of an audit, as ratios in one run: to fickling, picklescan and reading the file.

    python benchmarks/bench_audit.py [--values 2000] [--seconds 20] [--json FILE] [--check]

It makes a virtual environment with this package, the original one and picklescan. The original pickles ``--values``
merged patches (277 kB each; 20,000 make 5.5 GB in the folder for temporary files). Each has its own noise and one of
1,000 sets of labels, a few of them frequent and most rare. The programs are timed in interleaved rounds, with the file
in the page cache. The patches are real if ``BEN_SECURE_DATA`` names a folder with databases of the original package,
otherwise random. Only ratios are meaningful, and those of an audit only on an idle machine and with many values; with
few, they mostly measure the start of the processes. ``--check`` exits 1 if a budget is broken.
"""

import os
import sys

import _common

NEEDS = ["bigearthnet-patch-interface==0.1.2", "pydantic>=2", "picklescan"]


def main() -> int:
    parser = _common.options(__doc__, seconds=20)
    parser.add_argument("--values", type=int, default=2000, help="patches in the database (default 2000)")
    chosen = parser.parse_args()
    data = os.path.abspath(os.environ.get("BEN_SECURE_DATA") or os.devnull)
    return _common.finish(_common.run("_audit_rounds.py", NEEDS, chosen.seconds, chosen.values, data), chosen)


if __name__ == "__main__":
    sys.exit(main())
