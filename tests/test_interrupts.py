"""Workers that are spawned while SIGINT is kept away never see it."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from ben_secure._system.interrupts import uninterrupted


def interrupt_myself():
    """A worker that gets Ctrl-C during its imports."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kept_away", [True, False])
def test_a_worker_that_starts_is_not_interrupted(kept_away, capfd):
    """It ends normally and silently; a worker started without the protection ends with a traceback."""
    process = multiprocessing.get_context("spawn").Process(target=interrupt_myself)
    if kept_away:
        with uninterrupted():
            process.start()
    else:
        process.start()
    process.join()
    assert (process.exitcode == 0) is kept_away
    assert ("KeyboardInterrupt" in capfd.readouterr().err) is not kept_away


@pytest.mark.parametrize(
    "send", [lambda: signal.raise_signal(signal.SIGINT), lambda: os.kill(os.getpid(), signal.SIGINT)]
)
def test_the_interruption_is_not_lost(send):
    """It comes when the block ends, and the next one at once."""
    reached = []

    def work():
        with uninterrupted():
            send()
            time.sleep(0.5)  # other threads of the test process may get the signal in its place, when they come to run
            reached.append(True)
        reached.append(False)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_another_thread_receives_waits_too():
    """A signal to the process may reach a thread that does not block it; the block is not torn apart."""
    ready, gone = threading.Event(), threading.Event()

    def receive():
        ready.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        gone.set()

    other = threading.Thread(target=receive)
    other.start()
    reached = []

    def work():
        with uninterrupted():
            ready.set()
            gone.wait()
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    other.join()
    assert reached == [True]
