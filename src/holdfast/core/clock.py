"""Time, handed in from outside: the system's clock, and a virtual one on which a day passes in a moment.

Everything that waits takes a ``Clock``. ``now()`` measures, ``wall()`` is for people; never mix the two.
"""

import asyncio
import heapq
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from types import FrameType
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WALL_OFFSET: Final = 1_700_000_000.0
"""The virtual clock's wall time lies this many seconds after its monotonic time."""
OUTSIDE_PATIENCE: Final = 1.0
"""Real seconds for which a jump is put off while work in an executor is under way."""
DESCRIPTOR_PATIENCE: Final = 0.002
"""Real seconds for which a jump is put off while descriptors are watched."""
DEADLOCK_PATIENCE: Final = 5.0
"""Real seconds to wait for threads or descriptors before a loop without timers counts as stuck."""
CLEANUP_SECONDS: Final = 60.0
"""Virtual seconds that cancelled tasks get once a run has failed."""
SPIN_LIMIT: Final = 1_000_000
"""Turns of the loop without time passing before a run counts as spinning."""
NAMED_TASKS: Final = 10
"""How many stuck tasks an error names."""
SELF_PIPE: Final = 1
"""Descriptors that an asyncio loop watches for itself."""
EPSILON: Final = 1e-9
"""asyncio hands the distance to a timer, not its time; this absorbs the rounding."""


class Clock(Protocol):
    """A source of time. Methods may be called from any thread, ``sleep`` from a running event loop."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean something."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; at once (yielding once) when not positive. A cancellation ends it."""

    def pause(self, seconds: float) -> None:
        """Block the calling thread for ``seconds``; not at all when not positive."""


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    # The functions themselves: a method around them would double their cost, and every call reads the time.
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


SYSTEM: Final = SystemClock()


class VirtualTimeError(RuntimeError):
    """A virtual run cannot go on: it is stuck, it spins, its time limit is over, or something goes by another clock."""


