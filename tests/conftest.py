"""Fixtures and settings of the whole suite."""

import multiprocessing
import os
import pathlib
import signal
import traceback
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

import ben_secure

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Where the package is not installed, the processes that tests start find it as these do: in the checkout.
_CHECKOUT = pathlib.Path(__file__).parent.parent
if pathlib.Path(ben_secure.__file__).parent.parent == _CHECKOUT:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH")]))

# A shell starts background processes with SIGINT ignored, and the processes that tests interrupt inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The user's settings for terminals and new files: tests compare plain text, and files that others can write to are
# refused.
for _name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
os.umask(0o022)


@pytest.hookimpl(tryfirst=True)
def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long value by its parameter: its bytes may differ between the processes that share the tests."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None


def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in two processes, a file in one of them, unless something else is asked for (-n 0)."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses, config.option.dist = 2, "loadfile"


def _semaphores() -> bool:
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


if not _semaphores():

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
        """Without semaphores, which are files in /dev/shm, torch has no workers: skip the tests that start some."""
        try:
            return (yield)
        except Exception as error:
            cause = error.__cause__ or error
            if traceback.extract_tb(cause.__traceback__)[-1].filename.endswith("synchronize.py"):
                pytest.skip(f"no semaphores: {cause}")
            raise

    def pytest_configure(config: pytest.Config) -> None:
        """A loader that has no workers complains of it when it is collected."""
        config.addinivalue_line("filterwarnings", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real databases, from ``BEN_SECURE_DATA``; no test needs it."""
    folder = os.environ.get("BEN_SECURE_DATA")
    if not folder:
        pytest.skip("BEN_SECURE_DATA is not a folder with real databases")
    return pathlib.Path(folder)
