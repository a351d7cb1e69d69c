"""A bounded number of calls at once, with a bounded queue before them."""

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import check, remaining
from holdfast.core.errors import BulkheadFull, CallCancelled, DeadlineExceeded, Draining, HoldfastError
from holdfast.flow.source import asked, require_at_least, require_function, require_seconds

T = TypeVar("T")
R = TypeVar("R")

STOP_WITHIN: Final = 10.0
"""Seconds that ``stop`` gives what is queued and running, unless the pool is told otherwise."""
CANCEL_SECONDS: Final = 2.0
"""How long a cancelled call may take to end before it is reported as stuck."""

log: Final = logging.getLogger("holdfast.flow")


class WorkerPool(Generic[T, R]):
    """``await fn(item)`` for items from anywhere, at most ``workers`` at once, at most ``queue`` waiting.

    A component, and an async context manager. Belongs to one event loop.

    Each call is a task of its own in a copy of the submitter's context: deadline, cancellation and baggage go
    with it. An item whose deadline passes in the queue, or that is called off there, is not begun.
    Items begin in the order of their submission. An error reaches the item's future and nobody else.

    ``workers`` is the number of calls under way, not of threads: ``fn`` must not block the event loop.
    ``clock`` measures deadlines, and must be the one they were made with.
    """

    def __init__(
        self,
        fn: Callable[[T], Awaitable[R]],
        *,
        workers: int,
        queue: int,
        stop_within: float = STOP_WITHIN,
        name: str = "pool",
        clock: Clock = SYSTEM,
    ) -> None:
        require_function(fn)
        require_at_least(1, workers=workers)
        require_at_least(0, queue=queue)
        require_seconds(stop_within=stop_within)
        self.name = name
        self._fn = fn
        self._workers = workers
        self._size = queue
        self._stop_within = stop_within
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # Ordered dicts, since an item that is cancelled leaves from the middle.
        self._queue: OrderedDict[_Job[T, R], None] = OrderedDict()
        self._waiting: OrderedDict[_Job[T, R], asyncio.Future[HoldfastError | None]] = OrderedDict()
        self._under_way: dict[_Job[T, R], None] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._under_way)

    @property
    def queued(self) -> int:
        """Items that wait for a worker."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """Submitters that wait for room in the queue; there is none while there are any."""
        return len(self._waiting)

    async def start(self) -> None:
        """Take items from now on. ``RuntimeError`` the second time."""
        if self._loop is not None:
            raise RuntimeError(f"{self.name} was started before; make a new pool")
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """``drain`` with the pool's ``stop_within``. Before ``start`` or a second time it does nothing."""
        if self._loop is not None:
            await self.drain(self._stop_within)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def try_submit(self, item: T) -> "asyncio.Future[R]":
        """Queue ``item`` now; the future gets its result. Cancelling the future cancels the call.

        Raises ``BulkheadFull`` when the queue is full, ``Draining`` after ``drain`` or ``stop`` has begun,
        ``RuntimeError`` before ``start``.
        """
        job = self._job(item)
        if not self._has_room():
            reason = f"no room: {self.running} running, {self.queued} queued (at most {self._size})"
            raise BulkheadFull(self.name, reason, None, {"running": self.running, "queued": self.queued})
        self._accept(job)
        return job

    async def submit(self, item: T, *, within: float = inf) -> "asyncio.Future[R]":
        """Queue ``item`` as soon as there is room, first come first served; the future gets its result.

        Raises ``DeadlineExceeded`` when there is none ``within`` seconds or before the ambient deadline,
        ``Draining`` after ``drain`` or ``stop`` has begun, ``RuntimeError`` before ``start``. A
        cancellation takes the item back.
        """
        job = self._job(item)
        if self._has_room():
            self._accept(job)
            return job
        patience = min(within, remaining(self._clock.now()))
        if not patience > 0:
            raise DeadlineExceeded(self.name, "there is no room, and no time to wait for it")
        await self._wait_for_room(job, patience)
        return job

    async def drain(self, within: float) -> int:
        """Take no more items, and give those that are there ``within`` seconds; how many were not done.

        Then what is still queued fails with ``Draining``, and what runs is cancelled and fails with the same;
        a call that has not ended ``CANCEL_SECONDS`` later is reported as stuck. Waiting submitters are refused at
        once. A cancellation gets out at once: calls go on, and a later ``drain`` or ``stop`` ends them.
        ``ValueError`` unless ``within`` is 0 or more.
        """
        require_seconds(within=within)
        self._closed = True
        refusal = Draining(self.name, "the pool is stopping")
        while self._waiting:
            _, waiter = self._waiting.popitem()
            _answer(waiter, refusal)
        if await self._becomes_idle(within):
            return 0
        jobs = [*self._queue, *self._under_way]
        log.warning("%s: %d items are given up, not done within %g s", self.name, len(jobs), within)
        for job in jobs:
            job.refuse(Draining(self.name, f"not done within {within:g} s of the pool's end"))
        self._queue.clear()
        if not await self._becomes_idle(CANCEL_SECONDS):
            log.error("%s: %d cancelled calls are stuck", self.name, self.running)
        return len(jobs)

    def _job(self, item: T) -> "_Job[T, R]":
        if self._loop is None:
            raise RuntimeError(f"{self.name} is not started; use `async with` or await start() before submitting")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(f"{self.name} belongs to another event loop")
        if self._closed:
            raise Draining(self.name, "the pool is stopping")
        return _Job(self, item)

    def _has_room(self) -> bool:
        return len(self._under_way) < self._workers or len(self._queue) < self._size

    async def _wait_for_room(self, job: "_Job[T, R]", patience: float) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[HoldfastError | None] = loop.create_future()
        self._waiting[job] = waiter
        late = DeadlineExceeded(self.name, f"there was no room within {patience:g} s")
        timer = None if patience == inf else loop.call_later(patience, _answer, waiter, late)
        try:
            refusal = await waiter
        except asyncio.CancelledError:
            job.cancel()  # it may have been accepted in this very turn
            raise
        finally:
            self._waiting.pop(job, None)
            if timer is not None:
                timer.cancel()
        if refusal is not None:
            raise refusal

    def _accept(self, job: "_Job[T, R]") -> None:
        self._idle.clear()
        self._queue[job] = None
        self._advance()

    def _advance(self) -> None:
        while True:
            while self._queue and len(self._under_way) < self._workers:
                job, _ = self._queue.popitem(last=False)
                self._begin(job)
            if not self._waiting or not self._has_room():
                break
            # Not by ``_accept``, which would come back here: many may be let in at once, and be refused.
            job, waiter = self._waiting.popitem(last=False)
            if _answer(waiter, None):
                self._queue[job] = None
        if not self._queue and not self._under_way:
            self._idle.set()

    def _begin(self, job: "_Job[T, R]") -> None:
        assert self._loop is not None
        try:
            job.context.run(check, self._clock.now())
        except HoldfastError as refusal:  # nobody waits for the result any more
            job.refuse(refusal)
            return
        self._under_way[job] = None
        # Not the argument ``context``: a task factory of before Python 3.11 does not take it.
        job.task = job.context.run(self._loop.create_task, self._call(job.item))
        job.task.add_done_callback(job.ended)
        if job.done():
            job.cancel_call()  # an eager call, that has cancelled its own future

    async def _call(self, item: T) -> R:
        return await asked(self._fn, item)

    def _left(self, job: "_Job[T, R]") -> None:
        """The job's call has ended, or its item was called off in the queue."""
        self._under_way.pop(job, None)
        self._queue.pop(job, None)
        self._advance()

    async def _becomes_idle(self, within: float) -> bool:
        try:
            async with asyncio.timeout(None if within == inf else within):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


