"""Apps that are short of something: of the loop's time, of a backend's places, or of the interpreter's lock.

    python -m benchmarks.apps.overload cpu --fd 5

Serves one of ``APPS`` until it is ended. Work is counted in CPU time of the thread: what others take is not work.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from holdfast.server.admission.settings import read_admission
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import Listening
from holdfast.server.wsgi import WSGIBridge

WORK: Final = 0.005
"""Seconds of CPU time that a request takes."""
PLACES: Final = 20
"""Calls that the backend works on at the same time, ..."""
WAIT: Final = 0.05
"""... for so many seconds each."""
SLOW: Final = 2.0
"""Seconds that ``/slow`` waits, on purpose."""
BLOCK: Final = 1.0
"""Seconds for which ``/block`` holds the loop."""
MIXED: Final = 0.003
"""Seconds that ``mixed`` computes after it has waited."""


def compute(seconds: float = WORK) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def answer(send: Any, body: bytes = b"ok") -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


class Doors:
    """In front of ``app``: paths that mean the same for all apps, and ``/starter``, which tells of the queue."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.engine: HttpEngine | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/slow":
            await asyncio.sleep(SLOW)
        elif path == "/block":
            time.sleep(BLOCK)  # noqa: ASYNC251 - that is the point
        elif path == "/starter" and self.engine is not None:
            await answer(send, json.dumps(self.engine.state.entrance.snapshot()).encode())
            return
        else:
            await self.app(scope, receive, send)
            return
        await answer(send)


class Bare:
    """An ASGI app without a framework."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.work()
        await answer(send)


async def on_the_loop() -> None:
    compute()


def at_a_backend() -> Callable[[], Any]:
    places = asyncio.Semaphore(PLACES)

    async def work() -> None:
        async with places:
            await asyncio.sleep(WAIT)

    return work


async def mixed() -> None:
    await asyncio.sleep(0.02)
    compute(MIXED)


async def nothing() -> None:
    pass


def in_threads() -> Starlette:
    def work(request: Request) -> PlainTextResponse:
        compute()
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", work)])


def wsgi() -> WSGIBridge:
    def work(environ: Any, start_response: Any) -> Iterable[bytes]:
        compute()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    return WSGIBridge(work)


APPS: Final[dict[str, Callable[[], Any]]] = {
    "cpu": lambda: Bare(on_the_loop),
    "io": lambda: Bare(at_a_backend()),
    "mixed": lambda: Bare(mixed),
    "bare": lambda: Bare(nothing),
    "sync": in_threads,
    "wsgi": wsgi,
}


async def serve(sock: socket.socket, app: Doors, admission: dict[str, Any]) -> None:
    """Answer until the process is ended."""
    sock.setblocking(False)
    settings = read_admission({"trusted_proxies": ["127.0.0.1"], **admission})
    engine = HttpEngine(app, [Listening(0, sock)], HttpSettings(), admission=settings)
    app.engine = engine
    await engine.start()
    await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("app", choices=APPS)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--admission", type=json.loads, default={})
    options = parser.parse_args()

    async def run() -> None:
        await serve(socket.socket(fileno=options.fd), Doors(APPS[options.app]()), options.admission)

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
