"""WSGI applications behind an ASGI server, on a2wsgi.

a2wsgi makes the environ and speaks WSGI's call; what lies between thread and event loop is done here,
because of what a2wsgi 1.10 does there (each has a test):

- When the client goes away or the request is cancelled, its thread waits for ever on a queue that nobody
reads, and one thread of the pool is lost. Here the thread gets ``BrokenPipeError`` at its next chunk. -
It sends the head at once, so an error between ``start_response`` and the first chunk breaks a 200 off
instead of answering 500. Here the head waits for the first chunk that is not empty, as PEP 3333 has it. -
``readline(limit)`` on its input answers with nothing before the body has come, ``readlines`` of an empty
body raises, and a body broken off looks complete. Here the input is the standard library's
``BufferedReader``. - Headers with underscores can pose as others (``X_Real_IP``), and ``Proxy`` becomes
``HTTP_PROXY`` (CVE-2016-5385). Here neither reaches the application.

Context variables of the request, such as the deadline, are seen in the thread. A thread cannot be
cancelled: work whose request is over goes on to its next chunk, and keeps its thread so long.
"""

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError as Gone
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final

from a2wsgi.wsgi import build_environ

from holdfast.core.codes import Code
from holdfast.core.errors import ConfigError
from holdfast.core.failure import Failure
from holdfast.service.interface import Message, Receive, Scope, Send, WSGIApp
from holdfast.service.problem import problem_of

THREADS: Final = 40
"""anyio's default for threads that serve an event loop, and so Starlette's for its sync endpoints."""
MAX_WAITING: Final = 1000
"""Requests that may wait for a thread; more are answered 503 at once."""
FULL: Final = Failure(
    Code.UNAVAILABLE, "THREADS_BUSY", "All threads are busy and too many requests wait.", retry_after=1.0
)

# a2wsgi's own types name its classes, which are not used here.
_translate: Callable[[Scope, Any], dict[str, Any]] = build_environ  # type: ignore[assignment]

Headers = list[tuple[str, str]]
ExcInfo = tuple[Any, Any, Any]


class WSGIBridge:
    """``app`` (WSGI) as an ASGI application on ``threads`` threads of its own. One per event loop.

    An exception of the application comes out of the call, for the server to answer 500 and log. Streams are
    written chunk by chunk, each waiting until the server has taken it. At ``lifespan.shutdown`` requests that
    still wait for a thread are dropped; the ones under way are not waited for: drain the server first.
    """

    def __init__(self, app: WSGIApp, *, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        if threads < 1:
            raise ConfigError("threads", threads, "1 or more", "WSGIBridge")
        if max_waiting < 0:
            raise ConfigError("max_waiting", max_waiting, "0 or more", "WSGIBridge")
        self.app: Final = app
        self._limit = threads + max_waiting
        self._inside = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="wsgi")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._inside >= self._limit:
            status, headers, body = problem_of(FULL)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        exchange = _Exchange(self.app, scope, receive, send)
        work = self._pool.submit(copy_context().run, exchange.run)
        with self._lock:
            self._inside += 1
        # Not when the request ends: a thread whose request was cancelled is busy still.
        work.add_done_callback(self._left)
        try:
            await asyncio.wrap_future(work)
        finally:
            exchange.close()

    def _left(self, _: object) -> None:
        with self._lock:
            self._inside -= 1

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await send({"type": "lifespan.shutdown.complete"})


class _Exchange:
    """One request and its response: ``run`` in a thread of the pool, ``close`` on the event loop."""

    def __init__(self, app: WSGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._closed = False
        self._head: Message | None = None
        self._head_sent = False
        self._exc_info: ExcInfo | None = None

    def close(self) -> None:
        """The request is over: a thread that still works for it finds out at its next step."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    def run(self) -> None:
        """Call the application and send its response. Raises what it raises, but only ``Exception``."""
        try:
            self._respond()
        except StopIteration as exc:  # asyncio's futures cannot hold it: the request would hang
            raise RuntimeError("the application raised StopIteration") from exc
        except Exception:
            raise
        except BaseException as exc:  # sys.exit in a handler must not end the event loop
            raise RuntimeError(f"the application raised {type(exc).__name__}: {exc}") from exc

    def _respond(self) -> None:
        body = io.BufferedReader(_Input(self))
        chunks: Iterable[bytes] = self._app(self._environ(body), self._start_response)
        try:
            for chunk in chunks:
                if chunk:
                    self._write(chunk)
            self._finish()
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if self._exc_info is not None:
            # The application answered for its error itself; the server still logs it.
            raise self._exc_info[1].with_traceback(self._exc_info[2])

    def _environ(self, body: Any) -> dict[str, Any]:
        scope = dict(self._scope)
        scope["headers"] = [(name, value) for name, value in scope["headers"] if b"_" not in name and name != b"proxy"]
        # Raw bytes past ASCII are not allowed in a query, but they come; WSGI knows them as latin-1.
        query = scope["query_string"].decode("latin-1")
        environ: dict[str, Any] = _translate({**scope, "query_string": b""}, body)
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        if len(cookies) > 1:
            environ["HTTP_COOKIE"] = "; ".join(cookies)  # as RFC 9113, 8.2.3 joins them, not by commas
        environ["QUERY_STRING"] = query
        environ["wsgi.input_terminated"] = True
        environ["wsgi.errors"] = sys.stderr
        return environ

    def _start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None and self._head_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._head is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        self._exc_info = exc_info
        encoded = [(name.strip().lower(), value.strip()) for name, value in headers]
        self._head = {
            "type": "http.response.start",
            "status": int(status.split(" ", 1)[0]),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in encoded],
        }
        return self._write

    def _write(self, chunk: bytes) -> None:
        self._send_head()
        self.on_loop(self._send, {"type": "http.response.body", "body": chunk, "more_body": True})

    def _finish(self) -> None:
        self._send_head()
        self.on_loop(self._send, {"type": "http.response.body", "body": b""})

    def _send_head(self) -> None:
        if self._head is None:
            raise RuntimeError("the WSGI application sent a body before it called start_response")
        if not self._head_sent:
            self._head_sent = True
            self.on_loop(self._send, self._head)

    def receive(self) -> Message:
        message: Message = self.on_loop(self._receive)
        return message

    def on_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``function`` on the event loop and wait; ``BrokenPipeError`` once the request is over."""
        try:
            return asyncio.run_coroutine_threadsafe(self._owned(function, *arguments), self._loop).result()
        except Gone:
            raise BrokenPipeError("the request is over: the client went away, or it was cancelled") from None

    async def _owned(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed:
            raise BrokenPipeError("the request is over: the client went away, or it was cancelled")
        self._task = asyncio.current_task()
        try:
            return await function(*arguments)
        finally:
            self._task = None


class _Input(io.RawIOBase):
    """The request's body as a raw stream; ``BufferedReader`` makes lines and sizes of it."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._rest = memoryview(b"")
        self._more = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._more:
            message = self._exchange.receive()
            if message["type"] == "http.disconnect":
                self._more = False
                raise BrokenPipeError("the client went away before the body was complete")
            self._rest = memoryview(message.get("body", b""))
            self._more = message.get("more_body", False)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