class VirtualClock:
    """A clock that moves only when told to, or, inside ``run``, whenever the loop has nothing to do.

    ``now`` and ``wall`` are safe from any thread. ``advance`` belongs to one thread at a time.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._sequence = 0
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + WALL_OFFSET

    def advance(self, seconds: float) -> None:
        """Move time on; timers that fall due run when their loop turns next. ``ValueError`` when negative."""
        if not seconds >= 0:
            raise ValueError(f"time cannot move by {seconds!r} s; give 0 or more")
        self.move_to(self._now + seconds)

    def move_to(self, when: float) -> None:
        """Set the time to ``when`` unless it is past already."""
        self._now = max(self._now, when)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, loop, future = heapq.heappop(self._sleepers)
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if seconds <= 0 or isinstance(loop, VirtualLoop):
            await asyncio.sleep(seconds)
            return
        # On an ordinary loop nobody jumps: the sleeper waits until somebody calls ``advance``.
        future: asyncio.Future[None] = loop.create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._sequence, loop, future))
        await future

    def pause(self, seconds: float) -> None:
        """Move time on by ``seconds``, for code that would block its thread."""
        if seconds > 0:
            self.advance(seconds)

    def run(
        self, main: Coroutine[Any, Any, T], *, limit: float = 3600.0, loop: "Callable[..., VirtualLoop] | None" = None
    ) -> T:
        """Run ``main`` to its end on an event loop whose time is this clock, and return its result.

        When nothing is ready the clock jumps to the next timer, so ``asyncio.sleep``, ``asyncio.timeout``
        and ``call_later`` cost no real time. Descriptors and threads stay real: a jump waits for
        ``OUTSIDE_PATIENCE`` while an executor works, ``DESCRIPTOR_PATIENCE`` while descriptors are watched.
        Tasks that are left over are cancelled, as by ``asyncio.run``. ``loop`` makes the loop, from the clock and
        a selector, when it is to be another than ``VirtualLoop``.

        Raises ``VirtualTimeError`` when nothing can ever happen again, when more than ``limit`` virtual
        seconds pass, after ``SPIN_LIMIT`` turns in which no time passes, and when a time limit of a pipeline that
        goes by another clock was to be set; otherwise what ``main`` raises. ``RuntimeError`` in a thread that
        runs an event loop.
        """
        if asyncio._get_running_loop() is not None:
            main.close()
            raise RuntimeError(
                "this thread runs an event loop already; VirtualClock.run has its own: it belongs in a plain def test"
            )
        selector = JumpingSelector(self, self._now + limit, limit)
        make = loop or VirtualLoop
        with asyncio.Runner(loop_factory=lambda: make(self, selector)) as runner:
            try:
                result = runner.run(main)
            except Exception as error:
                # A policy, or ``main``, may have taken it for the dependency's failure. What came of that is no result.
                if selector.stranger is not None and error is not selector.stranger:
                    raise selector.stranger from error
                raise
            finally:
                # Leaving the runner cancels what is left; that needs time of its own after a limit was hit.
                selector.extend(self._now + CLEANUP_SECONDS)
        if selector.stranger is not None:
            raise selector.stranger
        return result


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class JumpingSelector(selectors.DefaultSelector):
    """Polls real descriptors and, instead of waiting, moves the clock."""

    def __init__(self, clock: VirtualClock, end: float, limit: float) -> None:
        super().__init__()
        self.timers: list[float] = []
        self.outside = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stranger: VirtualTimeError | None = None
        """The first timer that was set for somebody who goes by another clock."""
        self._clock = clock
        self._end = end
        self._limit = limit
        self._turns = 0

    def extend(self, end: float) -> None:
        self._end = end
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._turns += 1
            if self._turns > SPIN_LIMIT:
                raise self._failure(f"{SPIN_LIMIT} turns of the loop passed without time passing")
            return ready
        ready = self._wait_for_the_world(timeout is None)
        if not ready:
            if timeout is None:
                raise self._failure("deadlock: nothing is scheduled and nothing is ready")
            self._jump(timeout)
        return ready

    def _wait_for_the_world(self, forever: bool) -> list[tuple[selectors.SelectorKey, int]]:
        watched = len(self.get_map()) > SELF_PIPE
        if forever and (self.outside or watched or threading.active_count() > 1):
            return super().select(DEADLOCK_PATIENCE)
        if self.outside:
            return super().select(OUTSIDE_PATIENCE)
        if watched:
            return super().select(DESCRIPTOR_PATIENCE)
        return []

    def _jump(self, timeout: float) -> None:
        now = self._clock.now()
        target = now + timeout
        while self.timers and (self.timers[0] <= now or self.timers[0] < target - EPSILON):
            heapq.heappop(self.timers)  # a timer that has run, or was cancelled
        if self.timers and self.timers[0] <= target + EPSILON:
            target = self.timers[0]
        if target > self._end:
            raise self._failure(
                f"the limit of {self._limit:g} virtual seconds is over: the next timer is {timeout:g} s away"
            )
        self._turns = 0
        self._clock.move_to(target)

    def _failure(self, what: str) -> VirtualTimeError:
        tasks = asyncio.all_tasks(self.loop) if self.loop is not None else set()
        places = sorted(_place(task) for task in tasks)
        listed = "; ".join(places[:NAMED_TASKS]) or "no task"
        return VirtualTimeError(f"{what} (waiting: {listed})")


def _place(task: "asyncio.Task[Any]") -> str:
    frames = task.get_stack(limit=1)
    where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "its end"
    return f"{task.get_name()} at {where}"


def _operation() -> str:
    """What the call that is being made right now is called; for an error's message only."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = getattr(frame.f_locals.get("call"), "operation", None)
        if isinstance(name, str) and name:
            return name
        frame = frame.f_back
    return "something"


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, on the time of a ``VirtualClock``."""

    def __init__(self, clock: VirtualClock, selector: JumpingSelector) -> None:
        super().__init__(selector)
        self._clock = clock
        self._jumping = selector
        selector.loop = self

    def time(self) -> float:
        return self._clock.now()

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        clock = getattr(getattr(callback, "__self__", None), "clock", None)
        if clock is not self._clock and isinstance(clock, SystemClock | VirtualClock):
            raise self._stranger(clock)
        heapq.heappush(self._jumping.timers, when)
        return super().call_at(when, callback, *args, context=context)

    def _stranger(self, clock: Clock) -> VirtualTimeError:
        # Its owner would look at that clock, see that no time has passed, and set the timer again: a limit without end.
        error = VirtualTimeError(
            f"{_operation()} has a time limit by a {type(clock).__name__}, which stands still in this virtual run; "
            "give its pipeline clock=, or use holdfast.testing.on_clock"
        )
        self._jumping.stranger = self._jumping.stranger or error
        return error

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.outside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: "asyncio.Future[Any]") -> None:
        self._jumping.outside -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # Its helper thread is not an executor's; without this the join's own timer (3.12) would fire at once.
        self._jumping.outside += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.outside -= 1
