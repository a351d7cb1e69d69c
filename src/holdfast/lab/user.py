"""One user of a load: at most one connection, one request at a time, no second try."""

import asyncio
import errno
import math
from typing import TYPE_CHECKING, cast

from holdfast.lab.response import AnswerError, ResponseReader

if TYPE_CHECKING:
    from holdfast.lab.load import Load, LoadRun

_LOCAL = (errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Wire(asyncio.Protocol):
    """One connection. It belongs to its user until that lets it go; afterwards it says nothing more."""

    __slots__ = ("busy", "reader", "served", "transport", "user")

    def __init__(self, user: "User", reader: ResponseReader) -> None:
        self.user: User | None = user
        self.reader = reader
        self.transport: asyncio.Transport | None = None
        self.served = 0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        if self.user is None:
            self.transport.abort()
        else:
            self.user.connected(self)

    def data_received(self, data: bytes) -> None:
        user = self.user
        if user is None:
            return
        if not self.busy:
            # A farewell such as 408 on an idle connection: nobody asked, so the connection is not trusted.
            user.idle_closed()
            return
        try:
            whole = self.reader.feed(data)
        except AnswerError as error:
            user.fail("protocol", str(error))
            return
        if whole:
            user.answered(self)

    def eof_received(self) -> None:
        user = self.user
        if user is None:
            return
        if not self.busy:
            user.idle_closed()
        elif self.reader.end():
            user.answered(self)
        elif self.reader.begun:
            user.fail("truncated", f"closed after {self.reader.begun} bytes of the answer")
        else:
            user.fail("eof", "closed before any byte of the answer")

    def connection_lost(self, exc: Exception | None) -> None:
        user = self.user
        if user is None:
            return
        if not self.busy:
            user.idle_closed()
        elif exc is None:
            # Some loops report a half-closed peer only here.
            self.eof_received()
        else:
            user.fail(*classify(exc))

    def release(self, *, abort: bool = False) -> None:
        """Close the connection and forget the user."""
        self.user = None
        if self.transport is not None:
            if abort:
                self.transport.abort()
            else:
                self.transport.close()


class User:
    """Sends the requests of one connection. ``serial`` counts its connections; 0 while it has none."""

    __slots__ = (
        "_address",
        "_announced",
        "_bodiless",
        "_count",
        "_due",
        "_is_numbered",
        "_load",
        "_loop",
        "_number",
        "_request",
        "_run",
        "_task",
        "_timer",
        "_wire",
        "deadline",
        "serial",
    )

    def __init__(self, run: "LoadRun", address: tuple[str, int] | str) -> None:
        self._run = run
        self._load = run.load
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._request = compose(run.load, address)
        self._is_numbered = b"{n}" in self._request.partition(b"\r\n\r\n")[0]
        self._number = 0
        self._bodiless = run.load.method == "HEAD"
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._count = 0
        self.deadline = math.inf
        self.serial = 0

    def begin_after(self, delay: float) -> None:
        """Ask the run for a request after so many seconds."""
        self._timer = self._loop.call_later(delay, self._claim)

    def begin(self, due: float) -> None:
        """Start a request; ``due`` is the time its latency counts from. The time limit counts from now."""
        run = self._run
        run.started()
        self._number = run.number  # now: others may start theirs while this one connects
        self._due = due
        self.deadline = run.clock() + self._load.timeout
        if self._wire is None:
            self._task = run.spawn(self)
        else:
            self._send(self._wire)

    async def connect(self) -> None:
        """Open a connection; the request follows in ``connected``. A failure is counted, not raised."""
        wire = Wire(self, self._reader())
        self._wire = wire
        try:
            if isinstance(self._address, str):
                await self._loop.create_unix_connection(lambda: wire, self._address)
            else:
                await self._loop.create_connection(lambda: wire, *self._address)
        except OSError as error:
            # The user may have given up (timeout, abort) before the kernel did.
            if wire.user is not None:
                self._task = None
                self.fail(*classify(error))

    def connected(self, wire: Wire) -> None:
        self._task = None
        self._count += 1
        self.serial = self._count
        self._run.opened()
        self._send(wire)

    def answered(self, wire: Wire) -> None:
        """The answer is whole."""
        run = self._run
        reader = wire.reader
        if not 200 <= reader.status < 300:
            self.fail(f"status {reader.status}", reader.body[:200].decode("latin-1"), keep=reader.keep_alive)
            return
        if run.check is not None and not run.check(reader.status, reader.body):
            self.fail("body", f"not the body that was expected: {reader.body[:60]!r}", keep=reader.keep_alive)
            return
        now = run.clock()
        wire.busy = False
        wire.served += 1
        self.deadline = math.inf
        keep_alive = reader.keep_alive
        if not keep_alive or self._load.mode == "connect":
            self._drop()
        run.succeed(now, now - self._due, not keep_alive)
        if self._load.mode == "think":
            self.begin_after(self._load.think)
        else:
            run.claim(self, now)

    def fail(self, kind: str, detail: str, *, keep: bool = False) -> None:
        """The request is lost. The connection goes too, unless ``keep``."""
        wire = self._wire
        served = wire.served if wire is not None else 0
        if wire is not None:
            wire.busy = False
        if not keep or self._load.mode == "connect":
            self._drop(abort=True)
        self.deadline = math.inf
        run = self._run
        now = run.clock()
        run.fail(now, kind, detail, now - self._due, served)
        self.begin_after(self._load.failure_pause)

    def idle_closed(self) -> None:
        """The server closed the connection between two requests, and the client saw it in time."""
        self._drop()
        self._run.idle_closed()

    def state(self) -> str:
        """How far the request got, for the message of a timeout."""
        wire = self._wire
        if wire is None or wire.transport is None:
            return "not connected"
        return f"{wire.reader.begun} bytes of the answer" if wire.reader.begun else "no byte of the answer"

    def rest(self) -> None:
        """Start nothing more. A request under way goes on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Let the connection go."""
        self.rest()
        self.deadline = math.inf
        self._drop()

    def _claim(self) -> None:
        self._timer = None
        self._run.claim(self, self._run.clock())

    def _reader(self) -> ResponseReader:
        run = self._run
        return ResponseReader(run.heads, collect=run.check is not None, open_ended=self._load.open_ended)

    def _send(self, wire: Wire) -> None:
        wire.reader.expect(bodiless=self._bodiless)
        wire.busy = True
        assert wire.transport is not None
        wire.transport.write(self._numbered() if self._is_numbered else self._request)

    def _numbered(self) -> bytes:
        head, empty, body = self._request.partition(b"\r\n\r\n")
        return head.replace(b"{n}", b"%d" % self._number) + empty + body

    def _drop(self, *, abort: bool = False) -> None:
        self.serial = 0
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._wire is not None:
            self._wire.release(abort=abort)
            self._wire = None


def compose(load: "Load", address: tuple[str, int] | str) -> bytes:
    """The bytes of a request."""
    lines = [f"{load.method} {load.path} HTTP/1.1"]
    names = {name.lower() for name, _ in load.headers}
    if "host" not in names:
        lines.append(f"host: {_authority(address)}")
    if load.body is not None or load.method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {len(load.body or b'')}")
    if load.say_close:
        lines.append("connection: close")
    lines += [f"{name}: {value}" for name, value in load.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (load.body or b"")


def _authority(address: tuple[str, int] | str) -> str:
    if isinstance(address, str):
        return "localhost"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def classify(error: Exception) -> tuple[str, str]:
    """The kind of failure an error of the socket means, and its text."""
    number = error.errno if isinstance(error, OSError) else None
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError) or number in (
        errno.EAGAIN,
        errno.ENOTCONN,
    ):
        # EAGAIN: the backlog of a unix socket is full. ENOTCONN: asyncio took that for a connection.
        return "refused", detail
    if isinstance(error, ConnectionError):
        return "reset", detail
    if number == errno.ETIMEDOUT:
        return "timeout", detail
    if number in _LOCAL:
        return "local", detail
    return "error", detail
