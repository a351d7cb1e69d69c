"""Changes that keep the structure of an input: of bytes, and of lines with fields."""

import random
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 8192
"""Bytes of an input."""
ODD: Final = (
    b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"=", b'"', b"\\", b"%", b"%00", b"%2F", b"\xff",
    b"\xe2\x80\xae", b"0", b"-1", b"1e400", b"NaN", b"9" * 30, b"a" * 300, b"[", b"]", b"{", b"}", b"#", b"'", b"/",
    b"..", b"*", b"?",
)  # fmt: skip
"""Bytes that mean something somewhere."""


def change_bytes(data: bytes, rng: random.Random, words: Sequence[bytes] = ODD) -> bytes:
    """Insert, remove, repeat, move or flip a few bytes anywhere."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((0, 1, 2, 4, 16, 64)))
    match rng.randrange(6):
        case 0:
            new = rng.choice(words)
        case 1:
            new = b""
        case 2:
            new = data[at:end] * rng.choice((2, 3, 40))
        case 3:
            other = rng.randrange(len(data) + 1)
            new = data[other : other + rng.choice((1, 8, 40))]
        case 4:
            new = rng.randbytes(rng.choice((1, 2, 4)))
        case _:
            new = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at:end])
    return (data[:at] + new + data[end:])[:LONGEST]


def change_lines(
    data: bytes, rng: random.Random, lines: Sequence[bytes], words: Sequence[bytes], end: bytes = b"\n"
) -> bytes:
    """Change whole lines: put in one of ``lines``, take one away, double, move or cut one, change what is behind its
    first separator with ``words``."""
    rows = data.split(end)
    at = rng.randrange(len(rows))
    match rng.randrange(7):
        case 0 | 1:
            rows.insert(at, rng.choice(lines))
        case 2:
            del rows[at]
        case 3:
            rows[at:at] = [rows[at]] * rng.choice((1, 1, 2, 30))
        case 4:
            rows.insert(rng.randrange(len(rows)), rows.pop(at))
        case 5:
            rows[at] = change_bytes(rows[at], rng, words)
        case _:
            name, mark, value = _parted(rows[at])
            choices = (rng.choice(words), value + rng.choice(words), rng.choice(words) + value, value + mark + value)
            rows[at] = name + mark + rng.choice(choices)
    return end.join(rows)[:LONGEST]


def _parted(row: bytes) -> tuple[bytes, bytes, bytes]:
    for mark in (b": ", b" = ", b"=", b" ", b"\t"):
        if mark in row:
            return row.partition(mark)
    return row, b"", b""
