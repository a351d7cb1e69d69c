"""Callers that wait for a permit: threads, and tasks of any event loop, side by side in one line.

A waiter is settled exactly once. To grant, ``leave`` and ``recall`` are one step each (see ``core.policy``), so a
permit that is handed over in the very moment in which its waiter gives up is either taken or refused, never both
and never neither; and one whose waiter was left behind in a closed loop goes back once, although the loop's
garbage may give it back too.
"""

import asyncio
import threading
from collections import OrderedDict
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast.resilience.permits.partitions import Partition


class Stage(IntEnum):
    """How far a waiter is. WAITING becomes GRANTED, LEFT or PUSHED_OUT, once.

    A GRANTED permit becomes HELD when its caller learns of it, or LEFT when it is taken back because nobody will.
    """

    WAITING = 0
    GRANTED = 1
    LEFT = 2
    PUSHED_OUT = 3
    HELD = 4


WAITING: Final = Stage.WAITING
GRANTED: Final = Stage.GRANTED
LEFT: Final = Stage.LEFT
PUSHED_OUT: Final = Stage.PUSHED_OUT
HELD: Final = Stage.HELD


class Waiter:
    """One caller in the line for a permit of ``partition``, since ``began`` and at most until ``until``."""

    __slots__ = ("began", "partition", "stage", "until")

    def __init__(self, partition: "Partition", began: float, until: float) -> None:
        self.partition = partition
        self.began = began
        self.until = until
        self.stage: Stage = WAITING

    def leave(self) -> bool:
        """Give up. False when it has been granted a permit, which is now the caller's to use or to give back."""
        if self.stage is GRANTED or self.stage is HELD:
            self.stage = HELD
            return False
        if self.stage is WAITING:
            self.stage = LEFT
        return True

    def recall(self) -> bool:
        """Take a permit back that was granted to somebody who is gone. False when its caller has it after all."""
        if self.stage is not GRANTED:
            return False
        self.stage = LEFT
        return True

    def push_out(self) -> bool:
        """Turn it away to make room. False when it is settled already."""
        if self.stage is not WAITING:
            return False
        self.stage = PUSHED_OUT
        return True

    def wake(self) -> bool:
        """Let it see what became of it. False when it never will: its loop is closed. Safe from any thread."""
        return True


class ThreadWaiter(Waiter):
    """A thread that is blocked."""

    __slots__ = ("_bell",)

    def __init__(self, partition: "Partition", began: float, until: float) -> None:
        super().__init__(partition, began, until)
        # A lock is the cheapest thing a thread can be woken by: whoever rings releases it.
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, seconds: float) -> None:
        """Block until woken, at most ``seconds`` of real time."""
        self._bell.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> bool:
        self._bell.release()
        return True


class TaskWaiter(Waiter):
    """A task of an event loop."""

    __slots__ = ("_future", "_loop")

    def __init__(self, partition: "Partition", began: float, until: float) -> None:
        super().__init__(partition, began, until)
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    async def wait(self, seconds: float) -> None:
        """Return when woken, after ``seconds`` at most. A cancellation gets out at once."""
        timer = self._loop.call_later(seconds, self._finish)
        try:
            await self._future
        finally:
            timer.cancel()

    def wake(self) -> bool:
        if asyncio._get_running_loop() is self._loop:
            self._finish()
            return True
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:  # the loop was closed around a task that still waited
            return False
        return True

    def _finish(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class Line:
    """The waiters of one partition in the order in which they came. Whoever uses it has the turn."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Go to the end."""
        self._waiters[waiter] = None

    def take(self, *, newest: bool) -> Waiter:
        """Take out the one that came last, or first. ``KeyError`` when the line is empty."""
        return self._waiters.popitem(last=newest)[0]

    def drop(self, waiter: Waiter) -> bool:
        """Take out that one. False when it is not there any more."""
        try:
            del self._waiters[waiter]
        except KeyError:
            return False
        return True
