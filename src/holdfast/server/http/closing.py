"""How a connection ends so that its last bytes arrive."""

import asyncio
import contextlib
import select
import socket
import struct
import sys
from collections.abc import Callable

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holdfast.core.errors import BulkheadFull
from holdfast.server.http.state import EngineState

if sys.platform != "win32":
    import fcntl
    import termios

CHECK_INTERVAL = 1.0
"""Seconds between two looks at a peer that has to read before the connection can end."""
NEVER = float("inf")

_RESET = struct.pack("ii", 1, 0)  # struct linger: close sends RST


class ClosingProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end that resets nobody, and with patience for peers that read slowly.

    ``deadline`` is compared by the engine's sweep; it costs an attribute, where a timer would cost a call.
    """

    deadline = NEVER

    def __init__(self, config: Config, server_state: EngineState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, server_state, server_state.app_state, loop)
        self.state = server_state
        self.settings = server_state.settings
        self.lingering = False  # the last answer is written: what still comes is read and dropped
        self.half_closed = False  # the peer sends nothing more
        self.unsaid = b""  # an answer that goes out at the end of this turn of the loop
        self._unsent = 0  # bytes that the peer had not taken at the last look
        self._patience = NEVER  # when a peer that reads nothing is given up

    @property
    def ending(self) -> bool:
        return self.lingering or self.transport.is_closing()

    def say(self) -> None:
        """Write what was to be said later. Before anything else of this connection is written, and before its end."""
        unsaid, self.unsaid = self.unsaid, b""
        if unsaid and not self.transport.is_closing():
            self.transport.write(unsaid)

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if not self.ending:
            self._unsent = self._count_unsent()
            self.deadline = self._patience = self.state.now + self.settings.send_timeout

    def end(self, linger: bool) -> None:
        """Close once everything is written. With ``linger`` the peer may still be sending: the kernel would answer that
        with a reset, which may overtake the last answer. So say that nothing more comes and read on, for a time."""
        transport = self.transport
        self.say()
        if not linger or self.half_closed:
            transport.close()
            if not transport.get_write_buffer_size():
                return
        else:
            self.lingering = True
            if transport.can_write_eof():
                with contextlib.suppress(OSError):  # reset already: the loop is about to say so
                    transport.write_eof()
            self.flow.resume_reading()
        self._unsent = self._count_unsent() + 1
        self.look_at_peer()

    def see_off(self, error: BulkheadFull) -> Callable[[], None] | None:
        """End a connection that its client has too many of, and say why: what is to be called when it has ended. None
        when too many are being told already: it ends at once."""
        state, entrance = self.state, self.state.entrance
        connections = entrance.admission.connections
        state.refused += 1
        if not connections.see_off():
            self.transport.abort()
            return None
        _, answer = entrance.answers.answer(error, lines=state.default_lines, close=True)
        self.transport.write(answer)
        self.end(linger=self.transport.can_write_eof())
        return connections.seen_off

    def look_at_peer(self) -> None:
        """The peer may take its time as long as it reads; then it has a moment for its own end of the connection."""
        state, transport = self.state, self.transport
        buffered = transport.get_write_buffer_size()
        unsent = self._count_unsent()
        if unsent < self._unsent:
            self._unsent = unsent
            self._patience = state.now + (self.settings.send_timeout if buffered else self.settings.linger)
        elif state.now >= self._patience:
            if buffered or transport.is_closing():
                transport.abort()
            else:
                transport.close()  # TLS has a goodbye of its own
            return
        self.deadline = min(self._patience, state.now + CHECK_INTERVAL)

    def _count_unsent(self) -> int:
        """With what the kernel holds: it takes megabytes, and then nothing until a slow peer has read most of them."""
        size = self.transport.get_write_buffer_size()
        if sys.platform == "linux":
            fd = self.transport.get_extra_info("socket").fileno()
            with contextlib.suppress(OSError):  # closed already
                size += int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return size

    def reset(self) -> None:
        """End at once, with RST: for a response whose end a FIN would pretend."""
        sock = self.transport.get_extra_info("socket")
        if self.scheme == "http":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def look_for_end(self) -> None:
        """While reading is paused the loop does not say that the peer has gone, so look, and in a while again. If it
        has only closed its half, read on until that is heard."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
        seen = poll.poll(0)
        if seen and seen[0][1] & (select.POLLERR | select.POLLHUP):
            self.transport.abort()
            return
        if seen:
            self.flow.resume_reading()
        self.deadline = self.state.now + CHECK_INTERVAL

    def has_unread(self) -> bool:
        """Whether the kernel holds something that the loop has not read yet."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))
