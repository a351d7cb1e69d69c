"""Retry: a call that failed is made again, a little later, as long as that is safe and helps."""

import asyncio
import random as system
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from holdfast.core.call import Call
from holdfast.core.context import current, current_deadline
from holdfast.core.duration import Duration, rounded
from holdfast.core.errors import CallCancelled, ConfigError, Rejected
from holdfast.core.event import Event
from holdfast.core.fuse import Again, Fragment
from holdfast.core.kinds import Reader, Refused
from holdfast.core.policy import Fused, accepts
from holdfast.core.settings import Errors, PolicySettings, Seconds, Settings, about, placed, read_table
from holdfast.resilience.retrying.backoff import (
    BACKOFF,
    CHANCE,
    Backoff,
    Chance,
    Exponential,
    Jitter,
    next_delay,
    read_function,
)
from holdfast.resilience.retrying.budget import RetryBudget, RetryBudgetSettings
from holdfast.resilience.retrying.pushback import pushback
from holdfast.resilience.retrying.story import Delay, add_note, failure_of, is_refusal

ATTEMPTS_LIMIT: Final = 1000
"""Attempts that a call may have."""
RULES_LIMIT: Final = 64
"""Rules that a policy may have."""

# Plain text, not an enum: an enum's hash is a Python function, in which another thread may get its turn.
ATTEMPTS: Final = "attempts"
BUDGET: Final = "budget"
DEADLINE: Final = "deadline"
PUSHBACK: Final = "retry_after"
NOT_IDEMPOTENT: Final = "not_idempotent"
NOT_RETRYABLE: Final = "not_retryable"
CALLED_OFF: Final = "called_off"
REASONS: Final[Mapping[str, str]] = {
    ATTEMPTS: "all attempts are used up",
    BUDGET: "the retry budget is used up",
    DEADLINE: "another attempt does not fit into the deadline",
    PUSHBACK: "the other side asked to wait for longer than retry_after_limit",
    NOT_IDEMPOTENT: "the call is not idempotent",
    NOT_RETRYABLE: "this error is not one to retry",
    CALLED_OFF: "the work was called off",
}
"""What may end a call that failed, and how its error tells it."""

Delays: TypeAlias = Backoff | float | str | Sequence[float | str] | Mapping[str, Any]
Budget: TypeAlias = RetryBudget | RetryBudgetSettings | Mapping[str, Any] | bool | None


def _read_budget(value: Any) -> RetryBudget | RetryBudgetSettings | None:
    if value is None or value is False:
        return None
    if isinstance(value, RetryBudget):
        return value
    return RetryBudgetSettings() if value is True else read_table(RetryBudgetSettings, value)


