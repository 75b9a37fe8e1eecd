"""Values: pickles, safetensors files, and the footer of a tagged one."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.footer import FOOTER_BYTES, Suite, footer_fault, footer_of, payload_end
from ben_secure.signing.keys import MacKey, MacKeySet
from ben_secure.signing.tags import append_tag, verified_payload
from fuzz.target import Refusal, Target, mutate_bytes, odd_number, refusal
from support import attacks, fuzz_core  # attacks fills ATTACKS
from support.fuzz_core import verdict

# Pickles and safetensors: the oracles are those of ``fuzz_core.examine``.


@functools.cache
def _hostile() -> list[bytes]:
    return [value for attack in attacks.ATTACKS if 0 < len(value := attack.value()) < 40_000]


def _mutate_value(rng: random.Random, value: bytes, others: Sequence[bytes]) -> bytes:
    if rng.random() < 0.1:
        value = rng.choice((fuzz_core.random_program(rng), fuzz_core.grown_program(rng, 40), rng.choice(_hostile())))
    return fuzz_core.mutate(rng, value, [other for other in others if other])


def _mutate_tensors(rng: random.Random, value: bytes, others: Sequence[bytes]) -> bytes:
    return fuzz_core.mutate_tensors(rng, value)


def _examine(value: bytes, base: bytes) -> Refusal:
    accepted = fuzz_core.examine(value, base)
    found = verdict(value)
    assert accepted == isinstance(found, BigEarthNetPatch)
    if accepted:
        again = verdict(found.dumps())
        assert fuzz_core.same(again, found), "what was read is not what is read back"
        return None
    kind, *_, message, _ = found
    return kind(message)  # type: ignore[no-any-return]


# Footers.

_NAME, _CONTEXT = b"S2A_MSIL2A_20170613T101031_0_45", b"BigEarthNet"
_KEYS = MacKeySet(MacKey(bytes(range(32))), MacKey(bytes(range(1, 33)), Suite.A256GMAC))


@functools.cache
def _tagged() -> tuple[bytes, ...]:
    payloads = (b"", b"x", bytes(64), b"\x80\x04N.", bytes(range(256)) * 2)
    return tuple(append_tag(key, _CONTEXT, _NAME, payload) for key in _KEYS for payload in payloads)


def _footer_seeds() -> list[bytes]:
    rest = [_tagged()[0][:-1], _tagged()[1] * 2, b"", _tagged()[-1][:-64]]
    other = append_tag(_KEYS.signing, b"", b"other", b"other")
    return [*_tagged(), *rest, other]


def _mutate_footer(rng: random.Random, value: bytes, others: Sequence[bytes]) -> bytes:
    """Change a field of the footer, or the bytes before it; mostly keep the magic."""
    kind = rng.randrange(6)
    if kind == 0 or len(value) < FOOTER_BYTES:
        return mutate_bytes(rng, value, others)
    payload, footer = value[:-FOOTER_BYTES], value[-FOOTER_BYTES:]
    if kind == 1:
        payload = mutate_bytes(rng, payload, others)
        if rng.random() < 0.7:
            footer = footer[:40] + len(payload).to_bytes(8, "little") + footer[48:]
    elif kind == 2:
        length = odd_number(rng, 64, len(payload))
        footer = footer[:40] + length.to_bytes(8, "little") + footer[48:]
    elif kind == 3:  # suite, version, reserved
        at = rng.randrange(48, 56)
        footer = footer[:at] + bytes([rng.choice((0, 1, 2, 3, 255))]) + footer[at + 1 :]
    elif kind == 4:  # the tag or the key id of another value
        other = rng.choice(others)[-FOOTER_BYTES:].ljust(FOOTER_BYTES, b"\0")
        start, stop = rng.choice(((0, 32), (32, 40), (0, 40), (0, 16), (16, 32), (48, 49)))
        footer = footer[:start] + other[start:stop] + footer[stop:]
    else:
        at = rng.randrange(40)
        footer = footer[:at] + bytes([footer[at] ^ 1 << rng.randrange(8)]) + footer[at + 1 :]
    return payload + footer


def _examine_footer(value: bytes, _: bytes) -> Refusal:
    """Whatever verifies was tagged, and structure is read as ``docs/format.md`` has it."""
    footer, fault = footer_of(value), footer_fault(value)
    end = len(value) - FOOTER_BYTES
    tail = value[end:] if end >= 0 else b""
    named = (
        end >= 0
        and tail[40:48] == end.to_bytes(8, "little")
        and tail[48:] in (bytes([suite, 1]) + bytes(6) + b"\x89BenTag\n" for suite in (1, 2))
    )
    assert (footer is not None) == named
    assert payload_end(value) == (end if named else len(value))
    if footer is not None:
        assert footer.pack(end) == tail
    assert fault is None or (fault.isascii() and value.endswith(b"\x89BenTag\n"))

    def accepted(payload: memoryview) -> None:
        assert value in _tagged(), "a value verifies that nobody has tagged"
        assert payload == value[:end]

    return refusal(lambda: verified_payload(_KEYS, _CONTEXT, _NAME, value), accepted)


TARGETS = (
    Target("value", fuzz_core.honest_values, _mutate_value, _examine, seconds=4, memory=2**25),
    Target("tensors", fuzz_core.honest_tensors, _mutate_tensors, _examine, seconds=4, memory=2**25),
    Target("footer", _footer_seeds, _mutate_footer, _examine_footer),
)
