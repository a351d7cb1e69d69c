"""The proxy delays, and is otherwise as good as a wire."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from holdfast.lab.proxy import Proxy
from lab.ports import refusing

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RTT = 0.02


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(asyncio.wait_for(main, 20))

    return runner


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def tunnel(handler: Handler) -> Any:
    """A client's connection through the proxy to the handler, and what the handler raised."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except Exception as error:  # handed to the test, which raises it
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy(f"127.0.0.1:{port}", rtt=RTT) as proxy:
        host, _, number = proxy.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        try:
            yield reader, writer, outcome
        finally:
            writer.close()
    server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # how the client leaves is its own affair
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def test_bytes_arrive_whole_and_in_order(run: Run) -> None:
    sent = random.Random(1).randbytes(3_000_000)

    async def main() -> bytes:
        async with tunnel(echo) as (reader, writer, _):
            writer.write(sent)
            writer.write_eof()
            return bytes(await reader.read())

    assert run(main()) == sent


def test_an_answer_takes_a_round_trip(run: Run) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with tunnel(echo) as (reader, writer, _):
            writer.write(b"first")  # the first also waits for the connection
            await reader.readexactly(5)
            waited = []
            for _ in range(10):
                began = loop.time()
                writer.write(b"again")
                await reader.readexactly(5)
                waited.append(loop.time() - began)
            return min(waited)

    # uvloop's clock counts whole milliseconds: each way may round by one.
    assert RTT - 0.003 <= run(main()) < RTT * 3


def test_a_half_closed_connection_still_answers(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"question"
        writer.write(b"answer")

    async def main() -> bytes:
        async with tunnel(handler) as (reader, writer, outcome):
            writer.write(b"question")
            writer.write_eof()
            answer = await reader.read()
            await outcome
            return bytes(answer)

    assert run(main()) == b"answer"


def test_a_reset_by_the_server_follows_its_bytes(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        await reader.readexactly(2)
        reset(writer)

    async def main() -> None:
        async with tunnel(handler) as (reader, writer, _):
            assert await reader.readexactly(10) == b"last words"
            writer.write(b"go")
            with pytest.raises(ConnectionResetError):
                await reader.read()

    run(main())


def test_a_reset_by_the_client_reaches_the_server(run: Run) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(4) == b"hail"
        with pytest.raises(ConnectionResetError):
            await reader.read()

    async def main() -> None:
        async with tunnel(handler) as (_, writer, outcome):
            writer.write(b"hail")
            await asyncio.sleep(RTT * 2)
            reset(writer)
            await outcome

    run(main())


def test_a_refusal_becomes_a_reset(run: Run) -> None:
    async def main() -> None:
        with refusing() as port:
            async with Proxy(f"127.0.0.1:{port}", rtt=RTT) as proxy:
                reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()

    run(main())


def test_a_server_that_does_not_read_stops_the_client(run: Run) -> None:
    most = 64 * 1024 * 1024
    done = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await done.wait()
        reset(writer)

    async def main() -> int:
        async with tunnel(handler) as (_, writer, _):
            sent = 0
            piece = bytes(1024 * 1024)
            while sent < most:
                writer.write(piece)
                try:
                    await asyncio.wait_for(writer.drain(), 1.0)
                except TimeoutError:
                    break
                sent += len(piece)
            done.set()
            writer.transport.abort()
            return sent

    assert run(main()) < most


def test_leaving_resets_every_connection(run: Run) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Proxy(f"127.0.0.1:{port}", rtt=RTT) as proxy:
            reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
            writer.write(b"hello")
            await reader.readexactly(5)
            assert proxy.accepted == 1
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        server.close()

    run(main())


def test_a_target_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="not on this machine"):
        Proxy("192.0.2.1:80", rtt=RTT)
    with pytest.raises(ValueError, match="rtt is -1"):
        Proxy("127.0.0.1:80", rtt=-1)