def _read_rules(value: Any) -> tuple["Rule", ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError
    if len(value) > RULES_LIMIT:
        raise Refused(f"at most {RULES_LIMIT} rules")
    rules = []
    for number, item in enumerate(value):
        try:
            rules.append(read_table(Rule, item))
        except ConfigError as error:
            raise placed(error, f"[{number}]") from None
    return tuple(rules)


def _or_none(reader: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else reader(value)


BUDGETS: Final = Reader(_read_budget, "a RetryBudget, a table such as { ratio = 0.1, floor = 3 }, or false for none")
RULES: Final = Reader(_read_rules, 'a list of tables such as { on = "TimeoutError", attempts = 2 }')
OWN_BACKOFF: Final = Reader(_or_none(BACKOFF.read), BACKOFF.expected)
HOOK: Final = Reader(_or_none(read_function), "a function, given in code")


class Rule(Settings, frozen=True):
    """What is different for some errors; None is as the policy has it. They need not be in the policy's ``on``."""

    on: Annotated[Errors, about("The errors that this is about.")]
    attempts: Annotated[
        int | None, about("Attempts in all, whatever the others failed of.", ge=1, le=ATTEMPTS_LIMIT)
    ] = None
    backoff: Annotated[Delays | None, about("How the delays grow.", reader=OWN_BACKOFF)] = None
    jitter: Annotated[Jitter | None, about("How the delays are spread.")] = None


class RetrySettings(PolicySettings, frozen=True):
    """Settings of ``Retry``."""

    attempts: Annotated[int, about("Attempts in all, the first one included.", ge=1, le=ATTEMPTS_LIMIT)] = 3
    backoff: Annotated[Delays, about("How the delays grow.", reader=BACKOFF)] = Exponential()
    jitter: Annotated[Jitter, about("How the delays are spread.")] = "full"
    on: Annotated[Errors, about("Which errors are retried; a refusal only if its class, or Rejected, is named.")] = (
        OSError
    )
    not_on: Annotated[Errors, about("Which of these are not.")] = ()
    rules: Annotated[
        Sequence[Rule | Mapping[str, Any]],
        about("Errors with attempts or delays of their own; the first that fits counts.", reader=RULES),
    ] = ()
    when: Annotated[
        Callable[[Exception], bool] | None, about("Asked last about an error: whether to retry it.", reader=HOOK)
    ] = None
    on_result: Annotated[bool, about("Retry results too that the pipeline's classifier calls failures.")] = True
    non_idempotent: Annotated[bool, about("Retry also calls that are marked as not idempotent.")] = False
    budget: Annotated[
        Budget, about("How many retries the policy may make; one object may be shared.", reader=BUDGETS)
    ] = RetryBudgetSettings()
    retry_after: Annotated[
        Callable[[Any], float | None] | None,
        about(
            "Seconds that an error or result asks to wait. By default what HTTP, gRPC and refusals say.", reader=HOOK
        ),
    ] = None
    retry_after_limit: Annotated[Seconds, about("Who asks to wait for longer gets no retry.")] = Duration(60.0)
    random: Annotated[system.Random | Chance | None, about("Where the jitter comes from.", reader=CHANCE)] = None

    def check(self) -> None:
        for place, rule in [("on", self), *(("rules", rule) for rule in self.rules)]:
            assert isinstance(rule, RetrySettings | Rule)
            assert isinstance(rule.on, tuple)
            if not all(issubclass(kind, Exception) for kind in rule.on):
                raise self.wrong(place, "classes of Exception", "a cancellation is never retried")
            exponential = isinstance(rule.backoff or self.backoff, Exponential)
            if (rule.jitter or self.jitter) == "decorrelated" and not exponential:
                raise self.wrong("jitter", "another kind of jitter", "decorrelated goes with exponential delays only")


class Retried(Event, frozen=True):
    """An attempt failed, and another one is made after ``delay`` seconds.

    ``error`` is the name of the exception's class, empty for a result. ``attempt`` is the one that failed.
    """

    policy: str
    operation: str
    attempt: int
    error: str
    delay: float


class GaveUp(Event, frozen=True):
    """An attempt failed, and there is no other: ``reason`` is one of ``REASONS``. The rest is as in ``Retried``."""

    policy: str
    operation: str
    attempt: int
    error: str
    reason: str


class _Way(NamedTuple):
    """How some errors are retried, made for speed. Of refusals, only those that are named."""

    errors: tuple[type[BaseException], ...]
    refusals: tuple[type[BaseException], ...]
    attempts: int
    backoff: Backoff
    jitter: Jitter


class Retry(Fused[RetrySettings]):
    """Makes a call that failed again, up to ``attempts`` times in all, with growing delays that are spread at random.

    Retried are the errors in ``on`` and results that the classifier calls failures; not what is marked as not
    idempotent, and no refusal that is not named. What comes out in the end is the last error itself, with a note
    that says how often, how long, and what ended it; on a refusal it also tells the failure before. A delay that would
    not end before the deadline is not begun, and a retry needs room in the budget. A cancellation goes through at
    once, also from a delay.

    What is known of a call lives in the call's own frame: one policy serves any number of calls, threads and loops.
    In sync code a delay blocks its thread.
    """

    kind = "retry"

    @accepts(RetrySettings)
    def __init__(self, settings: RetrySettings) -> None:
        self.budget: RetryBudget | None = None
        self.retried = 0
        self.retries = 0
        self.recovered = 0
        self.gave_up = dict.fromkeys(REASONS, 0)
        self._own: RetryBudget | None = None
        super().__init__(settings)

    def apply(self, settings: RetrySettings) -> None:
        assert not isinstance(settings.random, system.Random)
        self._chance: Chance = settings.random or system.random
        self.budget = self._budget_of(settings.budget)
        own = self._way(settings, settings)
        self._results = own
        self._ways = (*(self._way(settings, rule) for rule in settings.rules if isinstance(rule, Rule)), own)
        self._listed = tuple(kind for way in self._ways for kind in way.errors)
        assert isinstance(settings.not_on, tuple)
        self._never = (*settings.not_on, CallCancelled)

    def snapshot(self) -> dict[str, Any]:
        return {
            "retried": self.retried,
            "retries": self.retries,
            "recovered": self.recovered,
            "gave_up": dict(self.gave_up),
            "budget": None if self.budget is None else self.budget.snapshot(),
        }

    def fragment(self, asynchronous: bool) -> Fragment:
        budget = self.budget
        return Again(
            self._after_error,
            self._after_result,
            _sleep if asynchronous else _pause,
            tally=budget,
            begin=None if budget is None else self._begin,
            recovered=self._recovered,
        )

    def _budget_of(self, budget: Budget) -> RetryBudget | None:
        if isinstance(budget, RetryBudgetSettings):
            if self._own is None:
                self._own = RetryBudget.from_settings(budget)
            else:
                self._own.replace_settings(budget)
            return self._own
        return budget if isinstance(budget, RetryBudget) else None

    def _way(self, settings: RetrySettings, rule: RetrySettings | Rule) -> _Way:
        assert isinstance(rule.on, tuple)
        backoff = rule.backoff or settings.backoff
        assert callable(backoff)
        refusals = tuple(kind for kind in rule.on if issubclass(kind, Rejected))
        return _Way(rule.on, refusals, rule.attempts or settings.attempts, backoff, rule.jitter or settings.jitter)

    def _after_error(
        self, call: Call, error: Exception, tries: int, began: float, previous: float | None
    ) -> float | None:
        # Nothing to do with us, most likely; it costs as little as possible.
        way = self._way_of(error) if isinstance(error, self._listed) else None
        if way is not None:
            return self._decide(call, error, way, tries, began, previous)
        if tries > 1:
            self._give_up(call, error, NOT_RETRYABLE, tries, call.clock.now() - began, previous)
        return None

    def _after_result(self, call: Call, result: Any, tries: int, began: float, previous: float | None) -> float | None:
        if self.settings.on_result:
            return self._decide(call, result, self._results, tries, began, previous)
        if tries > 1:
            self._give_up(call, result, NOT_RETRYABLE, tries, call.clock.now() - began, previous)
        return None

    def _way_of(self, error: Exception) -> _Way | None:
        if isinstance(error, self._never):
            return None
        # Refusals say: not now.
        refusal = is_refusal(error)
        for way in self._ways:
            if isinstance(error, way.refusals if refusal else way.errors):
                when = self.settings.when
                if _is_final(error) or (when is not None and not when(error)):
                    return None
                return way
        return None

    def _decide(
        self, call: Call, outcome: Any, way: _Way, tries: int, began: float, previous: float | None
    ) -> float | None:
        now = call.clock.now()
        delay = 0.0
        reason = self._obstacle(call, way, tries)
        if not reason:
            delay = next_delay(tries, way.backoff, way.jitter, self._chance, previous)
            asked = self._asked(call, outcome)
            if asked > self.settings.retry_after_limit:
                reason = PUSHBACK
            else:
                # Added, not the longer of both: all callers were told the same, and must not come back together.
                delay += asked
                if now + delay >= current_deadline():
                    reason = DEADLINE
                elif self.budget is not None and not self.budget.try_spend(now):
                    reason = BUDGET
        if reason:
            self._give_up(call, outcome, reason, tries, now - began, previous)
            return None
        if tries == 1:
            self.retried += 1
        self.retries += 1
        if self.listeners.active:
            self._tell(Retried, call, outcome, tries, delay)
        return Delay(delay, failure_of(outcome, previous))

    def _obstacle(self, call: Call, way: _Way, tries: int) -> str:
        if not call.idempotent and not self.settings.non_idempotent:
            return NOT_IDEMPOTENT
        if tries >= way.attempts:
            return ATTEMPTS
        return CALLED_OFF if _called_off() else ""

    def _asked(self, call: Call, outcome: Any) -> float:
        own = self.settings.retry_after
        asked = own(outcome) if own is not None else pushback(outcome, call.clock.wall())
        return asked if asked is not None and asked > 0 else 0.0

    def _give_up(
        self, call: Call, outcome: Any, reason: str, tries: int, elapsed: float, previous: float | None
    ) -> None:
        self.gave_up[reason] += 1
        if isinstance(outcome, Exception):
            story = f"{tries} attempt{'s' * (tries > 1)} in {rounded(elapsed)} s; {REASONS[reason]}"
            if isinstance(previous, Delay) and isinstance(outcome, Rejected):
                story += f"; the failure before: {previous.failure}"
            add_note(outcome, self.name, story)
        if self.listeners.active:
            self._tell(GaveUp, call, outcome, tries, reason)

    def _tell(self, event: Callable[..., Event], call: Call, outcome: Any, tries: int, more: float | str) -> None:
        at = call.clock.wall()
        error = type(outcome).__name__ if isinstance(outcome, Exception) else ""
        self.listeners.emit(lambda: event(at, self.name, call.operation, tries, error, more))

    def _begin(self, call: Call) -> None:
        if self.budget is not None:
            self.budget.begin(call.now)

    def _recovered(self, call: Call) -> None:
        self.recovered += 1


@contextmanager
def point_of_no_return() -> Iterator[None]:
    """No error of this block is retried: for what must not happen twice, such as a stream whose first byte is out.

    It marks the error (``error.retryable = False``), which anybody else may do as well.
    """
    try:
        yield
    except Exception as error:  # whatever it is: it is marked, and goes on
        # Past the error's own __setattr__, which some classes lock.
        object.__setattr__(error, "retryable", False)
        raise


def _is_final(error: Exception) -> bool:
    try:
        return getattr(error, "retryable", True) is False
    except Exception:  # whatever an odd error raises when it is looked at: its own failure is what counts
        return False


def _called_off() -> bool:
    """Whether nobody wants the work any more; also when a callee made an error of its own of the cancellation."""
    cancellation = current().cancellation
    if cancellation is not None and cancellation.cancelled:
        return True
    loop = asyncio._get_running_loop()  # the one that does not raise when there is none
    task = None if loop is None else asyncio.current_task(loop)
    return task is not None and task.cancelling() > 0


def _pause(call: Call, seconds: float) -> None:
    call.clock.pause(seconds)


def _sleep(call: Call, seconds: float) -> Awaitable[None]:
    return call.clock.sleep(seconds)
