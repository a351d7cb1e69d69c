"""Work that goes on beside the requests: loops that are kept running, and runs on a schedule.

Nothing that such work raises reaches its neighbours or the worker. When a drain begins, no loop is
started again and no new run begins; a loop that watches ``current_drain()`` can end by itself, any other
is cancelled at the end.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.drain import Drain
from holdfast.core.errors import ConfigError
from holdfast.service.declaration import Needs
from holdfast.service.report import TaskReport
from holdfast.service.tasks import CANCEL_SECONDS, cancel, contained, outcomes, waiting_at

Restart = Literal["always", "on-failure", "never"]
AsyncFunction = Callable[..., Awaitable[Any]]

STABLE_SECONDS: Final = 60.0
"""A loop that ran this long starts again from the shortest delay."""
DOUBLINGS: Final = 60
"""Past this many the delay cannot grow: it keeps the power of two finite."""

log: Final = logging.getLogger("holdfast.service")


class Background(msgspec.Struct, frozen=True):
    """A loop that is kept running. ``backoff`` and ``max_backoff`` are the first and longest delay, in
    seconds.
    """

    name: str
    function: AsyncFunction
    needs: Needs
    restart: Restart = "always"
    backoff: float = 0.1
    max_backoff: float = 30.0
    stable_after: float = STABLE_SECONDS

    def __post_init__(self) -> None:
        where = f"background {self.name!r}"
        if self.restart not in get_args(Restart):
            raise ConfigError("restart", self.restart, f"one of {', '.join(get_args(Restart))}", where)
        if self.max_backoff < self.backoff:
            raise ConfigError("max_backoff", self.max_backoff, f"at least backoff ({self.backoff:g} s)", where)

    def delay(self, failures: int, roll: float) -> float:
        """Seconds before start number ``failures`` + 1 (from 1): doubling, with the upper half left to
        ``roll``.

        ``roll`` is 0 to 1. This is "equal jitter" from the AWS Architecture Blog's article on backoff.
        """
        full = min(self.max_backoff, self.backoff * 2.0 ** min(failures - 1, DOUBLINGS))
        return full / 2 + full / 2 * roll


class Every(msgspec.Struct, frozen=True):
    """A run each ``interval`` seconds, put off by up to ``jitter``, cut short after ``timeout`` (None:
    never).
    """

    name: str
    function: AsyncFunction
    needs: Needs
    interval: float
    jitter: float = 0.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.jitter > self.interval:
            expected = f"at most the interval ({self.interval:g} s)"
            raise ConfigError("jitter", self.jitter, expected, f"every {self.name!r}")

    def next_tick(self, tick: int, elapsed: float) -> int:
        """The tick after ``tick`` when ``elapsed`` seconds have passed since the start.

        Ticks lie at multiples of the interval, so nothing drifts. Ticks that were missed become one: the
        latest of them, which is then due at once.
        """
        return max(tick + 1, math.floor(elapsed / self.interval))


class BackgroundTasks:
    """Runs declarations of both kinds. One event loop; ``start`` and ``stop`` once each."""

    def __init__(self, drain: Drain, clock: Clock = SYSTEM, rng: random.Random | None = None) -> None:
        self._drain = drain
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._loops: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()

    def start(self, declared: "list[Background | Every]", resources: Mapping[str, Any]) -> None:
        """Start a task for each declaration, with the resources that its parameters name."""
        for item in declared:
            arguments = item.needs.arguments(resources)
            loop = self._keep(item, arguments) if isinstance(item, Background) else self._repeat(item, arguments)
            self._loops.append(asyncio.create_task(loop, name=item.name))

    async def stop(self, within: float, cancel_within: float = CANCEL_SECONDS) -> TaskReport:
        """Cancel the loops, but give scheduled runs under way ``within`` seconds to end; then report by name.

        Begin the drain first: it is what keeps them from starting again.
        """
        idle = set(self._loops) - self._busy
        finishing = {task for task in self._busy if not task.done()}
        await cancel(idle, cancel_within)
        if finishing:
            await asyncio.wait(finishing, timeout=within)
        await cancel(finishing, cancel_within)
        for task in self._loops:
            if not task.done():
                log.error("background %s is stuck at %s", task.get_name(), waiting_at(task))
        report = outcomes(self._loops)
        self._loops.clear()
        return report

    async def _keep(self, item: Background, arguments: dict[str, Any]) -> None:
        failures = 0
        while not self._ending():
            began = self._clock.now()
            failed = not await self._run(item, arguments, None)
            if item.restart == "never" or (item.restart == "on-failure" and not failed):
                return
            if self._ending():
                return
            stable = self._clock.now() - began >= item.stable_after
            failures = 1 if stable else failures + 1
            delay = item.delay(failures, self._rng.random())
            log.info("background %s starts again in %.3g s", item.name, delay)
            await self._clock.sleep(delay)

    async def _repeat(self, item: Every, arguments: dict[str, Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        began = self._clock.now()
        tick = 1
        while True:
            due = began + tick * item.interval + item.jitter * self._rng.random()
            await self._clock.sleep(due - self._clock.now())
            if self._ending():
                return
            self._busy.add(task)
            try:
                await self._run(item, arguments, item.timeout)
            finally:
                self._busy.discard(task)
            if self._ending():
                return
            tick = item.next_tick(tick, self._clock.now() - began)

    def _ending(self) -> bool:
        return self._drain.draining

    async def _run(self, item: Background | Every, arguments: dict[str, Any], timeout: float | None) -> bool:
        """Whether one run ended well. Only the cancellation of this task itself comes out."""
        try:
            async with asyncio.timeout(timeout) as limit:
                await contained(item.function(**arguments))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Something that the function awaited was cancelled, not we: a failure like any other.
            log.error("background %s failed: cancelled from inside", item.name, exc_info=exc)
        except Exception as exc:  # whatever the application raises; it must not end the loop
            if isinstance(exc, TimeoutError) and limit.expired():
                log.error("background %s was cut short after %g s", item.name, timeout, exc_info=exc)
            else:
                log.error("background %s failed", item.name, exc_info=exc)
        else:
            return True
        return False
