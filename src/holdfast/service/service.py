"""What an application may say about itself: its resources, background work, tasks and health checks.

::

    service = Service("orders", app)

    @service.resource
    async def db():
        async with connect(...) as pool:
            yield pool

    @service.every("10s", timeout="5s")
    async def sweep(db): ...

    @service.check("db", every="5s")
    async def db_answers(db): await db.execute("select 1")

A parameter of such a function names the resource that it gets. Nothing runs before the service is started.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, get_args, overload

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.drain import Drain, use_drain
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.background import Background, Every, Restart
from holdfast.service.configured import Configured
from holdfast.service.declaration import asynchronous, named, needs_of, seconds
from holdfast.service.health import Check
from holdfast.service.interface import ASGIApp, Choice, Receive, Scope, Send, WSGIApp, detect
from holdfast.service.problem import problem
from holdfast.service.report import TaskReport
from holdfast.service.resources import Resource, Resources, order
from holdfast.service.resources import declare as declare_resource
from holdfast.service.tasks import CANCEL_SECONDS, Tasks

if TYPE_CHECKING:  # most services mark no handlers
    from holdfast.service.marks import RouteOptions
    from holdfast.service.routes import CodeRoute, Routes

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

START_TIMEOUT: Final = "30s"
STOP_TIMEOUT: Final = "10s"


class Service(Configured):
    """A named service around ``app`` (ASGI, WSGI, or None for one that only works in the background).

    Declarations raise ``ConfigError`` at once when they are wrong, ``RuntimeError`` once the service runs.
    It is an ASGI application itself: under any ASGI server its lifespan starts and ends everything. With
    ``health_routes`` it answers /livez, /readyz and /startupz on its own port. It may be run again after
    it has stopped. ``settings`` is the type of ``[settings]`` in its configuration: a msgspec struct, a dataclass or a
    pydantic model. Declare in one thread; ``spawn`` and ``resources`` belong to the event loop that runs it.
    """

    def __init__(
        self,
        name: str,
        app: Any = None,
        *,
        interface: Choice = "auto",
        clock: Clock = SYSTEM,
        health_routes: bool = False,
        settings: Any = dict,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError("name", name, "a name", "Service", 'write Service("orders", app)')
        if interface not in get_args(Choice):
            raise ConfigError("interface", interface, f"one of {', '.join(get_args(Choice))}", "Service")
        super().__init__(settings, clock)
        self.name: Final = name
        self.app: Final = app
        self.clock: Final = clock
        self.health_routes: Final = health_routes
        self._interface: Final = interface
        self._resources: dict[str, Resource] = {}
        self._background: dict[str, Background | Every] = {}
        self._checks: dict[str, Check] = {}
        self._values: Mapping[str, Any] = {}
        self._tasks = Tasks()
        self._running = False
        self._serving: tuple[ASGIApp, Drain] | None = None
        self._routes: Routes | None = None

    def __repr__(self) -> str:
        return f"Service({self.name!r})"

    # -- declarations

    @overload
    def resource(self, function: F, /) -> F: ...
    @overload
    def resource(
        self,
        *,
        name: str | None = ...,
        start_timeout: str | float = ...,
        stop_timeout: str | float = ...,
    ) -> Callable[[F], F]: ...
    def resource(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        start_timeout: str | float = START_TIMEOUT,
        stop_timeout: str | float = STOP_TIMEOUT,
    ) -> Any:
        """Declare what the service holds: an async generator function with one yield, or a function that
        returns an async context manager. The function itself is handed back.

        Entered and left in the same task. Named after the function unless ``name`` is given.
        """

        def declare(function: F) -> F:
            own = named(function, name, "resource")
            who = f"resource {own!r}"
            limits = seconds(start_timeout, "start_timeout", who), seconds(stop_timeout, "stop_timeout", who)
            self._add(self._resources, own, "resource", declare_resource(function, own, *limits))
            return function

        return declare if function is None else declare(function)

    @overload
    def background(self, function: F, /) -> F: ...
    @overload
    def background(
        self,
        *,
        name: str | None = ...,
        restart: Restart = ...,
        backoff: str | float = ...,
        max_backoff: str | float = ...,
        stable_after: str | float = ...,
    ) -> Callable[[F], F]: ...
    def background(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        restart: Restart = "always",
        backoff: str | float = "100ms",
        max_backoff: str | float = "30s",
        stable_after: str | float = "60s",
    ) -> Any:
        """Declare an async function that is kept running: restarted when it returns (``always``), only
        when it fails (``on-failure``), or ``never``, after a delay that doubles from ``backoff`` to
        ``max_backoff``.

        A run of ``stable_after`` resets the delay. At shutdown it is cancelled; watch ``current_drain()``
        to end earlier. A failure is logged with its stack.
        """

        def declare(function: F) -> F:
            own = named(function, name, "background")
            who = f"background {own!r}"
            item = Background(
                name=own,
                function=asynchronous(function, who),
                needs=needs_of(function, who),
                restart=restart,
                backoff=seconds(backoff, "backoff", who),
                max_backoff=seconds(max_backoff, "max_backoff", who),
                stable_after=seconds(stable_after, "stable_after", who, positive=False),
            )
            self._add(self._background, own, "background", item)
            return function

        return declare if function is None else declare(function)

    def every(
        self,
        interval: str | float,
        *,
        jitter: str | float = 0.0,
        timeout: str | float | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Declare an async function that runs at each multiple of ``interval`` after the start.

        Runs never overlap; ticks missed meanwhile become one run. A run that fails is logged with its
        stack, and the next goes on. ``jitter`` puts each run off by a random part of it, ``timeout`` cuts
        a run short.
        """
        if not isinstance(interval, str | float | int):
            raise ConfigError("interval", None, "a duration", "every", 'write @service.every("10s")')

        def declare(function: F) -> F:
            own = named(function, name, "every")
            who = f"every {own!r}"
            item = Every(
                name=own,
                function=asynchronous(function, who),
                needs=needs_of(function, who),
                interval=seconds(interval, "interval", who),
                jitter=seconds(jitter, "jitter", who, positive=False),
                timeout=None if timeout is None else seconds(timeout, "timeout", who),
            )
            self._add(self._background, own, "background", item)
            return function

        return declare

    def check(
        self,
        name: str | None = None,
        *,
        critical: bool = True,
        every: str | float = "5s",
        timeout: str | float = "1s",
    ) -> Callable[[F], F]:
        """Declare a health check: a sync function (run in a thread) or an async one.

        None or True is ok; an exception or anything else is failing. While a ``critical`` check fails,
        the worker is not ready. It runs each ``every``, cut short after ``timeout``; probes read its last
        result.
        """
        if name is not None and not isinstance(name, str):
            raise ConfigError("name", None, "a name", "check", 'write @service.check("db")')

        def declare(function: F) -> F:
            own = named(function, name, "check")
            who = f"check {own!r}"
            needs = needs_of(function, who)
            period, limit = seconds(every, "every", who), seconds(timeout, "timeout", who)
            self._add(self._checks, own, "check", Check(own, function, needs, critical, period, limit))
            return function

        return declare

    def route(self, match: str = "", **options: "Unpack[RouteOptions]") -> Callable[[F], F]:
        """Declare settings of the route that the decorated handler serves, as ``holdfast.route``, which says more.

        With ``match``, such as ``POST /orders``, the handler need not be in a table that can be read.
        """

        def declare(handler: F) -> F:
            from holdfast.service.routes import Routes

            self._routes = self._routes or Routes()
            self._routes.declare(handler, match, options)
            return handler

        return declare

    def routes_from_code(self) -> "list[CodeRoute]":
        """The routes that handlers of ``app`` have been given in code, as tables in the form of ``[[routes]]``.

        ``where`` of each says on which handler it stands.

        Settings are checked as far as they can be without the server. ``BootError`` when a marked handler is in no
        table of the app, when its path cannot be said as a pattern, or when two marks are for one route.
        """
        if self._routes is None and "holdfast.service.marks" not in sys.modules:
            return []  # nobody has marked a handler
        from holdfast.service.routes import Routes

        return (self._routes or Routes()).found(self.app)

    def _add(self, where: dict[str, T], name: str, kind: str, item: T) -> None:
        if self._running:
            raise RuntimeError(f"{kind} {name!r} is declared after {self!r} was started; declare it before")
        if name in where:
            raise ConfigError("name", name, "a name of its own", kind, f"it is taken; give name=... to one {kind}")
        where[name] = item

    # -- while it runs

    @property
    def resources(self) -> Resources:
        """The open resources, as ``service.resources.db`` or ``service.resources["db"]``."""
        return Resources(self._values)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> "asyncio.Task[T]":
        """Start ``coro`` as a tracked task; see ``Tasks.spawn``. At shutdown it is awaited, then
        cancelled.
        """
        return self._tasks.spawn(coro, name)

    async def drain_tasks(self, within: float, cancel_within: float = CANCEL_SECONDS) -> TaskReport:
        """Wait for the spawned tasks, cancel what is left after ``within`` seconds, and report by name."""
        return await self._tasks.drain(within, cancel_within)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            from holdfast.service.lifecycle import converse  # it stands on this module

            await converse(self, scope, receive, send)
            return
        if self._serving is None:
            self._serving = self.application(), Drain()
        app, drain = self._serving
        with use_drain(drain):
            await app(scope, receive, send)

    # -- for the lifecycle

    @property
    def declared_resources(self) -> list[Resource]:
        """In the order of declaration."""
        return list(self._resources.values())

    @property
    def declared_background(self) -> list[Background | Every]:
        """Loops and scheduled runs, in the order of declaration."""
        return list(self._background.values())

    @property
    def declared_checks(self) -> list[Check]:
        """In the order of declaration."""
        return list(self._checks.values())

    def application(self, wsgi: Callable[[WSGIApp], ASGIApp] | None = None) -> ASGIApp:
        """``app`` as an ASGI application; ``wsgi`` makes one of a WSGI application. ``BootError`` when it
        is none.
        """
        if self.app is None:
            return _no_application
        if detect(self.app, self._interface) == "asgi3":
            asgi: ASGIApp = self.app
            return asgi
        if wsgi is None:
            raise BootError(f"the application of {self!r} is WSGI; wrap it in holdfast.server.wsgi.WSGIBridge")
        return wsgi(self.app)

    def attach(self, values: Mapping[str, Any]) -> None:
        """A lifecycle takes the service over; ``values`` are its open resources. ``BootError`` when it
        runs.
        """
        if self._running:
            raise BootError(f"{self!r} runs already; one service object is run once at a time")
        self._running = True
        self._values = values
        self._tasks = Tasks()

    def detach(self) -> None:
        """The lifecycle is over. ``spawn`` goes on refusing until the next one."""
        self._running = False
        self._serving = None

    def serve_with(self, app: ASGIApp, drain: Drain) -> None:
        """Answer calls of this object with ``app``, under ``drain``."""
        self._serving = app, drain

    def check_needs(self) -> None:
        """``BootError`` when a declaration needs a resource that nobody declares, or resources need each
        other.
        """
        order(self._resources.values())
        for item in self._background.values():
            item.needs.check(self._resources, f"{type(item).__name__.lower()} {item.name!r}")
        for check in self._checks.values():
            check.needs.check(self._resources, f"check {check.name!r}")
        self.check_listeners(self._resources)

    def _open_resources(self) -> Mapping[str, Any]:
        return self._values


async def _no_application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers for a service that serves nothing."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    status, headers, body = problem(404, detail="This service has no application.")
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
