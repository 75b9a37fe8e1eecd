"""``python -m ben_secure``: the same as ``ben-secure``."""

from ben_secure.cli import run

if __name__ == "__main__":
    run()
