"""Connections of a client that has too many: told why, and never kept in numbers."""

import json
from typing import Any

import pytest

from holdfast.server.admission.connections import SEEN_OFF_LIMIT
from holdfast.server.admission.settings import read_admission
from server.engineroom import LOOPS, Client, Room, answer, request, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)
ONE = read_admission({"clients": {"connections": 1}})
MORE = 20


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"here")


def leaving(room: Room) -> int:
    return room.state.entrance.admission.connections.leaving


async def told(client: Client) -> bool:
    """Whether the client hears why its connection ends. It ends for both."""
    try:
        refused = await client.response()
    except (EOFError, ConnectionError):
        return False
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert json.loads(refused.body)["reason"] == "BULKHEAD_FULL"
    return True


@both_loops
def test_only_so_many_refused_connections_linger_and_the_others_end_at_once(loop: str) -> None:
    async def work() -> None:
        async with serving(app, admission=ONE, linger=3600.0) as room:
            first = await room.connect()
            assert (await first.get()).status == 200
            refused = [await room.connect() for _ in range(SEEN_OFF_LIMIT + MORE)]
            await until(lambda: room.state.accepted == len(refused) + 1)
            assert sum([await told(client) for client in refused]) == SEEN_OFF_LIMIT
            await until(lambda: len(room.state.connections) == SEEN_OFF_LIMIT + 1)
            assert leaving(room) == SEEN_OFF_LIMIT
            assert room.state.refused == len(refused)
            assert (await first.get()).status == 200
            for client in refused:
                client.close()
            await until(lambda: not leaving(room))
            assert await told(await room.connect())
            first.close()
            await until(lambda: room.state.entrance.admission.connections.held("127.0.0.1") == 0)
            assert (await (await room.connect()).get()).status == 200

    run(work, loop)


@both_loops
def test_a_refused_client_that_stays_is_let_go_after_the_linger(loop: str) -> None:
    async def work() -> None:
        async with serving(app, admission=ONE, linger=0.05) as room:
            first = await room.connect()
            assert (await first.get()).status == 200
            stays = await room.connect()
            await stays.send(request("GET", "/"))
            assert await told(stays)
            assert leaving(room) == 1
            await until(lambda: len(room.state.connections) == 1)
            assert leaving(room) == 0

    run(work, loop)
