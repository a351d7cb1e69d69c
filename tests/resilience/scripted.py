"""A dependency that answers as its script says: for each attempt, in the order in which they begin, when and what."""

import asyncio
from collections.abc import Sequence
from typing import Any

from holdfast.core.call import Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import current_deadline
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing.tasks import Race

NEVER = 3600.0


class Dependency:
    """``script`` has a pair for each attempt: seconds, and a result, or an exception to raise."""

    def __init__(self, *script: tuple[float, Any]) -> None:
        self.script: Sequence[tuple[float, Any]] = script
        self.begun: list[float] = []
        self.cancelled: list[int] = []
        self.ended: list[int] = []
        self.deadlines: list[float] = []
        self.tasks: list[asyncio.Task[Any] | None] = []

    async def __call__(self) -> Any:
        number = len(self.begun)
        self.begun.append(asyncio.get_running_loop().time())
        self.deadlines.append(current_deadline())
        self.tasks.append(asyncio.current_task())
        seconds, outcome = self.script[number]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.ended.append(number)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def others() -> "set[asyncio.Task[Any]]":
    """Every task but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def timers_of_races() -> list[asyncio.TimerHandle]:
    """Timers of this loop that would call a ``Race``."""
    scheduled: list[Any] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    armed = [handle for handle in scheduled if not handle.cancelled()]
    return [handle for handle in armed if isinstance(getattr(handle._callback, "__self__", None), Race)]


class SeenSettings(GateSettings, frozen=True):
    """None."""


class Seen(Gate[SeenSettings]):
    """Keeps the calls that passed, as they were when they ended."""

    @accepts(SeenSettings)
    def __init__(self, settings: SeenSettings) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []
        self.deadlines: list[float] = []
        super().__init__(settings)

    def enter(self, call: Call) -> Call:
        self.deadlines.append(call.deadline)
        return call

    def exit(self, call: Call, token: Call) -> None:
        self.calls.append((call.attempt, call.verdict, call.now))


def ask(
    dependency: Dependency, hedge: Hedge, *inside: Any, outside: tuple[Any, ...] = (), **fields: Any
) -> tuple[Any, Any]:
    """The outcome of one call on the virtual clock, an exception as a value, and when it came."""
    clock = VirtualClock(start=0.0)
    classify = fields.pop("classify", Classifier())
    pipeline = Pipeline("ask", *outside, hedge, *inside, clock=clock, classify=classify)

    async def main() -> tuple[Any, float]:
        try:
            outcome: Any = await pipeline.bind(**fields).acall(dependency)
        except Exception as error:  # whatever it is, the test looks at it
            outcome = error
        at = clock.now()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        # A cancellation from outside does not wait for those whom it cancels; everybody else does.
        if isinstance(outcome, DeadlineExceeded):
            await asyncio.sleep(0)
        assert others() == set()
        assert timers_of_races() == []
        await asyncio.sleep(0)
        return outcome, at

    outcome = clock.run(main())
    assert len(dependency.begun) == len(dependency.ended)
    assert not hedge.under_way
    assert all(not lane.late and not lane.races for lane in hedge._pace._by_loop.values())
    return outcome
