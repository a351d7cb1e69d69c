"""A WebSocket connection that says goodbye properly."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from holdfast.core.call import FAILED, IGNORED, OK, Verdict
from holdfast.core.context import EMPTY, set_context
from holdfast.server.admission.admission import Peer, Ticket
from holdfast.server.http.closing import NEVER
from holdfast.server.http.state import EngineState

logger = logging.getLogger("holdfast.request")

SERVICE_RESTART = 1012
"""Close code 1012, "service restart" (IANA WebSocket close code registry): the client should reconnect."""
INVALID_DATA = 1007
"""Close code 1007: the text is no UTF-8 (RFC 6455, 7.4.1)."""
INTERNAL_ERROR = 1011
"""Close code 1011, "internal error" (RFC 6455, 7.4.1)."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with a close that waits for the peer's half, within a limit."""

    deadline = NEVER  # only while the peer does not read; pings find a dead one

    def __init__(
        self,
        config: Config,
        server_state: EngineState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        peer: Peer | None,
        ticket: Ticket | None,
        opening: dict[str, Any],
    ) -> None:
        """``opening`` is the scope of the request that asked for it."""
        super().__init__(config, server_state, app_state, _loop)
        self.peer = peer
        self.ticket = ticket
        self._opening = opening
        self._began = server_state.entrance.now()
        self.state = server_state
        self.close_timeout = server_state.settings.close_timeout
        self.leaving: asyncio.TimerHandle | None = None
        self.left = False
        self.unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.client = self._opening["client"]
        self.scheme = "wss" if self._opening["scheme"] == "https" else "ws"
        if self.state.draining:
            self.begin_drain(self.state.settings.stream_grace)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            # A client waits for the answer to its handshake (RFC 6455, 4.1). What one sends before it would be parsed
            # as frames of a connection that is none yet.
            self.transport.abort()
            return
        super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        # uvicorn logs a client's broken text as an error, with its stack: anybody could fill the log.
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                str(b"".join(self.frames), "utf-8")
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(INVALID_DATA)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._leave(IGNORED)  # the handshake is refused: no app is called that would

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline = NEVER
        if self.leaving is not None:
            self.leaving.cancel()
        super().connection_lost(exc)
        if self.peer is not None:
            self.state.entrance.admission.disconnect(self.peer)
        if not self.handshake_initiated:
            self._leave(IGNORED)  # there is no app that would
        if self.state.on_room is not None:
            self.state.on_room()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unsent = self.transport.get_write_buffer_size()
        self.deadline = self.state.now + self.state.settings.send_timeout

    def resume_writing(self) -> None:
        super().resume_writing()
        self.deadline = NEVER

    def on_deadline(self) -> None:
        """Called by the sweep: the peer has left a full buffer unread. It may be slow, but not deaf."""
        left = self.transport.get_write_buffer_size()
        if left < self.unsent:
            self.unsent = left
            self.deadline = self.state.now + self.state.settings.send_timeout
        else:
            self.transport.abort()

    def begin_drain(self, delay: float) -> None:
        """Close with 1012 after ``delay`` seconds, unless the app or the peer closes first."""
        if self.leaving is None:
            self.leaving = self.loop.call_later(delay, self.go_away)

    def go_away(self) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.left = True
        if not self.handshake_complete:
            if self.handshake_initiated:
                self.conn.send_response(self.conn.reject(HTTPStatus.SERVICE_UNAVAILABLE, "draining"))
                self.transport.write(b"".join(self.conn.data_to_send()))
            self.handshake_complete = True
            self.close_sent = True
            self.transport.close()
            return
        self._send_close(SERVICE_RESTART, "service restart")

    async def send(self, message: Any) -> None:
        if self.left:
            raise ClientDisconnected
        await super().send(message)

    async def run_asgi(self) -> None:
        """Call the app. Whatever it raises ends this connection and nothing else; when it returns in a drain without a
        close of its own, the peer hears why."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name(f"WEBSOCKET {self.scope['path']}")
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"].update(self.state.extensions)
        scope["request_id"] = self._opening["request_id"]
        if self.ticket is not None and self.ticket.context is not EMPTY:
            set_context(self.ticket.context)
        verdict = OK
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except (asyncio.CancelledError, GeneratorExit):
            verdict = IGNORED
            self.transport.close()
            raise
        except BaseException as exc:  # the app's own failure, SystemExit too, must not take its neighbours down
            verdict = FAILED
            self._fail(exc)
        else:
            if not self.handshake_complete:
                self._fail(RuntimeError("the app returned without accepting or closing the WebSocket"))
            elif self.state.draining:
                self.go_away()
        finally:
            self._leave(verdict)
        if self.close_timer is None:
            self.transport.close()

    def _leave(self, verdict: Verdict) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.exit(verdict)
            status = self.response.status_code if self.handshake_initiated else 0
            self.state.entrance.account(self._opening, "WEBSOCKET", status, self._began, ticket.route)

    def _fail(self, exc: BaseException) -> None:
        request_id = self._opening["request_id"]
        self.state.failed += 1
        logger.error(
            "WEBSOCKET %s failed (request %s)",
            self.scope["path"],
            request_id,
            exc_info=exc,
            extra={"request_id": request_id},
        )
        self.send_500_response()
        self._send_close(INTERNAL_ERROR, f"request {request_id}")

    def _send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake, and wait for the peer's half within the limit."""
        if self.close_sent or self.transport.is_closing() or self.conn.state is not State.OPEN:
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
