"""What the supervisor and a worker say to each other, and how it crosses the socket between them."""

import asyncio
import logging
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.config.mistakes import Place
from holdfast.core.errors import BootError
from holdfast.supervisor.counts import WorkerCounts
from holdfast.supervisor.parcel import Parcel
from holdfast.supervisor.settings import Settings

logger = logging.getLogger("holdfast.channel")

MAX_FRAME = 1 << 20
"""Bytes of one message; a longer one is cut by whoever makes it, or the channel closes."""
MAX_PENDING = 1 << 21
"""Bytes that may wait for a peer that does not read; beyond it messages are dropped."""
DUMP_SIGNAL: signal.Signals = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""Asks a worker for the stacks of its threads: no application is likely to use the last real-time signal."""
_HEAD = struct.Struct("!I")


class Message(msgspec.Struct, frozen=True, tag=True):
    """The root of all messages."""


class Socket(msgspec.Struct, frozen=True):
    """A listening socket that a worker inherits."""

    id: int
    fd: int
    address: str


class Start(Message, frozen=True):
    """First word to a worker: what it is and what to run. ``began`` is the time of the monotonic clock, which all
    processes share, from which its boot limit counts."""

    settings: Settings
    slot: int
    generation: int
    directory: str
    sockets: tuple[Socket, ...]
    intake: tuple[int, int]
    began: float
    dump: int = -1
    configuration: Parcel | None = None


class Booting(Message, frozen=True):
    """The worker has come to this phase of its start."""

    phase: str


class Ready(Message, frozen=True):
    """The worker could accept connections. ``secrets`` are the places of what its app's types know to be secret."""

    secrets: tuple[Place, ...] = ()


class Serve(Message, frozen=True):
    """The worker has its slot: it may accept. Until then it is ready and takes nothing."""


class Failed(Message, frozen=True):
    """The worker could not start. ``detail`` is the app's own error."""

    reason: str
    detail: str


class Beat(Message, frozen=True):
    """A sign of life from the worker's event loop, with its counters."""

    requests: int = 0
    in_flight: int = 0
    connections: int = 0
    accepted: int = 0
    migrated: int = 0
    refused: int = 0
    failed: int = 0
    memory: int = 0
    lag: float = 0.0
    health: str = "pass"
    checks: tuple[str, ...] = ()


class Leave(Message, frozen=True):
    """The worker asks to be replaced."""

    reason: str


class LameDuck(Message, frozen=True):
    """Go on, but tell clients to open their next connection elsewhere; ``on`` False takes it back."""

    on: bool = True


class Retire(Message, frozen=True):
    """Drain and end."""

    within: float
    migrate: bool
    idle_grace: float
    reason: str


class Configure(Message, frozen=True):
    """Have this configuration, if you can. With ``hold`` only once ``Apply`` says so, or else at once.

    The answer has the same ``ticket``: ``Disagreed``; or with ``hold`` ``Agreed``, and ``Configured`` at the end.
    """

    ticket: int
    configuration: Parcel
    hold: bool = True


class Apply(Message, frozen=True):
    """All have agreed: it holds now."""

    ticket: int


class Forget(Message, frozen=True):
    """Somebody has not agreed: nothing changes."""

    ticket: int


class Mistake(msgspec.Struct, frozen=True):
    """A ``ConfigError`` on its way. ``value`` is as it is shown, None when it is not."""

    path: str
    value: str | None
    expected: str
    source: str
    hint: str


class Agreed(Message, frozen=True):
    """The worker could have that configuration. ``secrets`` as in ``Ready``."""

    ticket: int
    secrets: tuple[Place, ...] = ()


class Disagreed(Message, frozen=True):
    """It could not, and nothing has changed."""

    ticket: int
    mistakes: tuple[Mistake, ...]


class Configured(Message, frozen=True):
    """It has it. ``deaf`` names the app's hooks that failed when they were told."""

    ticket: int
    version: int
    digest: str
    deaf: tuple[str, ...] = ()


class Count(Message, frozen=True):
    """Tell what has been counted. The answer, ``Counted``, has the same ``ticket``."""

    ticket: int


class Counted(Message, frozen=True):
    """What the worker has counted; None before it serves."""

    ticket: int
    counts: WorkerCounts | None = None


