"""A function over many items at once, a bounded number of them, with the results as a stream."""

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar, overload

from holdfast.flow.outcome import Outcome
from holdfast.flow.scope import Crew, Signal
from holdfast.flow.source import Source, asked, feed, require_at_least, require_function, require_source

T = TypeVar("T")
R = TypeVar("R")


@overload
def map_concurrent(
    source: Source[T],
    fn: Callable[[T], Awaitable[R]],
    *,
    limit: int,
    buffer: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise"] | Callable[[Outcome[T, R]], object] = "raise",
) -> AsyncGenerator[R, None]: ...


@overload
def map_concurrent(
    source: Source[T],
    fn: Callable[[T], Awaitable[R]],
    *,
    limit: int,
    buffer: int | None = None,
    ordered: bool = True,
    on_error: Literal["outcome"],
) -> AsyncGenerator[Outcome[T, R], None]: ...


def map_concurrent(
    source: Source[T],
    fn: Callable[[T], Awaitable[R]],
    *,
    limit: int,
    buffer: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise", "outcome"] | Callable[[Outcome[T, R]], object] = "raise",
) -> AsyncGenerator[Any, None]:
    """``await fn(item)`` for each item, at most ``limit`` at once; an async iterator over the results.

    Each call is a task of its own, so it has a copy of the context: deadline, cancellation and baggage of the code
    that first asks for a result. Nothing starts before that.

    At most ``limit + buffer`` items are read and not yet handed out; ``buffer`` is ``limit`` unless given. A
    consumer that does not take its results holds up the calls, and they the source. ``ordered`` results come in the
    order of the source, others as soon as they are there. A slow call holds up the results behind it, but the
    calls only when the buffer is full.

    ``on_error="raise"``: the first error cancels every other call at once. Results that were ready are handed out;
    then, when everything has ended, the error is raised as it is. A note on it names others that failed before all
    had ended. ``"outcome"``: an ``Outcome`` for each item, and nothing is cancelled. A plain function: it is
    called with the ``Outcome`` of each failed item, which is then left out. What it raises ends the flow. Neither of
    the two hides an error of the source, which comes after all results, nor ``SystemExit`` and the like.

    A call that is cancelled from elsewhere has failed with ``CallCancelled``.

    Break, ``aclose()``, a cancellation of the consumer, an error in its loop, or dropping the iterator end the
    flow: every call is cancelled, the source is closed, and all is awaited. ``aclose()`` (use
    ``contextlib.aclosing``), and a cancellation while a result is awaited, return only then; after the others
    asyncio does it in the background.

    ``TypeError`` and ``ValueError`` for arguments that make no sense. One task at a time may iterate.
    """
    require_source(source)
    require_function(fn)
    require_at_least(1, limit=limit)
    require_at_least(0, buffer=limit if buffer is None else buffer)
    if callable(on_error):
        if _is_asynchronous(on_error):
            raise TypeError(f"on_error is the coroutine function {on_error!r}; give a plain function")
    elif on_error not in ("raise", "outcome"):
        raise ValueError(f'on_error is {on_error!r}; give "raise", "outcome" or a function')
    held = limit + (limit if buffer is None else buffer)
    return _Map(source, fn, limit, held, ordered, on_error).results()


class _Slot(Generic[T, R]):
    """An item on its way."""

    __slots__ = ("done", "error", "item", "value")

    def __init__(self, item: T) -> None:
        self.item = item
        self.value: R | None = None
        self.error: Exception | None = None
        self.done = False


class _Map(Generic[T, R]):
    def __init__(
        self,
        source: Source[T],
        fn: Callable[[T], Awaitable[R]],
        limit: int,
        most: int,
        ordered: bool,
        on_error: Literal["raise", "outcome"] | Callable[[Outcome[T, R]], object],
    ) -> None:
        self._source = source
        self._fn = fn
        self._limit = limit
        self._most = most
        self._ordered = ordered
        self._on_error = on_error
        self._line: deque[_Slot[T, R]] = deque()  # ordered: all that are held; otherwise: those that are done
        self._running = 0
        self._held = 0
        self._read = False
        self._ready = Signal()
        self._room = Signal()
        self._crew: Crew[_Slot[T, R] | None] = Crew(self._ended)  # the reader has no slot

    async def results(self) -> AsyncGenerator[Any, None]:
        crew, line, on_error = self._crew, self._line, self._on_error
        try:
            crew.start(feed(self._source, self._put, self._wait_for_room), None)
            while True:
                while line and line[0].done:
                    slot = line.popleft()
                    self._held -= 1
                    if not self._full():
                        self._room.set()
                    if on_error == "outcome":
                        yield Outcome(slot.item, slot.value, slot.error)
                    elif slot.error is None:
                        yield slot.value
                    else:
                        assert callable(on_error)
                        _tell(on_error, Outcome(slot.item, None, slot.error))
                if crew.stopping or (self._read and not self._held):
                    break
                await self._ready.wait()
        except BaseException:  # whatever ends the consumer's interest, GeneratorExit too, ends the tasks
            await crew.abandon()
            raise
        await crew.settle()

    def _full(self) -> bool:
        return self._running >= self._limit or self._held >= self._most

    async def _wait_for_room(self) -> None:
        while self._full():
            await self._room.wait()

    def _put(self, item: T) -> bool:
        if self._crew.stopping:  # a source may answer a cancellation with one more item
            raise asyncio.CancelledError
        slot: _Slot[T, R] = _Slot(item)
        self._crew.start(self._call(item), slot)  # even an eager one is taken note of in a later turn
        if self._ordered:
            self._line.append(slot)
        self._running += 1
        self._held += 1
        return self._running >= self._limit or self._held >= self._most

    async def _call(self, item: T) -> R:
        return await asked(self._fn, item)

    def _ended(self, slot: _Slot[T, R] | None, task: "asyncio.Task[R]", error: BaseException | None) -> None:
        if slot is None:
            self._read = True
            if error is not None:
                self._source_failed(error)
            self._ready.set()
            return
        self._running -= 1
        if error is None:
            slot.value = task.result()
        elif self._on_error != "raise" and isinstance(error, Exception):
            slot.error = error
        else:
            self._crew.fail(error)
            self._ready.set()
            return
        slot.done = True
        if not self._ordered:
            self._line.append(slot)
        if self._line[0].done:
            self._ready.set()
        if not self._full():
            self._room.set()

    def _source_failed(self, error: BaseException) -> None:
        if self._on_error == "raise" or not isinstance(error, Exception):
            self._crew.fail(error)
        else:
            # Where errors are kept apart, the items that were read do not suffer for those that were not.
            self._crew.errors.append(error)


def _is_asynchronous(fn: object) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - a callable object


def _tell(on_error: Callable[[Outcome[T, R]], object], outcome: Outcome[T, R]) -> None:
    answer = on_error(outcome)
    if inspect.iscoroutine(answer):  # a lambda around a coroutine function looks like any other
        answer.close()
        raise TypeError(f"on_error returned the coroutine {answer!r}, which nobody would await; give a plain function")
