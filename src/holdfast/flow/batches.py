"""Single items, gathered into lists."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from holdfast.flow.scope import Crew, Signal
from holdfast.flow.source import Source, feed, require_at_least, require_source

T = TypeVar("T")


def batch(source: Source[T], size: int, *, within: float | None = None) -> AsyncGenerator[list[T], None]:
    """Lists of up to ``size`` items, none of them empty.

    A list is handed out when it is full, or ``within`` seconds after its first item was read, or at the end of
    the source; without ``within`` only the last may be short. While the consumer is busy the next one fills,
    so lists grow with the load. At most ``size`` items are read and not yet handed out. Waiting for company
    never cancels the source. Time is the event loop's.

    When the source fails, the items before the error are handed out first. Errors and an early end are as in
    ``map_concurrent``. ``TypeError`` and ``ValueError`` for arguments that make no sense.
    """
    require_source(source)
    require_at_least(1, size=size)
    if within is not None and not within >= 0:
        raise ValueError(f"within is {within!r}; give 0 or more seconds, or None")
    return _Batch(source, size, within).results()


class _Batch(Generic[T]):
    def __init__(self, source: Source[T], size: int, within: float | None) -> None:
        self._source = source
        self._size = size
        self._within = within
        self._items: list[T] = []
        self._read = False
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self._ready = Signal()
        self._room = Signal()
        self._crew: Crew[None] = Crew(self._ended)

    async def results(self) -> AsyncGenerator[list[T], None]:
        crew = self._crew
        try:
            crew.start(feed(self._source, self._put, self._wait_for_room), None)
            while True:
                over = self._read or crew.stopping
                if self._items and (over or self._due or len(self._items) >= self._size):
                    yield self._take()
                elif over:
                    break
                else:
                    await self._ready.wait()
        except BaseException:  # whatever ends the consumer's interest, GeneratorExit too, ends the task
            self._forget_timer()
            await crew.abandon()
            raise
        await crew.settle()

    def _take(self) -> list[T]:
        taken, self._items = self._items, []
        self._forget_timer()
        self._room.set()
        return taken

    def _forget_timer(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put(self, item: T) -> bool:
        if self._crew.stopping:  # a source may answer a cancellation with one more item
            raise asyncio.CancelledError
        self._items.append(item)
        if len(self._items) == 1 and self._within is not None:
            self._timer = asyncio.get_running_loop().call_later(self._within, self._time_is_up)
        full = len(self._items) >= self._size
        if full:
            self._ready.set()
        return full

    async def _wait_for_room(self) -> None:
        while len(self._items) >= self._size:
            await self._room.wait()

    def _time_is_up(self) -> None:
        self._due = True
        self._ready.set()

    def _ended(self, _: None, __: "asyncio.Task[None]", error: BaseException | None) -> None:
        self._read = True
        if error is not None:
            self._crew.fail(error)
        self._ready.set()
