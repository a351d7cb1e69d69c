"""The HTTP engine: accepts, sweeps deadlines, and drains without losing a request."""

import asyncio
import errno
import logging
import random
import socket
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.drain import Drain
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings
from holdfast.server.http.closing import NEVER
from holdfast.server.http.descriptors import most_connections
from holdfast.server.http.entrance import Entrance
from holdfast.server.http.migration import receive_connection
from holdfast.server.http.protocol import HttpProtocol
from holdfast.server.http.settings import HttpSettings
from holdfast.server.http.state import EngineState, Listening
from holdfast.server.http.uvicorn_config import configured

if TYPE_CHECKING:
    from holdfast.server.http.websocket import WebSocketProtocol

logger = logging.getLogger("holdfast.http")

TICK = 0.25
"""Seconds between sweeps; the exactness of every deadline of a connection."""
TOO_LATE = 0.25
"""A sweep later than this means that the loop was blocked."""
ACCEPTS_PER_WAKE = 16
"""Connections taken at one wake-up, so that a burst spreads over the workers."""
DRAIN_STEP = 0.005
"""Seconds between two tries to hand over the connections that could not go at once."""
DRAIN_LOOK = 0.02
"""Seconds between two looks whether the last connection has gone."""
STEPS_PER_TURN = 64
"""Connections handed over before those that are still busy get their turn of the loop."""
MIGRATION_PATIENCE = 1.0
"""Seconds for which the intake may be full before the connections stay here and are closed politely."""
WARN_INTERVAL = 60.0
"""A warning is not repeated until its trouble has been gone for so many seconds."""
CANCEL_LIMIT = 1.0
"""What an app has to react to its cancellation at the drain limit."""
# accept(2): what already happened to the new connection comes as an error of accept; the next one may be well.
_ITS_OWN_TROUBLE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP",
        "ENETUNREACH", "EPERM",
    )
    if hasattr(errno, name)
)  # fmt: skip


class DrainReport(msgspec.Struct, frozen=True):
    """How a drain went: connections handed over, and what had to be cut at the limit."""

    migrated: int
    cut_requests: tuple[str, ...] = ()
    cut_connections: int = 0


