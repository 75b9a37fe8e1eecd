"""``python -m support.run_framework FRAMEWORK ...``: one of the runs; a worker that is spawned imports only this."""

import importlib
import sys

if __name__ == "__main__":
    importlib.import_module(f"support.{sys.argv[1]}_runs").main(*sys.argv[2:])
