"""Limits: what is too large, too slow or too much is answered, cut, or made to wait."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from server.engineroom import LOOPS, Client, answer, read_body, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)

WINDOW = 0.2
LARGE = 12_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/big":
        await answer(send, b"x" * LARGE)
    elif scope["path"] == "/refuse":
        await answer(send, b"no", 403)
    elif scope["path"] == "/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    else:
        size = len(await read_body(receive))
        assert b"x-trailer" not in dict(scope["headers"])
        await answer(send, b"%d" % size)


async def refused_with(client: Client, status: int) -> None:
    """The next answer is this problem, and the connection ends with a FIN."""
    response = await client.response()
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert json.loads(response.body)["status"] == status
    assert await client.ended()


MANY_SMALL = "\r\n".join(f"X-{number}: {number}" for number in range(1000))


@pytest.mark.parametrize("headers", [MANY_SMALL, f"X: {'y' * 9000}"], ids=["many", "huge"])
@pytest.mark.parametrize("chunk", [100, 4096, 100_000])
def test_oversized_headers_are_431_however_they_are_cut(headers: str, chunk: int) -> None:
    async def work() -> None:
        async with serving(app, max_header_size=8192) as room:
            client = await room.connect()
            data = request("GET", "/", headers)
            for start in range(0, len(data), chunk):
                await client.send(data[start : start + chunk])
                await asyncio.sleep(0)
            await refused_with(client, 431)

    run(work)


def test_a_header_that_never_ends_is_not_collected() -> None:
    async def work() -> None:
        async with serving(app, max_header_size=8192) as room:
            client = await room.connect()
            await client.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 9000)
            await refused_with(client, 431)

    run(work)


def test_headers_within_the_limit_pass_behind_a_large_body() -> None:
    async def work() -> None:
        async with serving(app, max_header_size=8192) as room:
            client = await room.connect()
            data = request("POST", "/", body=b"x" * 50_000) + request("GET", "/", f"X: {'y' * 7000}")
            await client.send(data[:-1000])  # one read holds the body and a part of the next head
            assert (await client.response()).body == b"50000"
            await client.send(data[-1000:])
            assert (await client.response()).body == b"0"

    run(work)


@both_loops
def test_a_body_declared_too_large_is_413_and_no_reset_though_the_client_sends_on(loop: str) -> None:
    async def work() -> None:
        async with serving(app, max_body_size=1000) as room:
            client = await room.connect()
            client.writer.write(request("POST", "/", "Content-Length: 30000000") + b"x" * 30_000_000)
            await refused_with(client, 413)
            assert room.state.received == 0, "the app has not seen it"

    run(work, loop)


@both_loops
def test_a_chunked_body_is_413_once_it_is_too_large(loop: str) -> None:
    async def work() -> None:
        async with serving(app, max_body_size=1000) as room:
            client = await room.connect()
            await client.send(request("POST", "/", "Transfer-Encoding: chunked"))
            client.writer.write(b"100\r\n" + b"x" * 256 + b"\r\n")
            client.writer.write((b"100\r\n" + b"x" * 256 + b"\r\n") * 10_000)
            await refused_with(client, 413)

    run(work, loop)


def test_a_body_too_large_for_an_answer_already_given_gets_no_second_answer() -> None:
    async def work() -> None:
        async with serving(app, max_body_size=1000) as room:
            client = await room.connect()
            await client.send(request("POST", "/refuse", "Transfer-Encoding: chunked"))
            assert (await client.response()).status == 403
            await client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            assert await client.ended()

    run(work)


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, scope["path"].encode())

    async def work() -> None:
        for bad in (b"\x00garbage", request("POST", "/", "Content-Length: 2000"), b"POST / HTTP/1.1\r\nA b: c\r\n\r\n"):
            async with serving(slow, max_body_size=1000) as room:
                client = await room.connect()
                await client.send(request("GET", "/one") + request("GET", "/two") + bad)
                assert (await client.response()).body == b"/one"
                assert (await client.response()).body == b"/two"
                assert (await client.response()).status in (400, 413)
                assert await client.ended()

    run(work)


def test_a_waiting_request_whose_body_is_refused_is_never_run() -> None:
    ran = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])
        await asyncio.sleep(0.05)
        await answer(send)

    async def work() -> None:
        async with serving(slow, max_body_size=1000) as room:
            client = await room.connect()
            chunked = request("POST", "/two", "Transfer-Encoding: chunked") + b"1000\r\n" + b"x" * 4096
            await client.send(request("GET", "/one") + chunked)
            assert (await client.response()).status == 200
            await refused_with(client, 413)
        assert ran == ["/one"]

    run(work)


@pytest.mark.parametrize("padding", [b"X-T: y\r\n", b"1;" + b"e" * 2000 + b"\r\nx\r\n"], ids=["trailers", "extensions"])
def test_padding_around_a_body_is_bounded(padding: bytes) -> None:
    async def work() -> None:
        async with serving(app, max_header_size=8192) as room:
            client = await room.connect()
            await client.send(request("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n")
            if padding.startswith(b"X"):
                await client.send(b"0\r\n")
            client.writer.write(padding * (4_000_000 // len(padding)))
            await refused_with(client, 400)

    run(work)


def test_a_trailer_is_dropped_and_a_body_of_tiny_chunks_is_fine() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            head = request("POST", "/", "Transfer-Encoding: chunked")
            await client.send(head + b"1\r\nx\r\n" * 200_000 + b"0\r\nX-Trailer: 1\r\n\r\n")
            assert (await client.response()).body == b"200000"

    run(work)


def test_slow_headers_are_408_on_many_connections_and_nobody_else_waits() -> None:
    async def work() -> None:
        async with serving(app, header_timeout=WINDOW) as room:
            slow = [await room.connect() for _ in range(200)]
            for client in slow:
                await client.send(b"GET / HTTP/1.1\r\nX: ")
            dripping = asyncio.create_task(_drip(slow))
            assert (await (await room.connect()).get()).status == 200
            assert b"The request's headers took longer than" in (await slow[0].response()).body
            for client in slow[1:]:
                await refused_with(client, 408)
            dripping.cancel()
            for client in slow:
                client.close()
            await until(lambda: len(room.state.connections) == 1)

    run(work)


async def _drip(clients: list[Client]) -> None:
    while True:
        for client in clients:
            client.writer.write(b"y")
        await asyncio.sleep(0.05)


def test_a_slow_body_is_408_and_a_steady_one_is_not() -> None:
    async def work() -> None:
        async with serving(app, body_timeout=WINDOW, body_rate=1000.0) as room:
            slow, steady = await room.connect(), await room.connect()
            head = request("POST", "/", "Content-Length: 6000")
            await slow.send(head)
            await steady.send(head)
            dripping = asyncio.create_task(_drip([slow]))
            for _ in range(12):
                await steady.send(b"x" * 500)
                await asyncio.sleep(WINDOW / 6)
            assert (await steady.response()).body == b"6000"
            await refused_with(slow, 408)
            dripping.cancel()

    run(work)


def _narrow(room: Any) -> socket.socket:
    """A client's socket that takes little at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(room.address)
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize(("loop", "path"), [("asyncio", "/pieces"), ("uvloop", "/pieces"), ("uvloop", "/big")])
def test_a_client_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not(loop: str, path: str) -> None:
    async def work() -> None:
        async with serving(app, send_timeout=WINDOW) as room:
            events = asyncio.get_running_loop()
            with _narrow(room) as deaf, _narrow(room) as slow:
                deaf.send(request("GET", path))
                slow.send(request("GET", "/big", "Connection: close"))
                await until(lambda: len(room.state.connections) == 2)
                got = 0
                began = events.time()
                while len(room.state.connections) == 2 or events.time() < began + 4 * WINDOW:
                    got += len(await events.sock_recv(slow, 16384))
                    await asyncio.sleep(0.01)
                    assert events.time() < began + 10, "the deaf one is still there"
                assert len(room.state.connections) == 1
                while data := await events.sock_recv(slow, 1_000_000):
                    got += len(data)
                assert got > LARGE

    run(work, loop)