class Draining(Message, frozen=True):
    """The worker has begun to drain: it accepts nothing more, and what it keeps is on its way out."""


class Retired(Message, frozen=True):
    """The worker has drained; what could not be finished is named."""

    unfinished: tuple[str, ...]
    migrated: int


Answer = Agreed | Disagreed | Configured | Counted
AnyMessage = (
    Start
    | Booting
    | Ready
    | Serve
    | Failed
    | Beat
    | Leave
    | LameDuck
    | Configure
    | Apply
    | Forget
    | Count
    | Answer
    | Retire
    | Draining
    | Retired
)


def _encode_special(value: Any) -> Any:
    return float(value) if isinstance(value, float) else int(value)


def _decode_special(kind: type, value: Any) -> Any:
    return kind(value)


_encoder = msgspec.json.Encoder(enc_hook=_encode_special)
_decoder = msgspec.json.Decoder(AnyMessage, dec_hook=_decode_special)


def frame(message: Message) -> bytes:
    """A message as bytes, its length first."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body)) + body


class Channel:
    """One end of the socketpair, on the running loop. Sends never block and never raise.

    ``on_message`` is called for each message, ``on_close`` once when the other end is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[AnyMessage], None],
        on_close: Callable[[], None],
        unread: bytes = b"",
    ) -> None:
        self.sock = sock
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_close = on_close
        self._inbound = bytearray(unread)
        self._outbound = bytearray()
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def unread(self) -> bytes:
        """The beginning of a message whose end has not come: to be given to a successor on the same socket."""
        return bytes(self._inbound)

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent."""
        return not self._outbound

    def send(self, message: Message) -> bool:
        """Send, or queue when the peer is slow. False when it was dropped."""
        if not self._open:
            return False
        data = frame(message)
        if len(self._outbound) + len(data) > MAX_PENDING:
            self.dropped += 1
            return False
        waiting = bool(self._outbound)
        self._outbound += data
        if not waiting:
            self._writable()
        return True

    def close(self) -> None:
        """Stop listening and close the socket. Safe to call twice."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self.sock.fileno())
            self._loop.remove_writer(self.sock.fileno())
            self.sock.close()

    def finish(self) -> None:
        """The other end is dead: hear its last words, then close."""
        while self._open and self._readable():
            pass
        self.close()

    def _writable(self) -> None:
        try:
            sent = self.sock.send(self._outbound)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._outbound.clear()  # the reader will see the end and say so
            self._loop.remove_writer(self.sock.fileno())
            return
        del self._outbound[:sent]
        if self._outbound:
            self._loop.add_writer(self.sock.fileno(), self._writable)
        else:
            self._loop.remove_writer(self.sock.fileno())

    def _readable(self) -> bool:
        """Read once; whether there was something."""
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        self._inbound += data
        while self._open and len(self._inbound) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._inbound)
            if length > MAX_FRAME:
                logger.error("a message of %d bytes is over the limit of %d: the channel is closed", length, MAX_FRAME)
                self._end()
                return False
            if len(self._inbound) < _HEAD.size + length:
                break
            body = bytes(self._inbound[_HEAD.size : _HEAD.size + length])
            del self._inbound[: _HEAD.size + length]
            try:
                message = _decoder.decode(body)
            except msgspec.DecodeError as exc:  # a peer of another version: skip what it says, keep the rest
                logger.warning("a message was not understood: %s", exc)
                continue
            self._on_message(message)
        return True

    def _end(self) -> None:
        self.close()
        self._on_close()


def read_start(sock: socket.socket, within: float) -> Start | None:
    """The worker's first word, read before any loop runs. None when the supervisor is gone or silent.

    Raises BootError when the word is not understood: supervisor and worker are of different versions.
    """
    sock.settimeout(within)
    try:
        (length,) = _HEAD.unpack(_read_exactly(sock, _HEAD.size))
        body = _read_exactly(sock, min(length, MAX_FRAME))
        message = _decoder.decode(body) if len(body) == length else None
    except (OSError, struct.error):
        return None
    except msgspec.DecodeError as exc:
        raise BootError(f"the running supervisor is of another version ({exc}): upgrade it, holdfast upgrade") from exc
    finally:
        sock.settimeout(None)
    return message if isinstance(message, Start) else None


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return bytes(data)
