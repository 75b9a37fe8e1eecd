"""The fork server: children come from a process without threads, and however they end, that is known."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from ben_secure import StoreError
from ben_secure._system.forks import ForkServer, begin, end_begun, server_for

TESTS = str(pathlib.Path(__file__).parent)


class Child:
    """A child of a fork server, and the pipes to it."""

    def __init__(self, server):
        (self._answers, theirs), (orders, self._orders) = os.pipe(), os.pipe()
        self.number = server.fork(theirs, orders)
        os.close(theirs)
        os.close(orders)

    def said(self):
        """Its process id, that of its parent, its threads, and whether it shares the test's modules."""
        answer = os.read(self._answers, 1000).decode().split()
        return *map(int, answer[:3]), answer[3] == "True"

    def order(self, text):
        """Let it end."""
        os.write(self._orders, text)
        assert os.read(self._answers, 1) == b""

    def close(self):
        """Close the pipes."""
        os.close(self._answers)
        os.close(self._orders)


@pytest.fixture
def server(monkeypatch):
    """A server whose children run ``support.forked.main``."""
    monkeypatch.syspath_prepend(TESTS)
    with ForkServer("support.forked") as server:
        yield server


@pytest.fixture
def child(server):
    """One child of it."""
    child = Child(server)
    yield child
    child.close()


@pytest.mark.threat("T12")
def test_children_share_nothing_with_a_caller_that_has_threads(server, child):
    """They come from another process, which has one thread and none of the caller's modules."""
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    pid, parent, threads, shares = child.said()
    other = Child(server)
    assert os.getpid() not in (pid, parent)
    assert (threads, shares) == (1, False)
    assert other.said()[1] == parent
    other.close()
    done.set()


@pytest.mark.parametrize(("order", "code"), [(b"0", 0), (b"7", 7), (b"kill", -signal.SIGSEGV)])
def test_how_a_child_ended_is_known(server, child, order, code):
    """The result is the exit code, or minus the signal; the next child is not affected."""
    child.said()
    child.order(order)
    assert server.end(child.number) == code
    other = Child(server)
    assert other.said()[3] is False
    assert server.end(other.number) == -signal.SIGKILL
    other.close()


def test_a_server_that_is_lost_is_noticed(server, child):
    """Its exit code is the result then, for children before and after."""
    parent = child.said()[1]
    os.kill(parent, signal.SIGKILL)
    assert server.end(child.number) == -signal.SIGKILL
    other = Child(server)
    assert os.read(other._answers, 1) == b""
    assert server.end(other.number) == -signal.SIGKILL
    other.close()


def test_nothing_is_left_when_it_is_closed(server, child):
    """The server and waiting children are gone."""
    pids = child.said()[:2]
    server.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.threat("T12")
def test_nothing_is_left_when_the_caller_is_killed(tmp_path):
    """Server and children end by themselves."""
    code = f"""
import os, sys, time
sys.path.insert(0, {TESTS!r})
from ben_secure._system.forks import ForkServer, begin, end_begun, server_for
server, (read, write), (orders, keep) = ForkServer("support.forked"), os.pipe(), os.pipe()
server.fork(write, orders)
print(os.read(read, 1000).decode(), flush=True)
time.sleep(600)
"""
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in running.stdout.readline().split()[:2]]
    running.kill()
    running.wait()
    running.stdout.close()
    deadline = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}/cmdline").exists() and _runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    """Whether a process exists and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # ended before or while it is read
        return False


def test_a_server_that_cannot_be_started_is_an_error(monkeypatch, tmp_path):
    """The error has the reason of the operating system."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match=r"could not be started: .*No such file"):
        ForkServer("support.forked")


def test_a_server_that_was_begun_is_handed_out_once(monkeypatch):
    """A second caller gets a new server; a server that is not requested is ended."""
    monkeypatch.syspath_prepend(TESTS)
    begin("support.forked")
    with server_for("support.forked") as first, server_for("support.forked") as second:
        assert first is not second
    begin("support.forked")
    end_begun()
    with server_for("support.forked") as server:
        child = Child(server)
        assert child.said()[2] == 1
        child.close()
