"""A drain loses no request, moves what can be moved, and ends."""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.server.http.engine import MIGRATION_PATIENCE, STEPS_PER_TURN
from holdfast.server.http.protocol import HttpProtocol
from server.engineroom import (
    LOOPS,
    Client,
    Room,
    answer,
    intake_pair,
    read_body,
    request,
    run,
    serving,
    until,
)

both_loops = pytest.mark.parametrize("loop", LOOPS)


def app_called(name: str, gate: asyncio.Event | None = None) -> Any:
    """Answers with its name, path and body's length. /wait waits for the gate."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        if scope["path"] == "/wait":
            assert gate is not None
            await gate.wait()
        await answer(send, f"{name} {scope['path']} {len(body)}".encode())

    return app


@both_loops
def test_idle_connections_are_answered_once_more_and_told_to_go(loop: str) -> None:
    async def work() -> None:
        async with serving(app_called("old")) as room:
            used, fresh = await room.connect(), await room.connect()
            assert "connection" not in (await used.get()).headers
            await until(lambda: room.state.accepted == 2)
            task = await room.begin_drain(idle_grace=5)
            for client in (used, fresh):
                assert (await client.get()).headers["connection"] == "close"
                assert await client.ended()
                client.close()
            report = await task
            assert report.cut_connections == 0

    run(work, loop)


def test_an_idle_connection_gets_a_fin_when_its_grace_is_over() -> None:
    async def work() -> None:
        async with serving(app_called("old"), linger=5) as room:
            client = await room.connect()
            await client.get()
            began = asyncio.get_running_loop().time()
            task = await room.begin_drain(idle_grace=0.5)
            assert await client.ended()
            client.close()
            await task
            assert 0.4 < asyncio.get_running_loop().time() - began < 1.5

    run(work)


def test_a_connection_that_becomes_idle_in_the_drain_has_the_same_grace() -> None:
    async def work() -> None:
        begun, gate = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            begun.set()
            await gate.wait()
            await send({"type": "http.response.body", "body": b"done"})

        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            await begun.wait()
            task = await room.begin_drain(idle_grace=0.1)
            await asyncio.sleep(0.2)
            gate.set()
            response = await client.response()
            assert (response.body, response.headers.get("connection")) == (b"done", None), "begun before the drain"
            assert await client.ended()
            client.close()
            assert (await task).cut_connections == 0

    run(work)


def test_what_waits_in_the_queue_at_the_stop_is_accepted_beyond_any_limit() -> None:
    async def work() -> None:
        async with serving(app_called("old"), max_connections=3) as room:
            socks = [socket.create_connection(room.address) for _ in range(50)]
            task = await room.begin_drain(idle_grace=5)
            for sock in socks:
                client = await room.connect(sock=sock)
                response = await client.get()
                assert (response.status, response.headers["connection"]) == (200, "close")
                client.close()
            await task

    run(work)


def test_requests_that_outlive_the_drain_are_answered_503_and_named() -> None:
    async def work() -> None:
        async with serving(app_called("old", asyncio.Event())) as room:
            client = await room.connect()
            await client.send(request("GET", "/wait"))
            await until(lambda: room.state.in_flight)
            report = await (await room.begin_drain(0.2))
            assert (await client.response()).status == 503
            assert report.cut_requests == ("GET /wait",)

    run(work)


def test_work_after_the_response_is_waited_for_or_named() -> None:
    async def work() -> None:
        for within, named in ((5.0, ()), (0.1, ("GET /",))):
            done: list[int] = []

            async def app(scope: Any, receive: Any, send: Any, done: list[int] = done) -> None:
                await answer(send)
                await asyncio.sleep(0.3)
                done.append(1)

            async with serving(app) as room:
                client = await room.connect()
                await client.get()
                client.close()
                report = await (await room.begin_drain(within))
                assert report.cut_requests == named
                assert bool(done) is not bool(named)

    run(work)


def test_a_pipelining_client_gets_every_answer_to_what_was_received_before() -> None:
    async def work() -> None:
        gate = asyncio.Event()
        async with serving(app_called("old", gate)) as room:
            client = await room.connect()
            await client.send(request("GET", "/wait") + request("GET", "/a") + request("GET", "/b")[:-5])
            await until(lambda: room.state.received == 2)
            task = await room.begin_drain(idle_grace=5)
            gate.set()
            assert "connection" not in (await client.response()).headers
            assert "connection" not in (await client.response()).headers, "the next one has begun to arrive"
            await client.send(request("GET", "/b")[-5:])
            last = await client.response()
            assert (last.body, last.headers["connection"]) == (b"old /b 0", "close")
            client.close()
            await task

    run(work)


def test_only_the_last_of_the_waiting_answers_says_close() -> None:
    async def work() -> None:
        gate = asyncio.Event()
        async with serving(app_called("old", gate)) as room:
            client = await room.connect()
            await client.send(request("GET", "/wait") + request("GET", "/a"))
            await until(lambda: room.state.received == 2)
            task = await room.begin_drain(idle_grace=5)
            gate.set()
            closes = [(await client.response()).headers.get("connection") for _ in range(2)]
            assert closes == [None, "close"]
            client.close()
            await task

    run(work)


# -- migration


async def clients_of(room: Room, count: int) -> list[Client]:
    clients = [await room.connect() for _ in range(count)]
    for client in clients:
        assert (await client.get()).body == b"old / 0"
    return clients


@both_loops
def test_idle_connections_move_with_their_unread_bytes_and_busy_ones_stay_to_the_end(loop: str) -> None:
    async def work() -> None:
        gate = asyncio.Event()
        with intake_pair() as intake:
            async with (
                serving(app_called("old", gate), intake=intake) as old,
                serving(app_called("new"), intake=intake),
            ):
                clients = await clients_of(old, 3)
                idle, waiting, partial = clients
                await waiting.send(request("GET", "/wait"))
                await partial.send(request("GET", "/split")[:10])
                await until(lambda: old.state.in_flight)
                await until(
                    lambda: sum(isinstance(one, HttpProtocol) and one.busy for one in old.engine._connections()) == 2
                )

                async def drain() -> Any:
                    # In the kernel, and the loop has no turn to read it before the connection moves.
                    os.write(idle.writer.get_extra_info("socket").fileno(), request("GET", "/unread"))
                    return await old.engine.drain(10, migrate=True, idle_grace=5)

                task = asyncio.create_task(drain())
                assert (await idle.response()).body == b"new /unread 0"
                assert (await idle.get("/next")).body == b"new /next 0"
                assert len(old.state.connections) == 2
                await partial.send(request("GET", "/split")[10:])
                gate.set()
                for client, path in ((waiting, "/wait"), (partial, "/split")):
                    response = await client.response()
                    assert (response.body, response.headers.get("connection")) == (f"old {path} 0".encode(), None)
                    assert (await client.get("/next")).body == b"new /next 0", "it moved after its response"
                report = await task
                assert (report.migrated, report.cut_connections) == (3, 0)

    run(work, loop)


def test_an_intake_that_ended_disturbs_nobody() -> None:
    async def work() -> None:
        with intake_pair() as intake:
            async with serving(app_called("old"), intake=intake) as room:
                intake[1].close()
                client = await room.connect()
                assert (await client.get()).status == 200
                await until(lambda: room.engine._intake is None)
                client.close()
                await (await room.begin_drain())

    run(work)


def test_a_full_queue_ends_in_a_polite_close(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        with intake_pair() as intake:
            intake[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            async with serving(app_called("old"), intake=intake) as old:
                clients = await clients_of(old, 100)
                began = asyncio.get_running_loop().time()
                task = await old.begin_drain(migrate=True, idle_grace=30)
                await until(lambda: len(old.state.connections) < 100)
                await until(lambda: not old.state.migrating)
                assert asyncio.get_running_loop().time() - began < MIGRATION_PATIENCE + 0.5
                assert old.state.migrated >= 1
                async with serving(app_called("new"), intake=intake):
                    answers = [await client.get() for client in clients]
                    stayed = [one for one in answers if one.headers.get("connection") == "close"]
                    assert len(stayed) == 100 - old.state.migrated
                    assert {one.body for one in stayed} == {b"old / 0"}
                    for client in clients:
                        client.close()
                    await task
            assert [one for one in caplog.records if "closed politely" in one.getMessage()]

    run(work)


def test_a_request_that_comes_while_the_queue_is_full_is_not_kept_waiting() -> None:
    async def work() -> None:
        with intake_pair() as intake:
            intake[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            async with serving(app_called("old"), intake=intake) as old:
                clients = await clients_of(old, 30)
                task = await old.begin_drain(migrate=True, idle_grace=30)
                await until(lambda: old.state.moving)
                ports = {connection.client[1] for connection in old.state.moving if connection.client}
                stayed = [one for one in clients if one.writer.get_extra_info("sockname")[1] in ports]
                assert len(stayed) > 10
                began = asyncio.get_running_loop().time()
                for client in stayed:
                    assert (await client.get()).body == b"old / 0"
                assert asyncio.get_running_loop().time() - began < MIGRATION_PATIENCE / 2
                old.engine.keep_connections(0.2, idle_grace=0.1)
                await task

    run(work)


async def turns_of(room: Room) -> tuple[float, int]:
    """Until this is cancelled: the seconds of the longest turn, and the most connections moved in one. The time is
    the thread's own, since what a busy machine gives to others is no pause of the server's."""
    longest, last = 0.0, time.thread_time()
    most, before = 0, room.state.migrated
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
            most, before = max(most, room.state.migrated - before), room.state.migrated
    return longest, most


@both_loops
def test_two_thousand_idle_connections_move_without_a_pause(loop: str) -> None:
    async def work() -> None:
        with intake_pair() as intake:
            async with serving(app_called("old"), intake=intake, max_connections=5000) as old:
                clients = await clients_of(old, 2000)
                async with serving(app_called("new"), intake=intake, max_connections=5000) as new:
                    turns = asyncio.create_task(turns_of(old))
                    task = await old.begin_drain(migrate=True, idle_grace=30)
                    assert (await task).migrated == 2000
                    turns.cancel()
                    longest, most = await turns
                    assert longest < 0.05, f"the loop was blocked for {longest:.3f} s"
                    assert most <= STEPS_PER_TURN
                    await until(lambda: len(new.state.connections) == 2000)
                    for client in clients[::100]:
                        assert (await client.get()).body == b"new / 0"

    run(work, loop)


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data(), migrate=st.booleans())
def test_a_drain_at_any_moment_loses_no_whole_request(data: st.DataObject, migrate: bool) -> None:
    count = data.draw(st.integers(1, 6))
    stream = b"".join(request("POST", f"/{number}", body=b"x" * number * 100 or b"y") for number in range(count))
    ends = list(itertools.accumulate(len(request("POST", f"/{n}", body=b"x" * n * 100 or b"y")) for n in range(count)))
    cut = data.draw(st.integers(0, len(stream)))
    size = data.draw(st.integers(1, len(stream)))
    whole = sum(end <= cut for end in ends)

    async def work() -> None:
        with intake_pair() as intake:
            async with (
                serving(app_called("old"), intake=intake if migrate else None) as old,
                serving(app_called("new"), intake=intake) as new,
            ):
                client = await old.connect()
                for start in range(0, cut, size):
                    await client.send(stream[start : min(cut, start + size)])
                    await asyncio.sleep(0)
                await until(lambda: old.state.accepted == 1)
                task = await old.begin_drain(migrate=migrate, idle_grace=5)
                client.writer.write(stream[cut:])
                got: list[bytes] = []
                try:
                    while len(got) < count:
                        response = await client.response()
                        got.append(response.body.split(b" ", 1)[1])
                        if response.headers.get("connection") == "close":
                            break
                except EOFError:
                    pass
                wanted = [b"/%d %d" % (number, number * 100 or 1) for number in range(count)]
                assert got == wanted[: len(got)], "in order, each once"
                assert len(got) >= (count if migrate else whole)
                client.close()
                await task
                assert old.state.failed == new.state.failed == 0

    run(work)
