"""Whatever bytes come, in whatever pieces: right answers, or a refusal and an end."""

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from server.engineroom import LOOPS, answer, read_body, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what it got. /late waits, so that pipelined requests pile up; /early answers before it reads."""
    if scope["path"] == "/early":
        await answer(send, b"early")
        return
    body = await read_body(receive)
    if scope["path"] == "/late":
        await asyncio.sleep(0.001)
    await answer(send, f"{scope['method']} {scope['path']} {len(body)} {sum(body)}".encode())


REQUESTS = [
    request("GET", "/a"),
    request("GET", "/late?x=1"),
    request("POST", "/b", body=b"0123456789"),
    request("POST", "/early", body=b"x" * 300),
    request("POST", "/late", body=b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
    request("POST", "/c", "Transfer-Encoding: chunked")
    + b"3\r\nabc\r\na;ext=1\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n",
    request("POST", "/d", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    b"\r\n" + request("GET", "/e%20f", "X-Long: " + "y" * 500),
    request("POST", "/late", body=b"z" * 5000),
]


def expected(one: bytes) -> bytes:
    bodies = [b"", b"", b"0123456789", b"", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"abc0123456789", b"", b"", b"z" * 5000]
    method, target = one.lstrip().split()[:2]
    path = target.partition(b"?")[0].replace(b"%20", b" ")
    if path == b"/early":
        return b"early"
    body = bodies[REQUESTS.index(one)]
    return b"%b %b %d %d" % (method, path, len(body), sum(body))


def pieces(data: bytes, cuts: Sequence[float]) -> list[bytes]:
    places = sorted({int(cut * len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


chosen = st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=8)
cuts = st.lists(st.floats(0, 1, exclude_max=True), max_size=12)


@settings(max_examples=examples(60), deadline=None)
@given(chosen=chosen, cuts=cuts)
def test_any_split_of_a_pipelined_stream_gives_the_same_answers(chosen: list[bytes], cuts: list[float]) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            for part in pieces(b"".join(chosen), cuts):
                await client.send(part)
                await asyncio.sleep(0.0005)
            got = [(await client.response()).body for _ in chosen]
            assert got == [expected(one) for one in chosen]
            await until(lambda: not room.state.in_flight)
            assert len(room.state.connections) == 1

    run(work)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_stream_in_pieces_of_a_few_bytes_gives_the_same_answers(size: int) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            data = b"".join(REQUESTS[:8])
            for start in range(0, len(data), size):
                await client.send(data[start : start + size])
                await asyncio.sleep(0)
            assert [(await client.response()).body for _ in REQUESTS[:8]] == [expected(one) for one in REQUESTS[:8]]

    run(work)


async def survives(room: Any, data: bytes, split: int) -> None:
    """After ``data`` and the client's end of it, all answers are whole, and the connection is over."""
    client = await room.connect()
    client.writer.write(data[:split])
    await asyncio.sleep(0)
    client.writer.write(data[split:])
    client.writer.write_eof()
    try:
        answers = await client.rest()
    except ConnectionResetError:
        answers = b""
    client.close()
    assert not answers or answers.startswith(b"HTTP/1.1 "), answers[:100]


async def flood(room: Any, inputs: Sequence[tuple[bytes, int]]) -> None:
    for data, split in inputs:
        await survives(room, data, split)
    await until(lambda: not (room.state.connections or room.state.in_flight))
    client = await room.connect()
    assert (await client.get("/after")).status == 200


noise = st.binary(max_size=300)
mutation = st.tuples(st.sampled_from(REQUESTS), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=6))


def mutate(data: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    for place, new in changes:
        at = int(place * len(data))
        data = data[:at] + new + data[at + len(new) // 2 + 1 :]
    return data


@settings(max_examples=examples(30), deadline=None)
@given(inputs=st.lists(st.one_of(noise, mutation.map(lambda made: mutate(*made))), min_size=1, max_size=10))
def test_bytes_made_up_by_hypothesis_raise_nothing(inputs: list[bytes]) -> None:
    async def work() -> None:
        async with serving(app) as room:
            await flood(room, [(data, len(data) // 2) for data in inputs])

    run(work)


@both_loops
def test_two_thousand_mutated_requests_raise_nothing(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)

    def make() -> tuple[bytes, int]:
        data = bytearray(b"".join(rng.choices(REQUESTS, k=rng.randint(1, 3))))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 3)] = rng.choice(
                (rng.randbytes(rng.randint(0, 4)), b"\r\n", b"0", b":", b"\x00")
            )
        return bytes(data), rng.randrange(len(data) + 1)

    async def work() -> None:
        async with serving(app) as room:
            await flood(room, [make() for _ in range(1000)])

    run(work, loop)
    wrong = [one for one in caplog.records if "server itself" in one.getMessage() or one.levelno > logging.ERROR]
    assert not wrong


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
SMUGGLING = {
    "length and chunks": POST + b"Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 30\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\n12345",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\n12345",
    "an endless length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding after chunks": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\n12345",
    "a folded header": POST + b"X: b\r\n Content-Length: 5\r\n\r\n12345",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "a chunk size of nonsense": POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a line feed after the chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a path that is not ascii": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: a b/\r\n\r\n",
    "connect": b"CONNECT host:443 HTTP/1.1\r\nHost: a\r\n\r\n",
}
BEHIND = request("GET", "/smuggled")


@pytest.mark.parametrize("name", SMUGGLING)
def test_ambiguous_or_malformed_requests_are_400_and_end_the_connection(name: str) -> None:
    seen = []

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await answer(send)

    async def work() -> None:
        async with serving(watch) as room:
            client = await room.connect()
            await client.send(SMUGGLING[name] + BEHIND)
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (400, "close")
            assert await client.ended()
            assert room.state.refused == 1
        assert not seen

    run(work)


@pytest.mark.parametrize("line", [b"GET / HTTP/2.0", b"GET /"])
def test_other_versions_are_505(line: bytes) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(line + b"\r\n\r\n")
            assert (await client.response()).status == 505
            assert await client.ended()

    run(work)


def test_what_follows_connection_close_is_not_read() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/a", "Connection: close") + BEHIND)
            assert (await client.response()).body == b"GET /a 0 0"
            assert await client.ended()
            assert room.state.received == 1

    run(work)


def test_an_upgrade_to_something_unknown_is_ignored() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/a", "Connection: upgrade", "Upgrade: h2c"))
            response = await client.response()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert await client.ended()

    run(work)


def test_a_websocket_behind_a_request_that_is_not_answered_is_refused() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, scope["type"].encode())

    async def work() -> None:
        async with serving(slow) as room:
            client = await room.connect()
            upgrade = (
                "Connection: upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: eA==",
            )
            await client.send(request("GET", "/a") + request("GET", "/ws", *upgrade))
            assert (await client.response()).body == b"http"
            assert (await client.response()).status == 400
            assert await client.ended()

    run(work)


def test_more_pipelined_requests_than_the_limit_are_refused_after_the_answers() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/late") * 1000)
            statuses = [(await client.response()).status for _ in range(258)]
            assert statuses == [200] * 257 + [400]
            assert await client.ended()

    run(work)