def test_garbage_does_not_free_a_client_that_reads_nothing_from_its_limit() -> None:
    async def work() -> None:
        async with serving(app, send_timeout=WINDOW) as room:
            with _narrow(room) as deaf:
                deaf.send(request("GET", "/pieces"))
                connections: set[Any] = cast("set[Any]", room.state.connections)
                await until(lambda: any(one.flow.write_paused for one in connections))
                deaf.send(b"\x00\x01 this is no request\r\n\r\n")
                await until(lambda: room.state.refused == 1)
                await until(lambda: not room.state.connections)

    run(work)


def test_a_slow_reader_gets_all_of_an_answer_though_its_own_body_was_not_read() -> None:
    async def work() -> None:
        async with serving(app, linger=0.2) as room:
            events = asyncio.get_running_loop()
            with _narrow(room) as slow:
                await events.sock_sendall(slow, request("POST", "/big", "Content-Length: 9", "Connection: close"))
                got = len(await events.sock_recv(slow, 1000))
                await asyncio.sleep(0.7)  # longer than the linger
                while data := await events.sock_recv(slow, 1_000_000):
                    got += len(data)
                assert got > LARGE

    run(work)


@both_loops
def test_connections_beyond_the_limit_wait_and_are_served_when_one_ends(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(app, max_connections=5) as room:
            first = [await room.connect() for _ in range(5)]
            for client in first:
                assert (await client.get()).status == 200
            late = [await room.connect() for _ in range(20)]
            for client in late:
                await client.send(request("GET", "/"))
            await asyncio.sleep(0.3)
            assert len(room.state.connections) == 5
            for old, new in zip([*first, *late], late, strict=False):
                old.close()
                assert (await new.response()).status == 200
        assert len([one for one in caplog.records if "connections are open" in one.getMessage()]) == 1

    run(work, loop)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Leave this process ``more`` free descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for fd in taken[-more:]:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken[:-more]:
            os.close(fd)


@both_loops
def test_without_descriptors_it_warns_once_goes_on_and_recovers(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with serving(app, max_connections=1000) as room:
            client = await room.connect()
            assert (await client.get()).status == 200
            # Blocking, so that the engine has not seen them before the descriptors are gone.
            socks = [socket.create_connection(room.address) for _ in range(20)]
            with few_descriptors(3):
                late = [await room.connect(sock=sock) for sock in socks]
                for one in late:
                    await one.send(request("GET", "/"))
                for _ in range(8):
                    assert (await client.get()).status == 200, "those that are open are served"
                    await asyncio.sleep(0.05)
                assert len(room.state.connections) < 10
            for one in late:
                assert (await one.response()).status == 200
        assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1

    run(work, loop)


@both_loops
def test_two_thousand_useless_connections_leave_nothing_behind(loop: str) -> None:
    async def work() -> None:
        async with serving(app, header_timeout=WINDOW) as room:
            before = descriptors()
            for number in range(2000):
                with socket.socket() as sock:
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(room.address)
                    if number % 2:
                        with contextlib.suppress(BlockingIOError):
                            sock.send((b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nHo")[number % 4 // 2])
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: room.state.accepted == 2000 and not room.state.connections)
            await until(lambda: descriptors() <= before + 1)  # uvloop keeps one in reserve
            assert not room.state.in_flight

    run(work, loop)
