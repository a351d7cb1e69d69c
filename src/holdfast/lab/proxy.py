"""A TCP proxy on the loopback that adds a round-trip time and is otherwise invisible.

Bytes, FIN and RST reach the other side in the order in which they were sent, each half a round trip later. The delay
opens the races that a loopback hides: a request is on the wire while the server closes.
"""

import asyncio
import enum
import socket
import struct
from collections import deque
from types import TracebackType
from typing import Self, cast

from holdfast.lab.load import parse_address

MAX_BUFFERED = 256 * 1024
"""Bytes held back for one direction of one connection, and again as many in its write buffer. Past that the proxy stops
reading, as a full network would."""
MAX_CONNECTIONS = 10_000
BACKLOG = 1024
# l_onoff 1, l_linger 0: closing sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class _Sign(enum.Enum):
    FIN = 1
    RST = 2


class _End(asyncio.Protocol):
    """One end of a forwarded connection. What arrives here queues at ``peer``; what queues here is sent when due."""

    def __init__(self, proxy: "Proxy") -> None:
        self.peer: _End
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes | _Sign]] = deque()
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._lost = False
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_BUFFERED)
        if not self._proxy.admit(self):
            self.reset()
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        self.peer.queue(data)
        if self.peer._held > MAX_BUFFERED:
            assert self._transport is not None
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.peer.queue(_Sign.FIN)
        return True  # half closed: the other direction goes on

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._proxy.dismiss(self)
        if exc is not None:
            self.peer.queue(_Sign.RST)

    def queue(self, item: bytes | _Sign) -> None:
        """Send this to the end's socket after the delay, behind everything queued before."""
        if self._lost:
            return
        self._queue.append((self._loop.time() + self._proxy.delay, item))
        if isinstance(item, bytes):
            self._held += len(item)
        self._arm()

    def reset(self) -> None:
        """Close with RST, now."""
        if self._transport is None or self._lost:
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _arm(self) -> None:
        if self._timer is None and self._queue and self._transport is not None and not self._full:
            due = self._queue[0][0]
            self._timer = self._loop.call_later(max(0.0, due - self._loop.time()), self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        assert self._transport is not None
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now and not self._full:
            _, item = self._queue.popleft()
            if item is _Sign.RST:
                self.reset()
                return
            if item is _Sign.FIN:
                self._finish(self._transport)
            else:
                self._held -= len(item)
                self._transport.write(item)
        if self._held < MAX_BUFFERED // 2:
            self.peer._resume()
        self._arm()

    def _resume(self) -> None:
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def _finish(self, transport: asyncio.Transport) -> None:
        self._finished = True
        if self.peer._finished:
            transport.close()
            if self.peer._transport is not None:
                self.peer._transport.close()
        elif not transport.is_closing():
            transport.write_eof()


class Proxy:
    """Forwards connections to one address, delayed. An async context manager; belongs to one event loop.

    ``rtt``: seconds, half of it each way. ``address``: where it listens, a free port of 127.0.0.1, as the load wants
    it. Leaving the block resets every connection. A client whose connection the target refuses gets a reset: the
    proxy had accepted it. Raises ValueError for a target that is not on this machine.
    """

    def __init__(self, target: str, *, rtt: float) -> None:
        if not 0 <= rtt <= 60:
            raise ValueError(f"rtt is {rtt!r}; it must be 0 to 60 s")
        self._target = parse_address(target)
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.delay = rtt / 2
        self.address = ""
        self.accepted = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0, backlog=BACKLOG)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for end in list(self._ends):
            end.reset()
        await self._empty.wait()

    def admit(self, end: _End) -> bool:
        """Count an end that connected; False when there are too many."""
        self._ends.add(end)
        self._empty.clear()
        return len(self._ends) <= 2 * MAX_CONNECTIONS

    def dismiss(self, end: _End) -> None:
        """Forget an end that closed."""
        self._ends.discard(end)
        if not self._ends:
            self._empty.set()

    def _accept(self) -> _End:
        self.accepted += 1
        near, far = _End(self), _End(self)
        near.peer, far.peer = far, near
        task = asyncio.get_running_loop().create_task(self._connect(near, far))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return near

    async def _connect(self, near: _End, far: _End) -> None:
        # The SYN travels for half a round trip too.
        await asyncio.sleep(self.delay)
        loop = asyncio.get_running_loop()
        try:
            if isinstance(self._target, str):
                await loop.create_unix_connection(lambda: far, self._target)
            else:
                await loop.create_connection(lambda: far, *self._target)
        except OSError:
            # Passed on as the only thing a proxy can say: RST.
            near.queue(_Sign.RST)
