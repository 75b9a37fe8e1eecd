"""The cost of signing and verifying, as ratios in one run: tags, manifest, whole databases, the first verified patch.

    python benchmarks/bench_sign.py [--seconds 20] [--megabytes 1000] [--json FILE] [--check]

It makes a virtual environment with this package, the original one and OpenSSF model signing, builds the databases, and
times the programs in interleaved rounds. For one patch they run on one core. The CPU time of a manifest is measured for
each hash. On x86, both are repeated with an OpenSSL without SHA instructions. For a whole database they run on all
cores, with the files in the page cache. Only ratios are meaningful, and those of a whole database only on an idle
machine. ``--check`` exits 1 if a budget is broken.
"""

import sys

import _common

# model-signing 1.1.1 imports pyOpenSSL without asking for it.
NEEDS = ["bigearthnet-patch-interface==0.1.2", "pydantic>=2", "safetensors", "model-signing", "pyopenssl", "blake3"]


def main() -> int:
    parser = _common.options(__doc__, seconds=20)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the database (default 1000)")
    chosen = parser.parse_args()
    return _common.finish(_common.run("_sign_rounds.py", NEEDS, chosen.seconds, chosen.megabytes), chosen)


if __name__ == "__main__":
    sys.exit(main())
