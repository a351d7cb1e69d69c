"""A TCP proxy on the loopback that adds a round-trip time and is otherwise invisible.

Bytes, FIN and RST arrive in the order in which they were sent, each half the round-trip time later. A delay opens the
races that a loopback hides: a request is on the wire while the server closes.
"""

import asyncio
import errno
import socket
import struct
from collections import deque
from types import TracebackType
from typing import Self

from holdfast.lab.load import parse_address

MAX_BUFFERED = 256 * 1024
"""Bytes held for one direction of one connection; past it the proxy stops reading, as a full network would."""
MAX_CONNECTIONS = 10_000
READ_SIZE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to one address, delayed. Use it as an async context manager.

    ``rtt`` is in seconds. ``address`` is where it listens, as the load wants it: a free port on 127.0.0.1. Leaving the
    block resets every connection. When the server refuses a connection, its client gets a reset: it has been accepted
    already. Belongs to one event loop.
    """

    def __init__(self, target: str, *, rtt: float) -> None:
        if not 0 <= rtt <= 60:
            raise ValueError(f"rtt is {rtt!r}; it must be 0 to 60 s")
        self._target = parse_address(target)
        self._delay = rtt / 2
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._tunnels: set[asyncio.Task[None]] = set()
        self.address = ""
        self.accepted = 0

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        self._listener = listener
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._acceptor = asyncio.get_running_loop().create_task(self._accept(listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        assert self._acceptor is not None
        tasks = [self._acceptor, *self._tunnels]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._listener.close()
