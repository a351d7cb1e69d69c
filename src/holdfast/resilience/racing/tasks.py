"""Attempts of one async call that run at the same time: the first that is answered wins."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from holdfast.core.call import FAILED, IGNORED, OK, AsyncHandler, Call, Verdict
from holdfast.core.clock import Clock
from holdfast.core.context import current
from holdfast.resilience.expiry import Lane
from holdfast.resilience.retrying.pushback import pushback

if TYPE_CHECKING:
    from holdfast.resilience.hedge import Hedge

CLEANUP: Final = 0.1
"""Seconds that the losers get to end, once they are cancelled, before the answer is passed on without them."""
LOOK_AGAIN: Final = 0.05
"""Seconds after which a caller is looked at again that was cancelled, perhaps only by a time limit further in."""


Entry: TypeAlias = tuple[float, "asyncio.Task[Any]", int, Context, float, AsyncHandler]
"""A call that may have to be hedged: when, its task, the cancellations that had pending, context, deadline, inner."""


class Outcome(NamedTuple):
    """How an attempt ended: with ``error``, or with ``result``. ``now`` is when."""

    verdict: Verdict
    now: float
    result: Any = None
    error: BaseException | None = None

    @property
    def answered(self) -> bool:
        """Whether the dependency gave an answer, even one that the caller does not like: trying again is no use."""
        return self.verdict is OK

    @property
    def final(self) -> bool:
        """Whether the call ends with it: an answer, or what is no ``Exception``, such as an exit.

        Not the cancellation of an attempt: nobody may have cancelled the call.
        """
        error = self.error
        return self.answered or not (error is None or isinstance(error, Exception | asyncio.CancelledError))

    @property
    def failed(self) -> bool:
        """Whether another attempt may do better: not after a refusal, or an error that says that it is final."""
        return self.verdict is FAILED and getattr(self.error, "retryable", True) is not False

    def asks_to_wait(self, wall: float) -> bool:
        """Whether the dependency wants nobody to come back yet. ``wall`` is the time now, in Unix seconds."""
        asked = pushback(self.result if self.error is None else self.error, wall)
        return asked is not None and asked > 0

    def deliver(self, call: Call) -> Any:
        """Stamp ``call`` as the attempt was, and return or raise what it did."""
        call.verdict, call.now = self.verdict, self.now
        error, result = self.error, self.result
        if error is None:
            return result
        try:
            raise error
        finally:
            del self, error  # the error knows this frame


class HedgeLane(Lane):
    """The calls of one event loop: ``late`` holds those that will be hedged, ``races`` those that have been.

    One that is in neither was not allowed another attempt.
    """

    __slots__ = ("_policy", "late", "races")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, seconds: float, policy: "Hedge") -> None:
        super().__init__(loop, clock, seconds)
        self.late = cast("dict[Call, Entry]", self.entries)
        self.races: dict[Call, Race] = {}
        self._policy = policy

    def expire(self) -> None:
        """Hedge the calls that have taken too long, and set the timer for the next."""
        self.timer = None
        overdue, following = self.sorted_out(self.clock.now())
        for call in overdue:
            assert isinstance(call, Call)
            race = Race(self._policy, self, call, self.late.pop(call))
            if race.start():
                self.races[call] = race
        if following != inf:
            self.arm(following)


class Race:
    """A call with further attempts beside, or after, the one in the caller's own task.

    It belongs to the caller, who calls ``settle`` when his own attempt has ended. If another attempt is answered
    first, the caller's task is cancelled once, and that cancellation is taken back in ``settle``. Attempts have tasks,
    with a copy of the context that the call began in.

    While a caller's attempt is under way, nobody can say whether his task was cancelled from outside, or by a time
    limit or a task group within, which will take that back. So until it has ended, a cancelled caller is left alone
    and gets no further attempts, but the answers of those that he has are kept.
    """

    def __init__(self, policy: "Hedge", lane: HedgeLane, call: Call, entry: Entry) -> None:
        self._policy = policy
        self._loop = lane.loop
        self._delay = lane.seconds
        self._call = call
        _, self._caller, self._pending, self._context, self._deadline, self._inner = entry
        self._tasks: dict[asyncio.Task[Any], Call] = {}
        self._begun = 1
        self._timer: asyncio.TimerHandle | None = None
        self._outcomes: list[Outcome] = []
        self._winner: Outcome | None = None
        self._last = False
        self._over = False
        self._cancelled = False
        self._news: asyncio.Future[None] | None = None

    def start(self) -> bool:
        """Begin another attempt, if there may be one, now or a little later."""
        policy, call = self._policy, self._call
        if self._over or self._last or self._begun >= policy.attempts:
            return False
        if self._called_off():
            self._set_timer(LOOK_AGAIN, self.start)
            return True
        if call.clock.now() >= self._deadline or self._context.run(unwanted):
            return False
        if not policy.begin_hedge(call, self._delay):
            return False
        attempt = call.copy()
        attempt.attempt = call.attempt + self._begun - 1
        context = self._context.copy()
        context.run(attempt.again)
        self._begun += 1
        task = self._loop.create_task(_run(self._inner, attempt), context=context)
        self._tasks[task] = attempt
        policy.under_way.add(task)
        task.add_done_callback(self._ended)
        if self._begun < policy.attempts:
            self._set_timer(self._delay, self.start)
        return True

    async def settle(self, own: Outcome) -> Any:
        """The caller's own attempt has ended: the outcome of the call, once no attempt is left that matters."""
        error, outcome = own.error, own
        try:
            if self._cancelled:
                self._caller.uncancel()
            called_off = self._called_off()
            if error is not None and not isinstance(error, Exception):
                ours = self._cancelled and isinstance(error, asyncio.CancelledError)
                if not ours or called_off:
                    raise error
            elif self._winner is None and not called_off:
                await self._go_on(own)
            self.call_off()
            if self._tasks:
                await asyncio.wait(tuple(self._tasks), timeout=self._cleanup())
            if not called_off or self._winner is not None:
                outcome = self._winner or defeat(self._outcomes, self._begun, self._policy.name)
            if outcome.answered and outcome is not own:
                self._policy.count_win(self._call)
            return outcome.deliver(self._call)
        finally:
            self.call_off()
            self._outcomes.clear()
            del own, error, outcome, self  # what is raised knows this frame, and the task that it ends knows that

    @property
    def beaten(self) -> bool:
        """Whether the caller's own attempt was called off, because another one was answered."""
        return self._cancelled

    def call_off(self) -> None:
        """Cancel all attempts that are under way in tasks. They are not waited for."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._over:
            self._over = True
            for task in self._tasks:
                task.cancel()

    def _called_off(self) -> bool:
        """Whether the caller is cancelled; when his own attempt has ended, by somebody outside."""
        return self._caller.cancelling() > self._pending

    def _cleanup(self) -> float:
        """Seconds for the losers; half of what is left at the most, or the deadline would take the answer away."""
        return max(0.0, min(CLEANUP, (self._deadline - self._call.clock.now()) / 2))

    async def _go_on(self, own: Outcome) -> None:
        self._note(own)
        if self._winner is not None or not self._tasks:
            return
        self._news = self._loop.create_future()
        await self._news

    def _note(self, outcome: Outcome) -> None:
        """An attempt has ended. A failure is not the end while there are others; the next one begins at once.

        But not when the dependency asked to be left alone for a while: then there is none any more.
        """
        if outcome.final:
            self._winner = outcome
            self.call_off()
            return
        self._outcomes.append(outcome)
        if outcome.failed and outcome.asks_to_wait(self._call.clock.wall()):
            self._last = True
        elif outcome.failed:
            self.start()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        attempt = self._tasks.pop(task)
        self._policy.under_way.discard(task)
        outcome = _outcome_of(task, attempt)
        if self._over:
            return
        try:
            self._note(outcome)
        finally:  # whatever an error's own properties raise, the caller must not wait for ever
            if self._news is not None:
                if not self._news.done() and (self._winner is not None or not self._tasks):
                    self._news.set_result(None)
            elif self._winner is not None:
                self._supersede()

    def _supersede(self) -> None:
        """Another attempt was answered: end the caller's own one."""
        if self._called_off():
            self._set_timer(LOOK_AGAIN, self._supersede)
        else:
            self._cancelled = True
            self._caller.cancel()

    def _set_timer(self, seconds: float, then: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then, context=Context())


