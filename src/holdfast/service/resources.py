"""What a service holds while it lives: databases, clients, pools. Opened by need, closed in reverse.

Each resource has a task of its own, in which its context manager is both entered and left, as cancel scopes
and context variables demand. So one that hangs while it closes keeps no other from closing.
"""

import asyncio
import contextlib
import graphlib
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.declaration import Needs, needs_of, offer
from holdfast.service.report import StopStep
from holdfast.service.tasks import CANCEL_SECONDS, cancel, contained, waiting_at

Opener = Callable[..., contextlib.AbstractAsyncContextManager[Any]]

log: Final = logging.getLogger("holdfast.service")


class Resource(msgspec.Struct, frozen=True):
    """A declaration. ``open`` gets the values of the resources it needs by keyword."""

    name: str
    open: Opener
    needs: Needs
    start_timeout: float
    stop_timeout: float


def declare(
    function: Callable[..., Any], name: str, start_timeout: float = 30.0, stop_timeout: float = 10.0
) -> Resource:
    """A resource from an async generator function with one yield, or a function returning a context manager.

    ``ConfigError`` for other functions and for names that are no plain identifier.
    """
    who = f"resource {name!r}"
    if not name.isidentifier() or name.startswith("_"):
        raise ConfigError("name", name, "an identifier that does not begin with an underscore", "resource")
    if inspect.isasyncgenfunction(function):
        opener: Opener = contextlib.asynccontextmanager(function)
    elif inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        expected = "an async generator function with one yield, or one that returns an async context manager"
        raise ConfigError("function", None, expected, who, "write: async def ...: ...; yield value; ...")
    else:
        opener = function
    return Resource(name, opener, needs_of(function, who), start_timeout, stop_timeout)


def order(resources: Iterable[Resource]) -> list[Resource]:
    """``resources`` with everything after what it needs; the order of declaration where nothing decides.

    ``BootError`` for a need that nobody declares and for needs that go round in a circle.
    """
    declared = {resource.name: resource for resource in resources}
    graph: dict[str, tuple[str, ...]] = {}
    for name, resource in declared.items():
        resource.needs.check(declared, f"resource {name!r}")
        graph[name] = resource.needs.among(declared)
    try:
        return [declared[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as exc:
        circle = " needs ".join(reversed(exc.args[1]))
        raise BootError(f"resources need one another in a circle: {circle}") from None


class Resources:
    """The values of the open resources: ``resources.db`` and ``resources["db"]``. A view; read only."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(self._absent(name)) from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(self._absent(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Resources({', '.join(self._values) or 'none open'})"

    def _absent(self, name: str) -> str:
        return f"no resource {name!r} is open{offer(name, self._values)}"


class OpenResources:
    """Opens and closes resources. ``start`` and ``stop`` are called once each, on one event loop."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self.values: dict[str, Any] = {}
        self._clock = clock
        self._open: list[_Holder] = []

    async def start(self, resources: Iterable[Resource]) -> None:
        """Open all in order of need, each within its ``start_timeout``.

        When one fails, or on a cancellation, those already open are closed in reverse, and ``BootError``
        naming the resource (or the cancellation) comes out.
        """
        for resource in order(resources):
            holder = _Holder(resource)
            self._open.append(holder)
            try:
                self.values[resource.name] = await holder.start(resource.needs.arguments(self.values))
            except BaseException:  # also a cancellation: nothing may stay open
                self._open.remove(holder)
                await self.stop()
                raise

    async def stop(self) -> list[StopStep]:
        """Close all in reverse, each within its ``stop_timeout``. Failures are logged and reported."""
        steps = []
        while self._open:
            holder = self._open.pop()
            self.values.pop(holder.resource.name, None)
            began = self._clock.now()
            step = await holder.stop()
            steps.append(msgspec.structs.replace(step, seconds=self._clock.now() - began))
        return steps


class _Holder:
    """The task in which one resource lives."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self._who = f"resource {resource.name}"
        self._close = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, arguments: dict[str, Any]) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(contained(self._live(arguments, opened)), name=self._who)
        self._task = task
        limit = self.resource.start_timeout
        try:
            await asyncio.wait({task, opened}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await cancel({task}, self.resource.stop_timeout)
            raise
        if opened.done():
            task.add_done_callback(self._died)
            return opened.result()
        name = self.resource.name
        if not task.done():
            place = waiting_at(task)
            await cancel({task}, self.resource.stop_timeout)
            raise BootError(f"resource {name!r} did not start within {limit:g} s; it waited at {place}")
        if task.cancelled():
            raise BootError(f"resource {name!r} failed to start: it was cancelled from inside")
        exc = task.exception()
        why = "it ended without a value" if exc is None else f"{type(exc).__name__}: {exc}"
        detail = "" if exc is None else "".join(traceback.format_exception(exc))
        raise BootError(f"resource {name!r} failed to start: {why}", detail)

    async def _live(self, arguments: dict[str, Any], opened: "asyncio.Future[Any]") -> None:
        manager = self.resource.open(**arguments)
        if not hasattr(manager, "__aenter__"):
            raise TypeError(f"it returned {type(manager).__name__}, which is no async context manager")
        async with manager as value:
            opened.set_result(value)
            await self._close.wait()

    def _died(self, task: "asyncio.Task[None]") -> None:
        if not self._close.is_set():
            exc = None if task.cancelled() else task.exception()
            log.error("%s ended while the service still runs", self._who, exc_info=exc)

    async def stop(self) -> StopStep:
        task = self._task
        assert task is not None
        if task.done():
            return StopStep(self._who, "failed", 0.0, "it had ended by itself")
        self._close.set()
        limit = self.resource.stop_timeout
        await asyncio.wait({task}, timeout=limit)
        if not task.done():
            place = waiting_at(task)
            detail = f"not closed within {limit:g} s; it waited at {place}"
            log.error("%s %s", self._who, detail)
            await cancel({task}, CANCEL_SECONDS)
            return StopStep(self._who, "overran" if task.done() else "stuck", 0.0, detail)
        exc = None if task.cancelled() else task.exception()
        if exc is None and not task.cancelled():
            return StopStep(self._who, "done", 0.0)
        detail = "cancelled from inside" if exc is None else f"{type(exc).__name__}: {exc}"
        log.error("%s failed to close", self._who, exc_info=exc)
        return StopStep(self._who, "failed", 0.0, detail)
