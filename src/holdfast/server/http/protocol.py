"""One HTTP/1.1 connection: boundaries, limits, and what draining does to it."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config

from holdfast.core.call import IGNORED
from holdfast.core.errors import BulkheadFull, Rejected
from holdfast.server.admission.admission import Peer, Ticket
from holdfast.server.http.closing import CHECK_INTERVAL, NEVER
from holdfast.server.http.cycle import Cycle
from holdfast.server.http.reading import KEPT_BODY, ReadingProtocol
from holdfast.server.http.refusal import Refusal, body_too_large
from holdfast.server.http.state import EngineState

logger = logging.getLogger("holdfast.http")

BODY_HIGH_WATER = 64 * 1024
"""Unread bytes of a request's body at which reading from the connection pauses."""
MAX_PIPELINED = 256
"""Requests of one connection that may wait for the answer before theirs."""
FIN_GRACE = 0.01
"""Seconds that a client which has closed its sending half has for the beginning of an answer. Go's net/http and nginx
take it for gone at once."""


class HttpProtocol(ReadingProtocol):
    """uvicorn's protocol with message boundaries known and deadlines swept.

    A connection is at a *boundary* when nothing of a request has been read that is not answered. Only there
    may it be handed to another worker.
    """

    def __init__(
        self, config: Config, server_state: EngineState, listener: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, server_state, loop)
        self.listener = listener
        self.active: Cycle | None = None  # the one being answered; self.cycle is the one being read
        self.peer: Peer
        self.give_back: Callable[[], None] | None = None  # what has counted its connection
        self.ticket: Ticket | None = None  # of a WebSocket that is about to begin
        self.upgrading = False
        self.migratable = False
        self.waiting: list[Cycle] = []  # pipelined requests, oldest first: they are not let in before their turn
        self.going_on = False  # they are taken in turn

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.migratable = self.scheme == "http" and self.state.intake is not None
        self.deadline = self.state.now + self.state.idle_limit
        entrance = self.state.entrance
        try:
            self.peer = entrance.admission.connect(None if self.client is None else self.client[0])
        except BulkheadFull as error:
            self.give_back = self.see_off(error)
            return
        self.give_back = partial(entrance.admission.disconnect, self.peer)
        if self.state.draining:  # accepted before the drain began, attached only now
            self.loop.call_soon(self.drain_step)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = NEVER
        for cycle in (self.active, *self.waiting):
            if cycle is not None:
                cycle.disconnect()
        self.waiting.clear()
        if self.ticket is not None:
            self.ticket.exit(IGNORED)
        self.connections.discard(self)
        if self.give_back is not None:
            self.give_back()
        self.state.moving.pop(self, None)
        self.flow.resume_writing()
        self.parser = cast("Any", None)
        if self.state.on_room is not None:
            self.state.on_room()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps it open
        """The peer sends nothing more. Nearly always it has left; it may also wait for its answers, and nothing tells
        the two apart: so what is not answered within ``FIN_GRACE`` ends, but for requests that must finish. The app
        hears ``http.disconnect`` once it has read the body."""
        in_body = self.in_message and not self.in_head  # the rest of it never comes
        if self.scheme != "http" or self.lingering:
            return False  # TLS cannot be half closed
        if self.active is None or (in_body and not self.waiting):
            self.end(linger=False)
            return False
        if in_body:
            self.waiting.pop().disconnect()
        self.half_closed = True
        last = self.waiting[-1] if self.waiting else self.active
        last.keep_alive = False
        self.active.wake()
        self.loop.call_later(FIN_GRACE, self._give_up, self.active)
        return True

    def _give_up(self, cycle: Cycle) -> None:
        """The peer has had its time for an answer to ``cycle``."""
        if self.active is not cycle or self.transport.is_closing():
            return
        if not (cycle.begun or (cycle.ticket is not None and cycle.ticket.must_finish)):
            self.transport.close()

    @property
    def answering(self) -> bool:
        return self.active is not None

    @property
    def busy(self) -> bool:
        return self.in_message or self.upgrading or self.active is not None

    # -- reading

    def on_headers_complete(self) -> None:
        version = self.checked_version()
        parser = self.parser
        url = httptools.parse_url(self.url) if self.url != b"*" else None
        raw_path = (url.path or b"/") if url is not None else b"*"
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        method = parser.get_method().decode("ascii")
        client = self.client
        scheme: str = self.scheme  # type: ignore[assignment]
        entrance = self.state.entrance
        given = None
        if entrance.believes(self.peer):
            client, scheme = entrance.claimed(self.peer, client, scheme, self.headers)
            given = next((value for name, value in self.headers if name == b"x-request-id"), None)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": client,
            "scheme": scheme,
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode() + raw_path if self.root_path else raw_path,
            "query_string": (url.query or b"") if url is not None else b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": self.state.extensions,
            "request_id": entrance.ids.of(given, trusted=True) if given is not None else entrance.ids.fresh(),
        }
        self.scope = scope  # type: ignore[assignment]
        if parser.should_upgrade() and self._should_upgrade():
            if self.active is not None:
                raise Refusal(400, "A WebSocket cannot begin before the requests ahead of it are answered.")
            if method != "GET" or self.has_body(0):
                raise Refusal(400, "A WebSocket begins with a GET that has no body.")
            self._admit_websocket(scope)
            return
        if len(self.waiting) >= MAX_PIPELINED:
            raise Refusal(400, f"More than {MAX_PIPELINED} requests are pipelined on this connection.")
        self.in_head = False
        self.state.received += 1
        modern = version == "1.1"
        keep_alive = modern and parser.should_keep_alive()
        now = entrance.now()
        cycle = Cycle(self, scope, keep_alive, modern and self.expect_100_continue, now)
        self.cycle = cycle  # type: ignore[assignment]
        if self.active is None:
            self.deadline = NEVER
            self._run(cycle, path, self.host, now)
        else:
            self.waiting.append(cycle)
            self.flow.pause_reading()
            self._time_peer()

    def on_body(self, body: bytes) -> None:
        cycle = cast("Cycle", self.cycle)
        self.body_size += len(body)
        limit = self.settings.max_body_size
        if limit and self.body_size > limit:
            raise body_too_large(self.settings)
        if not cycle.response_complete and cycle.feed(body) > BODY_HIGH_WATER:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self.in_message = False
        self.mid_chunk = True
        if self.upgrading:
            return
        cycle: Cycle = self.cycle  # type: ignore[assignment]
        cycle.more_body = False
        if not cycle.response_complete:
            self._time_peer()
            cycle.wake()
        elif self.active is None and not self.ending:
            # Later: the next request may follow in what is just being read, and would be lost if this moved on.
            self.loop.call_soon(self._rest)

    def resume_reading(self) -> None:
        """Called by the app's side when it wants more. Pipelined requests wait for their turn in the kernel."""
        if not self.waiting and not self.transport.is_closing():
            if self.in_message and self.deadline == NEVER:
                self.open_body_window()
            self.flow.resume_reading()

    # -- answering

    def _run(self, cycle: Cycle, path: str, host: str, now: float) -> None:
        """Let a request in whose turn on this connection has come, and call the app or answer in its place. No earlier:
        one connection that sends many would hold many places while it waits for itself."""
        self.active = cycle
        entrance = self.state.entrance
        if path not in entrance.exempt:
            scope = cycle.scope
            try:
                ticket = entrance.admission.enter(scope["method"], path, host, scope["headers"], self.peer, now)
                ticket.call.deadline -= now - cycle.began  # its time counts from its headers on
                cycle.ticket = ticket
            except Rejected as error:
                cycle.refusal = error.with_traceback(None)  # it would hold this frame, and the frame it
                if cycle.more_body and self.has_body(KEPT_BODY):
                    cycle.keep_alive = False
        entrance.submit(cycle)

    def _go_on(self) -> None:
        """Take those that wait, in a loop: a refused one is over at once, and the stack has no room for all of them."""
        if self.going_on:
            return
        self.going_on = True
        try:
            while self.waiting and not self.answering and not self.ending:
                cycle = self.waiting.pop(0)
                host = next((value for name, value in cycle.scope["headers"] if name == b"host"), b"")
                path = cycle.scope["path"][len(self.root_path) :]
                self._run(cycle, path, host.decode(), self.state.entrance.now())
                if self.half_closed and self.active is cycle:
                    self.loop.call_later(FIN_GRACE, self._give_up, cycle)
        finally:
            self.going_on = False
        if self.active is not None and len(self.active.body) <= BODY_HIGH_WATER:
            self.resume_reading()

    def _admit_websocket(self, scope: dict[str, Any]) -> None:
        """A WebSocket's ticket, before its protocol takes over; or the refusal, which ends the connection."""
        entrance = self.state.entrance
        now = entrance.now()
        path = scope["path"][len(self.root_path) :]
        try:
            self.ticket = entrance.admission.enter("GET", path, self.host, self.headers, self.peer, now)
        except Rejected as error:
            status, answer = entrance.answers.answer(error, lines=self.state.default_lines, close=True)
            self.say()
            self.transport.write(answer)
            entrance.account(scope, "WEBSOCKET", status, now, error.operation, 0, error.policy)
            self.finish(unread=True)
            return
        self.upgrading = True

    def handle_websocket_upgrade(self) -> None:
        # With the first one: what it stands on is a tenth of a worker's boot, and most services have no WebSockets.
        from holdfast.server.http.websocket import WebSocketProtocol

        ticket, self.ticket = self.ticket, None
        self.state.moving.pop(self, None)  # from here on it is another protocol's connection
        make = partial(WebSocketProtocol, peer=self.peer, ticket=ticket, opening=cast("dict[str, Any]", self.scope))
        self.ws_protocol_class = cast("Any", make)
        super().handle_websocket_upgrade()

    @property
    def last_answer(self) -> bool:
        """Whether the response about to start should tell the client to open a new connection."""
        state = self.state
        return state.closing and not (self.waiting or self.in_head or (state.migrating and self.migratable))

    def on_cycle_complete(self, cycle: Cycle) -> None:
        """The response is written as far as this process is concerned."""
        self.active = None
        self.state.total_requests += 1
        transport = self.transport
        if transport.is_closing():
            return
        if not cycle.keep_alive:
            # When it was this side that decided to close, the next request may be under way already.
            self.finish(unread=self.state.closing or self.refusal is not None)
        elif self.waiting:
            self._go_on()
        elif self.refusal is not None:
            self._send_refusal(self.refusal)
        elif not self.lingering:
            flow = self.flow
            if flow.read_paused:
                flow.resume_reading()
            if not self.in_message:  # as ``_rest``, once for each request
                if not flow.write_paused:
                    self.deadline = self.state.now + self.state.idle_limit
                if self.state.draining:
                    self.drain_step()
            elif self.in_head:
                self.deadline = self.state.now + self.settings.header_timeout
            else:
                self.open_body_window()

    def abandon(self, cycle: Cycle) -> None:
        """The app ended with its response half written: end the connection so that the client can tell."""
        self.active = None
        if not cycle.chunked and cycle.expected < 0:  # only the end of the connection ends this body
            self.reset()
        else:
            self.end(linger=False)

    def refuse(self, refusal: Refusal) -> None:
        """Answer an error and end the connection, after the answers that are still due."""
        self.refusal = refusal
        self.state.refused += 1
        self._time_peer()
        cycle = cast("Cycle", self.cycle)
        in_body = self.in_message and not self.in_head  # the body of ``cycle``
        if in_body and cycle.response_complete:
            self.finish(unread=True)  # a second answer would be taken for that of another request
        elif self.active is None:
            self._send_refusal(refusal)
        elif in_body and self.waiting:
            self.waiting.pop().disconnect()
        elif in_body:
            cycle.disconnect()
            if cycle.begun:
                self.abandon(cycle)
            else:
                self._send_refusal(refusal)

    def _send_refusal(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        self.say()
        self.transport.write(refusal.response(self.state.default_headers))
        self.finish(unread=True)

    # -- ending

    def finish(self, unread: bool = False) -> None:
        """End the connection after the last answer; ``unread`` when the peer may be sending all the same."""
        unread = unread and self.transport.can_write_eof()  # TLS says goodbye with a handshake, and reads meanwhile
        self.end(unread or self.in_message or bool(self.waiting) or self.flow.read_paused)

    def on_deadline(self) -> None:
        """Called by the sweep once ``deadline`` has passed."""
        self.deadline = NEVER
        if self.ending or self.flow.write_paused:
            self.look_at_peer()
        elif not self.busy:
            if self.has_unread():
                self.deadline = self.state.now + CHECK_INTERVAL
            else:
                self.finish(unread=True)  # a request may be on its way: it shall meet an end, not a reset
        elif self.waiting:
            self.look_for_end()
        elif self.in_head:
            self.refuse(Refusal(408, f"The request's headers took longer than {self.settings.header_timeout:g} s."))
        elif self.in_message and not self.flow.read_paused:
            if self.body_size - self.window_size >= self.settings.body_rate * self.settings.body_timeout:
                self.open_body_window()
            else:
                detail = f"The request's body came slower than {self.settings.body_rate:g} bytes a second."
                self.refuse(Refusal(408, detail))

    def drain_step(self) -> bool:
        """Hand the connection over, if it is at a boundary and can be. False when the queue is full just now."""
        state = self.state
        state.moving.pop(self, None)
        self.say()
        if self.busy or self.ending or not (state.migrating and self.migratable):
            return True
        state.moving[self] = None
        if self.transport.get_write_buffer_size():
            return True
        # From here to the abort the loop does not run, so nothing is read that the successor would miss.
        handle = self.transport.get_extra_info("socket")
        if not state.migrate(self.listener, handle.fileno()):
            return False
        self.transport.abort()  # closes this process's descriptor only: the peer sees nothing
        return True

    def _rest(self) -> None:
        """At a boundary, if there is one still: wait for the next request, or move on."""
        if self.busy or self.ending:
            return
        if not self.flow.write_paused:
            self.deadline = self.state.now + self.state.idle_limit
        if self.state.draining:
            self.drain_step()

    def _time_peer(self) -> None:
        """While its answers are worked on. A client that does not read is timed already."""
        if not self.flow.write_paused:
            self.deadline = self.state.now + CHECK_INTERVAL if self.waiting else NEVER
