"""Run the whole suite where tests are seldom run, each place timed.

By hand, on Linux: ``python tests/support/odd_places.py [PLACE ...] [-- PYTEST ARGUMENTS]``. Places joined by ``+``
are one run. Some need root or the package index. Without arguments, all places are tried in as few runs as possible.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).parent.parent.parent
OTHER_USER = 65534
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")


@dataclass
class Run:
    """What is run: a place changes it.

    Attributes:
        folder: For everything that the run needs; removed afterwards.
        checkout: Where it runs.
        shell: Commands before it.
        program: Prefix of the command.
        environment: Of the command.
        options: Of pytest.
    """

    folder: pathlib.Path
    checkout: pathlib.Path
    shell: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)

    def line(self, arguments: list[str]) -> str:
        """The whole as a line for a shell."""
        python = [*self.program, sys.executable, "-m", "pytest", "-q", *self.options, *arguments]
        return "\n".join([*self.shell, f"exec {shlex.join(python)}"])


def background(run: Run) -> None:
    """SIGINT is ignored, as it is behind ``&``."""
    run.shell.append("trap '' INT")


def unicode_tmpdir(run: Run) -> None:
    """The folder for temporary files has a space and letters that are not ASCII; not with ``ascii``, for xdist."""
    path = run.folder / "fä ül"
    path.mkdir()
    path.chmod(0o1777)
    run.environment["TMPDIR"] = str(path)


def ascii_locale(run: Run) -> None:
    """Files and terminals are ASCII."""
    run.environment |= {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def read_only(run: Run) -> None:
    """Nothing in the checkout can be written."""
    subprocess.run(["chmod", "-R", "a-w", str(run.checkout)], check=True)


def other_user(run: Run) -> None:
    """A user without a name, a home or a group. Others must be able to run the interpreter."""
    run.program[:0] = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups"]
    run.environment["HOME"] = "/nonexistent"


def offline(run: Run) -> None:
    """There is nothing but the loopback device."""
    run.program[:0] = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


def no_shared_memory(run: Run) -> None:
    """Nothing can be made in /dev/shm."""
    run.program[:0] = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]


def shuffled(run: Run) -> None:
    """Files and tests in random order."""
    seed = os.environ.get("SHUFFLE", str(time.time_ns() % 10000))
    print(f"order: SHUFFLE={seed}")
    run.environment["SHUFFLE"] = seed
    run.options += ["-p", "support.shuffled"]


def few_files(run: Run) -> None:
    """A process has 64 file descriptors."""
    run.shell.append("ulimit -n 64")


def sdist(run: Run) -> None:
    """The checkout is what the source distribution holds. Needs the package index."""
    venv = run.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "-q", "hatchling"], check=True)
    subprocess.run([venv / "bin" / "hatchling", "build", "-t", "sdist", "-d", run.folder], cwd=run.checkout, check=True)
    shutil.rmtree(run.checkout)
    (packed,) = run.folder.glob("*.tar.gz")
    shutil.unpack_archive(packed, run.folder, filter="data")
    run.checkout = run.folder / packed.name.removesuffix(".tar.gz")


PLACES: dict[str, Callable[[Run], None]] = {
    "sdist": sdist,
    "tmpdir": unicode_tmpdir,
    "ascii": ascii_locale,
    "background": background,
    "few-files": few_files,
    "shuffled": shuffled,
    "read-only": read_only,
    "other-user": other_user,
    "offline": offline,
    "no-shm": no_shared_memory,
}
# Places that do not hide each other's failures.
ALL = ["background+tmpdir+read-only+other-user+offline", "ascii+no-shm+sdist", "few-files+shuffled"]


def suite(names: str, arguments: list[str]) -> int:
    """Run the suite in a place; its exit status."""
    with tempfile.TemporaryDirectory(prefix="odd-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
        run = Run(folder, folder / "checkout")
        wanted = names.split("+")
        if unknown := set(wanted) - PLACES.keys():
            raise SystemExit(f"there is no place {', '.join(sorted(unknown))}: {', '.join(PLACES)}")
        for place, change in PLACES.items():  # in this order, whatever the order of the names
            if place in wanted:
                change(run)
        path = os.pathsep.join([str(run.checkout), str(run.checkout / "tests")])
        environment = os.environ | {"PYTHONPATH": path} | run.environment
        begin = time.monotonic()
        status = subprocess.run(["bash", "-c", run.line(arguments)], cwd=run.checkout, env=environment).returncode
        print(
            f"{names}: {'passed' if status == 0 else f'FAILED ({status})'} in {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        subprocess.run(["chmod", "-R", "u+w", str(run.checkout)], check=True)
        return status


def main(arguments: list[str]) -> int:
    """Run the suite in the places that are named, or in all; 1 if it fails in one."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    statuses = [suite(names, arguments[cut + 1 :]) for names in arguments[:cut] or ALL]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