def unwanted() -> bool:
    """Whether the work at hand was called off through its ambient ``Cancellation``."""
    cancellation = current().cancellation
    return cancellation is not None and cancellation.cancelled


async def _run(inner: Callable[[Call], Awaitable[Any]], attempt: Call) -> Any:
    return await inner(attempt)


def _outcome_of(task: "asyncio.Task[Any]", attempt: Call) -> Outcome:
    if task.cancelled():
        return Outcome(IGNORED, attempt.now, None, asyncio.CancelledError())
    error = task.exception()
    return Outcome(attempt.verdict, attempt.now, None if error else task.result(), error)


def defeat(outcomes: list[Outcome], begun: int, name: str) -> Outcome:
    """The first of the failures, with a note of the others.

    A refusal, or an attempt that cancelled itself, counts only when there is nothing else: it says less.
    """
    worst = min(outcomes, key=lambda outcome: (outcome.verdict is not FAILED, not _tellable(outcome.error)))
    if worst.error is not None and begun > 1:
        others = [other for other in outcomes if other is not worst]
        names = [type(other.error).__name__ if other.error else "a bad result" for other in others]
        told = f"; the others: {', '.join(names)}" if names else ""
        _add_note(worst.error, name, f"none of {begun} attempts was answered{told}")
    return worst


def _tellable(error: BaseException | None) -> bool:
    return error is None or isinstance(error, Exception)


def _add_note(error: BaseException, name: str, text: str) -> None:
    """Add a note to ``error``; one that is raised again and again keeps the last one only."""
    told = f"{name}: "
    try:
        notes = [note for note in getattr(error, "__notes__", ()) if not str(note).startswith(told)]
        # Past the error's own __setattr__, which some classes lock.
        object.__setattr__(error, "__notes__", [*notes, told + text])
    except (AttributeError, TypeError):  # notes of its own kind; the error is worth more than the note
        return
