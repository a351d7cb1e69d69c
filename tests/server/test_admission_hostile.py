"""Clients that mean harm to what admission holds: every end of a request gives back what it has taken."""

import asyncio
import gc
from typing import Any

import pytest

from holdfast.server.admission.settings import read_admission
from holdfast.server.http import protocol
from server.engineroom import (
    LOOPS,
    UPGRADE,
    Client,
    Room,
    Waits,
    answer,
    held,
    idle,
    intake_pair,
    read_body,
    request,
    run,
    serving,
    until,
)

LOOPBACK = read_admission({"trusted_proxies": ["127.0.0.1"]})
WS = [{"match": "GET /ws", "bulkhead": 4, "name": "ws"}]
HELD = [{"match": "/held", "bulkhead": 4, "name": "held"}]


def connection(room: Room) -> Any:
    """The server's side of the first connection."""
    return next(iter(room.state.connections))


async def gone(room: Room, client: Client) -> None:
    client.close()
    await until(lambda: not room.state.connections)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5",),
        ("Content-Length: 100000",),
        ("Transfer-Encoding: chunked",),
    ],
)
def test_an_upgrade_that_announces_a_body_keeps_no_place(loop: str, headers: tuple[str, ...], caplog: Any) -> None:
    async def main() -> None:
        async with serving(Waits(), routes=WS) as room:
            for body in (b"", b"hello"):
                client = await room.connect()
                await client.send(request("GET", "/ws", *UPGRADE, *headers) + body)
                assert (await client.response()).status == 400
                await gone(room, client)
                assert held(room, "ws") == 0

    run(main, loop)
    assert not caplog.records


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("change", [("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 1"), (UPGRADE[3], "X: y")])
def test_a_handshake_that_is_refused_keeps_no_place(loop: str, change: tuple[str, str]) -> None:
    async def main() -> None:
        async with serving(Waits(), routes=WS) as room:
            client = await room.connect()
            await client.send(request("GET", "/ws", *UPGRADE).replace(change[0].encode(), change[1].encode()))
            assert (await client.response()).status in (400, 426)
            await gone(room, client)
            assert held(room, "ws") == 0

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("queue", [True, False])
def test_a_time_limit_that_is_over_before_the_app_has_begun_keeps_no_place(loop: str, queue: bool) -> None:
    async def main() -> None:
        admission = read_admission({"trusted_proxies": ["127.0.0.1"], "queue": queue})
        async with serving(Waits(), admission=admission, routes=HELD) as room:
            client = await room.connect()
            for micros in (1, 10, 50, 100, 200, 400, 600, 1000, 2000):
                for _ in range(5):
                    assert (await client.get("/held", f"Grpc-Timeout: {micros}u")).status == 504
            await until(lambda: idle(room))

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_goes_before_an_app_that_must_finish_has_begun_keeps_no_place(loop: str) -> None:
    async def main() -> None:
        app = Waits(going=True)
        async with serving(
            app, routes=[{"match": "/held", "bulkhead": 4, "name": "held", "must_finish": True}]
        ) as room:
            for _ in range(20):
                client = await room.connect()
                client.writer.write(request("GET", "/held"))
                client.reset()
            await until(lambda: not room.state.connections)
            await until(lambda: idle(room))

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_256_pipelined_requests_are_refused_one_after_the_other(loop: str) -> None:
    async def main() -> None:
        app = Waits()
        routes = [{"match": "/held"}, {"match": "/never", "rate_limit": "1/h", "name": "never"}]
        async with serving(app, routes=routes) as room:
            client = await room.connect()
            await client.send(request("GET", "/held"))
            await until(lambda: app.paths)
            await client.send(request("GET", "/never") * 256)
            await until(lambda: len(connection(room).waiting) == 256)
            app.go.set()
            assert (await client.response()).status == 200
            assert (await client.response()).status == 200
            for _ in range(255):
                assert (await client.response()).status == 429
            assert (await client.get("/")).status == 200

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelined_requests_hold_no_place_before_it_is_their_turn(loop: str) -> None:
    async def main() -> None:
        app = Waits()
        async with serving(app, routes=[{"match": "/first"}, *HELD]) as room:
            client = await room.connect()
            await client.send(request("GET", "/first"))
            await until(lambda: app.paths)
            await client.send(request("GET", "/held") * 10)
            await until(lambda: len(connection(room).waiting) == 10)
            other = await room.connect()
            await other.send(request("GET", "/held"))
            await until(lambda: app.paths == ["/first", "/held"])
            assert held(room, "held") == 1
            app.go.set()
            for _ in range(11):
                assert (await client.response()).status == 200
            assert (await other.response()).status == 200
            await until(lambda: idle(room))

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("waiting", [1, 3])
def test_a_client_that_leaves_pipelined_requests_behind_is_missed(
    loop: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CHECK_INTERVAL", 0.05)  # else each waits for a second

    async def main() -> None:
        for polite in (False, True):
            app = Waits()
            async with serving(app, routes=HELD) as room:
                client = await room.connect()
                await client.send(request("GET", "/held"))
                await until(lambda: app.paths)  # noqa: B023 - waited for within the round
                await client.send(request("GET", "/held") * waiting)
                await until(lambda: len(connection(room).waiting) == waiting)
                if polite:
                    client.close()
                else:
                    client.reset()
                await until(lambda: not room.state.connections and idle(room))
                assert app.paths == ["/held"]

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_closed_stream_costs_no_timer_again_and_again(loop: str) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.Event().wait()

    async def main() -> None:
        async with serving(stream) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            await client.reader.readuntil(b"a\r\n")
            calls = 0
            give_up = connection(room)._give_up

            def counted(cycle: Any) -> None:
                nonlocal calls
                calls += 1
                give_up(cycle)

            connection(room)._give_up = counted
            client.writer.write_eof()
            await until(lambda: calls)
            loop = asyncio.get_running_loop()
            for _ in range(5):  # five times as long as the timer takes, by the same loop's timers
                later = asyncio.Event()
                loop.call_later(0.01, later.set)
                await later.wait()
            assert calls == 1
            client.close()

    run(main, loop)


def test_a_host_is_not_taken_from_the_request_before() -> None:
    async def main() -> None:
        routes = [{"match": "*", "host": "test", "rate_limit": "1/h"}]
        async with serving(lambda scope, receive, send: answer(send, b"here"), routes=routes) as room:
            client = await room.connect()
            assert (await client.get("/")).status == 200
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.response()).status == 200

    run(main)


