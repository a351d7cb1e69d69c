"""A value that changes: the current snapshot, and a stream of later ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Watch(Generic[T]):
    """A current value and its changes.

    Thread rule: ``set``, ``changes`` and ``wait`` belong to one event loop; from another thread use
    ``loop.call_soon_threadsafe(watch.set, value)``. ``current`` and ``version`` may be read from anywhere.

    Readers are never queued for: each remembers the version it saw last, so a slow one skips to the newest
    value and memory does not grow. Every ``set`` is a change, of an equal value too.
    """

    def __init__(self, initial: T) -> None:
        self._current = initial
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def current(self) -> T:
        """The newest value."""
        return self._current

    @property
    def version(self) -> int:
        """How many times the value was set."""
        return self._version

    def set(self, value: T) -> None:
        """Make ``value`` current and wake whoever waits. ``RuntimeError`` on a loop other than theirs."""
        for waiter in self._waiters:
            if waiter.get_loop() is not _running_loop():
                raise RuntimeError(
                    "Watch.set was called away from the loop of its readers; "
                    "use loop.call_soon_threadsafe(watch.set, value)"
                )
        self._current = value
        self._version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def changes(self) -> AsyncIterator[T]:
        """The values set from this call on, without end, skipping to the newest; safe to cancel."""
        return _Changes(self)

    async def wait(self, predicate: Callable[[T], bool], *, timeout: float | None = None) -> T:
        """The first value seen, the current one included, for which ``predicate`` holds.

        A value that is replaced before this task runs again is not seen. Raises ``TimeoutError`` after
        ``timeout`` seconds, and whatever ``predicate`` raises.
        """
        async with asyncio.timeout(timeout):
            while not predicate(self._current):
                await self._next_version(self._version)
            return self._current

    async def _next_version(self, seen: int) -> None:
        while self._version == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)


class _Changes(Generic[T]):
    def __init__(self, watch: Watch[T]) -> None:
        self._watch = watch
        self._seen = watch.version

    def __aiter__(self) -> "_Changes[T]":
        return self

    async def __anext__(self) -> T:
        await self._watch._next_version(self._seen)
        self._seen = self._watch.version
        return self._watch.current


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
