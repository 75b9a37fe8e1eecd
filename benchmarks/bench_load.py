"""How fast patches load, as ratios against the original package, in one run.

    python benchmarks/bench_load.py [--seconds 20] [--json FILE] [--check]

Makes a virtual environment with this package, the original one and safetensors, builds one corpus (the same patches
as the original pickles them, in canonical form and as safetensors), and times the ways of reading it in interleaved
rounds on one core. Only ratios of medians mean anything. ``--check`` exits 1 if a budget is broken.
"""

import os
import sys

import _common

NEEDS = ["bigearthnet-patch-interface==0.1.2", "safetensors"]


def main() -> int:
    parser = _common.options(__doc__, seconds=20)
    parser.add_argument("--pydantic1", action="store_true", help="the original over pydantic 1 instead of 2")
    chosen = parser.parse_args()
    needs = [*NEEDS, "pydantic<2" if chosen.pydantic1 else "pydantic>=2"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return _common.finish(_common.run("_load_rounds.py", needs, chosen.seconds), chosen)


if __name__ == "__main__":
    sys.exit(main())
