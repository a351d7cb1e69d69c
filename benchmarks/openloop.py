"""Sends requests at their own moments, as the world does: whether the ones before are answered or not.

Each request is due at its own moment of a Poisson process, and its latency counts from there. The schedule is kept
when the generator is late: what is overdue is sent at once, and ``late`` tells how late it has been.
"""

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

CONNECTIONS: Final = 300
"""Kept open; more are opened when all of them wait."""
CONNECTIONS_LIMIT: Final = 12_000
PATIENCE: Final = 5.0
"""What is not answered so many seconds after the last request counts as lost."""
LOOK: Final = 0.05
WARM_UP: Final = 20
"""Requests, one after the other, before it begins."""
START_LIMIT: Final = 30.0
"""Seconds in which the server must have answered them."""
BACKOFF: Final = 0.1
"""Seconds, at most, before the first repetition; twice as many before the next one."""


class Kind(NamedTuple):
    """One sort of request: its share of the traffic, or of the seconds of a phase."""

    name: str
    share: float = 1.0
    path: str = "/"
    headers: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        lines = (f"GET {self.path} HTTP/1.1", "Host: bench", *self.headers, "", "")
        return "\r\n".join(lines).encode()


class Served(NamedTuple):
    """One request: when it was due, how long its answer took, the status (0: none came), and after how many tries."""

    due: float
    seconds: float
    status: int
    kind: str
    tries: int = 1


class Request:
    """One that is under way."""

    __slots__ = ("due", "kind", "text", "tries")

    def __init__(self, due: float, kind: Kind, text: bytes) -> None:
        self.due = due
        self.kind = kind
        self.text = text
        self.tries = 0


class Connection(asyncio.Protocol):
    """Reads responses that have a Content-Length."""

    def __init__(self, load: "OpenLoop") -> None:
        self.load = load
        self.request: Request | None = None
        self.unread = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: Request) -> None:
        self.request = request
        self.transport.write(request.text)

    def data_received(self, data: bytes) -> None:
        self.unread = data = self.unread + data
        head, gap, body = data.partition(b"\r\n\r\n")
        if not gap:
            return
        lower = head.lower()
        if len(body) < int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            return
        self.unread = b""
        request, self.request = self.request, None
        if b"connection: close" in lower:
            self.load.open -= 1
            self.transport.close()
        else:
            self.load.idle.append(self)
        if request is not None:
            self.load.answered(request, int(head[9:12]), data)

    def connection_lost(self, exc: Exception | None) -> None:
        request, self.request = self.request, None
        if request is not None:
            self.load.open -= 1
            self.load.answered(request, 0, b"")


class OpenLoop:
    """Sends to one server. ``late`` is how late it was itself, in seconds, for each time that it woke up."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.idle: deque[Connection] = deque()
        self.open = 0
        self.late: list[float] = []
        self.bare: list[bytes] = []
        """Refusals that tell no client when to come back, or are no problem details."""
        self.last = b""
        self._retries = 0
        self._again_until = 0.0
        self._served: list[Served] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = 0
        self._began = 0.0

    async def connect(self) -> None:
        """Open the connections; return once the server answers."""
        for _ in range(CONNECTIONS):
            self.idle.append(await self._connect())
        async with asyncio.timeout(START_LIMIT):
            for _ in range(WARM_UP):
                await self.ask(Kind("warm up"))

    async def ask(self, kind: Kind) -> Served:
        """Send one, and wait for its answer."""
        self._begin_phase(0)
        self._send(Request(time.perf_counter(), kind, kind.text))
        while not self._served:  # noqa: ASYNC110 - answers come without an event of their own
            await asyncio.sleep(0.001)
        return self._served[-1]

    async def run(
        self, rate: float, seconds: float, kinds: Sequence[Kind], retries: int = 0, then: tuple[float, float] = (0, 0)
    ) -> list[Served]:
        """``rate`` requests a second for ``seconds``; returns when all are answered, or ``PATIENCE`` later.

        ``then`` are the rate and the seconds of a second part, which follows without a pause.
        """
        weights = [kind.share for kind in kinds]
        texts = {kind.name: kind.text for kind in kinds}
        chance = self.chance
        choices = deque(chance.choices(kinds, weights, k=int((rate * seconds + then[0] * then[1]) * 1.3) + 200))
        self._begin_phase(retries)
        gc.disable()
        try:
            due = self._began
            change = due + seconds
            end = change + then[1]
            while due < end:
                now = time.perf_counter()
                await asyncio.sleep(max(0.0, due - now))
                now = time.perf_counter()
                self.late.append(now - due)
                while due <= now and due < end:
                    kind = choices.popleft()
                    self._due += 1
                    self._send(Request(due, kind, texts[kind.name]))
                    due += chance.expovariate(rate if due < change else then[0])
            for _ in range(int(PATIENCE / LOOK)):
                if len(self._served) == self._due:
                    break
                await asyncio.sleep(LOOK)
        finally:
            gc.enable()
        lost = [Served(seconds, PATIENCE, 0, kinds[0].name)] * (self._due - len(self._served))
        return [*self._served, *lost]

    async def saturate(self, workers: int, seconds: float, kind: Kind) -> list[Served]:
        """``workers`` that ask again as soon as they are answered: as much as the server can do."""
        self._begin_phase(0)
        self._again_until = self._began + seconds
        for _ in range(workers):
            self._send(Request(time.perf_counter(), kind, kind.text))
        await asyncio.sleep(seconds + LOOK)
        self._again_until = 0.0
        return self._served

    def answered(self, request: Request, status: int, answer: bytes) -> None:
        """An answer has come, or none will (0)."""
        now = time.perf_counter()
        self.last = answer
        if status == 503 and (b"retry-after:" not in answer.lower() or b"application/problem+json" not in answer):
            self.bare.append(answer)
        if status != 200 and request.tries < self._retries:
            request.tries += 1
            wait = self.chance.uniform(0, BACKOFF * 2**request.tries / 2)
            asyncio.get_running_loop().call_later(wait, self._send, request)
            return
        seconds = now - request.due
        self._served.append(Served(request.due - self._began, seconds, status, request.kind.name, request.tries + 1))
        if now < self._again_until:
            self._send(Request(now, request.kind, request.text))

    def _begin_phase(self, retries: int) -> None:
        self._retries = retries
        self._served = []
        self._due = 0
        self._began = time.perf_counter()

    def _send(self, request: Request) -> None:
        idle = self.idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                connection.ask(request)
                return
        task = asyncio.create_task(self._send_on_another(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_another(self, request: Request) -> None:
        try:
            if self.open >= CONNECTIONS_LIMIT:
                raise ConnectionError
            (await self._connect()).ask(request)
        except OSError:
            self.answered(request, 0, b"")

    async def _connect(self) -> Connection:
        self.open += 1
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        return connection
