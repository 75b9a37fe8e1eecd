"""The program of a fork server's children in its tests: they report their identity and follow orders."""

import os
import signal
import sys


def main(answers, orders):
    """Write the identity of the process and its modules, then end as ordered."""
    threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
    modules = {name.split(".")[0] for name in sys.modules}
    os.write(answers, f"{os.getpid()} {os.getppid()} {threads} {'pytest' in modules}".encode())
    order = os.read(orders, 100)
    if order == b"kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(int(order or 0))
