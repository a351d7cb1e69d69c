"""One HTTP/1.1 connection: boundaries, limits, and what draining does to it."""

import asyncio
import logging
import re
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config

from holdfast.server.http.closing import CHECK_INTERVAL, NEVER, ClosingProtocol
from holdfast.server.http.cycle import Cycle
from holdfast.server.http.refusal import Refusal, body_too_large, header_too_large
from holdfast.server.http.state import EngineState

logger = logging.getLogger("holdfast.http")

BODY_HIGH_WATER = 64 * 1024
"""Unread bytes of a request's body at which reading from the connection pauses."""
MAX_PIPELINED = 256
"""Requests of one connection that may wait for the answer before theirs."""
MAX_FRAMING = 8
"""Bytes received for a byte of body: the smallest chunk takes 6. More, past a head's worth, is padding or trailers."""
READ_SIZE = 256 * 1024
"""The most that a loop delivers at once."""

_NOTED = frozenset((b"expect", b"content-length", b"host"))
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=-]*(?:\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?")
_VERSIONS = frozenset(("1.1", "1.0"))


class HttpProtocol(ClosingProtocol):
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
        self.in_message = False
        self.in_head = False
        self.chunk_size = 0
        self.mid_chunk = False  # an earlier message ended in the chunk that is being read
        self.head_size = 0
        self.raw_size = 0  # received since the head
        self.body_size = 0
        self.window_size = 0  # body bytes when the current body window began
        self.refusal: Refusal | None = None
        self.upgrading = False
        self.hosts = 0
        self.migratable = False
        self.waiting: list[Cycle] = []  # pipelined requests, oldest first

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.migratable = self.scheme == "http" and self.state.intake is not None
        self.deadline = self.state.now + self.state.idle_limit
        if self.state.draining:  # accepted before the drain began, attached only now
            self.loop.call_soon(self.drain_step)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = NEVER
        for cycle in (self.active, *self.waiting):
            if cycle is not None:
                cycle.disconnect()
        self.waiting.clear()
        self.connections.discard(self)
        self.state.moving.pop(self, None)
        self.flow.resume_writing()
        self.parser = cast("Any", None)
        if self.state.on_room is not None:
            self.state.on_room()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never keeps it open
        """The peer sends nothing more. It may have left, or wait for its answers: those to whole requests still go out,
        and the app hears ``http.disconnect`` once it has read the body."""
        in_body = self.in_message and not self.in_head  # the rest of it never comes
        if self.scheme != "http" or self.lingering:
            return False  # TLS cannot be half closed
        if self.active is None or (in_body and not self.waiting):
            self.end(linger=False)
            return False
        if in_body:
            self.waiting.pop()
        self.half_closed = True
        last = self.waiting[-1] if self.waiting else self.active
        last.keep_alive = False
        self.active.wake()
        return True

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.ending:
            self._set_deadline()

    @property
    def busy(self) -> bool:
        return self.in_message or self.upgrading or self.active is not None

    # -- reading

    def data_received(self, data: bytes) -> None:
        if self.lingering or self.refusal is not None:
            return  # the last answer is given or decided: what still comes is dropped
        self.chunk_size = len(data)
        self.mid_chunk = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.state.moving.pop(self, None)  # from here on it is another protocol's connection
                self.handle_websocket_upgrade()
            else:
                self.cycle.keep_alive = False  # the parser is past the upgrade and reads no further request
        except httptools.HttpParserError as exc:
            refusal = exc.__context__
            if not isinstance(refusal, Refusal):
                if not isinstance(refusal, ValueError | httptools.HttpParserError | None):
                    logger.error("a fault of the server itself, answered with 400", exc_info=exc)
                refusal = Refusal(400, "The request is not valid HTTP/1.1.")
            self.refuse(refusal)
        else:
            if self.in_message:
                self._measure()

    def _measure(self) -> None:
        """Hold what is read of an unfinished message against the limits: the parser keeps a header until it ends."""
        limit = self.settings.max_header_size
        if self.in_head:
            self.head_size = max(1, self.head_size + self.chunk_size)
            if self.head_size > limit:
                self.refuse(header_too_large(self.settings))
        else:
            self.raw_size += self.chunk_size
            if self.raw_size > limit + READ_SIZE + MAX_FRAMING * self.body_size:
                self.refuse(Refusal(400, "The request's body is mostly padding between its chunks."))

    def on_message_begin(self) -> None:
        self.in_message = self.in_head = True
        self.head_size = -self.chunk_size if self.mid_chunk else 0
        self.raw_size = self.body_size = self.window_size = 0
        self.url = b""
        self.expect_100_continue = False
        self.hosts = 0
        self.headers = []
        if self.active is None:
            self.deadline = self.state.now + self.settings.header_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer: ASGI has no place for it
        name = name.lower()
        if name in _NOTED:
            if name == b"content-length":
                limit = self.settings.max_body_size
                if limit and len(value) <= 20 and int(value) > limit:
                    raise body_too_large(self.settings)
            elif name == b"host":
                self.hosts += 1
                if not _HOST.fullmatch(value):
                    raise Refusal(400, "The Host header is not valid.")
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        settings = self.settings
        if self.head_size > 0 or self.chunk_size > settings.max_header_size:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > settings.max_header_size:
                raise header_too_large(self.settings)
        parser = self.parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are served here.")
        if self.hosts > 1 or (self.hosts == 0 and version == "1.1"):  # RFC 9112, 3.2
            raise Refusal(400, f"The request has {self.hosts} Host headers, it needs one.")
        url = httptools.parse_url(self.url) if self.url != b"*" else None
        raw_path = (url.path or b"/") if url is not None else b"*"
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode() + raw_path,
            "query_string": (url.query or b"") if url is not None else b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": self.state.extensions,
        }
        self.scope = cast("Any", scope)
        if parser.should_upgrade() and self._should_upgrade():
            if self.active is not None:
                raise Refusal(400, "A WebSocket cannot begin before the requests ahead of it are answered.")
            self.upgrading = True
            return
        if len(self.waiting) >= MAX_PIPELINED:
            raise Refusal(400, f"More than {MAX_PIPELINED} requests are pipelined on this connection.")
        self.in_head = False
        self.state.received += 1
        modern = version == "1.1"
        cycle = Cycle(self, scope, modern and parser.should_keep_alive(), modern and self.expect_100_continue)
        self.cycle = cast("Any", cycle)
        if self.active is None:
            self.deadline = NEVER
            self._run(cycle)
        else:
            self.waiting.append(cycle)
            self.flow.pause_reading()

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
        cycle = cast("Cycle", self.cycle)
        cycle.more_body = False
        if not cycle.response_complete:
            if not self.flow.write_paused:
                self.deadline = NEVER
            cycle.wake()
        elif self.active is None:
            self._rest()

    def resume_reading(self) -> None:
        """Called by the app's side when it wants more. Pipelined requests wait for their turn in the kernel."""
        if not self.waiting and not self.transport.is_closing():
            if self.in_message and self.deadline == NEVER:
                self._open_body_window()
            self.flow.resume_reading()

    # -- answering

    def _run(self, cycle: Cycle) -> None:
        self.active = cycle
        self.state.submit(cycle)

    def begin(self, cycle: Cycle) -> "asyncio.Task[None]":
        task = self.loop.create_task(cycle.run(self.app))
        cycle.task = task
        cycles = self.state.cycles
        cycles[task] = cycle
        task.add_done_callback(cycles.pop)
        return task

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
            self._run(self.waiting.pop(0))
        elif self.refusal is not None:
            self._send_refusal(self.refusal)
        else:
            self.flow.resume_reading()
            if not self.in_message:
                self._rest()
            elif self.in_head:
                self.deadline = self.state.now + self.settings.header_timeout
            else:
                self._open_body_window()

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
        if not self.flow.write_paused:  # else the client that does not read is still timed
            self.deadline = NEVER
        cycle = cast("Cycle", self.cycle)
        in_body = self.in_message and not self.in_head  # the body of ``cycle``
        if in_body and cycle.response_complete:
            self.finish(unread=True)  # a second answer would be taken for that of another request
        elif self.active is None:
            self._send_refusal(refusal)
        elif in_body and self.waiting:
            self.waiting.pop()
        elif in_body:
            cycle.disconnect()
            if cycle.response_started:
                self.abandon(cycle)
            else:
                self._send_refusal(refusal)

    def _send_refusal(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
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
        elif self.in_head:
            self.refuse(Refusal(408, f"The request's headers took longer than {self.settings.header_timeout:g} s."))
        elif self.in_message and not self.flow.read_paused:
            if self.body_size - self.window_size >= self.settings.body_rate * self.settings.body_timeout:
                self._open_body_window()
            else:
                detail = f"The request's body came slower than {self.settings.body_rate:g} bytes a second."
                self.refuse(Refusal(408, detail))

    def drain_step(self) -> bool:
        """Hand the connection over, if it is at a boundary and can be. False when the queue is full just now."""
        state = self.state
        state.moving.pop(self, None)
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
        """At a boundary: wait for the next request, or move on."""
        if not self.flow.write_paused:
            self.deadline = self.state.now + self.state.idle_limit
        if self.state.draining:
            self.drain_step()

    def _set_deadline(self) -> None:
        if self.active is None and not self.in_message:
            self.deadline = self.state.now + self.state.idle_limit
        elif self.active is None and self.in_head:
            self.deadline = self.state.now + self.settings.header_timeout
        elif self.in_message and not self.in_head:
            self._open_body_window()
        else:
            self.deadline = NEVER

    def _open_body_window(self) -> None:
        self.window_size = self.body_size
        self.deadline = self.state.now + self.settings.body_timeout
