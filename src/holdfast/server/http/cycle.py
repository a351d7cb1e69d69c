"""One request and its response."""

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Any

from holdfast.core.call import FAILED, IGNORED, OK, Verdict
from holdfast.core.codes import Code
from holdfast.core.context import EMPTY, set_context, set_deadline
from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.core.failure import Failure
from holdfast.server.admission.admission import Ticket
from holdfast.server.http.alarms import Alarm
from holdfast.server.http.response import Response
from holdfast.service.problem import problem_of

if TYPE_CHECKING:
    from holdfast.server.http.protocol import HttpProtocol

logger = logging.getLogger("holdfast.request")

INTERNAL = Failure(Code.INTERNAL)
CUT_OFF = Failure(Code.UNAVAILABLE, "DRAIN_LIMIT", "the worker's drain limit was reached", retry_after=1.0)
LATE = "the time for this request is over"
DISCONNECT_GRACE = 1.0
"""Seconds that an app which waits for ``http.disconnect`` has after it, before it is cancelled."""


class Cycle(Response):
    """The ASGI side of one request: its ``receive`` and ``send``, and what becomes of an app that fails.

    Belongs to one event loop. The task that runs it is cancelled at the request's deadline, when the client has gone,
    and at the drain limit, which ends the response as whole as it can. The cancellation is raised on.
    ``ticket`` is left when the response is complete or, if that comes first, when the app has ended.
    """

    __slots__ = (
        "accounted",
        "alarm",
        "began",
        "body",
        "delivered",
        "disconnected",
        "ending",
        "event",
        "heard",
        "held",
        "late",
        "refusal",
        "request_id",
        "started",
        "task",
        "ticket",
    )

    def __init__(
        self,
        protocol: "HttpProtocol",
        scope: dict[str, Any],
        keep_alive: bool,
        expect_continue: bool,
        began: float,
    ) -> None:
        super().__init__(protocol, scope, keep_alive, expect_continue)
        self.ticket: Ticket | None = None  # from its turn on its connection to its end; none for health probes
        self.refusal: Rejected | None = None  # why the app is not called
        self.alarm: Alarm = 0
        self.task: asyncio.Task[None] | None = None
        self.body: bytes | bytearray = b""
        self.delivered = False  # the app has had the last piece of the body
        self.event: asyncio.Event | None = None  # made when somebody waits; most requests never do
        self.disconnected = False
        self.heard = False  # the app waits in ``receive``, or has been told of the end there
        self.held: tuple[Any, ...] = ()  # messages of a 500, which may be for an error that the table knows
        self.late = False
        self.ending = False
        self.began = began
        self.started = 0.0  # when its turn came
        self.accounted = False
        self.request_id: str = scope["request_id"]

    async def run(self, app: Any) -> None:
        """Call the app. Whatever it raises ends this request and nothing else."""
        ticket = self.ticket
        if ticket is not None:
            if ticket.context is not EMPTY:
                set_context(ticket.context)
            if ticket.deadline < inf:
                set_deadline(ticket.deadline)
        try:
            if self.disconnected:  # reset, or out of time, before the task began
                return
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
            self._release()
            if self.response_complete or self.disconnected:
                pass
            elif self.ending and self.event_stream:
                self._finish_stream()
            elif self.protocol.half_closed and self.begun:
                pass  # it heard that the client sends no more, and took it for gone
            elif result is not None:
                self._fail(TypeError(f"an ASGI app returns None, this one returned {result!r}"))
            else:
                stage = "completing" if self.response_started else "starting"
                self._fail(RuntimeError(f"the app returned without {stage} its response"))
        finally:
            self._close()

    # -- its end

    def end(self) -> None:
        """Its task was cancelled before the first step, so ``run`` has seen nothing of it."""
        self._cut_off()
        self._close()

    def _close(self) -> None:
        if not self.response_complete and not self.disconnected:
            self.protocol.abandon(self)
        if self.ticket is not None:
            self._account()
            self.leave(FAILED if self.late or not self.disconnected else IGNORED)

    def leave(self, verdict: Verdict) -> None:
        """Leave admission: nothing of it is held any more."""
        ticket, self.ticket = self.ticket, None
        if self.alarm:
            self.protocol.state.entrance.alarms.clear(self, self.alarm)
            self.alarm = 0
        if ticket is not None:
            ticket.exit(verdict)

    def expire(self) -> None:
        """Its time is over: answer in the app's place, or end the response, and cancel the app.

        The ticket is kept until the app has ended: what it holds is in use so long, in a thread perhaps.
        """
        self.alarm = 0
        if self.response_complete or self.disconnected or self.event_stream:
            return
        protocol = self.protocol
        told = {"request_id": self.request_id}
        logger.info("%s %s ran out of time", self.scope["method"], self.scope["path"], extra=told)
        if self.begun:
            protocol.abandon(self)
        else:
            route = "" if self.ticket is None else self.ticket.route
            self.turn_away(DeadlineExceeded("deadline", LATE, None, None, route))
        self.disconnected = self.late = True
        if self.task is None:
            self.leave(FAILED)
        else:
            self.task.cancel("the request's time is over")

    def feed(self, data: bytes) -> int:
        """Take a piece of the request's body; returns how much waits unread."""
        if self.body:
            self.body += data
        else:
            self.body = bytearray(data)
        self.wake()
        return len(self.body)

    def wake(self) -> None:
        if self.event is not None:
            self.event.set()

    def disconnect(self) -> None:
        """The connection is gone, and with it whoever wanted the response."""
        if not (self.response_complete or self.disconnected):
            self.disconnected = True
            if self.ticket is None:
                pass  # a health probe, or a pipelined request whose turn has not come
            elif self.task is None:
                self._account()
                self.leave(IGNORED)
            elif not self.ticket.must_finish:
                if self.heard:
                    self.protocol.loop.call_later(DISCONNECT_GRACE, self._cancel)
                else:
                    self._cancel()
        self.wake()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel("the client has gone")

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
                body, self.body = bytes(self.body), b""
                self.delivered = not self.more_body
                protocol.resume_reading()
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            if protocol.half_closed:
                break
            protocol.resume_reading()
            if self.event is None:
                self.event = asyncio.Event()
            self.event.clear()
            self.heard = True
            await self.event.wait()
            self.heard = self.disconnected
        self.heard = True
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
            if self.held or (kind == "http.response.start" and message["status"] == 500):
                self._hold(message, kind)
                return
            if kind != "http.response.start":
                raise RuntimeError(f"expected the message 'http.response.start', got {kind!r}")
            self._start(message["status"], message.get("headers", ()))
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"expected the message 'http.response.body', got {kind!r}")
            self._write(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"got the message {kind!r} after the response was complete")

    def _hold(self, message: Any, kind: str) -> None:
        """Keep a 500 until the app goes on. Frameworks answer 500 to an error and raise it again in the same step: then
        the table may know better what to answer."""
        self.held = (*self.held, message)
        if len(self.held) == 1:
            return
        if kind != "http.response.body" or message.get("more_body", False):
            self._release()
        else:
            self.protocol.loop.call_soon(self._release)

    def _release(self) -> None:
        """Write what was held."""
        held, self.held = self.held, ()
        if not held or self.disconnected or self.response_complete:
            return
        try:
            for message in held:
                if message["type"] == "http.response.start":
                    self._start(message["status"], message.get("headers", ()))
                else:
                    self._write(message.get("body", b""), message.get("more_body", False))
        except RuntimeError as exc:  # nobody waits here to whom it could be raised
            self._fail(exc)

    def _complete(self) -> None:
        self.response_complete = True
        if self.event is not None:
            self.event.set()
        if self.ticket is not None:
            self._account()
            self.leave(OK if self.status < 500 else FAILED)
        self.protocol.on_cycle_complete(self)

    def _account(self, reason: str = "") -> None:
        """Once for each request: its line in the access log, and its place in the counts. Not for health probes."""
        if self.accounted:
            return
        self.accounted = True
        entrance = self.protocol.state.entrance
        ticket = self.ticket
        route = ticket.call.operation if ticket is not None else "" if self.refusal is None else self.refusal.operation
        entrance.account(self.scope, self.scope["method"], self.status, self.began, route, self.sent, reason)

    def turn_away(self, error: Rejected) -> None:
        """Answer ``error`` in the place of the app, which has not been called, or is about to be cancelled."""
        self.response_started = self.response_complete = True
        self.head = b""
        protocol = self.protocol
        state = protocol.state
        if (state.closing and protocol.last_answer) or (self.expect_continue and self.more_body):
            self.keep_alive = False
        lines = b"%bx-request-id: %b\r\n" % (state.default_lines, self.request_id.encode())
        self.status, answer = state.entrance.answers.answer(
            error, lines=lines, head=self.scope["method"] == "HEAD", close=not self.keep_alive
        )
        if protocol.unsaid:
            protocol.say()
        if self.keep_alive and not (state.draining or protocol.waiting):
            state.entrance.say_later(protocol, answer)
        else:
            protocol.transport.write(answer)
        self._account(error.policy)
        if self.task is None:
            self.leave(IGNORED)
        protocol.on_cycle_complete(self)

    def _answer(self, failure: Failure, request_id: str | None = None) -> None:
        status, headers, body = problem_of(failure, request_id=request_id)
        self._start(status, headers)
        self._write(body, False)

    def _fail(self, exc: BaseException) -> None:
        state = self.protocol.state
        self._take_back()
        # Nobody has cancelled this request: a cancellation that comes out of the app is its own doing.
        cancelled = isinstance(exc, asyncio.CancelledError | GeneratorExit)
        failure = INTERNAL if cancelled else state.errors.failure_of(exc)
        request_id = self.request_id
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
        if self.held and failure.status == 500:
            self._release()  # the app's own page
        elif not self.response_started and not gone:
            self.held = ()
            self._answer(failure, request_id)

    def _cut_off(self) -> None:
        if self.disconnected or self.response_complete:
            return
        self._take_back()
        if not self.response_started:
            self.keep_alive = False
            self._answer(CUT_OFF)
        elif self.event_stream:
            self._finish_stream()

    def _finish_stream(self) -> None:
        """End an event stream as its app would have: its client reconnects and goes on."""
        self._write(b"", False)
