"""The life of one target in one worker: everything is started in order, and ended in the reverse order.

::

    start   resources -> the application's lifespan.startup -> background work, checks
    stop    background work -> spawned tasks -> checks -> lifespan.shutdown -> resources

Each step has a limit of its own, so that a stop always ends, and its report names what did not.
"""

import logging
import random
import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.drain import Drain, use_drain
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.background import BackgroundTasks
from holdfast.service.health import Health
from holdfast.service.interface import ASGIApp, Choice, Receive, Scope, Send, WSGIApp
from holdfast.service.lifespan import Lifespan, Mode
from holdfast.service.probes import HealthRoutes
from holdfast.service.report import StopReport, StopStep
from holdfast.service.resources import OpenResources
from holdfast.service.service import Service

log: Final = logging.getLogger("holdfast.service")


class Limits(msgspec.Struct, frozen=True):
    """Seconds. Resources, scheduled runs and checks carry limits of their own besides."""

    startup: float = 60.0
    """The application's own start-up."""
    background: float = 5.0
    """Scheduled runs that are under way when the stop begins."""
    tasks: float = 10.0
    """Spawned tasks, before they are cancelled."""
    cancel: float = 2.0
    """What was cancelled, before it is reported as stuck."""
    shutdown: float = 10.0
    """The application's own shutdown."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(name, getattr(self, name), "seconds above zero", "limits")


class Lifecycle:
    """Runs ``target``: a ``Service``, or a plain ASGI or WSGI application that knows nothing of us.

    ``wsgi`` turns a WSGI application into an ASGI one; without it one is refused. ``drain`` is the worker's;
    tasks started here see it as ``current_drain()``. ``app`` answers requests, each with a copy of
    ``state`` in its scope. ``start`` and ``stop`` belong to one event loop and are called once each.
    ``BootError`` from the constructor when ``target`` is no application.
    """

    def __init__(
        self,
        target: Any,
        *,
        clock: Clock | None = None,
        name: str = "app",
        interface: Choice = "auto",
        lifespan: Mode = "auto",
        limits: Limits | None = None,
        drain: Drain | None = None,
        wsgi: Callable[[WSGIApp], ASGIApp] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        service = target if isinstance(target, Service) else Service(name, target, interface=interface)
        self.service: Final = service
        self.clock: Final = clock or (service.clock if service is target else SYSTEM)
        self.drain: Final = Drain() if drain is None else drain
        self.limits: Final = limits or Limits()
        self.state: Final[dict[str, Any]] = {}
        self.health: Final = Health(self.drain, self.clock)
        application = service.application(wsgi)
        self.app: Final[ASGIApp] = (
            HealthRoutes(application, self.health.report) if service.health_routes else application
        )
        self._attached = False
        self._resources = OpenResources(self.clock)
        self._background = BackgroundTasks(self.drain, self.clock, rng)
        # A service without an application has nobody to talk to.
        self._lifespan = Lifespan(application, self.state, lifespan if service.app is not None else "off")

    async def start(self) -> None:
        """Start everything. On ``BootError`` or a cancellation all that was started is ended again."""
        service = self.service
        service.attach(self._resources.values)
        self._attached = True
        with use_drain(self.drain):
            try:
                service.check_needs()
                await self._resources.start(service.declared_resources)
                self.state.update(self._resources.values)
                await service.resources_opened()
                await self._lifespan.start(self.limits.startup)
                self._background.start(service.declared_background, self._resources.values)
                self.health.start(service.declared_checks, self._resources.values)
            except BaseException:  # also a cancellation: nothing may stay open
                await self.stop()
                raise
        self.health.started = True

    async def first_checks(self, timeout: float) -> None:
        """Return once every critical check has passed; ``BootError`` naming the others after ``timeout``
        seconds.
        """
        try:
            await self.health.first_checks(timeout)
        except TimeoutError as exc:
            raise BootError(str(exc)) from None

    async def stop(self, limits: Limits | None = None) -> StopReport:
        """End everything, each step within its limit, and report by name. Raises only a cancellation of
        itself.

        ``limits`` replaces those of the constructor: there may be more or less time now. Begins the drain if
        nobody has. Afterwards ``service.spawn`` refuses. Without a start, or a second time, it does nothing.
        """
        if not self._attached:
            return StopReport()
        self.drain.begin("the service stops")
        limits = limits or self.limits
        self.service.resources_closing()
        background = await self._background.stop(limits.background, limits.cancel)
        spawned = await self.service.drain_tasks(limits.tasks, limits.cancel)
        await self.health.stop(limits.cancel)
        steps: list[StopStep] = []
        began = self.clock.now()
        step = await self._lifespan.stop(limits.shutdown)
        if step is not None:
            steps.append(msgspec.structs.replace(step, seconds=self.clock.now() - began))
        steps += await self._resources.stop()
        self._attached = False
        self.service.detach()
        report = StopReport(tuple(steps), background, spawned)
        for problem in report.problems:
            log.warning("at shutdown: %s", problem)
        return report


async def converse(service: Service, scope: Scope, receive: Receive, send: Send) -> None:
    """Play the application's side of the ASGI lifespan for ``service``, under any ASGI server.

    Returns when the server has said ``lifespan.shutdown``. A failed start is told to the server with its
    text.
    """
    await receive()
    drain = Drain()
    try:
        lifecycle = Lifecycle(service, drain=drain)
        await lifecycle.start()
    except BootError as exc:
        await send({"type": "lifespan.startup.failed", "message": str(exc)})
        return
    except Exception:  # anything that got out would count as "takes no part in the lifespan", and be served
        await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
        return
    scope.setdefault("state", {}).update(lifecycle.state)
    service.serve_with(lifecycle.app, drain)
    await send({"type": "lifespan.startup.complete"})
    try:
        await receive()
    finally:
        report = await lifecycle.stop()
    if report.clean:
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "lifespan.shutdown.failed", "message": "; ".join(report.problems)})
