"""Several sources, read at once, as one stream."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from holdfast.flow.scope import Crew, Signal
from holdfast.flow.source import Source, feed, require_at_least, require_source

T = TypeVar("T")


def merge(*sources: Source[T], buffer: int = 1) -> AsyncGenerator[T, None]:
    """The items of all ``sources`` in the order in which they arrive; each source's own order is kept.

    At most ``buffer`` items of each source are read and not yet handed out, so a fast source neither fills the
    memory nor starves the others. It ends when all have ended.

    The first source that fails ends all. What was read before is handed out, then the error is raised; errors
    and an early end are as in ``map_concurrent``. ``TypeError`` and ``ValueError`` for arguments that make no sense.
    """
    for source in sources:
        require_source(source)
    require_at_least(1, buffer=buffer)
    return _Merge(sources, buffer).results()


class _Lane(Generic[T]):
    """One source's part of what is held."""

    def __init__(self, flow: "_Merge[T]", source: Source[T]) -> None:
        self.source = source
        self.held = 0
        self.room = Signal()
        self._flow = flow

    def put(self, item: T) -> bool:
        if self._flow.crew.stopping:  # a source may answer a cancellation with one more item
            raise asyncio.CancelledError
        self.held += 1
        self._flow.items.append((self, item))
        self._flow.ready.set()
        return self.held >= self._flow.buffer

    async def wait_for_room(self) -> None:
        while self.held >= self._flow.buffer:
            await self.room.wait()


class _Merge(Generic[T]):
    def __init__(self, sources: tuple[Source[T], ...], buffer: int) -> None:
        self.buffer = buffer
        self.items: deque[tuple[_Lane[T], T]] = deque()
        self.ready = Signal()
        self.crew: Crew[_Lane[T]] = Crew(self._ended)
        self._lanes = [_Lane(self, source) for source in sources]
        self._open = len(sources)

    async def results(self) -> AsyncGenerator[T, None]:
        crew, items = self.crew, self.items
        try:
            for lane in self._lanes:
                crew.start(feed(lane.source, lane.put, lane.wait_for_room), lane)
            while True:
                while items:
                    lane, item = items.popleft()
                    lane.held -= 1
                    lane.room.set()
                    yield item
                if crew.stopping or not self._open:
                    break
                await self.ready.wait()
        except BaseException:  # whatever ends the consumer's interest, GeneratorExit too, ends the tasks
            await crew.abandon()
            raise
        await crew.settle()

    def _ended(self, lane: _Lane[T], _: "asyncio.Task[None]", error: BaseException | None) -> None:
        self._open -= 1
        if error is not None:
            self.crew.fail(error)
        self.ready.set()
