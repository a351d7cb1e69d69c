"""Streams of requests to begin with, and what of a head is worth changing: all that admission reads."""

import random
from typing import Final

from fuzz.mutation import ODD, change_bytes, change_lines

SECRET: Final = b"hunter2-c0rrect-h0rse"
"""Stands in headers that hold credentials."""
HIDDEN: Final = (b"authorization", b"cookie", b"x-api-key")
"""They."""

WORDS: Final = (
    *ODD, b"203.0.113.7", b"10.0.0.1", b"10.9.9.9", b"::ffff:10.0.0.2", b"[2001:db8::1%eth0]:80", b"2001:db8::9",
    b"unix", b"for=", b'for="[', b"for=203.0.113.9;proto=https", b'for="\\"', b"_hidden", b"unknown", b"by=10.0.0.1",
    b"https", b"wss", b"1S", b"0n", b"99999999H", b"1u", b"0", b"1", b"15", b"999999999999", b"1000000000000",
    b"critical_plus", b"sheddable", b"CRITICAL", b"blue", b"gold",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"id-7", b"shop.example", b"A.EXAMPLE.ORG.:80",
    b"[::1]:80", b"100-continue", b"chunked", b"gzip, chunked", b"keep-alive", b"close", b"close, upgrade",
    b"websocket", b"h2c",
)  # fmt: skip
FIELDS: Final = (
    b"X-Forwarded-For: 203.0.113.7, 10.0.0.2", b"X-Forwarded-For: 198.51.100.1",
    b'Forwarded: for="[2001:db8::7]:80";proto=https, for=10.0.0.3', b"X-Forwarded-Proto: https",
    b"Grpc-Timeout: 100m", b"X-Envoy-Expected-Rq-Timeout-Ms: 250", b"Holdfast-Timeout-Ms: 30",
    b"Holdfast-Timeout-Ms: 0", b"Holdfast-Criticality: sheddable", b"Holdfast-Criticality: critical_plus",
    b"Holdfast-Colour: blue", b"X-Tenant: gold", b"X-Api-Key: " + SECRET, b"Authorization: Bearer " + SECRET,
    b"Cookie: session=" + SECRET, b"X-Version: 2",
    b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"X-Request-Id: id-7",
    b"X-Request-Id: a b\t", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 90000",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close", b"Connection: keep-alive",
    b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Host: test", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"", b"hello", b"5", b"0", b"a" * 600,
)  # fmt: skip
PATHS: Final = (
    b"/plain", b"/body", b"/wait", b"/long", b"/stream", b"/fails", b"/boom", b"/half", b"/never", b"/rude", b"/deaf",
    b"/keyed", b"/tenant", b"/version", b"/finish", b"/broken", b"/health", b"/ws", b"*", b"//a//b/", b"/%00%ff?x=1",
    b"http://shop.example/plain", b"ws://a.example.org:80/ws?x", b"/\xff", b"/..;/x#y",
)  # fmt: skip
METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"PRI", b"BREW")
VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.9")
HEADER_SIZE: Final = 3
"""Bytes before the stream that say how it is sent."""

UPGRADE: Final = (
    b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
FRAMES: Final = (
    b"\x81\x85\0\0\0\0hello",  # text, masked with zeros: as all of them
    b"\x88\x82\0\0\0\0\x03\xe8",  # close 1000
    b"\x89\x81\0\0\0\0p",  # ping
    b"\x01\x82\0\0\0\0he\x80\x81\0\0\0\0y",  # text in two pieces
    b"\x82\x84\0\0\0\0\0\1\2\3",  # bytes
    b"\x81\x84\0\0\0\0boom",
    b"\x81\x82\0\0\0\0\xff\xfe",  # no UTF-8
    b"\x83\x80\0\0\0\0",  # no opcode
    b"\x82\xff\0\0\0\0\0\1\0\0\0\0\0\0",  # 64 KiB are announced
)


def request(path: bytes, *fields: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    """One request, whole."""
    length = (b"Content-Length: %d" % len(body),) if body else ()
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, path), b"Host: test", *fields, *length, b"", body))


CHUNKED: Final = (
    request(b"/body", b"Transfer-Encoding: chunked", method=b"POST") + b"5;x=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
)
PIECES: Final = (
    *(request(path) for path in PATHS[:17]),
    request(b"/body", method=b"POST", body=b"hello"),
    request(b"/body", b"Expect: 100-continue", method=b"PUT", body=b"hello"),
    request(b"/plain", *FIELDS[:14], b"X-Request-Id: id-7"),
    request(b"/keyed", *FIELDS[12:15]),
    request(b"/wait", b"Grpc-Timeout: 10m", b"Holdfast-Criticality: sheddable"),
    request(b"/plain", method=b"HEAD"),
    request(b"http://shop.example/version", b"X-Version: 2"),
    CHUNKED,
)


def _seeds() -> tuple[bytes, ...]:
    found = [bytes((number * 37 % 256, number * 11 % 256, 0)) + piece for number, piece in enumerate(PIECES)]
    whole = b"".join(PIECES)
    found += [bytes((how, cut, 1)) + whole for how, cut in ((0, 0), (5, 7), (34, 90), (123, 200))]
    # Three connections, two handlers at a time: one waits for its turn when its client goes.
    found += [bytes((how, 0, 12)) + request(b"/wait") for how in (2, 18, 34, 130, 146, 162)]
    upgrade = request(b"/ws", *UPGRADE)
    # The head is one piece, so that what follows is read as frames.
    for number, frame in enumerate(FRAMES):
        found.append(bytes((number * 16 % 128, len(upgrade), 2)) + upgrade + frame)
    found += [bytes((how, len(upgrade), 6)) + upgrade + b"".join(FRAMES[2:6]) for how in (1, 16, 32, 64, 114)]
    return tuple(found)


SEEDS: Final = _seeds()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Another stream: other ways to send it, other requests, lines, targets and values."""
    how, stream = data[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0"), data[HEADER_SIZE:]
    match rng.randrange(12):
        case 0 | 1:
            place = rng.randrange(HEADER_SIZE)
            how = how[:place] + bytes((rng.randrange(256),)) + how[place + 1 :]
        case 2:
            stream = rng.choice((stream + rng.choice(PIECES), rng.choice(PIECES) + stream))
        case 3:
            rows = stream.split(b"\r\n")
            starts = [place for place, row in enumerate(rows) if b" HTTP/" in row] or [0]
            row = b" ".join((rng.choice(METHODS), rng.choice(PATHS), rng.choice(VERSIONS)))
            rows[rng.choice(starts)] = row
            stream = b"\r\n".join(rows)
        case 4:
            stream = change_bytes(stream, rng, FRAMES if b"pgrade" in stream and rng.random() < 0.7 else ODD)
        case 5:
            stream = stream[: rng.randrange(len(stream) + 1)]
        case _:
            stream = change_lines(stream, rng, FIELDS, WORDS, b"\r\n")
    return how + stream
