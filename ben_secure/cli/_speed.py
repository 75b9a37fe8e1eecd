"""Measure the speed of each suite of value tags on this machine, and advise if the suite in use is slow."""

from __future__ import annotations

import time

from ben_secure.signing.keys import MacKey, Suite
from ben_secure.signing.tags import make_tag

ADVICE_AFTER_S = 5.0
"""A command that verifies tags for a shorter time, in seconds, gives no advice on speed."""
_SLOW_GB_S = 1.0  # HS256 is slower without SHA instructions, A256GMAC without AES instructions; otherwise faster
_PAYLOAD = bytes(2**18)
_ROUNDS = 5


def measured() -> dict[Suite, float]:
    """Measure how long it takes to tag a value of the size of a patch. This takes a few milliseconds.

    Returns:
        Speed of one thread by suite, GB/s.
    """
    speeds = {}
    for suite in Suite:
        mac_key = MacKey.generate(suite)
        seconds = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            make_tag(mac_key, b"", b"", _PAYLOAD)
            seconds.append(time.perf_counter() - start)
        speeds[suite] = len(_PAYLOAD) / min(seconds) / 1e9
    return speeds


def advice(suite: Suite) -> str | None:
    """Advise on the choice of a suite if the suite in use is slow.

    Args:
        suite: Suite of the key that tags.

    Returns:
        A text with the speed of all suites and the remedy. None if the suite is fast, or if the other one is not
        faster.
    """
    speeds = measured()
    if speeds[suite] >= _SLOW_GB_S:
        return None
    measurements = ", ".join(f"{other.name} {speeds[other]:.2g} GB/s" for other in Suite)
    problem = f"{suite.name} is slow on this machine: {measurements}"
    if suite is Suite.A256GMAC:
        return (
            f"{problem}. The processor seems to have no AES instructions, and without them the timing of A256GMAC may "
            "leak the key. Make an HS256 key instead: ben-secure keygen mac FILE --algorithm HS256"
        )
    if speeds[Suite.A256GMAC] < 2 * speeds[suite]:
        return None
    return (
        f"{problem}. To change to A256GMAC, run ben-secure keygen mac FILE --add --algorithm A256GMAC, then "
        "ben-secure sign DB --mac-key FILE --retag"
    )
