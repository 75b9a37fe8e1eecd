"""BLAKE3 as its paper says (section 2), in plain Python: a second implementation, for vectors."""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
CHUNK, BLOCK = 1024, 64


def rotated(word: int, by: int) -> int:
    return (word >> by | word << 32 - by) & 0xFFFFFFFF


def mix(state: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    for word, by_d, by_b in ((x, 16, 12), (y, 8, 7)):
        state[a] = (state[a] + state[b] + word) & 0xFFFFFFFF
        state[d] = rotated(state[d] ^ state[a], by_d)
        state[c] = (state[c] + state[d]) & 0xFFFFFFFF
        state[b] = rotated(state[b] ^ state[c], by_b)


def compress(chaining, block: bytes, counter: int, flags: int) -> list[int]:
    words = struct.unpack("<16I", block.ljust(BLOCK, b"\0"))
    state = [*chaining, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, len(block), flags]
    for _ in range(7):
        for place in range(4):
            mix(state, place, place + 4, place + 8, place + 12, *words[2 * place : 2 * place + 2])
        for place in range(4):
            others = (place + 1) % 4 + 4, (place + 2) % 4 + 8, (place + 3) % 4 + 12
            mix(state, place, *others, *words[8 + 2 * place : 10 + 2 * place])
        words = tuple(words[place] for place in PERMUTATION)
    return [state[place] ^ state[place + 8] for place in range(8)]


def chunk(data: bytes, counter: int, root: int) -> list[int]:
    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)] or [b""]
    chaining = list(IV)
    for place, block in enumerate(blocks):
        first = CHUNK_START if place == 0 else 0
        last = CHUNK_END | root if place == len(blocks) - 1 else 0
        chaining = compress(chaining, block, counter, first | last)
    return chaining


def tree(data: bytes, counter: int = 0, root: int = ROOT) -> list[int]:
    if len(data) <= CHUNK:
        return chunk(data, counter, root)
    left = CHUNK
    while left * 2 < len(data):
        left *= 2
    halves = tree(data[:left], counter, 0) + tree(data[left:], counter + left // CHUNK, 0)
    return compress(IV, struct.pack("<16I", *halves), 0, PARENT | root)


def blake3(data: bytes) -> bytes:
    return struct.pack("<8I", *tree(data))
