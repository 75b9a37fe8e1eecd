"""Processes that are killed at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import time


def kill_at_random(command, prepare, kills=5):
    """Run a command to its end, then kill it at random moments. Yield after each run.

    A process that ends before the kill does not count, and the next one is killed sooner, because the machine may have
    become faster since the first run.

    Args:
        command: The command.
        prepare: Called before each run, to restore the initial state.
        kills: Number of processes to kill.

    """
    prepare()
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.perf_counter() - begin
    chance = random.Random(kills)
    killed = 0
    for _ in range(100):
        prepare()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
            time.sleep(chance.uniform(0.2, 1) * duration)
            child.kill()
        if child.returncode == -signal.SIGKILL:
            killed += 1
        else:
            duration *= 0.8
        yield
        if killed == kills:
            return
    raise AssertionError(f"only {killed} of 100 processes were killed")
