"""Hedge: a call that takes unusually long is made a second time, and the first answer counts."""

import asyncio
from contextvars import copy_context
from math import inf
from threading import get_ident
from typing import Annotated, Any, ClassVar, Final

from holdfast.core.call import FAILED, OK, AsyncHandler, Call, Handler, Verdict
from holdfast.core.clock import Clock
from holdfast.core.duration import Duration
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.event import Event
from holdfast.core.policy import Policy, accepts
from holdfast.core.settings import PolicySettings, Seconds, SecondsText, about
from holdfast.resilience.expiry import task_of
from holdfast.resilience.racing.quantile import BATCH, CAPACITY, RecentQuantile
from holdfast.resilience.racing.tasks import HedgeLane, Outcome, Race
from holdfast.resilience.racing.threads import ThreadRace, Threads
from holdfast.resilience.retry import BUDGETS, Budget
from holdfast.resilience.retrying.budget import RetryBudget, RetryBudgetSettings

ATTEMPTS_LIMIT: Final = 5
"""Attempts of one call that settings may ask for: as many as gRPC's (proposal A6)."""
NOTICEABLE: Final = 0.05
"""The delay follows the quantile once that has moved by this share, and not with each batch."""
THREADS_LIMIT: Final = 1024
"""Threads for sync calls that settings may ask for."""


class HedgeSettings(PolicySettings, frozen=True):
    """Settings of ``Hedge``. The default quantile is that of "The Tail at Scale" (Dean and Barroso, 2013)."""

    delay: Annotated[
        SecondsText | None, about("How long an attempt may take before the next; by default the quantile.", gt=0)
    ] = None
    quantile: Annotated[float, about("The share of answers that come without a hedge.", gt=0, lt=1)] = 0.95
    samples: Annotated[int, about("Answers that must be known before the quantile is trusted.", ge=1, le=CAPACITY)] = (
        100
    )
    window: Annotated[Seconds, about("For how long an answer counts.", gt=0)] = Duration(60.0)
    min_delay: Annotated[Seconds, about("The quantile's delay is not shorter.", gt=0)] = Duration(0.001)
    attempts: Annotated[int, about("Attempts in all, the first one included.", ge=1, le=ATTEMPTS_LIMIT)] = 2
    budget: Annotated[
        Budget, about("How many hedges there may be; an object is shared with whoever fills it.", reader=BUDGETS)
    ] = RetryBudgetSettings()
    threads: Annotated[int, about("Threads for the attempts of sync calls.", ge=1, le=THREADS_LIMIT)] = 32


class HedgeStarted(Event, frozen=True):
    """A call took longer than ``delay`` seconds, or an attempt failed: another attempt begins."""

    policy: str
    operation: str
    delay: float


class HedgeWon(Event, frozen=True):
    """A further attempt was answered before the first one."""

    policy: str
    operation: str


class _Pace:
    """A delay, and for each loop and clock the calls that wait for it. Another delay is another pace: see ``Lane``."""

    __slots__ = ("_by_loop", "delay", "lanes")

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.lanes: dict[int, HedgeLane] = {}
        self._by_loop: dict[tuple[asyncio.AbstractEventLoop, int], HedgeLane] = {}

    def lane(self, policy: "Hedge", clock: Clock, ident: int) -> HedgeLane:
        """The lane of the loop that runs here, remembered for the next call of this thread, as in ``Timeout``."""
        loop = asyncio.get_running_loop()
        lane = self._by_loop.get((loop, id(clock)))  # the lane keeps the clock, so the id stays its own
        if lane is None:
            for key in [key for key in tuple(self._by_loop) if key[0].is_closed()]:
                self._by_loop.pop(key, None)
            for thread in [thread for thread, known in tuple(self.lanes.items()) if known.loop.is_closed()]:
                self.lanes.pop(thread, None)
            # Tasks of a loop that was closed before they ended will never say so.
            lost = [task for task in tuple(policy.under_way) if task.get_loop().is_closed()]
            policy.under_way.difference_update(lost)
            lane = self._by_loop[loop, id(clock)] = HedgeLane(loop, clock, self.delay, policy)
        if hasattr(loop, "_thread_id"):
            self.lanes[ident] = lane
        return lane


