"""A process without threads that imports once and forks children, so starting or losing one takes milliseconds.

The caller itself never forks, because it may have threads, locks and memory of any library. The server shares only a
socket with its caller. Its children end with it, and it ends with its caller. It must never process content of a
database; only its children do.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import struct
import subprocess
import sys

from ben_secure._system.causes import reason
from ben_secure.errors import StoreError

_NUMBER = struct.Struct("<q")  # a request is the number of a child, with descriptors if it is to be forked
_MAX_FDS = 4
_BOOT = (
    "import sys; a = sys.argv; sys.path[:] = a[3:]; from ben_secure._system.forks import serve; serve(int(a[1]), a[2])"
)
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a process with threads must not fork


def not_started(error: OSError) -> StoreError:
    """Make the error for a process that the operating system does not start."""
    return StoreError(f"a worker process could not be started: {reason(error)}")


class ForkServer(contextlib.AbstractContextManager["ForkServer"]):
    """Forks children that have a module imported. It must be closed.

    It starts immediately, and only ``end`` waits for it.
    """

    def __init__(self, module: str) -> None:
        """Start the process.

        Args:
            module: Dotted name. A child calls its function ``main`` with the descriptors of the child.

        Raises:
            StoreError: No process can be started.
        """
        self._children = 0
        try:
            self._control, theirs = socket.socketpair()
        except OSError as error:
            raise not_started(error) from error
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, str(theirs.fileno()), module, *sys.path],
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the caller
                )
            except OSError as error:
                self._control.close()
                raise not_started(error) from error

    def fork(self, *fds: int) -> int:
        """Request a child.

        Args:
            fds: Descriptors that the child gets copies of. If there is no child, the server closes the copies.

        Returns:
            Its number, for ``end``.
        """
        self._children += 1
        with contextlib.suppress(OSError):  # a lost server looks like a lost child
            socket.send_fds(self._control, [_NUMBER.pack(self._children)], fds)
        return self._children

    def end(self, child: int) -> int:
        """Kill a child, if it still runs, and wait for its end.

        Args:
            child: Result of ``fork``. Each child is ended once.

        Returns:
            Its exit code, or minus the signal that ended it. If the server is lost, the exit code or signal of the
            server.
        """
        answer = b""
        with contextlib.suppress(OSError):
            self._control.sendall(_NUMBER.pack(child))
            answer = self._control.recv(_NUMBER.size)
        if len(answer) != _NUMBER.size:
            self._control.close()
            return self._process.wait()
        code: int = _NUMBER.unpack(answer)[0]
        return code

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its children immediately."""
        self._control.close()
        if not self._children:  # it may still be importing
            self._process.kill()
        self._process.wait()


_begun: dict[str, ForkServer] = {}


def begin(module: str) -> None:
    """Start a server that ``server_for`` will return. It imports while its user does other work. ``end_begun`` ends it.

    Args:
        module: As for ``ForkServer``. The errors are the same, too.
    """
    _begun[module] = ForkServer(module)


def server_for(module: str) -> ForkServer:
    """Return the server that ``begin`` started for a module, or a new one. The caller must close it."""
    return _begun.pop(module, None) or ForkServer(module)


def end_begun() -> None:
    """End the servers that were not requested."""
    while _begun:
        _begun.popitem()[1].close()


def serve(control_fd: int, module: str) -> None:
    """Fork and end children on request, until the caller closes its side.

    Args:
        control_fd: Inherited descriptor of the socket.
        module: As for ``ForkServer``.
    """
    main = importlib.import_module(module).main
    gc.freeze()  # imported objects stay shared between the children
    control = socket.socket(fileno=control_fd)
    children: dict[int, int] = {}
    while True:
        request, fds, _, _ = socket.recv_fds(control, _NUMBER.size, _MAX_FDS)
        if len(request) != _NUMBER.size:
            break
        (number,) = _NUMBER.unpack(request)
        if not fds:
            control.sendall(_NUMBER.pack(_ended(children.pop(number, 0))))
            continue
        with contextlib.suppress(OSError):  # no child can be made: the waiting process finds the other end closed
            children[number] = os.fork()
        if children.get(number) == 0:
            control.close()
            try:
                main(*fds)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)
    for pid in children.values():
        _ended(pid)


def _ended(pid: int) -> int:
    """Kill a child. Return its exit code, or minus the signal that ended it. For pid 0 (never started), return 1."""
    if pid == 0:
        return 1
    os.kill(pid, signal.SIGKILL)  # it was not waited for yet, so the number is still its own
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