class HttpEngine:
    """Serves one ASGI app on listening sockets that it does not own, within one event loop.

    ``start`` begins to accept, ``drain`` ends every connection as gently as its limit allows, ``stop`` cuts
    what is left. The listeners stay open for others: the engine closes only this process's copies.
    """

    name = "http"

    def __init__(
        self,
        app: Any,
        listeners: Sequence[Listening],
        settings: HttpSettings,
        *,
        drain: Drain | None = None,
        intake: tuple[socket.socket, socket.socket] | None = None,
        clock: Clock = SYSTEM,
        rng: random.Random | None = None,
        tick: float = TICK,
        admission: AdmissionSettings | None = None,
        routes: Sequence[RouteSettings] = (),
        errors: ErrorTable | None = None,
        exempt: Collection[str] = (),
    ) -> None:
        """``intake`` is the (receiving, sending) pair through which workers hand connections to each other.

        ``admission`` and ``routes`` say which requests are let in; ``ConfigError`` from ``start`` when they do not fit.
        ``errors`` tells what is answered for an exception that comes out of the app; the default knows Holdfast's own.
        ``exempt`` are paths of health probes, which no policy refuses.
        """
        self.listeners = {listening.id: listening for listening in listeners}
        self.settings = settings
        self.state = EngineState(settings, drain or Drain(), intake[1] if intake else None, errors or ErrorTable())
        self._admission = admission or AdmissionSettings()
        self._routes = routes
        self._exempt = frozenset(exempt)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._intake = intake[0] if intake else None
        self._config = configured(app, settings)
        self._limit = settings.max_connections or most_connections()
        self._attaching: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._paused = False
        self._warn_at = 0.0
        self._drain_until = NEVER
        self._alone = False
        self._tick_interval = tick
        self._ticker: asyncio.TimerHandle | None = None
        self._date_due = 0.0

    # -- life

    async def start(self, app_state: dict[str, Any] | None = None) -> None:
        """Begin to accept. ``app_state`` is what the lifespan left for requests."""
        self._loop = asyncio.get_running_loop()
        self.state.app_state = app_state or {}
        access = None
        if self.settings.access_log:
            from holdfast.telemetry.access import AccessLog  # most services log no requests

            access = AccessLog(clock=self._clock)
        self.state.entrance = Entrance(
            self._loop, self._clock, self._admission, self._routes, self.state.errors, self._exempt, access
        )
        self._tick()
        self._accepting = True
        self._watch_sockets()

    def configure(
        self, admission: AdmissionSettings, routes: Sequence[RouteSettings], errors: ErrorTable | None = None
    ) -> None:
        """Let requests in by these from now on. ``ConfigError`` when they do not fit, and then nothing has changed.

        Gates that stay keep what they have learned. Requests under way go on under what they have entered.
        """
        self.state.entrance.configure(admission, routes, errors)
        if errors is not None:
            self.state.errors = errors

    def lame_duck(self, on: bool = True) -> None:
        """Go on accepting and answering, and tell every client to open its next connection elsewhere."""
        if not self.state.draining:
            self.state.closing = on

    async def drain(self, within: float, *, migrate: bool, idle_grace: float, reason: str = "reload") -> DrainReport:
        """End every connection, within ``within`` seconds; requests that are not done then are cancelled.

        With ``migrate`` idle connections go to the workers that read the intake, unread bytes and all. What cannot
        go stays until its next request, which is answered with ``Connection: close``, or for ``idle_grace`` seconds.
        A cancellation of this call leaves the engine draining; ``stop`` then ends it.
        """
        state = self.state
        loop = self._loop
        self._drain_until = min(self._drain_until, loop.time() + within)
        state.closing = True
        state.migrating = migrate and not self._alone
        state.idle_limit = min(state.idle_limit, idle_grace, within)
        self._take_what_waits(state.migrating)
        self._unwatch_sockets()
        self._accepting = False
        for listening in self.listeners.values():
            listening.sock.close()  # never shutdown(): the socket is shared with the other workers
        state.draining = True  # those not attached yet find it so
        state.drain.begin(reason)
        self._tell_streams(within)
        state.now = loop.time()
        self._limit_idle(state.idle_limit)
        refused_since = NEVER
        while (state.connections or state.in_flight or self._attaching) and loop.time() < self._drain_until:
            before = state.migrated
            if self._hand_over() or state.migrated > before:
                refused_since = NEVER
            elif loop.time() > (refused_since := min(refused_since, loop.time())) + MIGRATION_PATIENCE:
                logger.warning("nobody takes %d connections over: they are closed politely", len(state.moving))
                state.migrating = False
            waiting = state.moving and state.migrating
            await asyncio.sleep(0 if state.migrated > before else DRAIN_STEP if waiting else DRAIN_LOOK)
        return await self._cut()

    def keep_connections(self, within: float, *, idle_grace: float) -> None:
        """While it drains, or about to: the successors go too. Hand nothing over, and be done in ``within`` seconds."""
        self._alone = True
        self.state.migrating = False
        self._drain_until = min(self._drain_until, self._loop.time() + within)
        self.state.idle_limit = min(self.state.idle_limit, idle_grace, within)
        self._limit_idle(self.state.idle_limit)

    async def stop(self) -> None:
        """Cut what is left and stop sweeping. Safe to call more than once."""
        if self._accepting:
            self._unwatch_sockets()
            self._accepting = False
        for task in self._attaching:
            task.cancel()
        await self._cut()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
            self.state.entrance.close()

    def _limit_idle(self, limit: float) -> None:
        for connection in self._connections():
            if isinstance(connection, HttpProtocol) and not (connection.busy or connection.ending):
                connection.deadline = min(connection.deadline, self.state.now + limit)
                self.state.moving[connection] = None

    def _hand_over(self) -> bool:
        """A turn's worth of connections. False when the intake is full."""
        if not self.state.migrating:
            return True
        return all(connection.drain_step() for connection in list(islice(self.state.moving, STEPS_PER_TURN)))

    # -- accepting

    def _watch_sockets(self) -> None:
        for listening in self.listeners.values():
            self._loop.add_reader(listening.sock.fileno(), self._accept, listening)
        if self._intake is not None:
            self._loop.add_reader(self._intake.fileno(), self._take_in)

    def _unwatch_listeners(self) -> None:
        for listening in self.listeners.values():
            if listening.sock.fileno() >= 0:
                self._loop.remove_reader(listening.sock.fileno())

    def _unwatch_sockets(self) -> None:
        self._unwatch_listeners()
        if self._intake is not None:
            self._loop.remove_reader(self._intake.fileno())

    def _accept(self, listening: Listening, most: int = ACCEPTS_PER_WAKE) -> int:
        for taken in range(most):
            if self._at_limit():
                return taken
            try:
                sock, _ = listening.sock.accept()
            except (BlockingIOError, InterruptedError):
                return taken
            except OSError as exc:
                if exc.errno in _ITS_OWN_TROUBLE:
                    continue
                self._pause_accepting(f"no connection can be accepted for now: {exc}")
                return taken
            sock.setblocking(False)
            self._attach(sock, listening)
        return most

    def _take_in(self, most: int = ACCEPTS_PER_WAKE) -> int:
        assert self._intake is not None
        for taken in range(most):  # no limit here: these were admitted once, and nobody else knows of them
            try:
                received = receive_connection(self._intake)
            except EOFError:  # nobody is left who could hand one over
                self._loop.remove_reader(self._intake.fileno())
                self._intake = None
                return taken
            except OSError as exc:
                self._pause_accepting(f"no connection can be taken over for now: {exc}")
                self._loop.remove_reader(self._intake.fileno())
                return taken
            if received is None:
                return taken
            listener, sock = received
            listening = self.listeners.get(listener) or next(iter(self.listeners.values()))
            self._attach(sock, listening)
        return most

    def _take_what_waits(self, migrate: bool) -> None:
        """The last look at the queues. With a successor what waits there is the successor's; without one a limit would
        only reset those beyond it."""
        if migrate or not self._accepting:
            return
        self._limit = sys.maxsize
        if self._intake is not None:
            # For every process: what is in the queue can still be read, but nobody can add what nobody would read.
            self._intake.shutdown(socket.SHUT_RD)
        for listening in self.listeners.values():
            while self._accept(listening) == ACCEPTS_PER_WAKE:
                pass
        while self._intake is not None and self._take_in() == ACCEPTS_PER_WAKE:
            pass

    def _attach(self, sock: socket.socket, listening: Listening) -> None:
        self.state.accepted += 1
        task = self._loop.create_task(self._connect(sock, listening))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _connect(self, sock: socket.socket, listening: Listening) -> None:
        def make_protocol() -> HttpProtocol:
            return HttpProtocol(self._config, self.state, listening.id, self._loop)

        settings = self.settings
        limits: dict[str, Any] = {}
        if listening.tls is not None:
            limits["ssl_handshake_timeout"] = settings.handshake_timeout
            limits["ssl_shutdown_timeout"] = settings.linger
        try:
            await self._loop.connect_accepted_socket(make_protocol, sock, ssl=listening.tls, **limits)
        except (TimeoutError, OSError) as exc:  # the peer's fault: gone, or no TLS
            logger.debug("a connection ended before it began: %r", exc)
            sock.close()
        except BaseException:
            sock.close()
            raise

    def _at_limit(self) -> bool:
        if len(self.state.connections) + len(self._attaching) < self._limit:
            return False
        self._pause_accepting(f"{self._limit} connections are open, further ones wait in the kernel's queue")
        self.state.on_room = self._go_on
        return True

    def _pause_accepting(self, why: str) -> None:
        """Until a connection ends, or the next sweep. A listener that is ready and not accepted from would keep the
        loop spinning."""
        if not self._paused:
            self._paused = True
            self._unwatch_listeners()
        now = self._loop.time()
        if now >= self._warn_at:
            logger.warning("%s", why)
        self._warn_at = now + WARN_INTERVAL

    def _go_on(self) -> None:
        self.state.on_room = None
        if self._paused and self._accepting:
            self._paused = False
            self._watch_sockets()

    # -- the sweep

    def _tick(self) -> None:
        state = self.state
        self._ticker = self._loop.call_later(self._tick_interval, self._tick)
        now = self._loop.time()
        lag = now - state.now - self._tick_interval if state.now else 0.0
        state.now = now
        if now >= self._date_due:
            self._date_due = now + 1.0
            state.set_date(self._clock.wall())
        state.entrance.admission.look(now)
        state.entrance.flush()
        blocked = lag > TOO_LATE  # what arrived meanwhile is still unread: nobody else was slow
        for connection in self._connections():
            if blocked:
                connection.deadline += lag
            elif connection.deadline < now:
                connection.on_deadline()
        if self._paused and len(state.connections) < self._limit:
            self._go_on()

    def _connections(self) -> "list[HttpProtocol | WebSocketProtocol]":
        return cast("list[HttpProtocol | WebSocketProtocol]", list(self.state.connections))

    # -- ending

    def _tell_streams(self, within: float) -> None:
        """WebSockets and event streams have a moment for last messages, then close, not all at the same instant."""
        settings = self.settings
        spread = min(settings.stream_spread, max(0.0, within - settings.stream_grace - settings.close_timeout))
        for connection in self._connections():
            delay = min(settings.stream_grace, within / 2) + self._rng.random() * spread
            if not isinstance(connection, HttpProtocol):
                connection.begin_drain(delay)
            elif connection.active is not None and connection.active.event_stream:
                self._loop.call_later(delay, connection.active.end_stream)

    async def _cut(self) -> DrainReport:
        state = self.state
        state.entrance.clear()
        names = [f"{cycle.scope['method']} {cycle.scope['path']}" for cycle in state.entrance.cycles.values()]
        names += [task.get_name() for task in state.tasks]
        tasks = {*state.entrance.cycles, *state.tasks}
        for task in tasks:
            task.cancel("the drain limit was reached")
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_LIMIT)
        left = self._connections()
        for connection in left:
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()
            else:
                connection.transport.close()
        if left:
            await asyncio.sleep(0)  # lets the loop close them
        return DrainReport(state.migrated, tuple(names), len(left))
