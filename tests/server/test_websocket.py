"""WebSockets in a drain: the last message, 1012, the peer's close, and peers that never answer."""

import asyncio
import base64
import logging
import os
import socket
import struct
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from holdfast.core.drain import current_drain
from server.engineroom import LOOPS, Client, Room, run, serving, until

both_loops = pytest.mark.parametrize("loop", LOOPS)
QUICK: dict[str, Any] = {"stream_grace": 0.1, "stream_spread": 0.0, "close_timeout": 0.3}


class Chat:
    """Echoes; on the drain event it sends "bye" and goes on listening (/), returns (/returns) or closes itself (/own).

    ``heard`` collects how each conversation ended."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["extensions"]["holdfast"]["drain"] is current_drain()
        assert (await receive())["type"] == "websocket.connect"
        if scope["path"] == "/never":
            await asyncio.sleep(60)
        await send({"type": "websocket.accept"})
        if scope["path"] in ("/raise", "/exit"):
            raise ValueError if scope["path"] == "/raise" else SystemExit(3)
        if scope["path"] == "/flood":
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 100_000})
        if scope["path"] == "/ignores":
            await asyncio.sleep(60)
        leaving = asyncio.create_task(current_drain().wait())
        hearing = asyncio.create_task(receive())
        try:
            while True:
                await asyncio.wait((leaving, hearing), return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    message = hearing.result()
                    if message["type"] == "websocket.disconnect":
                        self.heard.append(message["code"])
                        return
                    await send({"type": "websocket.send", "text": message["text"]})
                    hearing = asyncio.create_task(receive())
                elif leaving.done():
                    await send({"type": "websocket.send", "text": "bye"})
                    if scope["path"] == "/returns":
                        return
                    if scope["path"] == "/own":
                        await send({"type": "websocket.close", "code": 4000})
                    leaving = asyncio.create_task(asyncio.sleep(60))
        finally:
            leaving.cancel()
            hearing.cancel()


def url(room: Room, path: str = "/") -> str:
    return f"ws://127.0.0.1:{room.address[1]}{path}"


async def until_closed(client: ClientConnection) -> tuple[list[Any], int]:
    """The messages that came, and the close code."""
    messages = []
    async with asyncio.timeout(10):
        try:
            while True:
                messages.append(await client.recv())
        except ConnectionClosed:
            assert client.close_code is not None
            return messages, client.close_code


@pytest.mark.parametrize(("path", "code"), [("/", 1012), ("/returns", 1012), ("/own", 4000)])
@both_loops
def test_a_client_gets_the_last_message_and_the_close_code(loop: str, path: str, code: int) -> None:
    async def work() -> None:
        chat = Chat()
        async with serving(chat, **QUICK) as room, connect(url(room, path)) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            task = await room.begin_drain()
            assert await until_closed(client) == (["bye"], code)
            report = await task
            assert (report.cut_requests, report.cut_connections) == ((), 0)
            assert chat.heard == ([] if path == "/returns" else [code])

    run(work, loop)


@pytest.mark.parametrize("path", ["/raise", "/exit"])
def test_a_failing_app_is_1011_and_logged_with_the_id_that_the_client_gets(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serving(Chat(), **QUICK) as room, connect(url(room, path)) as client:
            assert await until_closed(client) == ([], 1011)
            [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
            assert client.close_reason == f"request {record.__dict__['request_id']}"
            assert record.exc_info
            async with connect(url(room)) as other:
                await other.send("hello")
                assert await other.recv() == "hello"

    run(work)


async def shake_hands(client: Client, path: str = "/") -> None:
    """A client of its own, that does only what the test says."""
    key = base64.b64encode(os.urandom(16)).decode()
    await client.send(
        f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    if path != "/never":
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


def test_the_close_of_the_peer_is_waited_for() -> None:
    async def work() -> None:
        async with serving(Chat(), stream_grace=0.1, stream_spread=0.0, close_timeout=30) as room:
            client = await room.connect()
            await shake_hands(client)
            task = await room.begin_drain()
            assert await client.reader.readexactly(5) == b"\x81\x03bye"
            head = await client.reader.readexactly(4)
            assert (head[0], struct.unpack(">H", head[2:])[0]) == (0x88, 1012)
            await asyncio.sleep(0.3)
            assert not task.done()
            assert room.state.connections
            await client.send(b"\x88\x82\0\0\0\0" + struct.pack(">H", 1012))
            await client.rest()
            await task

    run(work)


@both_loops
def test_a_peer_that_never_answers_holds_nobody_past_the_close_timeout(loop: str) -> None:
    async def work() -> None:
        async with serving(Chat(), **QUICK) as room:
            silent = await room.connect()
            await shake_hands(silent)
            with socket.socket() as deaf:  # its buffers are full: not even the close frame reaches it
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(room.address)
                deaf.setblocking(False)
                client = await room.connect(sock=deaf, limit=1000)
                await shake_hands(client, "/flood")
                await asyncio.sleep(0.3)
                began = asyncio.get_running_loop().time()
                await (await room.begin_drain())
                assert asyncio.get_running_loop().time() - began < 1.5
                assert not room.state.connections

    run(work, loop)


def test_a_peer_that_reads_nothing_is_cut_after_the_send_timeout() -> None:
    async def work() -> None:
        async with serving(Chat(), send_timeout=0.3) as room:
            client = await room.connect(limit=1000)
            await shake_hands(client, "/flood")
            await until(lambda: room.state.connections)
            await until(lambda: not room.state.connections)
            await until(lambda: not room.state.in_flight)

    run(work)


def test_an_app_that_ignores_the_end_is_named() -> None:
    async def work() -> None:
        async with serving(Chat(), **QUICK) as room, connect(url(room, "/ignores")):
            await until(lambda: room.state.in_flight)
            report = await (await room.begin_drain(0.6))
            assert report.cut_requests == ("WEBSOCKET /ignores",)

    run(work)


def test_an_upgrade_on_a_draining_connection_ends_with_1012_too() -> None:
    async def work() -> None:
        async with serving(Chat(), **QUICK) as room:
            client = await room.connect()
            await until(lambda: room.state.accepted == 1 and room.state.connections)
            task = await room.begin_drain(idle_grace=5)
            await shake_hands(client)
            assert await client.reader.readexactly(5) == b"\x81\x03bye"
            assert struct.unpack(">H", (await client.reader.readexactly(4))[2:])[0] == 1012
            client.close()
            await task

    run(work)


def test_a_handshake_under_way_is_answered_503() -> None:
    async def work() -> None:
        async with serving(Chat(), **QUICK) as room:
            client = await room.connect()
            await shake_hands(client, "/never")
            await until(lambda: room.state.in_flight)
            task = await room.begin_drain(0.6)
            assert (await client.response()).status == 503
            client.close()
            await task

    run(work)


def test_the_ends_are_spread() -> None:
    async def work() -> None:
        async with serving(Chat(), stream_grace=0.1, stream_spread=0.6, close_timeout=1) as room:
            clients = [await connect(url(room)) for _ in range(40)]
            events = asyncio.get_running_loop()
            began = events.time()
            ends = []

            async def end(client: ClientConnection) -> None:
                assert (await until_closed(client))[1] == 1012
                ends.append(events.time() - began)

            task = await room.begin_drain()
            await asyncio.gather(*map(end, clients))
            await task
            assert max(ends) - min(ends) > 0.35

    run(work)


@both_loops
@pytest.mark.parametrize("frame", [b"\x81\x85\0\0\0\0hello", b"\x88\x82\0\0\0\0\x03\xe8", b"\xff\xff" * 20])
def test_a_client_that_does_not_wait_for_the_answer_to_its_handshake_is_cut(
    loop: str, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        message = await receive()
        heard.append(message["type"])
        await send({"type": "websocket.accept"})

    async def work() -> None:
        async with serving(slow) as room:
            client = await room.connect()
            await client.send(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await until(lambda: room.state.tasks)
            await client.send(frame)
            await until(lambda: not (room.state.connections or room.state.tasks))
            assert heard == ["websocket.disconnect"]

    run(work, loop)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@both_loops
@pytest.mark.parametrize(
    "frames", [b"\x81\x82\0\0\0\0\xff\xfe", b"\x01\x81\0\0\0\0\xe2\x80\x81\0\0\0\0a"], ids=["one", "two"]
)
def test_text_that_is_none_is_1007_and_no_error_of_the_server(
    loop: str, frames: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        chat = Chat()
        async with serving(chat) as room:
            client = await room.connect()
            await client.send(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await client.reader.readuntil(b"\r\n\r\n")
            await client.send(frames)
            assert await client.rest() == b"\x88\x02" + struct.pack("!H", 1007)
            await until(lambda: chat.heard == [1007])

    run(work, loop)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
