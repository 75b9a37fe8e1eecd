"""The speed of loading training batches, compared with the field's programs, in one run.

    python benchmarks/bench_loader.py [--seconds 180] [--json FILE] [--check]

It makes a virtual environment with this package, PyTorch, the original package and safetensors, builds one corpus (the
same patches as the original pickles them, in canonical form with and without tags, and as safetensors), and times whole
epochs of ``DataLoader`` in interleaved rounds: by item and by batch, without and with two workers, in a loop that only
loads, in one that waits 16 ms per batch, and in one that trains a small network. Only ratios of medians are meaningful.
The lower bounds are datasets that read nothing. ``--check`` exits 1 if a budget is broken.
"""

import sys

import _common

NEEDS = ["torch==2.13.0", "bigearthnet-patch-interface==0.1.2", "pydantic>=2", "safetensors"]


def main():
    chosen = _common.options(__doc__, 180).parse_args()
    return _common.finish(_common.run("_loader_rounds.py", NEEDS, chosen.seconds), chosen)


if __name__ == "__main__":
    sys.exit(main())