class Hedge(Policy[HedgeSettings]):
    """Begins what is further in once more when it takes unusually long; whichever attempt is answered first counts.

    After "The Tail at Scale", gRPC's hedging (proposal A6) and Finagle's ``BackupRequestFilter``. The delay is
    fixed, or a quantile of the recent answers' latency: until enough are known, nothing is hedged. Calls that are
    not idempotent never are. Hedges need room in the budget; without it the first attempt goes on alone.

    An attempt is answered when the classifier says that the dependency works, be the answer a result or an error.
    A failed attempt is not the end: the next one begins at once, and the others go on; unless it asks to come back
    later. When all have failed, the first failure counts, and a refusal only when there is nothing else; if it is an
    error, a note tells of the others. What counts stamps the call. What is no ``Exception``, such as an exit, ends
    the call; but an attempt that cancels itself counts as a refusal when it is a hedge.

    Async: the first attempt runs in the caller's task, each further one in a task of its own, with a copy of
    the context that the call began in. Losers are cancelled. Those in tasks get ``CLEANUP`` seconds to end, or half of
    the time until the deadline; the first attempt has to end before the call does. A cancellation from outside cancels
    all and gets out at once.

    Sync: all attempts run in threads of the policy, since nothing can interrupt the caller's. Losers are told by
    their ambient ``Cancellation``, and run on until they notice. At ``call.deadline`` the call raises
    ``DeadlineExceeded``. When no thread is free, the call runs in the caller's, without a hedge. ``close()`` ends
    the threads.
    """

    kind: ClassVar[str] = "hedge"

    @accepts(HedgeSettings)
    def __init__(self, settings: HedgeSettings) -> None:
        self.hedges = 0
        self.won = 0
        self.suppressed = 0
        self.without_thread = 0
        self.attempts = 1
        self.budget: RetryBudget | None = None
        self.under_way: set[asyncio.Task[Any]] = set()
        self.threads = Threads(settings.threads)
        self._own: RetryBudget | None = None
        self._quantile: RecentQuantile | None = None
        self._pace = _Pace(inf)
        super().__init__(settings)

    def apply(self, settings: HedgeSettings) -> None:
        self.attempts = settings.attempts
        self.threads.limit = settings.threads
        self.budget = self._budget_of(settings.budget)
        self._tally = self.budget if self.budget is self._own else None
        self.timed = settings.delay is None
        known = self._quantile
        if settings.delay is not None:
            self._quantile = None
            self._change_pace(float(settings.delay))
        elif known is None or (known.quantile, known.window) != (settings.quantile, settings.window):
            self._quantile = RecentQuantile(settings.quantile, settings.window)
            self._change_pace(inf)
        else:
            self._change_pace(self._worked_out(known, settings))

    @property
    def delay(self) -> float:
        """Seconds after which a call is hedged; ``inf`` until enough answers are known."""
        return self._pace.delay

    def snapshot(self) -> dict[str, Any]:
        delay = self._pace.delay
        return {
            "delay": None if delay == inf else delay,
            "hedges": self.hedges,
            "won": self.won,
            "suppressed": self.suppressed,
            "without_thread": self.without_thread,
            "samples": 0 if self._quantile is None else self._quantile.count,
            "budget": None if self.budget is None else self.budget.snapshot(),
        }

    def close(self) -> None:
        """End the threads of sync calls, each once its attempt has ended. Later sync calls are not hedged."""
        self.threads.close()

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            if not call.idempotent:
                return inner(call)
            if self._tally is not None:
                self._tally.begin(call.now)
            delay = self._pace.delay
            if delay == inf:
                return self.watched(inner, call)
            return ThreadRace(self, call, inner, delay).run()

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            if not call.idempotent:
                return await inner(call)
            began = call.now
            tally = self._tally
            if tally is not None:
                if began < tally.edge:
                    tally.count += 1
                else:
                    tally.begin(began)
            pace = self._pace
            delay = pace.delay
            # That of the beginning: for settings without one nobody stamps the end of a call.
            quantile = self._quantile
            if delay == inf:
                return await self._watched_async(inner, call)
            ident = get_ident()
            lane = pace.lanes.get(ident)
            # The private attribute of asyncio's own loops says whether this thread still runs that loop.
            if lane is None or lane.loop._thread_id != ident or lane.clock is not call.clock:  # type: ignore[attr-defined]
                lane = pace.lane(self, call.clock, ident)
            task = task_of(lane.loop)
            if task is None:
                return await inner(call)
            late = lane.late
            due = began + delay
            late[call] = entry = (due, task, task.cancelling(), copy_context(), call.deadline, inner)
            if lane.timer is None:
                lane.arm(due)
            try:
                result = await inner(call)
            except BaseException as error:
                hedged = late.pop(call, None) is None
                if not hedged and not (call.verdict is FAILED and isinstance(error, Exception)):
                    self._learn_error(quantile, call.verdict, error, call.now - began, call.now)
                    del task, entry  # what is raised knows this frame, and the task that it ends knows that
                    raise
                own = Outcome(call.verdict, call.now, None, error)
            else:
                hedged = late.pop(call, None) is None
                if not hedged and call.verdict is OK:
                    if quantile is not None:
                        quantile.batch.append(call.now - began)
                        if len(quantile.batch) >= BATCH:
                            self._turn(quantile, call.now)
                    return result
                own = Outcome(call.verdict, call.now, result)
            race = lane.races.pop(call, None) or Race(self, lane, call, entry)
            try:
                self._learn_own(quantile, own, race.beaten, call, began)
                return await race.settle(own)
            finally:
                del own, race, task, entry  # as above

        return run

    def begin_hedge(self, call: Call, delay: float) -> bool:
        """Whether there is room for another attempt of ``call``, whose delay is ``delay``; it is counted."""
        budget = self.budget
        if budget is not None and not budget.try_spend(call.clock.now()):
            self.suppressed += 1
            return False
        self.hedges += 1
        if self.listeners.active:
            at = call.clock.wall()
            self.listeners.emit(lambda: HedgeStarted(at, self.name, call.operation, delay))
        return True

    def count_win(self, call: Call) -> None:
        """A further attempt of ``call`` was answered first."""
        self.won += 1
        if self.listeners.active:
            at = call.clock.wall()
            self.listeners.emit(lambda: HedgeWon(at, self.name, call.operation))

    @property
    def recent(self) -> RecentQuantile | None:
        """The latency of the last answers, which the delay follows; None when it is fixed."""
        return self._quantile

    def learn(self, quantile: RecentQuantile | None, seconds: float, now: float) -> None:
        """An answer took ``seconds``, or would have taken longer, had a hedge not been answered before.

        That is enough to know: it lies above the quantile.
        """
        if quantile is not None:
            quantile.batch.append(seconds)
            if len(quantile.batch) >= BATCH:
                self._turn(quantile, now)

    def learn_cut(self, quantile: RecentQuantile | None, seconds: float, now: float) -> None:
        """No answer came within ``seconds``, which were all the time there was.

        That counts as slow if it was about as much as the delay, or more. Less says nothing: a call that had only
        a moment left would count as a quick one.
        """
        delay = self._pace.delay
        if seconds >= (float(self.settings.min_delay) if delay == inf else delay * (1 - NOTICEABLE)):
            self.learn(quantile, seconds, now)

    def watched(self, inner: Handler, call: Call) -> Any:
        """Make a sync call without a hedge, and learn how long it took."""
        began = call.now
        quantile = self._quantile
        try:
            result = inner(call)
        except BaseException as error:
            self._learn_error(quantile, call.verdict, error, call.now - began, call.now)
            raise
        if call.verdict is OK:
            self.learn(quantile, call.now - began, call.now)
        return result

    async def _watched_async(self, inner: AsyncHandler, call: Call) -> Any:
        began = call.now
        quantile = self._quantile
        try:
            result = await inner(call)
        except BaseException as error:
            self._learn_error(quantile, call.verdict, error, call.now - began, call.now)
            raise
        if call.verdict is OK:
            self.learn(quantile, call.now - began, call.now)
        return result

    def _learn_own(self, quantile: RecentQuantile | None, own: Outcome, beaten: bool, call: Call, began: float) -> None:
        """What the caller's own attempt, that has been hedged, says of the latency."""
        if beaten and not own.answered:
            now = call.clock.now()  # it may not have got as far as the dependency, and its stamp is old
            self.learn(quantile, now - began, now)
        elif own.error is None:
            if own.answered:
                self.learn(quantile, own.now - began, own.now)
        else:
            self._learn_error(quantile, own.verdict, own.error, own.now - began, own.now)

    def _learn_error(
        self, quantile: RecentQuantile | None, verdict: Verdict, error: BaseException, seconds: float, now: float
    ) -> None:
        """What an attempt that raised says of the latency: an answer tells it, and so does time that ran out."""
        if verdict is OK:
            self.learn(quantile, seconds, now)
        elif verdict is FAILED and isinstance(error, DeadlineExceeded | asyncio.CancelledError):
            self.learn_cut(quantile, seconds, now)

    def _turn(self, quantile: RecentQuantile, now: float) -> None:
        with self.lock:
            if quantile is self._quantile and len(quantile.batch) >= BATCH:
                quantile.turn(now)
                delay = self._worked_out(quantile, self.settings)
                if delay == inf or abs(delay - self._pace.delay) > NOTICEABLE * delay:
                    self._change_pace(delay)

    def _worked_out(self, quantile: RecentQuantile, settings: HedgeSettings) -> float:
        return max(quantile.value, float(settings.min_delay)) if quantile.count >= settings.samples else inf

    def _change_pace(self, delay: float) -> None:
        if self.attempts < 2:
            delay = inf
        if delay != self._pace.delay:
            self._pace = _Pace(delay)

    def _budget_of(self, budget: Budget) -> RetryBudget | None:
        if not isinstance(budget, RetryBudgetSettings):
            return budget if isinstance(budget, RetryBudget) else None
        if self._own is None:
            self._own = RetryBudget.from_settings(budget)
        else:
            self._own.replace_settings(budget)
        return self._own
