"""An HttpEngine on a real loop with real sockets, and a client that reads every byte."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Self

import uvloop

from holdfast.core.drain import Drain, use_drain
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.settings import AdmissionSettings, read_routes
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening
from holdfast.supervisor.sockets import open_intake

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PATIENCE = 10.0
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
"""The headers of a request for a WebSocket; the key is the one of RFC 6455."""

Pair = tuple[socket.socket, socket.socket]


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Truncated(Exception):
    """The connection ended inside a response."""


class Client:
    """One connection. Every wait is limited."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def get(self, path: str = "/", *headers: str) -> Response:
        await self.send(request("GET", path, *headers))
        return await self.response()

    async def response(self, method: str = "GET") -> Response:
        """The next response. Raises EOFError when the connection ends before it, Truncated inside it."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as exc:
                if exc.partial:
                    raise Truncated(exc.partial) from None
                raise EOFError from None
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
            try:
                return Response(status, headers, await self._body(status, headers, method))
            except asyncio.IncompleteReadError as exc:
                raise Truncated(exc.partial) from None

    async def _body(self, status: int, headers: dict[str, str], method: str) -> bytes:
        if method == "HEAD" or status in (204, 304) or status < 200:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
            return body
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    async def rest(self) -> bytes:
        """All there is until the end of the connection; ConnectionResetError when that is a reset."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def ended(self) -> bool:
        return await self.rest() == b""

    def close(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """End with RST in the place of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Room:
    """An engine with its listener. ``failures`` are errors that reached the loop."""

    def __init__(self, engine: HttpEngine, sock: socket.socket, drain: Drain) -> None:
        self.engine = engine
        self.state = engine.state
        self.address = sock.getsockname()
        self.drain = drain
        self.failures: list[dict[str, Any]] = []
        self._clients: list[Client] = []

    async def connect(self, **options: Any) -> Client:
        if "sock" in options:
            reader, writer = await asyncio.open_connection(**options)
        elif isinstance(self.address, str):
            reader, writer = await asyncio.open_unix_connection(self.address, **options)
        else:
            reader, writer = await asyncio.open_connection(*self.address[:2], **options)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def begin_drain(self, within: float = PATIENCE, **options: Any) -> "asyncio.Task[Any]":
        options.setdefault("migrate", False)
        options.setdefault("idle_grace", 0.2)
        task = asyncio.create_task(self.engine.drain(within, **options))
        await until(lambda: self.state.draining)
        return task

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.failures.append(context))
        with use_drain(self.drain):
            await self.engine.start({"from": "lifespan"})
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        for client in self._clients:
            client.close()
        await self.engine.stop()
        for listening in self.engine.listeners.values():
            listening.sock.close()
        await asyncio.sleep(0.01)  # transports close their sockets a turn later
        assert kind is not None or not self.failures, self.failures


@contextlib.asynccontextmanager
async def serving(
    app: Any,
    *,
    tls: ssl.SSLContext | None = None,
    intake: Pair | None = None,
    sock: Any = None,
    admission: AdmissionSettings | None = None,
    routes: Any = (),
    exempt: Any = (),
    errors: ErrorTable | None = None,
    **settings: Any,
) -> AsyncIterator[Room]:
    """An engine that serves ``app`` with these HttpSettings."""
    sock = sock or socket.create_server(("127.0.0.1", 0), backlog=4096)
    sock.setblocking(False)
    drain = Drain()
    with contextlib.ExitStack() as stack:
        if intake is not None:  # two engines on one loop: each watches a descriptor of its own
            intake = stack.enter_context(intake[0].dup()), intake[1]
        engine = HttpEngine(
            app,
            [Listening(0, sock, tls)],
            HttpSettings(**settings),
            drain=drain,
            intake=intake,
            rng=random.Random(1),
            tick=0.05,
            admission=admission,
            routes=read_routes(routes),
            exempt=exempt,
            errors=errors,
        )
        async with Room(engine, sock, drain) as room:
            yield room


@contextlib.contextmanager
def intake_pair() -> Any:
    receive, send = open_intake()
    try:
        yield receive, send
    finally:
        receive.close()
        send.close()


def run(work: Callable[[], Awaitable[None]], loop: str = "uvloop") -> None:
    """Run a test's coroutine."""

    async def main() -> None:
        async with asyncio.timeout(60):
            await work()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def until(look: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait until ``look`` is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not look():
        assert loop.time() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.002)


def request(method: str, path: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def gates(room: Room) -> dict[str, dict[str, Any]]:
    """What each route's gates say of themselves."""
    found: dict[str, dict[str, Any]] = room.state.entrance.admission.snapshot()["gates"]
    return found


def held(room: Room, route: str) -> int:
    """How many places of the route's bulkhead are taken."""
    found: int = gates(room)[route]["bulkhead"]["in_flight"]
    return found


def idle(room: Room) -> bool:
    """Whether nobody holds anything."""
    entrance = room.state.entrance
    taken = [gate.get("in_flight", 0) for route in gates(room).values() for gate in route.values()]
    return not (any(taken) or entrance.cycles or entrance.waiting or entrance.starter.running or room.state.tasks)


async def answer(send: Any, body: bytes = b"", status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    """A whole response with its length."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Any) -> bytes:
    """The request's body. Raises ConnectionError when the client leaves."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left")
        body += message["body"]
        more = message["more_body"]
    return body


class Waits:
    """An app that answers once it is let go, and notes what has begun."""

    def __init__(self, body: bytes = b"here", *, going: bool = False) -> None:
        self.body = body
        self.go = asyncio.Event()
        self.paths: list[str] = []
        if going:
            self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await self.go.wait()
        await answer(send, self.body)
