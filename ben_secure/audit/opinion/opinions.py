"""fickling as a second opinion: one analysis for each distinct program, in a process that may die.

It explains what a refused value would have done, and remarks on a value that loads if fickling finds more in it than
in honest patches. It never gives the verdict and never takes a finding away: it can only add text, and warnings. A
crash, a hang or a refusal of fickling is "no opinion", never an approval. What comes back is escaped here.

The same database gives the same opinions however the work was divided: workers only take fingerprints
(``audit.judge.programs``), and whoever puts their tallies together asks here, in key order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, cast

from ben_secure.audit.findings import MAX_PROGRAMS, NO_OPINION, Finding
from ben_secure.audit.judge.programs import shown, without_pixels
from ben_secure.errors import BenSecureError, Rule, printable
from ben_secure.pickles.names import TABLE

if TYPE_CHECKING:
    from ben_secure.audit.findings import Tally
    from ben_secure.patches import BigEarthNetPatch

_SECONDS = 3.0
"""What one analysis may take; an honest program takes some 20 ms."""
_START_SECONDS = 30.0
"""What importing fickling may take; a cold network disk is slow."""
_TOTAL_SECONDS = 120.0
"""What all of one kind may take together."""
_MAX_FAILURES = 5
"""Crashes and hangs after which fickling is not asked any more."""
_MAX_ANSWER_BYTES = 2**16
_SHOWN_CHARACTERS = 400
# With -c the folder in which the audit was started is not where modules come from, unless it is for the audit itself.
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from ben_secure.audit.opinion._fickling_worker import main; main()"

# Each thread would take of the bounded memory; sets come in the same order every time.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What fickling says of one program.

    Attributes:
        text: One line for people; printable ASCII.
        beyond: Whether it finds more than in honest patches.
        given: Whether there is an opinion at all.
    """

    text: str
    beyond: bool = False
    given: bool = True


class _Failure(Exception):
    """The process died, hung or answered nonsense."""


class _Answer(NamedTuple):
    """What fickling has said of one program, and what that has cost."""

    opinion: Opinion
    failed: bool
    seconds: float


@dataclass(slots=True)
class _Budget:
    """What may still be spent on programs of one kind: those of values that load, or of refused ones.

    ``begun`` has, by fingerprint, what fickling is being asked or was asked already.
    """

    programs: int = MAX_PROGRAMS
    failures: int = _MAX_FAILURES
    seconds: float = _TOTAL_SECONDS
    begun: dict[bytes, Future[_Answer]] = field(default_factory=dict)

    def spent(self) -> str | None:
        """Why no more is asked, or None."""
        if self.programs <= 0:
            return f"more than {MAX_PROGRAMS:,} different programs"
        if self.failures <= 0:
            return f"it failed on {_MAX_FAILURES} programs and is not asked any more"
        return "its time is used up" if self.seconds <= 0 else None


