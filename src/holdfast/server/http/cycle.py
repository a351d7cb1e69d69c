"""One request and its response."""

import asyncio
import http
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from holdfast.core.codes import Code
from holdfast.core.errors import Rejected
from holdfast.core.failure import Failure
from holdfast.service.problem import new_request_id, problem, problem_of

if TYPE_CHECKING:
    from holdfast.server.http.protocol import HttpProtocol

logger = logging.getLogger("holdfast.request")
access_logger = logging.getLogger("holdfast.access")

_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"content-type"))
_BODILESS = frozenset((204, 304))
INTERNAL = Failure(Code.INTERNAL)
_CANCELLED = "the worker's drain limit was reached"


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINE = {status: _status_line(status) for status in range(100, 600)}


def _turned_away(keep_alive: bool) -> bytes:
    _, headers, body = problem(503, detail="The service has more to do than it can. Try again a little later.")
    lines = [(b"retry-after", b"1"), *headers, *([] if keep_alive else [(b"connection", b"close")])]
    return STATUS_LINE[503] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + body


TURNED_AWAY = {keep_alive: _turned_away(keep_alive) for keep_alive in (True, False)}
"""Made beforehand: it has to be cheap when there is most to do. Without a date, which RFC 9110 allows a 5xx."""


class Cycle:
    """The ASGI side of one request: its ``receive`` and ``send``, and what becomes of an app that fails.

    Belongs to one event loop. A cancellation of the task that runs it (only the drain limit does that) ends
    the response as whole as it can and is raised on.
    """

    __slots__ = (
        "body",
        "chunked",
        "delivered",
        "disconnected",
        "ending",
        "event",
        "event_stream",
        "expect_continue",
        "expected",
        "keep_alive",
        "more_body",
        "protocol",
        "response_complete",
        "response_started",
        "scope",
        "started_at",
        "status",
        "task",
    )

    def __init__(
        self, protocol: "HttpProtocol", scope: dict[str, Any], keep_alive: bool, expect_continue: bool
    ) -> None:
        self.protocol = protocol
        self.scope = scope
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.task: asyncio.Task[None] | None = None
        self.body = bytearray()
        self.more_body = True
        self.delivered = False  # the app has had the last piece of the body
        self.event: asyncio.Event | None = None  # made when somebody waits; most requests never do
        self.disconnected = False
        self.ending = False
        self.response_started = False
        self.response_complete = False
        self.event_stream = False
        self.chunked = False
        self.expected = -1  # bytes of the body still to come; -1: not declared
        self.status = 0
        self.started_at = protocol.loop.time() if protocol.state.settings.access_log else 0.0

    async def run(self, app: Any) -> None:
        """Call the app. Whatever it raises ends this request and nothing else."""
        if self.disconnected:  # refused, or reset, before its turn came
            return
        try:
            result = await app(self.scope, self.receive, self.send)
        except (asyncio.CancelledError, GeneratorExit) as exc:
            if self.task is not None and self.task.cancelling():
                self._cut_off()
            else:
                self._fail(exc)  # the app's own doing: nobody here asked for it
            raise
        except BaseException as exc:  # the app's own failure, SystemExit too, must not take its neighbours down
            self._fail(exc)
        else:
            if self.response_complete or self.disconnected:
                pass
            elif self.ending and self.event_stream:
                self._finish_stream()
            elif self.protocol.half_closed and self.response_started:
                pass  # it heard that the client sends no more, and took it for gone
            elif result is not None:
                self._fail(TypeError(f"an ASGI app returns None, this one returned {result!r}"))
            else:
                stage = "completing" if self.response_started else "starting"
                self._fail(RuntimeError(f"the app returned without {stage} its response"))
        finally:
            if not self.response_complete and not self.disconnected:
                self.protocol.abandon(self)

    def feed(self, data: bytes) -> int:
        """Take a piece of the request's body; returns how much waits unread."""
        self.body += data
        self.wake()
        return len(self.body)

    def wake(self) -> None:
        if self.event is not None:
            self.event.set()

    def disconnect(self) -> None:
        """The connection is gone."""
        if not self.response_complete:
            self.disconnected = True
        self.wake()

    def end_stream(self) -> None:
        """Tell an event stream, through ``http.disconnect``, that it has to end; cancel it when it does not listen."""
        self.ending = True
        self.wake()
        self.protocol.loop.call_later(self.protocol.settings.stream_grace, self._end_deaf_stream)

    def _end_deaf_stream(self) -> None:
        if self.task is not None and not self.response_complete and not self.disconnected:
            self.task.cancel()

    async def receive(self) -> dict[str, Any]:
        """The app's ``receive``. Cancelling it loses nothing."""
        protocol = self.protocol
        if self.expect_continue:
            self.expect_continue = False
            if self.more_body and not self.response_started and not self.disconnected:
                protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.disconnected or self.response_complete or self.ending):
            if self.body or not (self.more_body or self.delivered):
                body, self.body = bytes(self.body), bytearray()
                self.delivered = not self.more_body
                protocol.resume_reading()
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            if protocol.half_closed:
                break
            protocol.resume_reading()
            if self.event is None:
                self.event = asyncio.Event()
            self.event.clear()
            await self.event.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """The app's ``send``: waits while the client reads too slowly, drops what a gone client cannot get.

        Raises RuntimeError on a message out of order, an invalid header, or a body that does not fit its
        declared length.
        """
        flow = self.protocol.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            await asyncio.sleep(0)  # an app that sends for ever must not hold the loop
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"expected the message 'http.response.start', got {kind!r}")
            self._start(message["status"], message.get("headers", ()))
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"expected the message 'http.response.body', got {kind!r}")
            self._write(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"got the message {kind!r} after the response was complete")

    def _start(self, status: int, headers: Any) -> None:
        scope = self.scope
        state = self.protocol.state
        if state.closing and self.protocol.last_answer:
            self.keep_alive = False
        if self.expect_continue and self.more_body:
            self.keep_alive = False  # nobody can tell whether the body will follow
        self.chunked = False  # a start that failed over a bad header may have left it
        self.expected = -1
        if status < 200:
            raise RuntimeError(f"{status} is no final status of a response")
        content = [STATUS_LINE[status]]
        for name, value in state.default_headers:
            content += (name, b": ", value, b"\r\n")
        declared = False
        says_close = False
        for name, value in headers:
            if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
                raise RuntimeError(f"invalid character in the response header {name!r}: {value!r}")
            name = name.lower()  # noqa: PLW2901
            if name in _FRAMING:
                if name == b"content-length":
                    if declared or not value.isdigit():
                        raise RuntimeError(f"the response declares its length twice, or wrongly: {value!r}")
                    self.expected = int(value)
                    declared = True
                elif name == b"transfer-encoding" and value.lower() == b"chunked":
                    if declared:
                        raise RuntimeError("the response declares both a Content-Length and chunks")
                    self.chunked = declared = True
                    self.expected = -1
                elif name == b"content-type":
                    self.event_stream = value.startswith(b"text/event-stream")
                    if self.event_stream and state.draining:
                        self.protocol.loop.call_later(state.settings.stream_grace, self.end_stream)
                elif name == b"connection" and b"close" in value.lower():
                    self.keep_alive = False
                    says_close = True
            content += (name, b": ", value, b"\r\n")
        if not declared and status not in _BODILESS and scope["method"] != "HEAD":
            if scope["http_version"] == "1.0":
                self.keep_alive = False  # an HTTP/1.0 client knows no chunks: the end of the connection ends the body
            else:
                self.chunked = True
                content.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not says_close:
            content.append(b"connection: close\r\n")
        content.append(b"\r\n")
        self.response_started = True
        self.status = status
        self.protocol.transport.write(b"".join(content))

    def _write(self, body: bytes, more_body: bool) -> None:
        write = self.protocol.transport.write
        if self.scope["method"] == "HEAD" or self.status in _BODILESS:
            self.expected = 0
        elif self.chunked:
            if body:
                write(
                    b"%x\r\n%b\r\n" % (len(body), body) if more_body else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                )
            elif not more_body:
                write(b"0\r\n\r\n")
        else:
            if self.expected >= 0:
                self.expected -= len(body)
                if self.expected < 0:
                    self.expected = 0
                    raise RuntimeError("the response's body is longer than its Content-Length")
            write(body)
        if not more_body:
            if self.expected > 0:
                raise RuntimeError(f"the response's body is {self.expected} bytes shorter than its Content-Length")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.wake()
        if self.started_at:
            self._log_access()
        self.protocol.on_cycle_complete(self)

    def turn_away(self) -> None:
        """Answer 503 in the place of the app, which has not been called."""
        self.response_started = self.response_complete = True
        self.status = 503
        protocol = self.protocol
        if protocol.state.closing and protocol.last_answer:
            self.keep_alive = False
        protocol.transport.write(TURNED_AWAY[self.keep_alive])
        if self.started_at:
            self._log_access()
        protocol.on_cycle_complete(self)

    def _answer(self, status: int, detail: str) -> None:
        _, headers, body = problem(status, detail=detail)
        self._start(status, headers)
        self._write(body, False)

    def _fail(self, exc: BaseException) -> None:
        state = self.protocol.state
        # Nobody has cancelled this request: a cancellation that comes out of the app is its own doing.
        cancelled = isinstance(exc, asyncio.CancelledError | GeneratorExit)
        failure = INTERNAL if cancelled else state.errors.failure_of(exc)
        request_id = new_request_id()
        gone = self.disconnected
        # A refusal by a policy is no fault of the app's, and there may be thousands.
        fault = failure.status >= 500 and not isinstance(exc, Rejected)
        state.failed += fault and not gone
        logger.log(
            logging.ERROR if fault and not gone else logging.INFO,  # an app may well trip over a client that left
            "%s %s failed (request %s)" if fault else "%s %s failed (request %s): %r",
            self.scope["method"],
            self.scope["path"],
            request_id,
            *(() if fault else (exc,)),
            exc_info=exc if fault else None,
            extra={"request_id": request_id},
        )
        if not self.response_started and not gone:
            status, headers, body = problem_of(failure, request_id=request_id)
            self._start(status, headers)
            self._write(body, False)

    def _cut_off(self) -> None:
        if self.disconnected or self.response_complete:
            return
        if not self.response_started:
            self.keep_alive = False
            self._answer(503, _CANCELLED)
        elif self.event_stream:
            self._finish_stream()

    def _finish_stream(self) -> None:
        """End an event stream as its app would have: its client reconnects and goes on."""
        self._write(b"", False)

    def _log_access(self) -> None:
        scope = self.scope
        client = scope["client"]
        access_logger.info(
            '%s "%s %s%s" %d %.1fms',
            f"{client[0]}:{client[1]}" if client else "-",
            scope["method"],
            quote(scope["path"]),
            "?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "",
            self.status,
            (self.protocol.loop.time() - self.started_at) * 1000,
        )
