"""Crafted data files through everything that reads one: no signal, no hang, bounded work, never a wrong patch."""

import os
import pathlib
import subprocess
import sys

import pytest

FILES = int(os.environ.get("BEN_SECURE_CRAFTED_FILES", "10"))
"""How many; 500 take some ten minutes."""


@pytest.mark.slow
@pytest.mark.threat("T5")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the work of a process from /proc")
def test_crafted_files_do_no_harm():
    """Every number of the file changed, cycles, shared pages, cut and grown; the honest file passes everywhere."""
    command = [sys.executable, "-m", "support.crafted_files", str(FILES), "1"]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"0 of {FILES} did harm"), done.stdout + done.stderr
