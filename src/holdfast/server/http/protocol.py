"""One HTTP/1.1 connection: boundaries, limits, and what draining does to it."""

import asyncio
import logging
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.server.http.cycle import STATUS_LINE, Cycle
from holdfast.server.http.state import EngineState
from holdfast.service.problem import problem

logger = logging.getLogger("holdfast.http")

BODY_HIGH_WATER = 64 * 1024
"""Unread bytes of a request's body at which reading from the connection pauses."""
MAX_PIPELINED = 256
"""Requests of one connection that may wait for the answer before theirs."""
MAX_MIGRATION_TRIES = 100
"""After so many rounds of the drain loop a connection that could not be handed over stays and is closed politely."""
NEVER = float("inf")

_NOTED = frozenset((b"expect", b"content-length"))


class Refusal(Exception):
    """A request that ends the connection: raised inside the parser's callbacks, answered outside of them."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with message boundaries known, deadlines swept and closing made lossless.

    A connection is at a *boundary* when nothing of a request has been read that is not answered. Only there
    may it be handed to another worker. ``deadline`` is compared by the engine's sweep; it costs an attribute.
    """

    deadline = NEVER

    def __init__(
        self, config: Config, server_state: EngineState, listener: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(config, server_state, server_state.app_state, loop)
        self.state = server_state
        self.settings = server_state.settings
        self.listener = listener
        self.active: Cycle | None = None  # the one being answered; self.cycle is the one being read
        self.in_message = False
        self.in_head = False
        self.chunk_size = 0
        self.head_size = 0
        self.body_size = 0
        self.window_size = 0  # body bytes when the current body window began
        self.refusal: Refusal | None = None
        self.lingering = False
        self.migratable = False
        self.migration_tries = 0
        self.waiting: list[Cycle] = []  # pipelined requests, oldest first

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.migratable = self.scheme == "http" and self.state.intake is not None
        self.deadline = self.state.now + self.settings.keep_alive
        if self.state.draining:  # accepted before the drain began, attached only now
            self.loop.call_soon(self.drain_step)

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = NEVER
        for cycle in (self.active, *self.waiting):
            if cycle is not None:
                cycle.disconnect()
        self.waiting.clear()
        self.connections.discard(self)
        self.state.moving.discard(self)
        self.flow.resume_writing()
        self.parser = cast("Any", None)

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self.deadline = self.state.now + self.settings.send_timeout

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._set_deadline()

    @property
    def busy(self) -> bool:
        return self.in_message or self.active is not None

    # -- reading

    def data_received(self, data: bytes) -> None:
        if self.lingering or self.refusal is not None:
            return  # the last answer is given or decided: what still comes is dropped
        self.chunk_size = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self.cycle.keep_alive = False  # the parser is past the upgrade and reads no further request
        except httptools.HttpParserError as exc:
            refusal = exc.__context__
            if not isinstance(refusal, Refusal):
                refusal = Refusal(400, "The request is not valid HTTP/1.1.")
            self.refuse(refusal)
        else:
            if self.in_head:
                self.head_size += self.chunk_size
                if self.head_size > self.settings.max_header_size:
                    self.refuse(self._header_too_large())

    def on_message_begin(self) -> None:
        self.in_message = self.in_head = True
        self.head_size = self.body_size = self.window_size = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        if self.active is None:
            self.deadline = self.state.now + self.settings.header_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _NOTED:
            if name == b"content-length":
                limit = self.settings.max_body_size
                if limit and len(value) <= 20 and int(value) > limit:
                    raise self._body_too_large()
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        settings = self.settings
        if self.head_size + self.chunk_size > settings.max_header_size:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > settings.max_header_size:
                raise self._header_too_large()
        self.in_head = False
        parser = self.parser
        version = parser.get_http_version()
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
        self.deadline = NEVER
        if parser.should_upgrade() and self._should_upgrade():
            return
        self.state.received += 1
        cycle = Cycle(self, scope, version != "1.0" and parser.should_keep_alive(), self.expect_100_continue)
        self.cycle = cast("Any", cycle)
        if self.active is None:
            self._run(cycle)
        elif len(self.waiting) < MAX_PIPELINED:
            self.waiting.append(cycle)
            self.flow.pause_reading()
        else:
            raise Refusal(400, f"More than {MAX_PIPELINED} requests are pipelined on this connection.")

    def on_body(self, body: bytes) -> None:
        cycle = cast("Cycle", self.cycle)
        self.body_size += len(body)
        limit = self.settings.max_body_size
        if limit and self.body_size > limit:
            raise self._body_too_large()
        if not cycle.response_complete and cycle.feed(body) > BODY_HIGH_WATER:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self.in_message = False
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        cycle = cast("Cycle", self.cycle)
        cycle.more_body = False
        if not cycle.response_complete:
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
        task = self.loop.create_task(cycle.run(self.app))
        cycle.task = task
        cycles = self.state.cycles
        cycles[task] = cycle
        task.add_done_callback(cycles.pop)

    @property
    def last_answer(self) -> bool:
        """Whether the response about to start should tell the client to open a new connection."""
        state = self.state
        return state.closing and not self.waiting and not (state.migrating and self.migratable)

    def on_cycle_complete(self, cycle: Cycle) -> None:
        """The response is written as far as this process is concerned."""
        self.active = None
        self.state.total_requests += 1
        transport = self.transport
        if transport.is_closing():
            return
        if self.waiting and cycle.keep_alive:
            self._run(self.waiting.pop(0))
        elif self.refusal is not None:
            self._send_refusal(self.refusal)
        elif not cycle.keep_alive:
            self.finish()
        else:
            self.flow.resume_reading()
            if not self.in_message:
                self._rest()
            elif self.in_head:
                self.deadline = self.state.now + self.settings.header_timeout
            else:
                self._open_body_window()

    def abandon(self, cycle: Cycle) -> None:
        """The app ended with its response half written: end the connection, so that the client can tell."""
        self.active = None
        self.transport.close()

    def refuse(self, refusal: Refusal) -> None:
        """Answer an error and end the connection, after the answers that are still due."""
        self.refusal = refusal
        self.state.refused += 1
        self.deadline = NEVER
        cycle = cast("Cycle | None", self.cycle)
        if self.active is None:
            self._send_refusal(refusal)
        elif cycle is self.active and self.in_message:  # it is this very request's body
            cycle.disconnect()
            if cycle.response_started:
                self.transport.close()
            else:
                self._send_refusal(refusal)

    def _send_refusal(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        _, headers, body = problem(refusal.status, detail=refusal.detail)
        content = [STATUS_LINE[refusal.status]]
        for name, value in (*self.state.default_headers, *headers, (b"connection", b"close")):
            content += (name, b": ", value, b"\r\n")
        content += (b"\r\n", body)
        self.transport.write(b"".join(content))
        self.finish(unread=True)

    # -- ending

    def finish(self, unread: bool = False) -> None:
        """Close after the last answer. Bytes that the peer is still sending would make the kernel answer with a
        reset, which may overtake the response: so read them to the end, for a time."""
        if not (unread or self.in_message or self.waiting or self.flow.read_paused):
            self.transport.close()
            return
        self.lingering = True
        self.deadline = self.state.now + self.settings.linger
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def on_deadline(self) -> None:
        """Called by the sweep once ``deadline`` has passed."""
        self.deadline = NEVER
        if self.lingering or self.flow.write_paused:
            self.transport.abort()
        elif not self.busy:
            self.finish(unread=True)  # a request may be on its way: it shall meet an end, not a reset
        elif self.in_head:
            self.refuse(Refusal(408, f"The request's headers took longer than {self.settings.header_timeout:g} s."))
        elif self.in_message and not self.flow.read_paused:
            if self.body_size - self.window_size >= self.settings.body_rate * self.settings.body_timeout:
                self._open_body_window()
            else:
                detail = f"The request's body came slower than {self.settings.body_rate:g} bytes a second."
                self.refuse(Refusal(408, detail))

    def drain_step(self) -> None:
        """Hand the connection over, if it is at a boundary and can be. Called again until it is gone."""
        state = self.state
        if self.busy or self.lingering or not (state.migrating and self.migratable) or self.transport.is_closing():
            return
        self.flow.pause_reading()
        if self.transport.get_write_buffer_size() == 0:
            handle = self.transport.get_extra_info("socket")
            if handle is not None and state.migrate(self.listener, handle.fileno()):
                self.transport.abort()  # closes this process's descriptor only: the peer sees nothing
                return
        self.migration_tries += 1
        if self.migration_tries > MAX_MIGRATION_TRIES:
            self.migratable = False
            state.moving.discard(self)
            self.flow.resume_reading()
        else:
            state.moving.add(self)

    def _rest(self) -> None:
        """At a boundary: wait for the next request, or move on."""
        self.deadline = self.state.now + self.settings.keep_alive
        if self.state.draining:
            self.drain_step()

    def _set_deadline(self) -> None:
        if self.active is None and not self.in_message:
            self.deadline = self.state.now + self.settings.keep_alive
        elif self.in_message:
            self._open_body_window()
        else:
            self.deadline = NEVER

    def _open_body_window(self) -> None:
        self.window_size = self.body_size
        self.deadline = self.state.now + self.settings.body_timeout

    def _header_too_large(self) -> Refusal:
        return Refusal(431, f"The request's headers are larger than {self.settings.max_header_size} bytes.")

    def _body_too_large(self) -> Refusal:
        return Refusal(413, f"The request's body is larger than {self.settings.max_body_size} bytes.")
