"""What is told of requests that are over, many at a time: counters, lines of the log, and the limit of handlers."""

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import time
from math import inf
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.settings import AdmissionSettings
from holdfast.server.http.entrance import GATHERED, Entrance
from holdfast.telemetry.access import AccessLog
from holdfast.telemetry.logs import Handler, configure
from server.engineroom import answer, run, serving, until

log = logging.getLogger("holdfast.access")
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the service's log writes: only its own handler is there, so lines are gathered."""
    root = logging.getLogger()
    level, handlers, stream = root.level, root.handlers[:], io.StringIO()
    configure(format="text", level="info", labels={}, stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def run_alone(main: Callable[[], Awaitable[None]]) -> None:
    """Without pytest's own handlers, which would have a say in where lines go."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, Handler)]
    run(main)


def paths(stream: io.StringIO) -> list[str]:
    """Of the lines of the access log, in their order."""
    lines = [line for line in stream.getvalue().splitlines() if "holdfast.access" in line]
    return [line.partition('"GET ')[2].partition('"')[0] for line in lines]


async def app(scope: Any, receive: Any, send: Any) -> None:
    TENANT.set(scope["path"])
    if scope["path"] == "/odd":
        scope["client"] = 7
    await answer(send)


def test_a_filter_of_the_users_sees_the_context_of_the_lines_own_request() -> None:
    seen: list[tuple[str, str]] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append((vars(record)["path"], TENANT.get()))
        return True

    async def main() -> None:
        async with serving(app, access_log=True) as room:
            clients = [await room.connect() for _ in range(3)]
            for number, client in enumerate(clients * 3):
                await client.get(f"/{number}")
                assert len(seen) == number + 1  # at once

    level = log.level
    log.setLevel(logging.INFO)
    log.addFilter(note)
    try:
        run(main)
    finally:
        log.removeFilter(note)
        log.setLevel(level)
    assert seen == [(f"/{number}", f"/{number}") for number in range(9)]


def test_a_filter_that_comes_while_it_runs_sees_the_context_of_the_lines_own_request(stream: io.StringIO) -> None:
    seen: list[tuple[str, str]] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append((vars(record)["path"], TENANT.get()))
        return True

    async def main() -> None:
        async with serving(app, access_log=True) as room:
            client = await room.connect()
            await client.get("/gathered")
            log.addFilter(note)
            room.state.entrance.flush()
            await client.get("/at-once")
            await client.get("/too")
            log.removeFilter(note)
            room.state.entrance.flush()
            await client.get("/gathered-again")

    try:
        run_alone(main)
    finally:
        log.removeFilter(note)
    assert seen == [("/at-once", "/at-once"), ("/too", "/too")]
    assert paths(stream) == ["/gathered", "/at-once", "/too", "/gathered-again"]


def test_what_an_app_makes_of_its_scope_costs_no_line_of_another_request(stream: io.StringIO) -> None:
    async def main() -> None:
        async with serving(app, access_log=True) as room:
            client = await room.connect()
            for path in ("/before", "/odd", "/after"):
                assert (await client.get(path)).status == 200

    run_alone(main)
    assert paths(stream) == ["/before", "/odd", "/after"]


def test_each_request_has_one_line_and_counts_once_however_many_there_are(stream: io.StringIO) -> None:
    count = 2 * GATHERED + 7

    async def main() -> None:
        async with serving(app, access_log=True, exempt=["/livez"]) as room:
            client = await room.connect()
            for number in range(count):
                await client.get(f"/number-{number}")
                await client.get("/livez")
            (row,) = room.state.entrance.counters.snapshot().routes.values()
            assert sum(row.classes.values()) == count

    run_alone(main)
    assert paths(stream) == [f"/number-{number}" for number in range(count)]


class Odd:
    """An endpoint that nobody can put into a table, and that is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("neither")

    def __hash__(self) -> int:
        raise TypeError("no table")


@pytest.mark.parametrize("endpoint", [Odd(), {}, "", 0])
def test_whatever_an_endpoint_is_its_handler_gives_its_place_back(endpoint: Any) -> None:
    async def routed(scope: Any, receive: Any, send: Any) -> None:
        scope["endpoint"] = endpoint
        await answer(send)

    async def main() -> None:
        async with serving(routed) as room:
            clients = [await room.connect() for _ in range(4)]
            await asyncio.gather(*(client.get() for client in clients))
            entrance = room.state.entrance
            await until(lambda: not entrance.cycles)
            assert entrance.starter.running == 0

    run(main)


def test_endpoints_with_names_are_told_apart_and_paths_of_one_place_are_not() -> None:
    async def named(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/named"):
            scope["endpoint"] = scope["path"].rpartition("/")[2]
        await answer(send)

    async def main() -> None:
        async with serving(named) as room:
            client = await room.connect()
            entrance: Any = room.state.entrance
            for path in ("/named/orders", "/named/items", "/a/b/1", "/a/b/2"):
                await client.get(path)
            await until(lambda: not entrance.cycles)
            entrance._learn(entrance._governor)
            assert set(entrance._governor._kinds) == {"orders", "items", ("a", "b")}

    run(main)


def test_lines_have_the_time_of_their_end_and_the_last_ones_are_written_at_the_end(stream: io.StringIO) -> None:
    async def main() -> None:
        clock = VirtualClock()
        entrance = Entrance(
            asyncio.get_running_loop(),
            clock,
            AdmissionSettings(),
            (),
            ErrorTable(),
            frozenset(),
            AccessLog(clock=clock),
        )
        for path in ("/first", "/second"):
            scope = {"path": path, "query_string": b"", "client": None, "request_id": "x"}
            entrance.account(scope, "GET", 200, clock.now(), "others")
            clock.advance(20.0)
        assert stream.getvalue() == ""
        entrance.close()

    run_alone(main)
    assert paths(stream) == ["/first", "/second"]
    first, second = (time.fromisoformat(line.split()[0]) for line in stream.getvalue().splitlines())
    assert (second.second - first.second) % 60 == 20


def test_what_is_gathered_for_a_limit_is_bounded_and_not_told_to_the_next_one() -> None:
    async def main() -> None:
        async with serving(app) as room:
            client = await room.connect()
            entrance: Any = room.state.entrance
            entrance._governor.due = inf
            for _ in range(GATHERED + 3):
                await client.get()
            await until(lambda: not entrance.cycles)
            assert len(entrance._handled) == 3
            entrance.configure(AdmissionSettings(concurrency=False), ())
            assert entrance._handled == []

    run(main)