class Fickling(AbstractContextManager["Fickling"]):
    """The process in which fickling runs: started before or when it is first asked, and again after it died.

    Args:
        classes: Patch subclasses that the caller declares: fickling's remarks on their names are expected.
        seconds: What one analysis may take.
    """

    def __init__(self, classes: Iterable[type[BigEarthNetPatch]] = (), seconds: float = _SECONDS) -> None:
        honest = {*TABLE, *((cls.__module__, cls.__qualname__) for cls in classes)}
        self._honest = json.dumps(sorted(honest)).encode()
        self._seconds = seconds
        self._running: subprocess.Popen[bytes] | None = None
        self._greeted = False

    def begin(self) -> None:
        """Start the process and go on; importing fickling takes about as long as judging 5,000 values."""
        with suppress(_Failure):  # shows when it is asked
            self._start()

    def ask(self, program: bytes) -> dict[str, Any]:
        """Have a program analysed.

        Raises:
            _Failure: The process died or hung; it is gone.
        """
        self._start()
        if not self._greeted:
            self._exchange(self._honest, _START_SECONDS)
            self._greeted = True
        return self._exchange(program, self._seconds)

    def _start(self) -> None:
        if self._running is not None:
            return
        self._greeted = False
        command = [sys.executable, "-c", _COMMAND, *sys.path]
        try:
            self._running = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the audit, which ends this
                env=os.environ | _ENVIRONMENT,
            )
        except OSError:
            raise _Failure("it cannot be started") from None

    def _exchange(self, request: bytes, seconds: float) -> dict[str, Any]:
        """Send a request and read the answer, in this time."""
        running = cast("subprocess.Popen[bytes]", self._running)
        hung = threading.Event()

        def kill() -> None:
            hung.set()
            running.kill()

        watch = threading.Timer(seconds, kill)
        watch.daemon = True
        watch.start()
        try:
            self._send(running, request)
            answer = json.loads(self._receive(running))
            if type(answer) is not dict:
                raise ValueError
        except (OSError, ValueError, RecursionError):
            self.close()
            raise _Failure(f"it did not finish in {seconds:g} s" if hung.is_set() else "it died") from None
        except BaseException:  # interrupted: the answer that is still to come belongs to no question
            self.close()
            raise
        finally:
            watch.cancel()
        return cast("dict[str, Any]", answer)

    @staticmethod
    def _send(running: subprocess.Popen[bytes], content: bytes) -> None:
        pipe = cast(BinaryIO, running.stdin)
        pipe.write(len(content).to_bytes(4, "little") + content)
        pipe.flush()

    @staticmethod
    def _receive(running: subprocess.Popen[bytes]) -> bytes:
        pipe = cast(BinaryIO, running.stdout)
        size = int.from_bytes(pipe.read(4), "little")
        answer = pipe.read(size) if 0 < size <= _MAX_ANSWER_BYTES else b""
        if len(answer) != size:
            raise ValueError
        return answer

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; it starts again when something is asked."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            for pipe in (running.stdin, running.stdout):
                with suppress(OSError):  # what was still to be written
                    cast(BinaryIO, pipe).close()
            running.wait()


Read: TypeAlias = Callable[[bytes], bytes | None]
"""Gets a value by its LMDB key."""


