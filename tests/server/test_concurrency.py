"""How many handlers run at a time, on a real server: found out, or chosen, or not at all."""

import asyncio
from functools import partial
from math import inf
from typing import Any

import pytest

from holdfast.resilience.limits.settings import AdaptiveLimitSettings
from holdfast.server.admission.settings import AdmissionSettings, read_admission
from server.engineroom import answer, run, serving, until

PLACES = 2


class Backend:
    """Works on ``PLACES`` requests at the same time, each for ``seconds``; ``/stream`` begins and rests."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.places = asyncio.Semaphore(PLACES)
        self.end = asyncio.Event()
        self.inside = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self.end.wait()
            await send({"type": "http.response.body", "body": b""})
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        async with self.places:
            await asyncio.sleep(self.seconds)
        self.inside -= 1
        await answer(send, b"here")


def has_begun(starter: Any, count: int) -> bool:
    return bool(starter.running == count)


async def ask(room: Any, clients: list[Any], count: int) -> list[int]:
    """Each client asks ``count`` times, one after the other."""

    async def one(client: Any) -> list[int]:
        return [(await client.get("/")).status for _ in range(count)]

    return [status for found in await asyncio.gather(*map(one, clients)) for status in found]


def test_a_backend_that_is_overrun_brings_a_limit_and_refusals() -> None:
    async def main() -> None:
        backend = Backend()
        async with serving(backend, admission=read_admission({"max_wait": "50ms"})) as room:
            entrance = room.state.entrance
            clients = [await room.connect() for _ in range(60)]
            await ask(room, clients[:2], 100)
            assert entrance.starter.limit == inf
            for _ in range(20):
                await ask(room, clients, 10)
                if entrance.starter.limit < inf:
                    break
            assert entrance.starter.limit <= 20
            assert entrance.snapshot()["concurrency"]["imposed"] == 1
            backend.most = 0
            statuses = await ask(room, clients, 5)
            assert set(statuses) == {200, 503}
            assert backend.most < 60

    run(main)


def test_streams_that_rest_take_no_place() -> None:
    async def main() -> None:
        backend = Backend(0.0)
        limit = AdaptiveLimitSettings(algorithm="aimd", initial=1, maximum=1)
        async with serving(backend, admission=AdmissionSettings(concurrency=limit)) as room:
            starter = room.state.entrance.starter
            assert starter.limit == 1
            streams = [await room.connect() for _ in range(3)]
            for number, stream in enumerate(streams):
                await stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
                await until(partial(has_begun, starter, number + 1))
                room.state.entrance._limit(1.0)
                assert starter.limit == number + 2
            client = await room.connect()
            assert (await client.get("/")).status == 200
            backend.end.set()
            await until(lambda: starter.running == 0)

    run(main)


def test_a_route_that_is_not_counted_neither_waits_nor_takes_a_place() -> None:
    async def main() -> None:
        backend = Backend(0.0)
        async with serving(backend, routes=[{"match": "/stream", "concurrency": False}]) as room:
            starter = room.state.entrance.starter
            stream = await room.connect()
            await stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
            await until(lambda: room.state.in_flight == 1)
            assert starter.running == 0
            backend.end.set()

    run(main)


@pytest.mark.parametrize("algorithm", ["queue_delay", "gradient2", "vegas", "aimd", "envoy", "bbr", "go_zero"])
def test_a_chosen_algorithm_says_how_many_run_at_a_time(algorithm: str) -> None:
    async def main() -> None:
        backend = Backend(0.001)
        admission = read_admission({"concurrency": {"algorithm": algorithm, "initial": 3, "maximum": 9}})
        async with serving(backend, admission=admission) as room:
            entrance = room.state.entrance
            assert entrance.starter.limit <= 9
            assert not list(entrance.admission._gates.each())  # it is no gate at the entrance then
            clients = [await room.connect() for _ in range(30)]
            await ask(room, clients, 20)
            assert backend.most <= 9
            assert entrance.snapshot()["concurrency"]["algorithm"] == algorithm

    run(main)


def test_settings_change_the_limit_while_it_runs() -> None:
    async def main() -> None:
        async with serving(Backend()) as room:
            entrance = room.state.entrance
            first = entrance._governor
            room.engine.configure(read_admission({"clients": {"connections": 5}}), (), None)
            assert entrance._governor is first  # and what it has learned
            room.engine.configure(read_admission({"concurrency": {"initial": 7}}), (), None)
            assert entrance.starter.limit == 7
            room.engine.configure(read_admission({"concurrency": False}), (), None)
            assert (entrance.starter.limit, entrance.snapshot()["concurrency"]) == (inf, None)
            room.engine.configure(read_admission({"queue": False}), (), None)
            assert entrance._governor is None
            room.engine.configure(read_admission({}), (), None)
            assert entrance._governor is not None

    run(main)
