"""Commands that come just before another program takes the process over."""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from holdfast.supervisor.control import ControlServer

PATIENCE = 20.0


@contextmanager
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # the directory of a test may have too long a name for a socket
        yield Path(directory) / "control.sock"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, op: str) -> None:
        self.writer.write(json.dumps({"op": op}).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(await self.reader.readline()))


Connect = Callable[..., Awaitable[Client]]


def run(scene: Callable[[ControlServer, Connect], Awaitable[None]]) -> None:
    async def main() -> None:
        supervisor: Any = SimpleNamespace(status=lambda: "serving", reload=lambda reason: asyncio.Event().wait())
        server = ControlServer(supervisor, where)
        clients: list[Client] = []

        async def connect(op: str = "") -> Client:
            clients.append(Client(*await asyncio.open_unix_connection(where)))
            if op:
                clients[-1].say(op)
            return clients[-1]

        await server.open()
        try:
            async with asyncio.timeout(PATIENCE):
                await scene(server, connect)
        finally:
            for client in clients:
                client.writer.close()
            await server.close()

    with path() as where:
        asyncio.run(main())
        assert not where.exists()


def test_a_command_that_has_come_is_answered_before_the_re_exec() -> None:
    async def scene(server: ControlServer, connect: Connect) -> None:
        clients = [await connect("status") for _ in range(50)]
        await server.pause_listening()
        server.dismiss(None)
        assert [await client.answer() for client in clients] == [{"result": "serving"}] * 50

    run(scene)


def test_who_connects_later_waits_for_the_successor_or_for_the_end_of_the_pause() -> None:
    async def scene(server: ControlServer, connect: Connect) -> None:
        await server.pause_listening()
        client = await connect("status")
        later = asyncio.create_task(client.answer())
        server.dismiss(None)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not later.done()
        await server.resume_listening()
        assert await later == {"result": "serving"}
        assert await (await connect("status")).answer() == {"result": "serving"}

    run(scene)


def test_who_waits_for_its_turn_or_says_nothing_is_told_to_come_again() -> None:
    async def scene(server: ControlServer, connect: Connect) -> None:
        waiting, silent = await connect("reload"), await connect()
        await server.pause_listening()
        server.dismiss(None)
        for client in (waiting, silent):
            assert (await client.answer())["error"]["reason"].endswith("give it again")

    run(scene)


def test_a_server_that_is_closed_does_not_listen_again() -> None:
    async def scene(server: ControlServer, connect: Connect) -> None:
        await server.pause_listening()
        await server.close()
        await server.resume_listening()

    run(scene)