class Opinions(AbstractContextManager["Opinions"]):
    """Opinions on the programs of one database; a context manager, which ends its own process behind it.

    Args:
        fickling: Whom to ask; None for a process of its own.
        classes: As for ``Fickling``, if there is none.
        seconds: Likewise.
    """

    def __init__(
        self,
        fickling: Fickling | None = None,
        *,
        classes: Iterable[type[BigEarthNetPatch]] = (),
        seconds: float = _SECONDS,
    ) -> None:
        self._fickling = Fickling(classes, seconds) if fickling is None else fickling
        self._own = self._fickling if fickling is None else None
        self._known: dict[bytes, Opinion] = {}
        self._accepted, self._refused = _Budget(), _Budget()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ben-secure-opinions")

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is being asked, and the process, if it is its own."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        begun = [*self._accepted.begun.values(), *self._refused.begun.values()]
        if self._own is not None or not all(future.done() for future in begun):
            self._fickling.close()  # what it is at is of no use any more
        self._thread.shutdown()

    def of_refused(self, value: bytes) -> Opinion | None:
        """Ask about one value that was refused.

        Args:
            value: The stored bytes; hostile.

        Returns:
            The opinion; None if the value is none that fickling knows of, a safetensors file or nothing.
        """
        fingerprint = shown(value) if value else None
        return None if fingerprint is None else self._ask(fingerprint, lambda: value, self._refused)

    def of_accepted(self, value: bytes) -> Opinion:
        """Ask about one pickle that the loader accepts.

        Args:
            value: The stored bytes.

        Returns:
            The opinion.
        """
        return self._thread.submit(self._look, lambda: value).result().opinion

    def begin(self, tally: Tally, read: Read) -> None:
        """Begin to ask about the programs of a range of keys, while others are judged; nobody waits.

        Args:
            tally: What was found in the range; it is not changed.
            read: Gets a value again by its LMDB key, in any thread.
        """
        for finding in tally.findings:
            if finding.program is not None and finding.lmdb_key is not None:
                self._begin(finding.program, partial(_reread, read, finding.lmdb_key, finding.program), self._refused)
        for fingerprint, (lmdb_key, _) in tally.programs.items():
            self._begin(fingerprint, partial(_reread, read, lmdb_key), self._accepted)

    def _begin(self, fingerprint: bytes, value: Callable[[], bytes | None], budget: _Budget) -> None:
        if fingerprint not in budget.begun and len(budget.begun) < MAX_PROGRAMS:
            budget.begun[fingerprint] = self._thread.submit(self._look, value)

    def settle(self, tally: Tally, read: Read) -> None:
        """Add what fickling says to the tally of a database.

        Args:
            tally: What was found in it: refused findings get their ``opinion``, programs of values that load and of
                which fickling finds more than of honest ones become findings, once for each program.
            read: Gets a value again by its LMDB key.
        """
        before = set(self._known)
        told = {}
        # In key order, so that the same programs are asked about however the keys are cut into ranges.
        for finding in sorted(tally.findings, key=lambda finding: finding.lmdb_key or b""):
            if finding.program is not None and finding.lmdb_key is not None:
                reread = partial(_reread, read, finding.lmdb_key, finding.program)
                told[finding.lmdb_key] = self._ask(finding.program, reread, self._refused).text
        tally.findings = [
            finding if finding.program is None else replace(finding, opinion=told.get(finding.lmdb_key or b""))
            for finding in tally.findings
        ]
        for fingerprint, (lmdb_key, position) in tally.programs.items():
            seen = fingerprint in self._known
            opinion = self._ask(fingerprint, partial(_reread, read, lmdb_key), self._accepted)
            if opinion.beyond and not seen:
                tally.add(_remark(lmdb_key, position, opinion))
        for fingerprint in self._known.keys() - before:
            opinion = self._known[fingerprint]
            tally.opinions["none" if not opinion.given else "more" if opinion.beyond else "as honest"] += 1

    def _ask(self, fingerprint: bytes, value: Callable[[], bytes | None], budget: _Budget) -> Opinion:
        opinion = self._known.get(fingerprint)
        if opinion is None:
            reason = budget.spent()
            if reason is not None:
                for future in budget.begun.values():
                    future.cancel()
                return Opinion(f"{NO_OPINION}: {reason}", given=False)
            self._begin(fingerprint, value, budget)
            future = budget.begun.get(fingerprint) or self._thread.submit(self._look, value)
            answer = future.result()
            budget.programs -= 1
            budget.failures -= answer.failed
            budget.seconds -= answer.seconds
            opinion = self._known[fingerprint] = answer.opinion
        return opinion

    def _look(self, value: Callable[[], bytes | None]) -> _Answer:
        """Ask about one value, in the thread that alone does so."""
        found = value()
        if found is None:
            return _Answer(Opinion(f"{NO_OPINION}: the value was changed while it was checked", given=False), False, 0)
        program = without_pixels(found)
        if program is None:
            return _Answer(Opinion(f"{NO_OPINION}: the program is too long for it", given=False), False, 0)
        start = time.monotonic()
        try:
            opinion, failed = _read_answer(self._fickling.ask(program)), False
        except _Failure as failure:
            opinion, failed = Opinion(f"{NO_OPINION}: {failure}", given=False), True
        return _Answer(opinion, failed, time.monotonic() - start)


def _reread(read: Read, lmdb_key: bytes, expected: bytes | None = None) -> bytes | None:
    """Get a value again; None if it is gone, or was refused and is not the ``expected`` program any more.

    That a value which loads is another one now is found out in the end, when the whole file is another one.
    """
    try:
        value = read(lmdb_key)
    except BenSecureError:
        return None
    return None if value is None or expected not in (None, shown(value)) else value


def _remark(lmdb_key: bytes, position: int | None, opinion: Opinion) -> Finding:
    return Finding(
        lmdb_key=lmdb_key,
        position=position,
        rule=Rule.OPINION,
        message="the value loads, but its program does more than those of honest patches (told once for each program)",
        opinion=opinion.text,
    )


def _read_answer(answer: dict[str, Any]) -> Opinion:
    """Put an answer into words; its parts are text that hostile bytes have shaped."""
    if "error" in answer:
        return Opinion(printable(f"{NO_OPINION}: {answer['error']}", _SHOWN_CHARACTERS), given=False)
    severity, beyond, code = answer.get("severity"), answer.get("beyond"), answer.get("code")
    if not isinstance(beyond, list) or not isinstance(code, list):
        return Opinion(f"{NO_OPINION}: its answer makes no sense", given=False)
    if not beyond:
        return Opinion("fickling finds nothing that honest patches do not have")
    name = printable(severity).lower().replace("_", " ")
    told = f"it would run: {'; '.join(map(str, code))}" if code else str(beyond[0])
    return Opinion(printable(f"fickling: {name}; {told}", _SHOWN_CHARACTERS), beyond=True)
