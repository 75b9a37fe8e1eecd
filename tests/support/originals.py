"""The original package, each generation of it installed from PyPI into a virtual environment of its own."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import venv

SCRIPT = pathlib.Path(__file__).parent.parent / "original" / "script.py"
GENERATIONS = {
    "interface-0.1.0": ["bigearthnet-patch-interface==0.1.0", "numpy<2", "pydantic<2"],
    "numpy1-pydantic1": ["bigearthnet-patch-interface==0.1.2", "numpy<2", "pydantic<2"],
    "numpy2-pydantic1": ["bigearthnet-patch-interface==0.1.2", "numpy>=2", "pydantic<2"],
    "numpy2-pydantic2": ["bigearthnet-patch-interface==0.1.2", "numpy>=2", "pydantic>=2"],
}
if sys.version_info >= (3, 13):  # numpy 1 has no wheels for it
    GENERATIONS = {name: needs for name, needs in GENERATIONS.items() if "numpy<2" not in needs}


def install(folder: pathlib.Path, needs: list[str]) -> pathlib.Path:
    """Make a virtual environment; returns its interpreter."""
    # Linked: a copy of the interpreter, still open for writing when another thread starts a process, cannot be run.
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    command = [python, "-I", "-m", "pip", "install", "--quiet", *needs]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return python


def ask(python: pathlib.Path, *arguments: str, text: str = "") -> str:
    """Run the script under one generation."""
    command = [python, "-I", "-W", "ignore", SCRIPT, *arguments]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
