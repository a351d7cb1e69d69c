"""What a worker counts, on an engine with real connections."""

import asyncio
from typing import Any

import msgspec
import pytest

from holdfast.server.admission.cgroup import Cgroup
from holdfast.server.admission.settings import read_admission, read_routes
from holdfast.supervisor import tally
from holdfast.supervisor.channel import MAX_FRAME, Counted, Message, frame
from holdfast.supervisor.counts import GateNow, RouteNow, WorkerCounts
from holdfast.supervisor.tally import SIZE_LIMIT, Tally, take_counts
from server.engineroom import UPGRADE, Waits, request, run, serving, until

ROUTES: list[dict[str, Any]] = [
    {"match": "/orders", "bulkhead": 2, "rate_limit": "100/s", "breaker": True, "throttle": True},
    {"match": "/free", "concurrency": False},
    {"match": "/never", "breaker": {"name": "bank"}},
]


def by_name(counts: WorkerCounts) -> dict[str, RouteNow]:
    return {row.name: row for row in counts.routes}


def test_each_route_has_what_was_answered_refused_and_is_under_way() -> None:
    async def main() -> None:
        app = Waits()
        admission = read_admission({"clients": {"rate": "1000/s"}})
        async with serving(app, admission=admission, routes=ROUTES) as room:
            room.state.entrance.starter.limit = 2
            clients = [await room.connect() for _ in range(5)]
            for client, path in zip(clients, ("/orders", "/orders", "/x", "/free", "/x"), strict=True):
                await client.send(request("GET", path))
            await until(lambda: len(app.paths) == 3 and room.state.entrance.waiting == 2)
            late = await room.connect()
            assert (await late.get("/orders")).status == 503
            counts = await take_counts(room.engine)
            rows = by_name(counts)
            assert list(rows) == ["/orders", "/free", "/never", "others"]
            under_way = {name: (row.in_flight, row.waiting) for name, row in rows.items()}
            assert under_way == {"/orders": (2, 0), "/free": (1, 0), "/never": (0, 0), "others": (0, 2)}
            assert rows["/orders"].counts.refused == {"bulkhead": 1}
            assert rows["/orders"].gates == (
                GateNow("rate_limit", "rate_limit"),
                GateNow("throttle", "throttle"),
                GateNow("breaker", "breaker", states={"closed": 1}),
                GateNow("bulkhead", "bulkhead", 2, 2.0),
            )
            assert rows["/never"].gates == (GateNow("breaker", "bank", states={"closed": 1}),)
            assert counts.gates == (GateNow("rate_limit", "clients"),)
            assert counts.queue is not None
            assert (counts.queue.waiting, counts.queue.running, counts.queue.limit) == (2, 2, 2.0)
            assert counts.queue.governor == "found out"
            app.go.set()
            for client in clients:
                assert (await client.response()).status == 200
            await until(lambda: room.state.in_flight == 0)
            rows = by_name(await take_counts(room.engine))
            assert {name: sum(row.counts.buckets) for name, row in rows.items()} == {
                "/orders": 2,
                "/free": 1,
                "/never": 0,
                "others": 2,
            }
            assert all((row.in_flight, row.waiting) == (0, 0) for row in rows.values())

    run(main)


def test_a_websocket_is_under_way_until_it_ends() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def main() -> None:
        async with serving(app, routes=ROUTES) as room:
            client = await room.connect()
            await client.send(request("GET", "/orders", *UPGRADE))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            row = by_name(await take_counts(room.engine))["/orders"]
            assert (row.in_flight, row.waiting) == (1, 0)
            client.close()
            await until(lambda: not room.state.tasks)
            assert by_name(await take_counts(room.engine))["/orders"].in_flight == 0

    run(main)


def test_without_a_queue_there_is_none_and_the_limit_is_a_gate() -> None:
    async def main() -> None:
        admission = read_admission({"queue": False, "concurrency": {"algorithm": "aimd", "initial": 7}})
        async with serving(Waits(going=True), admission=admission, routes=ROUTES) as room:
            counts = await take_counts(room.engine)
            assert counts.queue is None
            assert counts.gates == (GateNow("adaptive_limit", "adaptive_limit", 0, 7.0),)
            assert by_name(counts)["/never"].gates == (GateNow("breaker", "bank", states={"closed": 1}),)
            room.engine.configure(read_admission({"concurrency": {"algorithm": "vegas", "initial": 7}}), ())
            counts = await take_counts(room.engine)
            assert counts.gates == ()
            assert counts.queue is not None
            assert (counts.queue.governor, counts.queue.limit) == ("vegas", 7.0)

    run(main)


def test_routes_of_settings_that_are_gone_keep_their_counts() -> None:
    async def main() -> None:
        async with serving(Waits(going=True), routes=ROUTES) as room:
            client = await room.connect()
            await client.get("/free")
            room.engine.configure(read_admission(), read_routes([{"match": "/new"}]))
            rows = by_name(await take_counts(room.engine))
            assert list(rows) == ["/new", "/free", "others"]
            assert sum(rows["/free"].counts.buckets) == 1

    run(main)


def test_what_is_known_of_the_cgroup_is_told() -> None:
    files = {
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/memory.max": "1000",
        "/sys/fs/cgroup/memory.current": "950",
    }

    async def main() -> None:
        async with serving(Waits(going=True)) as room:
            pressure = room.state.entrance.admission.pressure
            pressure.cgroup = Cgroup(files.get)
            pressure.due = -1.0
            await until(lambda: pressure.memory is not None)
            told = (await take_counts(room.engine)).pressure
            assert (told.memory, told.refused_below, told.throttled) == (0.95, "critical", None)

    run(main)


def test_more_routes_than_fit_are_left_out_and_the_message_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    many: list[dict[str, Any]] = [
        {"match": f"/{number}", "bulkhead": 1, "breaker": True, "name": "n" * 120 + str(number)}
        for number in range(999)
    ]
    turns = 0

    async def main() -> None:
        nonlocal turns

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with serving(Waits(going=True), routes=many) as room:
            for route in many:
                for reason in range(20):
                    room.state.entrance.counters.refuse(route["name"], f"{reason:09}")
            task = asyncio.ensure_future(turn())
            counts = await take_counts(room.engine)
            task.cancel()
            assert counts.left_out > 0
            assert len(counts.routes) + counts.left_out == 1000
            size = len(frame(Counted(1, counts)))
            assert SIZE_LIMIT / 2 < size < MAX_FRAME

    run(main)
    assert turns >= 1000 // tally.ROUTES_PER_TURN


def test_those_who_ask_meanwhile_are_answered_together() -> None:
    async def main() -> None:
        said: list[tuple[str, Message]] = []
        async with serving(Waits(going=True), routes=[{"match": f"/{number}"} for number in range(50)]) as room:
            one = Tally(room.engine)
            one.answer(1, lambda message: said.append(("first", message)))
            await asyncio.sleep(0)
            one.answer(2, lambda message: said.append(("second", message)))
            await until(lambda: len(said) == 2)
            assert [who for who, _ in said] == ["first", "second"]
            assert [msgspec.structs.asdict(message)["ticket"] for _, message in said] == [1, 2]
            one.answer(3, lambda message: said.append(("third", message)))
            await until(lambda: len(said) == 3)
            one.answer(4, lambda message: said.append(("nobody", message)))
            one.close()
            await asyncio.sleep(0.01)
            assert len(said) == 3

    run(main)
