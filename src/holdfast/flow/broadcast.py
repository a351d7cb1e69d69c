"""One source, heard by several consumers, each with a bounded mailbox of its own."""

import asyncio
import contextlib
import logging
from collections import deque
from types import TracebackType
from typing import Final, Generic, Literal, NoReturn, Self, TypeAlias, TypeVar, get_args

from holdfast.core.errors import HoldfastError, Rejected
from holdfast.flow.scope import Crew, Signal
from holdfast.flow.source import Source, feed, require_at_least, require_seconds, require_source

T = TypeVar("T")

Slow: TypeAlias = Literal["wait", "drop", "raise"]

STOP_WITHIN: Final = 10.0
"""Seconds that ``stop`` gives the source to end, unless the broadcast is told otherwise."""

log: Final = logging.getLogger("holdfast.flow")


class FellBehind(HoldfastError):
    """A consumer of a ``Broadcast`` did not keep up, and its policy is ``"raise"``. ``buffer`` items waited."""

    def __init__(self, name: str, buffer: int) -> None:
        super().__init__(name, buffer)
        self.name = name
        self.buffer = buffer

    def __str__(self) -> str:
        return f"{self.name}: {self.buffer} items waited and one more came; take them faster or allow a larger buffer"


class Broadcast(Generic[T]):
    """Every item of ``source`` for every subscriber. A component, and an async context manager.

    ``buffer`` items may wait for each subscriber; what happens to one that has so many is its policy ``slow``:

    - ``"wait"``: the source waits for it, and so does everybody else;
    - ``"drop"``: its oldest item makes room, and ``dropped`` counts it;
    - ``"raise"``: it gets the items that wait, then ``FellBehind``; the others do not notice.

    The source is read while somebody is subscribed; otherwise it waits with one item in hand. When it ends, each
    subscriber's stream ends after the items that wait. When it fails, each raises the error there. ``stop``, and
    leaving the ``with`` block, cancel the reading, close the source, and end the streams; a source that has not
    ended ``stop_within`` seconds later is reported as stuck, and not waited for.

    Belongs to one event loop. ``subscribers`` is how many there may be.
    """

    def __init__(
        self,
        source: Source[T],
        *,
        buffer: int,
        slow: Slow = "wait",
        subscribers: int = 1000,
        stop_within: float = STOP_WITHIN,
        name: str = "broadcast",
    ) -> None:
        require_source(source)
        require_at_least(1, buffer=buffer, subscribers=subscribers)
        require_seconds(stop_within=stop_within)
        _require_policy(slow)
        self.name = name
        self._source = source
        self._buffer = buffer
        self._slow = slow
        self._limit = subscribers
        self._stop_within = stop_within
        self._boxes: dict[_Mailbox[T], None] = {}  # in the order of subscription
        self._room = Signal()
        self._in_hand: list[T] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        self._error: BaseException | None = None
        self._heard = True
        self._crew: Crew[None] = Crew(self._ended)

    async def start(self) -> None:
        """Begin to read. ``RuntimeError`` the second time: a source can be read once."""
        if self._loop is not None:
            raise RuntimeError(f"{self.name} was started before; make a new one")
        self._loop = asyncio.get_running_loop()
        self._crew.start(feed(self._source, self._put, self._wait_for_room), None)

    async def stop(self) -> None:
        """Stop reading, wait until the source is closed, ``stop_within`` seconds at most, and end the streams.

        Raises the source's error if it failed and no subscriber has been told; ``RuntimeError`` in another event
        loop. Before ``start`` or a second time it does nothing. A cancellation is passed on to the reading, and
        gets out when that has ended, or the time is over.
        """
        if self._loop is None:
            return
        if not self._over:
            self._require_own_loop()
        await self._close()
        if not self._heard and self._error is not None:
            self._heard = True
            raise self._error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.stop()
            return
        await self._close()
        if not self._heard:
            # What ends the block, a cancellation above all, is not to be replaced by this.
            message = f"{self.name}: the source failed, and nobody was told"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": self._error})

    async def _close(self) -> None:
        try:
            if await self._crew.abandon(self._stop_within):
                log.error("%s: its source is stuck, not ended %g s after its end", self.name, self._stop_within)
        finally:
            self._end(None)

    def subscribe(self, *, buffer: int | None = None, slow: Slow | None = None) -> "Subscription[T]":
        """A stream of the items from now on; ``buffer`` and ``slow`` are the broadcast's unless given.

        Closing it (``aclose``, or ``async with``), or dropping it, ends the subscription. ``RuntimeError`` before
        ``start``; ``Rejected`` when there are ``subscribers`` already.
        """
        if self._loop is None:
            raise RuntimeError(f"{self.name} is not started; use `async with` or await start() before subscribe()")
        size = self._buffer if buffer is None else buffer
        require_at_least(1, buffer=size)
        policy = self._slow if slow is None else slow
        _require_policy(policy)
        if len(self._boxes) >= self._limit:
            raise Rejected(self.name, f"there are {self._limit} subscribers already; raise subscribers= for more")
        box: _Mailbox[T] = _Mailbox(size, policy)
        if self._over:
            box.end(self._error)
        else:
            self._boxes[box] = None
            self._room.set()
        return Subscription(self, box)

    def _require_own_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(f"{self.name} belongs to another event loop")

    def _put(self, item: T) -> bool:
        if self._crew.stopping:  # a source may answer a cancellation with one more item
            raise asyncio.CancelledError
        self._in_hand.append(item)
        return True

    async def _wait_for_room(self) -> None:
        while not self._boxes or any(box.blocks for box in self._boxes):
            await self._room.wait()
        item = self._in_hand.pop()
        dropped = False
        for box in tuple(self._boxes):
            if box.slow == "raise" and box.full:
                del self._boxes[box]
                box.end(FellBehind(self.name, box.size))
            else:
                dropped = box.put(item) or dropped
        if dropped:
            # Those who drop never make us wait. A source that does not wait either would keep the loop for itself.
            await asyncio.sleep(0)

    def _took(self, box: "_Mailbox[T]") -> T:
        item = box.items.popleft()
        if box.slow == "wait":
            self._room.set()
        return item

    def _raise_in(self, box: "_Mailbox[T]") -> NoReturn:
        error, box.error = box.error, None  # raised once; after it the stream is at its end
        if error is None:
            raise StopAsyncIteration
        if error is self._error:
            self._heard = True
        try:
            raise error
        finally:
            del error  # or it would hold itself, through its traceback and this frame

    def _leave(self, box: "_Mailbox[T]") -> None:
        self._boxes.pop(box, None)
        box.leave()
        self._room.set()

    def _leave_from_anywhere(self, box: "_Mailbox[T]") -> None:
        # The garbage collector runs in any thread, and also after the loop is gone.
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._leave, box)

    def _ended(self, _: None, __: "asyncio.Task[None]", error: BaseException | None) -> None:
        self._error = error
        self._heard = error is None
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._over = True
        boxes, self._boxes = self._boxes, {}
        for box in boxes:
            box.end(error)


