"""The application inside a worker: loaded, started, served and drained."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.config.mistakes import Place
from holdfast.core.drain import Drain
from holdfast.core.errors import BootError
from holdfast.core.watch import Watch
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.state import Listening
from holdfast.server.http.tls import POLL_INTERVAL, TlsSettings, make_context, watch_certificates
from holdfast.service.interface import ASGIApp, WSGIApp, load
from holdfast.service.lifecycle import Lifecycle, Limits
from holdfast.service.probes import PROBES, HealthRoutes
from holdfast.supervisor import machine, provision
from holdfast.supervisor.channel import Apply, Beat, Booting, Configure, Counted, Forget, Message, Retire, Start
from holdfast.supervisor.follower import Follower
from holdfast.supervisor.settings import Settings
from holdfast.telemetry.logs import configure

if TYPE_CHECKING:
    from holdfast.supervisor.tally import Tally

logger = logging.getLogger("holdfast.worker")

MIN_ENDING = 1.0
"""Seconds that ending the app has at least, even when its requests have used up the drain."""
BOOT_MARGIN = 1.0
"""Seconds before the supervisor's own limit at which a worker that is not ready says why."""
SHUTDOWN_SHARE = 0.3
"""Part of a drain's time that is kept for background work, the lifespan and the resources."""


