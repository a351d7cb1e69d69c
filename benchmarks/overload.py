"""An open loop of requests against a real server whose handler computes: with the queue before it, and without.

    python -m benchmarks.overload
    python -m benchmarks.overload --work 0.002 --loads 0.5 2 5 --seconds 20

One process serves, this one sends: each request at its own moment of a Poisson process, whether the ones before it are
answered or not, as the world does. Latency counts from that moment. Goodput is the share of the server's time that went
into answers within a second.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any, Final, NamedTuple

from holdfast.server.admission.settings import AdmissionSettings
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening

WORK: Final = 0.005
LOADS: Final = (0.1, 0.7, 1.0, 2.0, 5.0)
SECONDS: Final = 8.0
FIRST: Final = 1.0
"""Seconds at the beginning that are shown on their own."""
LOOK: Final = 0.05
START_LIMIT: Final = 30.0
"""Seconds in which the server must have answered the first requests."""
WARM_UP: Final = 20
"""Requests, one after the other, before it begins."""
CONNECTIONS: Final = 400
"""Kept open; more are opened when all of them wait."""
CONNECTIONS_LIMIT: Final = 8000
DEADLINE: Final = 1.0
"""A later answer is of no use."""
PATIENCE: Final = 5.0
"""What is not answered so many seconds after the last request counts as lost."""
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


class Served(NamedTuple):
    """One request: when it was due, how long its answer took, and the status; 0 where none came."""

    due: float
    seconds: float
    status: int


async def serve(sock: socket.socket, work: float, in_turn: bool) -> None:
    """Answer until the process is ended."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        until = time.perf_counter() + work
        while time.perf_counter() < until:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    sock.setblocking(False)
    engine = HttpEngine(app, [Listening(0, sock)], HttpSettings(), admission=AdmissionSettings(queue=in_turn))
    await engine.start()
    await asyncio.Event().wait()


class Connection(asyncio.Protocol):
    """Reads responses that have a Content-Length."""

    def __init__(self, bench: "OpenLoop") -> None:
        self.bench = bench
        self.due = -1.0
        self.unread = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, due: float) -> None:
        self.due = due
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        head, gap, body = self.unread.partition(b"\r\n\r\n")
        lower = head.lower()
        if not gap or len(body) < int(lower.partition(b"content-length:")[2].split(b"\r\n")[0]):
            return
        self.bench.answered(self, int(head[9:12]))
        self.unread = b""
        if b"connection: close" in lower:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.due >= 0.0:
            self.bench.answered(self, 0)


class OpenLoop:
    """Sends ``rate`` requests a second for ``seconds``."""

    def __init__(self, port: int, rate: float, seconds: float, seed: int) -> None:
        self.port = port
        self.rate = rate
        self.seconds = seconds
        self.chance = random.Random(seed)
        self.idle: deque[Connection] = deque()
        self.open = 0
        self.served: list[Served] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def answered(self, connection: Connection, status: int) -> None:
        self.served.append(Served(connection.due - self.began, time.perf_counter() - connection.due, status))
        connection.due = -1.0
        self.idle.append(connection)

    async def run(self) -> list[Served]:
        self.began = 0.0
        for _ in range(CONNECTIONS):
            self.idle.append(await self._connect())
        await self._warm_up()
        due = self.began = time.perf_counter()
        sent = 0
        while due < self.began + self.seconds:
            now = time.perf_counter()
            await asyncio.sleep(max(0.0, due - now))
            now = time.perf_counter()
            while due <= now:
                self._send(due)
                sent += 1
                due += self.chance.expovariate(self.rate)
        for _ in range(int(PATIENCE / LOOK)):
            if len(self.served) == sent:
                break
            await asyncio.sleep(LOOK)
        lost = [Served(self.seconds, PATIENCE, 0)] * (sent - len(self.served))
        for task in tuple(self.tasks):
            task.cancel()
        return [*self.served, *lost]

    async def _warm_up(self) -> None:
        """The server is there once it answers."""
        async with asyncio.timeout(START_LIMIT):
            for _ in range(WARM_UP):
                asked = len(self.served)
                self._send(time.perf_counter())
                while len(self.served) == asked:  # noqa: ASYNC110 - answers come without an event of their own
                    await asyncio.sleep(0.001)
        self.served.clear()

    def _send(self, due: float) -> None:
        while self.idle:
            connection = self.idle.popleft()
            if not connection.transport.is_closing():
                connection.ask(due)
                return
        task = asyncio.create_task(self._send_on_another(due))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send_on_another(self, due: float) -> None:
        if self.open < CONNECTIONS_LIMIT:
            (await self._connect()).ask(due)
        else:
            self.served.append(Served(due - self.began, PATIENCE, 0))

    async def _connect(self) -> Connection:
        self.open += 1
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self), "127.0.0.1", self.port
        )
        return connection


def measured(work: float, load: float, seconds: float, in_turn: bool, seed: int) -> list[Served]:
    """A server of its own for each load: none is to suffer from the one before."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = sock.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.overload", "--serve", str(sock.fileno()), "--work", str(work)]
    server = subprocess.Popen([*command, *(["--in-turn"] if in_turn else [])], pass_fds=[sock.fileno()])
    sock.close()
    try:
        return asyncio.run(OpenLoop(port, load / work, seconds, seed).run())
    finally:
        server.terminate()
        server.wait(10)


def row(served: list[Served], began: float, ended: float, work: float) -> str:
    here = [one for one in served if began <= one.due < ended]
    times = sorted(one.seconds for one in here if one.status == 200)
    refused = sorted(one.seconds for one in here if one.status == 503)
    lost = sum(1 for one in here if one.status not in (200, 503))

    def percentile(values: list[float], share: float) -> str:
        return f"{values[int(len(values) * share)] * 1000:7.1f}" if values else "      -"

    goodput = sum(seconds <= DEADLINE for seconds in times) * work / (ended - began)
    return (
        f"{goodput:8.3f} {percentile(times, 0.5)} {percentile(times, 0.99)} {len(refused):8} "
        f"{percentile(refused, 0.99)} {lost:6}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=float, default=WORK, help="seconds that the handler computes (0.005)")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="multiples of the capacity")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load (8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in-turn", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        import uvloop

        uvloop.run(serve(socket.socket(fileno=options.serve), options.work, options.in_turn))
        return 0
    print(f"a handler that computes for {options.work * 1000:g} ms, seed {options.seed}; times in ms\n")
    print(f"{'':32}{'goodput':>8} {'median':>7} {'p99':>7} {'refused':>8} {'p99':>7} {'lost':>6}")
    for in_turn in (False, True):
        for load in options.loads:
            served = measured(options.work, load, options.seconds, in_turn, options.seed)
            name = f"{'in turn' if in_turn else 'at once'}, {load:g}x"
            print(f"{name + ', first second':32}{row(served, 0.0, FIRST, options.work)}", flush=True)
            print(f"{name:32}{row(served, FIRST, options.seconds, options.work)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
