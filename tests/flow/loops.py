"""Kinds of event loops to run a test on, and what a flow must leave behind on each: nothing."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

import uvloop

from holdfast.core.clock import VirtualClock

T = TypeVar("T")

Main = Callable[[], Coroutine[Any, Any, T]]
Run = Callable[[Main[Any]], Any]
TURNS = 200
"""Turns of the loop in which whatever is under way must come to rest."""


class Kind:
    """How to run a test. ``virtual`` loops have timers that cost no time; on the others a test uses none."""

    def __init__(self, name: str, *, virtual: bool, eager: bool = False, debug: bool = False) -> None:
        self.name = name
        self.virtual = virtual
        self.eager = eager
        self.debug = debug

    def run(self, main: Main[T]) -> T:
        """Run ``main``. Fails when a task is left, or an error was reported that nobody awaited."""
        reports: list[str] = []

        async def checked() -> T:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reports.append(f"{context}"))
            loop.set_debug(self.debug)
            if self.eager:
                loop.set_task_factory(_eager)
            result = await main()
            assert not others(), others()
            gc.collect()
            await turns(3)
            assert not reports, reports
            return result

        gc.freeze()  # so that the collections look at what this test made, not at all of pytest
        try:
            if self.virtual:
                return VirtualClock().run(checked())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(checked())
        finally:
            gc.unfreeze()


def _eager(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
    """``asyncio.eager_task_factory``, but for an option that uvloop hands over and Python before 3.13.3 refuses."""
    options["eager_start"] = True
    return asyncio.Task(coro, loop=loop, **options)


KINDS = [
    Kind("asyncio", virtual=True),
    Kind("debug", virtual=True, debug=True),
    Kind("uvloop", virtual=False),
    Kind("uvloop-debug", virtual=False, debug=True),
]
if sys.version_info >= (3, 12):
    KINDS += [
        Kind("eager", virtual=True, eager=True),
        Kind("uvloop-eager", virtual=False, eager=True),
    ]


def others() -> "set[asyncio.Task[Any]]":
    """Every task but the one that asks."""
    tasks = asyncio.all_tasks()
    current = asyncio.current_task()
    return tasks - {current} if current is not None else tasks


async def turns(count: int = TURNS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str = "it came true") -> None:
    """Turn the loop until ``condition`` holds."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{TURNS} turns of the loop passed before {what}")


async def at_rest() -> None:
    """Return when no other task is left: what was cancelled in the background has ended."""
    await until(lambda: not others(), "every task had ended")


class Calls(Generic[T]):
    """A function to call that ends only when told to, and counts what it sees."""

    def __init__(self) -> None:
        self.begun: list[T] = []
        self.ended: list[T] = []
        self.cancelled: list[T] = []
        self.most = 0
        self._gates: dict[T, asyncio.Future[Any]] = {}

    @property
    def running(self) -> list[T]:
        return [item for item in self.begun if item not in self.ended]

    def has_begun(self, item: T) -> bool:
        return item in self.begun

    async def __call__(self, item: T) -> Any:
        self.begun.append(item)
        self.most = max(self.most, len(self.running))
        gate = self._gate(item)
        try:
            return await gate
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        finally:
            self.ended.append(item)

    def finish(self, item: T, result: Any = None) -> None:
        gate = self._gate(item)
        if isinstance(result, BaseException):
            gate.set_exception(result)
        else:
            gate.set_result(result)

    def _gate(self, item: T) -> "asyncio.Future[Any]":
        if item not in self._gates:
            self._gates[item] = asyncio.get_running_loop().create_future()
        return self._gates[item]


class Numbers:
    """A source that counts what is read, and says whether it was closed by the task that read it."""

    def __init__(self, count: int, *, error: Exception | None = None) -> None:
        self.count = count
        self.read = 0
        self.closed = False
        self.error = error

    async def __aiter__(self) -> AsyncIterator[int]:
        task = asyncio.current_task()
        try:
            for number in range(self.count):
                await asyncio.sleep(0)
                self.read += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            assert asyncio.current_task() is task
            self.closed = True


async def double(item: int) -> int:
    await asyncio.sleep(0)
    return 2 * item


def take(results: AsyncIterator[T]) -> "asyncio.Task[T]":
    """Ask for the next result, in a task of its own."""

    async def ask() -> T:
        return await anext(results)

    return asyncio.ensure_future(ask())


async def gather(results: AsyncIterator[T], seen: list[T]) -> None:
    """Put each result into ``seen``, which keeps them when an error comes."""
    async for result in results:
        seen.append(result)  # noqa: PERF401 - a comprehension would lose them
