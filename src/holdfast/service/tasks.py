"""One-shot work that a service has promised to do: every task has an owner that hears of its end.

asyncio lets a failed task die in silence, and lets ``SystemExit`` and ``KeyboardInterrupt`` from any task end
the whole loop. Here the first is logged with its stack, and the second is a failure of that one task.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from holdfast.core.context import current, use_context
from holdfast.core.errors import Draining, HoldfastError, Rejected
from holdfast.service.report import TaskReport

T = TypeVar("T")

MAX_SPAWNED: Final = 10_000
"""Tasks under way at once. More than this is work that arrives faster than it is done."""
RETRY_AFTER: Final = 1.0
"""Seconds that a refusal suggests."""
CANCEL_SECONDS: Final = 2.0
"""How long a cancelled task may take to end before it is reported as stuck."""
DEEP: Final = 50
"""Awaits that ``waiting_at`` follows."""
FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
AWAITS: Final = ("cr_await", "gi_yieldfrom", "ag_await")
MACHINERY: Final = (str(Path(asyncio.__file__).parent), contextlib.__file__)
"""Files whose frames say nothing about the application."""

log: Final = logging.getLogger("holdfast.service")


class TaskExitError(HoldfastError):
    """A task called ``sys.exit`` or raised ``KeyboardInterrupt``: the task ends, the worker goes on."""


async def contained(work: Awaitable[T]) -> T:
    """Await ``work``; ``SystemExit``, ``KeyboardInterrupt`` and the like come out as ``TaskExitError``.

    Tasks that ``work`` itself starts with asyncio are not covered.
    """
    try:
        return await work
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as exc:  # also groups of them: not one may reach the event loop
        raise TaskExitError(f"{type(exc).__name__} {exc} ends this task only".replace("  ", " ")) from exc


def waiting_at(task: "asyncio.Task[Any]") -> str:
    """Where ``task`` waits, as ``file:line in function``: the innermost frame that is not asyncio's own."""
    at: Any = task.get_coro()
    place = "its end"
    for _ in range(DEEP):
        if at is None:
            break
        frame = next(filter(None, (getattr(at, name, None) for name in FRAMES)), None)
        if frame is not None and not frame.f_code.co_filename.startswith(MACHINERY):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        at = _awaited(at)
    return place


def _awaited(at: Any) -> Any:
    if type(at).__name__ in ("async_generator_asend", "async_generator_athrow"):
        # These hide their generator from Python, though not from the garbage collector.
        return next(filter(inspect.isasyncgen, gc.get_referents(at)), None)
    return next(filter(None, (getattr(at, name, None) for name in AWAITS)), None)


async def cancel(tasks: Iterable["asyncio.Task[Any]"], within: float = CANCEL_SECONDS) -> None:
    """Cancel ``tasks`` and wait up to ``within`` seconds for them to end. Results are left in the tasks."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=within)


def outcomes(tasks: Iterable["asyncio.Task[Any]"]) -> TaskReport:
    """Sort ``tasks`` by what became of them; one that still runs is stuck."""
    lists: tuple[list[str], list[str], list[str], list[str]] = ([], [], [], [])
    finished, failed, cancelled, stuck = lists
    for task in tasks:
        if not task.done():
            stuck.append(task.get_name())
        elif task.cancelled():
            cancelled.append(task.get_name())
        elif task.exception() is not None:
            failed.append(task.get_name())
        else:
            finished.append(task.get_name())
    return TaskReport(*(tuple(sorted(names)) for names in lists))


class Tasks:
    """The spawned tasks of one service. Belongs to one event loop's thread."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._count = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> "asyncio.Task[T]":
        """Start ``coro`` as a task of its own and return that task; its failure is logged with its stack.

        Raises ``TypeError`` for anything but a coroutine, ``RuntimeError`` off the event loop, ``Draining``
        after the service has shut down, ``Rejected`` when ``MAX_SPAWNED`` tasks are under way. A
        coroutine that is refused is closed. The task outlives its caller: it keeps the caller's baggage,
        not its deadline, and cancelling the caller does not cancel it.
        """
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"spawn() takes a coroutine, not {type(coro).__name__}; call the async function: f()")
        try:
            task = self._start(coro, name)
        except BaseException:  # whatever refused it, nobody else will close the coroutine
            coro.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # A task cancelled before its first step never enters the coroutine: close it, so that nothing warns.
        task.add_done_callback(lambda _: coro.close())
        return task

    def _start(self, coro: Coroutine[Any, Any, T], name: str | None) -> "asyncio.Task[T]":
        label = name or getattr(coro, "__qualname__", "task")
        if self._closed:
            raise Draining("spawn", f"{label!r} comes too late: the service has shut down")
        if len(self._tasks) >= MAX_SPAWNED:
            reason = f"{len(self._tasks)} tasks are under way and {MAX_SPAWNED} are allowed; {label!r} is refused"
            raise Rejected("spawn", reason, RETRY_AFTER)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            advice = "from a thread use loop.call_soon_threadsafe(lambda: service.spawn(...))"
            raise RuntimeError(f"spawn() of {label!r} needs the service's event loop; {advice}") from None
        self._count += 1
        unique = name or f"{label}-{self._count}"
        # The caller's deadline is that of a request which may be over before this task has begun.
        with use_context(msgspec.structs.replace(current(), cancellation=None)):
            return loop.create_task(contained(coro), name=unique)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            log.debug("spawned task %s was cancelled", task.get_name())
        elif (exc := task.exception()) is not None:
            log.error("spawned task %s failed", task.get_name(), exc_info=exc)

    async def drain(self, within: float, cancel_within: float = CANCEL_SECONDS) -> TaskReport:
        """Wait up to ``within`` seconds for all tasks, cancel the rest, wait ``cancel_within`` more; report.

        Tasks spawned meanwhile are waited for too. Afterwards ``spawn`` refuses. A caller that is itself a
        spawned task is left out. A cancellation of the wait leaves the tasks running and ``spawn`` open.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        seen: set[asyncio.Task[Any]] = set()
        while pending := self._others():
            seen |= pending
            left = end - loop.time()
            if left <= 0:
                break
            await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self._closed = True
        late = self._others()
        seen |= late
        for task in late:
            log.warning("task %s is cancelled: not done within %g s", task.get_name(), within)
        await cancel(late, cancel_within)
        for task in late:
            if not task.done():
                log.error("task %s is stuck at %s", task.get_name(), waiting_at(task))
        return outcomes(seen)

    def _others(self) -> "set[asyncio.Task[Any]]":
        return self._tasks - {asyncio.current_task()}
