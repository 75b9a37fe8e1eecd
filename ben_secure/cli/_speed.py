"""How fast each suite of the value tag is on this machine, for advice where that matters."""

from __future__ import annotations

import time

from ben_secure.signing.keys import MacKey, Suite
from ben_secure.signing.tags import make_tag

WORTH_TELLING_S = 5.0
"""A command that verified tags for less than this says nothing of speed."""
_SLOW_GB_S = 1.0  # HS256 without SHA instructions, A256GMAC without AES instructions; with them both are faster
_PAYLOAD = bytes(2**18)
_ROUNDS = 5


def measured() -> dict[Suite, float]:
    """Time the tags of values as long as a patch; takes some milliseconds.

    Returns:
        GB/s of one thread, by suite.
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
    """Say how fast the suites are here if the one in use is slow.

    Args:
        suite: That of the key that tags.

    Returns:
        A sentence with both speeds and what to do, or None.
    """
    speeds = measured()
    if speeds[suite] >= _SLOW_GB_S:
        return None
    told = f"{suite.name} is slow on this machine: " + ", ".join(f"{s.name} {speeds[s]:.2g} GB/s" for s in Suite)
    if suite is Suite.A256GMAC:
        return (
            f"{told}. The processor seems to have no AES instructions; without them A256GMAC may also leak "
            "the key through its timing: ben-secure keygen mac FILE --algorithm HS256"
        )
    if speeds[Suite.A256GMAC] < 2 * speeds[suite]:
        return None
    return (
        f"{told}. To change over: ben-secure keygen mac FILE --add --algorithm A256GMAC, and "
        "ben-secure sign DB --mac-key FILE --retag"
    )
