"""Heads of requests: how many lines they may have, and whose host counts when the target has one too."""

import asyncio
import json
from typing import Any, cast

import pytest

from holdfast.server.http.reading import MAX_HEADERS
from server.engineroom import LOOPS, answer, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked for."""
    if scope["type"] == "websocket":
        await receive()
        said = [scope["path"].encode(), scope["query_string"], *(v for n, v in scope["headers"] if n == b"host")]
        await send({"type": "websocket.accept", "headers": [(b"x-said", b" ".join(said))]})
        await send({"type": "websocket.close"})
        return
    said = [scope["raw_path"], scope["query_string"], *(value for name, value in scope["headers"] if name == b"host")]
    await answer(send, b" ".join(said))


def lines(count: int) -> list[str]:
    """So many headers that are as short as can be."""
    return ["a:"] * count


@both_loops
@pytest.mark.parametrize("chunk", [7, 1000, 100_000])
def test_as_many_headers_as_there_may_be_are_read_and_one_more_is_431(loop: str, chunk: int) -> None:
    async def send(room: Any, more: int) -> Any:
        client = await room.connect()
        data = request("GET", "/", *lines(MAX_HEADERS - 1 + more))  # with Host
        for start in range(0, len(data), chunk):
            await client.send(data[start : start + chunk])
            await asyncio.sleep(0)
        return client

    async def work() -> None:
        async with serving(app) as room:
            client = await send(room, 0)
            assert (await client.response()).status == 200
            client = await send(room, 1)
            refused = await client.response()
            assert refused.status == 431
            assert json.loads(refused.body)["detail"] == f"The request has more than {MAX_HEADERS} headers."
            assert refused.headers["connection"] == "close"
            assert await client.ended()

    run(work, loop)


def test_headers_that_are_too_many_are_not_collected_until_their_end_and_not_kept() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n" + b"a:\r\n" * (MAX_HEADERS + 1))  # and no end
            assert (await client.response()).status == 431
            connections: Any = room.state.connections
            assert [len(one.headers) for one in connections] == [0]
            whole = await room.connect()
            await whole.send(request("GET", "/", *lines(10_000)))
            assert (await whole.response()).status == 431
            assert {len(one.headers) for one in connections} == {0}

    run(work)


def test_trailers_are_no_headers_and_those_of_two_requests_are_not_added_up() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            head = request("POST", "/", "Transfer-Encoding: chunked", *lines(MAX_HEADERS - 2))
            for _ in range(2):
                await client.send(head + b"0\r\n" + b"a:\r\n" * MAX_HEADERS + b"\r\n")
                assert (await client.response()).status == 200

    run(work)


TARGETS = [
    ("http://shop.example/orders?x=1", b"/orders x=1 shop.example"),
    ("http://shop.example:8080", b"/  shop.example:8080"),
    ("http://shop.example?x=http://b/", b"/ x=http://b/ shop.example"),
    ("HTTPS://[::1]:80/a%20b#c", b"/a%20b  [::1]:80"),
    ("/http://a/b", b"/http://a/b  test"),
]


@both_loops
@pytest.mark.parametrize(("target", "said"), TARGETS)
def test_a_target_that_is_an_address_says_host_and_path(loop: str, target: str, said: bytes) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            assert (await client.get(target)).body == said

    run(work, loop)


def test_an_address_gives_a_host_where_http_1_0_has_none() -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            await client.send(b"GET http://shop.example/a HTTP/1.0\r\n\r\n")
            assert (await client.response()).body == b"/a  shop.example"

    run(work)


@pytest.mark.parametrize("target", ["http:///a", "http://me@shop.example/", "http://a b/", "http://a:b/", "http://"])
def test_an_address_without_a_valid_host_is_400(target: str) -> None:
    async def work() -> None:
        async with serving(app) as room:
            client = await room.connect()
            assert (await client.get(target)).status == 400
            assert await client.ended()

    run(work)


ROUTES = [
    {"match": "/orders", "host": "shop.example", "rate_limit": "1/h", "name": "shop"},
    {"match": "/orders", "bulkhead": 3, "name": "others"},
]


@both_loops
@pytest.mark.parametrize("kind", ["request", "pipelined", "upgrade"])
def test_routes_go_by_the_host_of_the_address(loop: str, kind: str) -> None:
    go = asyncio.Event()

    async def held(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/held":
            await go.wait()
        await app(scope, receive, send)

    def refused(room: Any) -> int:
        counts = room.state.entrance.counters.snapshot().routes
        return sum(counts["shop"].refused.values()) if "shop" in counts else 0

    async def work() -> None:
        go.clear()
        async with serving(held, routes=ROUTES) as room:
            first = await room.connect()
            assert (await first.get("/orders", "Host: other")).status == 400  # two hosts, whatever the target
            first = await room.connect()
            assert (await first.get("http://shop.example/orders")).status == 200
            assert (await first.get("/orders")).status == 200
            client = await room.connect()
            if kind == "pipelined":
                await client.send(request("GET", "/held"))
                await until(lambda: room.state.entrance.cycles)
                await client.send(request("GET", "http://shop.example/orders"))
                go.set()
                await client.response()
            else:
                await client.send(request("GET", "http://shop.example/orders", *(UPGRADE if kind == "upgrade" else ())))
            assert (await client.response()).status == 429
            assert refused(room) == 1

    run(work, loop)


@both_loops
def test_a_websocket_s_app_sees_the_path_that_its_route_was_found_by(loop: str) -> None:
    async def work() -> None:
        async with serving(app, routes=[{"match": "/ws", "host": "shop.example", "bulkhead": 1}]) as room:
            client = await room.connect()
            await client.send(request("GET", "ws://shop.example/ws?x=1", *UPGRADE))
            head = (await client.reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 101 ")
            assert b"x-said: /ws x=1 shop.example\r\n" in head

    run(work, loop)


def test_each_request_of_a_connection_has_its_own_host_and_none_when_it_says_none() -> None:
    async def main() -> None:
        hosts: list[str] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            (connection,) = room.state.connections
            hosts.append(cast("Any", connection).host)
            await answer(send)

        async with serving(noting) as room:
            client = await room.connect()
            for host in ("one", "two", "two", "one"):
                await client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert (await client.response()).status == 200
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.response()).status == 200
            assert hosts == ["one", "two", "two", "one", ""]
            client.close()
            client = await room.connect()
            await client.get()
            await client.send(b"GET / HTTP/1.1\r\nHost: te st\r\n\r\n")
            assert (await client.response()).status == 400

    run(main)