class Application:
    """What a worker serves. ``load`` runs before the event loop, the rest on it."""

    def __init__(self, start: Start, drain: Drain) -> None:
        self._start = start
        self._settings = start.settings
        self._drain = drain
        self._lifecycle: Lifecycle | None = None
        self._engine: HttpEngine | None = None
        self._contexts: Watch[Any] | None = None
        self._certificates: asyncio.Task[None] | None = None
        self._drain_until = float("inf")
        self._follower: Follower | None = None
        self._tally: Tally | None = None
        self._provision: asyncio.TimerHandle | None = None

    def load(self) -> None:
        """Import the app. Raises BootError with the app's own error."""
        settings = self._settings
        # A deploy may have swapped a symlink: the directory is entered anew, by the name it was given.
        os.chdir(self._start.directory)
        target = load(settings.app, app_dir=settings.app_dir, factory=settings.factory)
        self._lifecycle = Lifecycle(
            target,
            name=settings.service_name,
            interface="asgi3" if settings.interface == "asgi" else settings.interface,
            limits=Limits(startup=self._boot_time_left()),
            drain=self._drain,
            wsgi=self._bridge,
        )
        self._follower = Follower(self._start.configuration, self._lifecycle.service, self._configure_log)

    async def start(self, say: Callable[[Message], object]) -> None:
        """Resources, lifespan, background work, first checks, probe. Raises BootError."""
        lifecycle = self._running
        settings = self._settings
        say(Booting("starting the app"))
        await lifecycle.start()
        say(Booting("waiting for the critical checks"))
        await lifecycle.first_checks(self._boot_time_left())
        say(Booting("asking the app about its configuration"))
        await self._running_follower.live.verify()
        if settings.probe:
            say(Booting(f"probing {settings.probe}"))
            await self._probe(settings.probe, self._boot_time_left())
        if settings.tls_certificate:
            self._contexts = Watch(make_context(self._tls))

    async def serve(self) -> None:
        """Begin to accept connections."""
        self._engine = self._running_follower.engine = self._make_engine(self._running)
        await self._engine.start(self._running.state)
        self._provision = provision.provide(provision.WORKER)
        if self._contexts is not None:
            self._certificates = asyncio.create_task(self._follow_certificates(self._contexts), name="certificates")

    def configure(self, message: Configure | Apply | Forget, say: Callable[[Message], object]) -> None:
        """The supervisor has something to say about the configuration; ``say`` takes the answers."""
        self._running_follower.hear(message, say)

    @property
    def secrets(self) -> tuple[Place, ...]:
        """The places of what the app's types know to be secret in the configuration."""
        return self._running_follower.secrets

    def count(self, ticket: int, say: Callable[[Message], object]) -> None:
        """The supervisor asks what has been counted; ``say`` takes the answer."""
        if self._engine is None:
            say(Counted(ticket))
            return
        if self._tally is None:
            from holdfast.supervisor.tally import Tally  # most workers are never asked

            self._tally = Tally(self._engine)
        self._tally.answer(ticket, say)

    async def drain(self, order: Retire) -> tuple[tuple[str, ...], int]:
        """End connections, then the app. Returns what could not be finished, by name, and how many were handed over."""
        self._limit(order)
        unfinished: tuple[str, ...] = ()
        migrated = 0
        if self._engine is not None:
            within = order.within * (1 - SHUTDOWN_SHARE)
            report = await self._engine.drain(
                within, migrate=order.migrate, idle_grace=order.idle_grace, reason=order.reason
            )
            unfinished, migrated = report.cut_requests, report.migrated
        left = self._drain_until - asyncio.get_running_loop().time()
        return unfinished + await self._end(_share(left)), migrated

    def amend(self, order: Retire) -> None:
        """A second order, while the first is being carried out: the whole service stops, so that nobody is left to
        hand connections to, and there may be less time."""
        self._limit(order)
        if self._engine is not None and not order.migrate:
            self._engine.keep_connections(order.within * (1 - SHUTDOWN_SHARE), idle_grace=order.idle_grace)

    async def abort(self) -> None:
        """After a failed start: end what was started."""
        await self._end()

    def lame_duck(self, on: bool) -> None:
        """Serve on, but be unready, and tell clients to connect elsewhere."""
        self._running.health.leaving = on
        if self._engine is not None:
            self._engine.lame_duck(on)

    def beat(self, lag: float) -> Beat:
        """The counters of this moment."""
        if self._engine is None or self._lifecycle is None:
            return Beat(memory=machine.memory(), lag=lag, health="starting")
        state = self._engine.state
        health = self._lifecycle.health.report()
        return Beat(
            requests=state.received,
            in_flight=state.in_flight,
            connections=len(state.connections),
            accepted=state.accepted,
            migrated=state.migrated,
            refused=state.refused,
            failed=state.failed,
            memory=machine.memory(),
            lag=lag,
            health=health.status,
            checks=tuple(f"{check.name}: {check.reason}" for check in health.checks if check.status == "fail"),
        )

    def _boot_time_left(self) -> float:
        """Counted from the start of the process: the import has had its part already."""
        limit = self._settings.boot_timeout
        return max(0.1, self._start.began + limit - min(BOOT_MARGIN, limit / 10) - time.monotonic())

    @property
    def _running_engine(self) -> HttpEngine:
        assert self._engine is not None
        return self._engine

    @property
    def _running_follower(self) -> Follower:
        assert self._follower is not None
        return self._follower

    @property
    def _running(self) -> Lifecycle:
        assert self._lifecycle is not None
        return self._lifecycle

    def _limit(self, order: Retire) -> None:
        self._drain_until = min(self._drain_until, asyncio.get_running_loop().time() + order.within)

    async def _end(self, limits: Limits | None = None) -> tuple[str, ...]:
        if self._provision is not None:
            self._provision.cancel()
        if self._certificates is not None:
            self._certificates.cancel()
            await asyncio.gather(self._certificates, return_exceptions=True)
        report = await self._running.stop(limits)
        if self._follower is not None:
            await self._follower.close()
        if self._tally is not None:
            self._tally.close()
        if self._engine is not None:
            await self._engine.stop()
        return report.problems

    def _configure_log(self, settings: Settings) -> None:
        now, before = ((one.log_format, one.log_level) for one in (settings, self._settings))
        self._settings = settings
        if now != before:
            configure_log(self._start, settings)

    def _make_engine(self, lifecycle: Lifecycle) -> HttpEngine:
        settings = self._settings
        context = self._contexts.current if self._contexts is not None else None
        listeners = []
        for entry in self._start.sockets:
            sock = socket.socket(fileno=entry.fd)
            sock.setblocking(False)
            listeners.append(Listening(entry.id, sock, context))
        receive, send = (socket.socket(fileno=fd) for fd in self._start.intake)
        app: ASGIApp = lifecycle.app
        if settings.health and not lifecycle.service.health_routes:
            app = HealthRoutes(app, lifecycle.health.report)
        current = self._running_follower.live.current
        return HttpEngine(
            app,
            listeners,
            settings.http(),
            drain=self._drain,
            intake=(receive, send),
            admission=current.admission,
            routes=current.routes,
            errors=self._running_follower.errors,
            exempt=PROBES if settings.health or lifecycle.service.health_routes else (),
        )

    @property
    def _tls(self) -> TlsSettings:
        settings = self._settings
        return TlsSettings(
            certificate=Path(settings.tls_certificate),
            key=Path(settings.tls_key) if settings.tls_key else None,
            client_ca=Path(settings.tls_client_ca) if settings.tls_client_ca else None,
        )

    async def _follow_certificates(self, contexts: Watch[Any]) -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(watch_certificates(self._tls, contexts))
                    async for context in contexts.changes():
                        for listening in self._running_engine.listeners.values():
                            listening.tls = context
            except* Exception:  # found out now rather than when the certificate has expired
                logger.exception("watching the certificate failed; it is tried again")
            await asyncio.sleep(POLL_INTERVAL)

    def _bridge(self, app: WSGIApp) -> ASGIApp:
        try:
            from holdfast.server.wsgi import WSGIBridge
        except ImportError as exc:
            raise BootError(f'a WSGI app needs {exc.name}: pip install "holdfast[server]"') from exc
        return WSGIBridge(app, threads=self._settings.wsgi_threads)

    async def _probe(self, path: str, within: float) -> None:
        """Call the app as a request would. Raises BootError unless it answers below 500."""
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        route, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 0),
            "client": ("127.0.0.1", 0),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": route,
            "raw_path": route.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"user-agent", b"holdfast-probe")],
            "state": self._running.state.copy(),
            "extensions": {},
        }
        try:
            async with asyncio.timeout(within):
                await self._running.app(scope, receive, send)
        except TimeoutError:
            raise BootError(f"the probe of {path} got no answer within {within:g} s") from None
        if not 0 < status < 500:
            raise BootError(f"the probe of {path} was answered with status {status}")


def _share(seconds: float) -> Limits:
    """What is left of a drain, dealt out to the steps that end the app. Resources have limits of their own."""
    left = max(seconds, MIN_ENDING)
    return Limits(background=left * 0.1, tasks=left * 0.5, cancel=min(2.0, left * 0.1), shutdown=left * 0.3)


def configure_log(start: Start, settings: Settings) -> None:
    """The log of a worker."""
    labels = {"service": settings.service_name, "worker": start.slot, "generation": start.generation}
    configure(format=settings.log_format, level=settings.log_level, labels=labels)
