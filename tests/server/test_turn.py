"""Requests that wait for their turn, on real connections."""

import asyncio

import msgspec
import pytest

from server.engineroom import LOOPS, Waits, run, serving, until


@pytest.mark.parametrize("loop", LOOPS)
def test_requests_get_their_turn_and_every_one_is_answered(loop: str) -> None:
    async def main() -> None:
        app = Waits(going=True)
        async with serving(app) as room:
            clients = [await room.connect() for _ in range(50)]
            answers = await asyncio.gather(*(client.get(f"/{number}") for number, client in enumerate(clients)))
            assert [found.status for found in answers] == [200] * 50
            starter = room.state.entrance.starter
            await until(lambda: starter.running == 0)
            assert (starter.started, starter.refused, room.state.in_flight) == (50, 0, 0)

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_waits_for_too_long_is_told_so_and_keeps_its_connection(loop: str) -> None:
    async def main() -> None:
        app = Waits()
        async with serving(app) as room:
            room.state.entrance.starter.limit = 1
            first, second = await room.connect(), await room.connect()
            began = asyncio.create_task(first.get("/first"))
            await until(lambda: app.paths == ["/first"])
            refused = await second.get("/second")
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["content-type"] == "application/problem+json"
            assert msgspec.json.decode(refused.body)["status"] == 503
            assert "connection" not in refused.headers
            app.go.set()
            assert (await began).status == 200
            assert (await second.get("/again")).status == 200
            assert app.paths == ["/first", "/again"]

    run(main, loop)


def test_the_body_of_a_refused_request_is_not_taken_for_the_next_one() -> None:
    async def main() -> None:
        app = Waits()
        async with serving(app) as room:
            room.state.entrance.starter.limit = 1
            first, second = await room.connect(), await room.connect()
            began = asyncio.create_task(first.get("/first"))
            await until(lambda: app.paths == ["/first"])
            await second.send(b"POST /second HTTP/1.1\r\nHost: test\r\nContent-Length: 30\r\n\r\nGET /a")
            assert (await second.response()).status == 503
            await second.send(b" HTTP/1.1\r\nHost: test\r\n\r\n")
            app.go.set()
            assert (await began).status == 200
            assert (await second.get("/third")).status == 200
            assert app.paths == ["/first", "/third"]

    run(main)


def test_a_client_that_leaves_while_it_waits_never_meets_the_app() -> None:
    async def main() -> None:
        app = Waits()
        async with serving(app) as room:
            starter = room.state.entrance.starter
            starter.limit = 1
            first, second = await room.connect(), await room.connect()
            began = asyncio.create_task(first.get("/first"))
            await until(lambda: app.paths == ["/first"])
            await second.send(b"GET /second HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: len(starter.queue) == 1)
            second.close()
            await until(lambda: len(room.state.connections) == 1)
            app.go.set()
            assert (await began).status == 200
            await until(lambda: len(starter.queue) == 0)
            assert app.paths == ["/first"]
            assert starter.running == 0

    run(main)


def test_what_waits_at_the_end_of_a_drain_is_answered() -> None:
    async def main() -> None:
        app = Waits()
        async with serving(app) as room:
            starter = room.state.entrance.starter
            starter.limit = 1
            starter.queue.patience = 60.0
            first, second = await room.connect(), await room.connect()
            began = asyncio.create_task(first.get("/first"))
            await until(lambda: app.paths == ["/first"])
            waiting = asyncio.create_task(second.get("/second"))
            await until(lambda: len(starter.queue) == 1)
            assert room.state.in_flight == 2
            await room.begin_drain(0.2)
            assert (await waiting).status == 503
            assert (await waiting).headers["connection"] == "close"
            assert (await began).status == 503

    run(main)


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def main() -> None:
        app = Waits(going=True)
        async with serving(app) as room:
            client = await room.connect()
            await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(5)))
            assert [(await client.response()).status for _ in range(5)] == [200] * 5
            assert app.paths == [f"/{number}" for number in range(5)]

    run(main)