def test_a_refusal_leaves_nothing_for_the_collector() -> None:
    async def main() -> None:
        routes = [{"match": "/never", "rate_limit": "1/h"}, {"match": "/ws", "rate_limit": "1/h"}]
        async with serving(lambda scope, receive, send: answer(send, b"here"), routes=routes) as room:
            client = await room.connect()
            for _ in range(5):
                await client.get("/never")
            gc.collect()
            gc.freeze()
            gc.disable()
            try:
                for _ in range(100):
                    assert (await client.get("/never")).status == 429
                assert gc.collect() < 100
            finally:
                gc.enable()
                gc.unfreeze()

    run(main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_behind_a_refused_one_is_not_lost_in_a_drain(loop: str) -> None:
    async def here(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"here")

    async def main() -> None:
        routes = [{"match": "/never", "rate_limit": "1/h"}]
        with intake_pair() as intake:
            async with serving(here, routes=routes, intake=intake) as old, serving(here, intake=intake) as new:
                client = await old.connect()
                await client.get("/never")
                both = request("GET", "/never") + request("GET", "/")
                await client.send(both[:20])
                await until(lambda: connection(old).in_head)
                drain = await old.begin_drain(migrate=True)
                await client.send(both[20:])
                assert (await client.response()).status == 429
                assert (await client.response()).body == b"here"
                await drain
                assert (await client.get("/")).body == b"here"
                assert new.state.received == 1

    run(main, loop)


def test_a_proxy_is_not_believed_once_more_after_it_was_taken_out_of_the_settings() -> None:
    clients: list[str] = []

    async def here(scope: Any, receive: Any, send: Any) -> None:
        clients.append(scope["client"][0])
        await answer(send, scope["request_id"].encode())

    async def main() -> None:
        told = "X-Forwarded-For: 203.0.113.7", "X-Request-Id: its-own"
        async with serving(here, admission=LOOPBACK) as room:
            client = await room.connect()
            assert (await client.get("/", *told)).body == b"its-own"
            room.engine.configure(read_admission({}), ())
            assert (await client.get("/", *told)).body != b"its-own"
            room.engine.configure(LOOPBACK, ())
            assert (await client.get("/", *told)).body == b"its-own"
            assert clients == ["203.0.113.7", "127.0.0.1", "203.0.113.7"]

    run(main)