class _Mailbox(Generic[T]):
    """What waits for one subscriber."""

    def __init__(self, size: int, slow: Slow) -> None:
        self.size = size
        self.slow = slow
        self.items: deque[T] = deque()
        self.dropped = 0
        self.over = False
        self.error: BaseException | None = None
        self.arrived = Signal()

    @property
    def full(self) -> bool:
        return len(self.items) >= self.size

    @property
    def blocks(self) -> bool:
        """Whether the source has to wait for this one."""
        return self.slow == "wait" and self.full

    def put(self, item: T) -> bool:
        """Whether another one was dropped for it."""
        full = self.full
        if full:
            self.items.popleft()
            self.dropped += 1
        self.items.append(item)
        self.arrived.set()
        return full

    def end(self, error: BaseException | None) -> None:
        self.over = True
        self.error = error
        self.arrived.set()

    def leave(self) -> None:
        self.items.clear()
        self.end(None)


class Subscription(Generic[T]):
    """One consumer's stream, from ``Broadcast.subscribe``. One task at a time may iterate.

    A cancellation while it waits for an item loses nothing: the stream goes on with the next call. ``RuntimeError``
    when it would have to wait in another event loop than the broadcast's.
    """

    def __init__(self, broadcast: Broadcast[T], box: _Mailbox[T]) -> None:
        self._broadcast = broadcast
        self._box = box

    @property
    def dropped(self) -> int:
        """How many items were dropped because this consumer was slow."""
        return self._box.dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        box = self._box
        while not box.items:
            if box.over:
                self._broadcast._raise_in(box)
            self._broadcast._require_own_loop()
            await box.arrived.wait()
        return self._broadcast._took(box)

    async def aclose(self) -> None:
        """End the subscription; what waits is forgotten. A second time it does nothing."""
        self._broadcast._leave(self._box)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._box.over:
            self._broadcast._leave_from_anywhere(self._box)


def _require_policy(slow: str) -> None:
    if slow not in get_args(Slow):
        raise ValueError(f"slow is {slow!r}; give one of {', '.join(map(repr, get_args(Slow)))}")
