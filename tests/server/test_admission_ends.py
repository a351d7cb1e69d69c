"""Requests that end in all the ways there are, many at once, in any order: whatever they held comes free."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.server.admission.settings import read_admission
from holdfast.server.http import engine
from server.engineroom import LOOPS, UPGRADE, Client, Room, answer, idle, read_body, request, run, serving, until

ADMISSION = {"trusted_proxies": ["127.0.0.1"], "concurrency": {}, "clients": {"connections": 40, "rate": "1000/s"}}
ROUTES: list[dict[str, Any]] = [
    {"match": "/slow", "bulkhead": 3, "timeout": "15ms", "criticality": "sheddable"},
    {"match": "/stubborn", "bulkhead": 3, "timeout": "15ms"},
    {"match": "/stream", "bulkhead": 3, "breaker": True, "must_finish": True},
    {"match": "/ws/{path...}", "bulkhead": 3},
    {"match": "/rare", "rate_limit": "3/h"},
    {"match": "*", "bulkhead": 5, "throttle": True, "name": "rest"},
]
PATHS = ["/slow", "/stubborn", "/stream", "/rare", "/reads", "/early", "/raises", "/nothing", "/fails", "/listens", "/"]
UPGRADES = ["/ws", "/ws/raises", "/ws/returns", "/ws/rejects"]
HEADERS = [
    "Grpc-Timeout: 1u",
    "Grpc-Timeout: 300u",
    "Holdfast-Timeout-Ms: 5",
    "Holdfast-Timeout-Ms: 0",
    "X-Forwarded-For: 203.0.113.7",
    "Holdfast-Criticality: sheddable",
    "Expect: 100-continue",
    "Connection: close",
]
UPGRADE_HEADERS = [line for line in UPGRADE if not line.startswith("Sec-WebSocket-Version")]
ENDS = ["read", "close", "reset", "half", "leave"]
GIVES_UP = 0.03
"""Seconds after which a client does not wait for more."""
GARBAGE = [
    b"\x00\x01\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: test\r\n\r\n",
    b"xyz",
    b"0\r\n\r\n",
]


def app_that_waits_for(go: asyncio.Event) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await receive()
            if path == "/ws/raises":
                raise ValueError("on purpose")
            if path == "/ws/rejects":
                await send({"type": "websocket.close"})
            elif path == "/ws":
                await send({"type": "websocket.accept"})
                while (await receive())["type"] != "websocket.disconnect":
                    pass
        elif path == "/slow":
            await go.wait()
            await answer(send, b"slow")
        elif path == "/stubborn":
            while not go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go.wait()
            await answer(send, b"stubborn")
        elif path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"a" * 1000, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body"})
        elif path == "/reads":
            await answer(send, await read_body(receive))
        elif path == "/early":
            await answer(send, b"early")
            await asyncio.sleep(0.001)
        elif path == "/raises":
            raise LookupError("on purpose")
        elif path == "/fails":
            await answer(send, b"a page of its own", 500)
            raise RuntimeError("on purpose")
        elif path == "/listens":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif path != "/nothing":
            await answer(send, b"here")

    return app


def upgrade(draw: Any) -> tuple[str, bytes]:
    lines = [*UPGRADE_HEADERS, draw(st.sampled_from(["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 9"]))]
    lines += draw(st.sampled_from([[], [], ["Content-Length: 3"], ["Transfer-Encoding: chunked"]]))
    return "GET", request(draw(st.sampled_from(["GET", "GET", "POST"])), draw(st.sampled_from(UPGRADES)), *lines)


def plain(draw: Any) -> tuple[str, bytes]:
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "POST"]))
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    path = draw(st.sampled_from(PATHS))
    if method != "POST":
        return method, request(method, path, *headers)
    if draw(st.booleans()):
        return method, request(method, path, *headers, body=b"x" * draw(st.sampled_from([1, 5000, 70_000])))
    return method, request(method, path, "Transfer-Encoding: chunked", *headers) + b"3\r\nabc\r\n0\r\n\r\n"


@st.composite
def visits(draw: Any) -> tuple[list[str], list[bytes], str]:
    """The methods that are sent, what is sent, in pieces, and how the client ends."""
    asked = [plain(draw) for _ in range(draw(st.integers(1, 5)))]
    if draw(st.integers(0, 3)) == 0:
        asked[draw(st.integers(0, len(asked) - 1)) :] = [upgrade(draw)]
    data = b"".join(text for _, text in asked)
    if draw(st.integers(0, 4)) == 0:
        data += draw(st.sampled_from(GARBAGE))
    if draw(st.integers(0, 2)) == 0:
        data = data[: draw(st.integers(1, len(data)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [method for method, _ in asked], [piece for piece in pieces if piece], draw(st.sampled_from(ENDS))


def answers(methods: list[str], data: bytes) -> list[int]:
    """The statuses of what is in ``data``. Fails when it is no sequence of responses, the last perhaps cut off."""
    statuses: list[int] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert b"HTTP/1.1 ".startswith(head[:9]) or head.startswith(b"HTTP/1.1 "), head
        if not end:
            break
        lines = head.split(b"\r\n")
        status = int(lines[0].split()[1])
        assert 100 <= status < 600
        if status == 101:
            return [*statuses, status]
        if status == 100:
            continue
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        assert len(headers) == len(lines) - 1, f"a header twice: {lines}"
        method = methods[len(statuses)] if len(statuses) < len(methods) else "GET"
        statuses.append(status)
        if method == "HEAD" and status not in (400, 408, 413, 431):
            continue
        if b"transfer-encoding" in headers:
            while data:
                size, _, data = data.partition(b"\r\n")
                length = int(size, 16)
                data = data[length + 2 :]
                if not length:
                    break
        else:
            data = data[int(headers[b"content-length"]) :]
    return statuses


async def visit(room: Room, visit: tuple[list[str], list[bytes], str], rng: random.Random) -> None:
    methods, pieces, end = visit
    client = await room.connect()
    with contextlib.suppress(OSError, EOFError):  # a half close of a connection that has gone is no ConnectionError
        for piece in pieces:
            if client.writer.transport.is_closing():
                return  # the server was faster
            await client.send(piece)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        if not client.writer.transport.is_closing():
            await leave(client, methods, end)


async def leave(client: Client, methods: list[str], end: str) -> None:
    if end == "close":
        client.close()
    elif end == "reset":
        client.reset()
    elif end == "read":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVES_UP):
                await client.reader.readuntil(b"\r\n\r\n")
        client.close()
    else:
        if end == "half":
            client.writer.write_eof()
        read = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVES_UP):
                while data := await client.reader.read(65536):
                    read += data
        statuses = answers(methods, read)
        assert len(statuses) <= len(methods) + 1
        assert not [status for status in statuses[len(methods) :] if status < 400]
        client.close()


@pytest.fixture(autouse=True, scope="module")
def stubborn_apps_are_soon_given_up() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CANCEL_LIMIT", 0.05)
        yield


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("queue", [True, False])
@seed(20261124)
@settings(max_examples=examples(25), deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(every=st.lists(visits(), min_size=1, max_size=12), drained=st.booleans(), number=st.integers(0, 1000))
def test_whatever_ends_a_request_its_places_come_free(
    loop: str, queue: bool, every: list[Any], drained: bool, number: int
) -> None:
    async def main() -> None:
        go = asyncio.Event()
        admission = read_admission({**ADMISSION, "queue": queue})
        timed: dict[str, Any] = {"header_timeout": 1.0, "linger": 0.02, "stream_grace": 0.01, "close_timeout": 0.1}
        async with serving(app_that_waits_for(go), admission=admission, routes=ROUTES, **timed) as room:
            rng = random.Random(number)
            try:
                async with asyncio.TaskGroup() as group:
                    for one in every:
                        group.create_task(visit(room, one, rng))
                    if drained:
                        await asyncio.sleep(0)
                        group.create_task(room.engine.drain(0.02, migrate=False, idle_grace=0.01))
            finally:
                go.set()  # else an app that ignores its cancellation would keep a failure from being seen
            await until(lambda: not room.state.connections)
            await until(lambda: idle(room))
            assert len(room.state.entrance.admission.connections) == 0
            assert not room.failures, room.failures

    run(main, loop)
