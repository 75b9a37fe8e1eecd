"""What signing and verifying cost, as ratios in one run: tags, manifest, whole archives, the first verified patch.

    python benchmarks/bench_sign.py [--seconds 20] [--megabytes 1000] [--json FILE] [--check]

Makes a virtual environment with this package, the original one and OpenSSF model signing, builds the archives and
times the ways in interleaved rounds: those of one patch on one core, and the CPU time of a manifest by each hash (both
on x86 once more with an OpenSSL that uses no SHA instructions), then those of an archive on all cores, with the files
in the page cache. Only ratios mean anything, and those of an archive only on an idle machine. ``--check`` exits 1 if a
budget is broken.
"""

import sys

import _common

# model-signing 1.1.1 imports pyOpenSSL without asking for it.
NEEDS = ["bigearthnet-patch-interface==0.1.2", "pydantic>=2", "safetensors", "model-signing", "pyopenssl", "blake3"]


def main() -> int:
    parser = _common.options(__doc__, seconds=20)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the archive (default 1000)")
    chosen = parser.parse_args()
    return _common.finish(_common.run("_sign_rounds.py", NEEDS, chosen.seconds, chosen.megabytes), chosen)


if __name__ == "__main__":
    sys.exit(main())