class _Job(asyncio.Future[R], Generic[T, R]):
    """An item, its result to come, and its task once it runs."""

    def __init__(self, pool: WorkerPool[T, R], item: T) -> None:
        super().__init__()
        self.item = item
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[R] | None = None
        self._pool = pool
        self._told = False

    def cancel(self, msg: object = None) -> bool:
        """Cancel the call as well, or leave the queue. A callback would do so a turn later, with the call begun."""
        if not super().cancel(msg):
            return False
        self.cancel_call()
        if self not in self._pool._under_way:
            self._pool._left(self)
        return True

    def refuse(self, error: HoldfastError) -> None:
        """Fail unless there is a result, and cancel the call."""
        if not self.done():
            self.set_exception(error)
        self.cancel_call()

    def ended(self, task: "asyncio.Task[R]") -> None:
        if self.done():
            pass  # refused or cancelled before; asyncio reports an error that the task may have ended with
        elif task.cancelled():
            self.set_exception(CallCancelled("the call was cancelled, though nobody cancelled its future"))
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())
        self._pool._left(self)

    def cancel_call(self) -> None:
        """Cancel the call if it has begun, and was not cancelled before."""
        # Once only: a second cancellation would interrupt the cleaning up that the first one began.
        if self.task is not None and not self._told:
            self._told = True
            self.task.cancel()


def _answer(waiter: "asyncio.Future[HoldfastError | None]", refusal: HoldfastError | None) -> bool:
    """Whether somebody still waited."""
    if waiter.done():
        return False
    waiter.set_result(refusal)
    return True
