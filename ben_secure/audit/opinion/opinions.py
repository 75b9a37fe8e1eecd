"""fickling's second opinion: one analysis for each distinct program, in an expendable process.

fickling explains what a refused value would do under ``pickle``. An accepted value gets a warning if fickling reports
more about it than about honest patches. fickling never decides the verdict and never removes a finding. If it crashes,
hangs or cannot read a value, the result is "no opinion", never an approval. Its answers are escaped here.

The opinions do not depend on how the work was divided. Workers only compute fingerprints (``audit.judge.programs``).
The process that adds up their tallies asks for the opinions, in key order.
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
from ben_secure.audit.judge.programs import refused_fingerprint, without_pixels
from ben_secure.errors import BenSecureError, Rule, printable
from ben_secure.pickles.names import TABLE

if TYPE_CHECKING:
    from ben_secure.audit.findings import Tally
    from ben_secure.patches import BigEarthNetPatch

_SECONDS = 3.0
"""Time limit of one analysis, seconds; an honest program takes about 20 ms."""
_START_SECONDS = 30.0
"""Time limit for importing fickling, seconds; a cold network disk is slow."""
_TOTAL_SECONDS = 120.0
"""Time limit of all analyses of one kind together, seconds."""
_MAX_FAILURES = 5
"""Number of crashes and hangs after which fickling is not asked again."""
_MAX_ANSWER_BYTES = 2**16
_SHOWN_CHARACTERS = 400
# Sets sys.path explicitly, because -c would otherwise import modules from the working directory.
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from ben_secure.audit.opinion._fickling_worker import main; main()"

# Each thread would need some of the bounded memory. A fixed hash seed makes the order of sets repeatable.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


@dataclass(frozen=True, slots=True)
class Opinion:
    """fickling's opinion of one program.

    Attributes:
        text: One line for people; printable ASCII.
        beyond: Whether fickling reports more than about honest patches.
        available: False if there is no opinion. ``text`` then gives the reason.
    """

    text: str
    beyond: bool = False
    available: bool = True


class _Failure(Exception):
    """The process died, hung or sent an invalid answer."""


class _Answer(NamedTuple):
    """An opinion and the cost of obtaining it."""

    opinion: Opinion
    failed: bool
    seconds: float


@dataclass(slots=True)
class _Budget:
    """Remaining budget for the programs of accepted values, or for those of refused values.

    ``begun`` holds the pending and finished analyses by fingerprint.
    """

    programs: int = MAX_PROGRAMS
    failures: int = _MAX_FAILURES
    seconds: float = _TOTAL_SECONDS
    begun: dict[bytes, Future[_Answer]] = field(default_factory=dict)

    def spent(self) -> str | None:
        """Return the reason why the budget is spent, or None."""
        if self.programs <= 0:
            return f"more than {MAX_PROGRAMS:,} different programs"
        if self.failures <= 0:
            return f"it failed on {_MAX_FAILURES} programs and is not asked again"
        return "its time is used up" if self.seconds <= 0 else None


class Fickling(AbstractContextManager["Fickling"]):
    """The process that runs fickling. It starts on the first request, or by ``begin``, and restarts after it died.

    Args:
        classes: Patch subclasses that the caller declares. fickling's remarks on their names are ignored.
        seconds: Time limit of one analysis.
    """

    def __init__(self, classes: Iterable[type[BigEarthNetPatch]] = (), seconds: float = _SECONDS) -> None:
        honest = {*TABLE, *((cls.__module__, cls.__qualname__) for cls in classes)}
        self._honest = json.dumps(sorted(honest)).encode()
        self._seconds = seconds
        self._running: subprocess.Popen[bytes] | None = None
        self._greeted = False

    def begin(self) -> None:
        """Start the process without waiting: importing fickling takes about as long as judging 5,000 values."""
        with suppress(_Failure):  # reported by the first request
            self._start()

    def ask(self, program: bytes) -> dict[str, Any]:
        """Analyse a program.

        Raises:
            _Failure: The process died or hung. It has been ended.
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
                start_new_session=True,  # not reached by Ctrl-C: the audit ends it
                env=os.environ | _ENVIRONMENT,
            )
        except OSError:
            raise _Failure("it cannot be started") from None

    def _exchange(self, request: bytes, seconds: float) -> dict[str, Any]:
        """Send a request and read the answer, within a time limit."""
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
        except BaseException:  # interrupted: a late answer must not be read as the answer to the next request
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
        """End the process. The next request starts it again."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            for pipe in (running.stdin, running.stdout):
                with suppress(OSError):  # unwritten data cannot be flushed
                    cast(BinaryIO, pipe).close()
            running.wait()


Read: TypeAlias = Callable[[bytes], bytes | None]
"""Reads a value by its LMDB key; None if the database does not have it."""


class Opinions(AbstractContextManager["Opinions"]):
    """Collects opinions on the programs of one database. Use it as a context manager.

    Args:
        fickling: The process to ask. None starts one, which ends with the context.
        classes: As for ``Fickling``. Used if ``fickling`` is None.
        seconds: As for ``Fickling``. Used if ``fickling`` is None.
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
        """Cancel pending requests. Also end the process if this object started it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        begun = [*self._accepted.begun.values(), *self._refused.begun.values()]
        if self._own is not None or not all(future.done() for future in begun):
            self._fickling.close()  # also ends a request that is still running
        self._thread.shutdown()

    def of_refused(self, value: bytes) -> Opinion | None:
        """Ask about one refused value.

        Args:
            value: The stored bytes (untrusted).

        Returns:
            The opinion, or None if the value is empty or a safetensors file, which fickling does not read.
        """
        fingerprint = refused_fingerprint(value) if value else None
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
        """Start asking about the programs of a range of keys without waiting, while other ranges are judged.

        Args:
            tally: Tally of the range; not changed.
            read: Reads a value again by its LMDB key; called in another thread.
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
        """Add the opinions to the tally of a database.

        Args:
            tally: Tally of the database. Findings on refused values get their ``opinion``. Each program of accepted
                values about which fickling reports more than about honest patches adds one finding.
            read: Reads a value again by its LMDB key.
        """
        before = set(self._known)
        texts = {}
        # In key order, so that the same programs are asked about however the keys are cut into ranges.
        for finding in sorted(tally.findings, key=lambda finding: finding.lmdb_key or b""):
            if finding.program is not None and finding.lmdb_key is not None:
                reread = partial(_reread, read, finding.lmdb_key, finding.program)
                texts[finding.lmdb_key] = self._ask(finding.program, reread, self._refused).text
        tally.findings = [
            finding if finding.program is None else replace(finding, opinion=texts.get(finding.lmdb_key or b""))
            for finding in tally.findings
        ]
        for fingerprint, (lmdb_key, position) in tally.programs.items():
            seen = fingerprint in self._known
            opinion = self._ask(fingerprint, partial(_reread, read, lmdb_key), self._accepted)
            if opinion.beyond and not seen:
                tally.add(_remark(lmdb_key, position, opinion))
        for fingerprint in self._known.keys() - before:
            opinion = self._known[fingerprint]
            tally.opinions["none" if not opinion.available else "more" if opinion.beyond else "as honest"] += 1

    def _ask(self, fingerprint: bytes, value: Callable[[], bytes | None], budget: _Budget) -> Opinion:
        opinion = self._known.get(fingerprint)
        if opinion is None:
            reason = budget.spent()
            if reason is not None:
                for future in budget.begun.values():
                    future.cancel()
                return Opinion(f"{NO_OPINION}: {reason}", available=False)
            self._begin(fingerprint, value, budget)
            future = budget.begun.get(fingerprint) or self._thread.submit(self._look, value)
            answer = future.result()
            budget.programs -= 1
            budget.failures -= answer.failed
            budget.seconds -= answer.seconds
            opinion = self._known[fingerprint] = answer.opinion
        return opinion

    def _look(self, value: Callable[[], bytes | None]) -> _Answer:
        """Ask about one value. All requests run in one thread."""
        stored = value()
        if stored is None:
            return _Answer(Opinion(f"{NO_OPINION}: the value changed during the audit", available=False), False, 0)
        program = without_pixels(stored)
        if program is None:
            return _Answer(Opinion(f"{NO_OPINION}: the program is too long for it", available=False), False, 0)
        start = time.monotonic()
        try:
            opinion, failed = _read_answer(self._fickling.ask(program)), False
        except _Failure as failure:
            opinion, failed = Opinion(f"{NO_OPINION}: {failure}", available=False), True
        return _Answer(opinion, failed, time.monotonic() - start)


