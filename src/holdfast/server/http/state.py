"""What the connections of one engine share."""

import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from uvicorn.server import ServerState

from holdfast.core.drain import Drain
from holdfast.core.errortable import ErrorTable
from holdfast.server.http.migration import send_connection
from holdfast.server.http.settings import HttpSettings

if TYPE_CHECKING:
    from holdfast.server.http.entrance import Entrance
    from holdfast.server.http.protocol import HttpProtocol


class Listening:
    """One listening socket as the engine sees it: its id, the socket, and the TLS context that new connections get."""

    __slots__ = ("id", "sock", "tls")

    def __init__(self, id: int, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:  # noqa: A002
        self.id = id
        self.sock = sock
        self.tls = tls


class EngineState(ServerState):
    """Counters, flags and the coarse clock. Belongs to one event loop."""

    entrance: "Entrance"
    """What requests meet before the app; there once the engine has started."""

    def __init__(self, settings: HttpSettings, drain: Drain, intake: socket.socket | None, errors: ErrorTable) -> None:
        super().__init__()
        self.errors = errors
        """What is told of an exception that comes out of the app."""
        self.settings = settings
        self.drain = drain
        self.intake = intake
        self.app_state: dict[str, Any] = {}
        """What the lifespan left for requests; copied, shallow, into each scope."""
        self.extensions: dict[str, Any] = {"holdfast": {"drain": drain}}
        self.idle_limit = settings.keep_alive
        """How long a connection may rest between two requests; shorter in a drain."""
        self.on_room: Callable[[], None] | None = None
        """Set while new connections wait because too many are open: to be called when one ends."""
        self.default_lines = b""
        """``default_headers`` as they go onto the wire."""
        self.now = 0.0
        """The loop's time at the last tick: exact to TICK, and free to read."""
        self.closing = False
        """Answer every request with ``Connection: close``."""
        self.draining = False
        """No new connections; those there are end one by one."""
        self.migrating = False
        """Connections at a message boundary go to whoever reads the intake."""
        self.moving: dict[HttpProtocol, None] = {}
        """Connections to hand over, in the order in which they get their turn."""
        self.accepted = 0
        self.received = 0
        self.migrated = 0
        self.refused = 0
        self.failed = 0

    @property
    def in_flight(self) -> int:
        return len(self.entrance.cycles) + len(self.tasks) + self.entrance.waiting

    def set_date(self, unix_seconds: float) -> None:
        date = formatdate(unix_seconds, usegmt=True).encode()
        self.default_headers = [(b"date", date)]
        self.default_lines = b"date: %b\r\n" % date

    def migrate(self, listener: int, fd: int) -> bool:
        """Hand the connection ``fd`` over. False when the queue is full just now, or there is none."""
        if self.intake is None or not send_connection(self.intake, listener, fd):
            return False
        self.migrated += 1
        return True
