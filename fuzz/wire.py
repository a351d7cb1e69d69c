"""A connection without a network: what a client sends arrives as written, and time passes when nobody works."""

import asyncio
import socket
from typing import Any, Final

HIGH_WATER: Final = 512
"""Bytes that a slow client leaves unread before the server is told to wait."""
SLOW: Final = 0.3
"""Seconds until a slow client has read them."""
PATIENCE: Final = 20
"""Looks, ``LOOK`` seconds apart, until a paused connection is taken for one that is read no more."""
LOOK: Final = 0.1


class Descriptor:
    """As much of a socket as the server looks at. The descriptor is one of a pair on which nothing ever comes."""

    def __init__(self, peer: tuple[str, int] | str, pair: tuple[socket.socket, socket.socket]) -> None:
        self._peer = peer
        self._pair = pair

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def getpeername(self) -> tuple[str, int] | str:
        return self._peer

    def getsockname(self) -> tuple[str, int] | str:
        return "/run/app.sock" if isinstance(self._peer, str) else ("192.0.2.100", 80)

    def setsockopt(self, *_: object) -> None:
        """Said before a reset."""


class Wire(asyncio.Transport):
    """The server's end of one connection, and what the client does to it. Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: Descriptor, *, slow: bool) -> None:
        super().__init__({"socket": descriptor})
        self._loop = loop
        self._protocol: Any = None
        self.first: Any = None  # before an upgrade
        self._slow = slow
        self._unread = 0
        self._paused = False
        self._full = False
        self._closing = False
        self.lost = False
        self.written = bytearray()

    # -- the server's side

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        self.first = self.first or protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        self.written += data
        if self._slow and data:
            if not self._unread:
                self._loop.call_later(SLOW, self._read)
            self._unread += len(data)
            if self._unread > HIGH_WATER and not self._full:
                self._full = True
                self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._unread

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The client hears that nothing more comes."""

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unread:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._unread = 0
        self._loop.call_soon(self._lose, None)

    # -- the client's side

    async def send(self, data: bytes) -> bool:
        """Bring ``data`` once the server reads. False when it never does again."""
        for _ in range(PATIENCE):
            if self._closing:
                return False
            if not self._paused:
                self._protocol.data_received(data)
                return True
            await asyncio.sleep(LOOK)
        return False

    def half_close(self) -> None:
        """The client sends nothing more."""
        if not self._closing and not self._protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """The client is gone."""
        if not self.lost:
            self._closing = True
            self._unread = 0
            self._loop.call_soon(self._lose, ConnectionResetError())

    def _read(self) -> None:
        self._unread = 0
        if self.lost:
            return
        if self._full:
            self._full = False
            self._protocol.resume_writing()
        if self._closing:
            self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(error)