def _reread(read: Read, lmdb_key: bytes, expected: bytes | None = None) -> bytes | None:
    """Read a value again. Returns None if it is gone, or if its program is no longer the ``expected`` one.

    For an accepted value nothing is expected: if it has changed, so has the file, which the audit detects at its end.
    """
    try:
        value = read(lmdb_key)
    except BenSecureError:
        return None
    return None if value is None or expected not in (None, refused_fingerprint(value)) else value


def _remark(lmdb_key: bytes, position: int | None, opinion: Opinion) -> Finding:
    return Finding(
        lmdb_key=lmdb_key,
        position=position,
        rule=Rule.OPINION,
        message="the value loads, but its program does more than honest patches do (reported once per program)",
        opinion=opinion.text,
    )


def _read_answer(answer: dict[str, Any]) -> Opinion:
    """Put an answer into words. Hostile bytes may have shaped its texts."""
    if "error" in answer:
        return Opinion(printable(f"{NO_OPINION}: {answer['error']}", _SHOWN_CHARACTERS), available=False)
    severity, beyond, code = answer.get("severity"), answer.get("beyond"), answer.get("code")
    if not isinstance(beyond, list) or not isinstance(code, list):
        return Opinion(f"{NO_OPINION}: its answer makes no sense", available=False)
    if not beyond:
        return Opinion("fickling reports nothing that it does not report about honest patches")
    name = printable(severity).lower().replace("_", " ")
    reason = f"it would run: {'; '.join(map(str, code))}" if code else str(beyond[0])
    return Opinion(printable(f"fickling: {name}; {reason}", _SHOWN_CHARACTERS), beyond=True)
