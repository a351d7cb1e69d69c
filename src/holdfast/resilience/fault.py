"""Fault: makes calls fail, wait or lie on purpose, to see what the policies around them do."""

import fnmatch
import logging
import random as system
import re
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from holdfast.core.call import AsyncHandler, Call, Handler
from holdfast.core.context import current_deadline
from holdfast.core.duration import parse_duration
from holdfast.core.errors import DeadlineExceeded, FaultInjected, Rejected
from holdfast.core.event import Event
from holdfast.core.kinds import Reader, Refused
from holdfast.core.policy import Policy, accepts
from holdfast.core.settings import ERRORS, PolicySettings, about
from holdfast.resilience.retrying.backoff import CHANCE, Chance, read_function
from holdfast.resilience.sharing.keys import colour_of

NAMES_LIMIT: Final = 1000
"""Operations, and keys, that one policy may list."""
REASON: Final = "a fault was injected"
LATE: Final = "the deadline passed in an injected delay"

Abort: TypeAlias = type[Exception] | Callable[[Call], Exception]
"""What a call fails with: a class of exceptions, or a function of the call that makes one."""

logger = logging.getLogger(__name__)


def _read_abort(value: Any) -> Abort | None:
    if value is None or value is False:
        return None
    if value is True:
        return FaultInjected
    if isinstance(value, str):
        (value,) = ERRORS.read(value)
    if not isinstance(value, type):
        made: Abort = read_function(value)
        return made
    if not issubclass(value, Exception):
        raise Refused("a class of Exception", "what is none ends tasks and threads")
    try:
        _made(value, "", "")
    except TypeError:
        raise Refused("an exception that is made from one text", "give a function of the call that makes it") from None
    return value


def _made(kind: type[Exception], policy: str, reason: str) -> Exception:
    if issubclass(kind, Rejected | FaultInjected):
        return kind(policy, reason)
    return kind(f"{policy}: {reason}")


def _read_delay(value: Any) -> tuple[float, float]:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError
        low, high = (parse_duration(part) for part in value)
        if low > high:
            raise Refused("the shorter duration first")
        return low, high
    seconds = 0.0 if value is None else parse_duration(value)
    return seconds, seconds


def _read_hook(value: Any) -> Any:
    return None if value is None else read_function(value)


def _read_random(value: Any) -> Chance | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return system.Random(value).random  # noqa: S311 - an experiment is repeated with the same seed
    chance: Chance | None = CHANCE.read(value)
    return chance


ABORT: Final = Reader(_read_abort, "an exception, its name, true for FaultInjected, or a function of the call")
DELAY: Final = Reader(_read_delay, 'a duration such as 500ms, or two, such as ["100ms", "2s"]')
HOOK: Final = Reader(_read_hook, "a function, given in code")
RANDOM: Final = Reader(_read_random, f"a whole number as the seed, {CHANCE.expected}")


class FaultSettings(PolicySettings, frozen=True):
    """Settings of ``Fault``."""

    rate: Annotated[float, about("The share of calls that get the fault. 0: none, and no cost.", ge=0, le=1)] = 0.0
    abort: Annotated[
        Abort | str | bool | None,
        about("What the calls fail with. By default FaultInjected, unless there is delay or corrupt.", reader=ABORT),
    ] = None
    delay: Annotated[
        float | str | Sequence[float | str] | None,
        about("How long they wait first: a duration, or the shortest and the longest.", reader=DELAY),
    ] = 0.0
    corrupt: Annotated[
        Callable[[Any], Any] | None, about("Makes the result that they get from the real one.", reader=HOOK)
    ] = None
    operations: Annotated[
        tuple[str, ...], about("Only calls of these operations; * and ? as in file names.", max_length=NAMES_LIMIT)
    ] = ()
    keys: Annotated[tuple[str | int, ...], about("Only calls with these keys.", max_length=NAMES_LIMIT)] = ()
    colour: Annotated[str | None, about("Only traffic of this experiment.")] = None
    when: Annotated[Callable[[Call], bool] | None, about("Only calls for which this is true.", reader=HOOK)] = None
    limit: Annotated[int | None, about("Faults in all; after that there are no more.", ge=0)] = None
    enabled: Annotated[bool, about("False: no faults, and no cost.")] = True
    random: Annotated[
        int | system.Random | Chance | None, about("Where chance comes from; a number is a seed.", reader=RANDOM)
    ] = None

    def check(self) -> None:
        if self.abort is not None and self.corrupt is not None:
            raise self.wrong("corrupt", "not given together with abort", "a call that fails has no result")


class Injected(Event, frozen=True):
    """A call was chosen: it waits ``delay`` seconds, then ``fault`` happens, which is delay, abort or corrupt.

    ``error`` is the class of exception, empty when there is none, or "a function".
    """

    policy: str
    operation: str
    fault: str
    delay: float
    error: str


class Fault(Policy[FaultSettings]):
    """Gives ``rate`` of the calls a fault: a delay, an exception, or a changed result.

    The fault takes the place of the user's function: it happens innermost, and the pipeline's classifier judges it
    as it would the real thing, for all policies. Where this policy stands says how often chance is asked: last, once
    an attempt; outside of a retry, once a call, and then each attempt gets the fault.

    A delay is not longer than the deadline leaves: there the call ends with ``DeadlineExceeded``. A cancellation
    ends it at once. In sync code it blocks the thread. A ``when`` that raises is logged, and there is no fault.
    Turned off (``update(rate=0.0)``, ``update(enabled=False)``), pipelines leave it out. Safe from any thread.
    """

    kind: ClassVar[str] = "fault"

    @accepts(FaultSettings)
    def __init__(self, settings: FaultSettings) -> None:
        self.injected = 0
        self.aborted = 0
        self.delayed = 0
        self.corrupted = 0
        super().__init__(settings)

    def apply(self, settings: FaultSettings) -> None:
        assert not isinstance(settings.random, int | system.Random)
        assert not isinstance(settings.abort, str | bool)
        assert isinstance(settings.delay, tuple)
        self.idle = not settings.enabled or settings.rate == 0
        self._rate = settings.rate
        self._shortest, longest = settings.delay
        self._spread = longest - self._shortest
        self._corrupt = settings.corrupt
        self._abort = settings.abort
        if settings.abort is None and settings.corrupt is None and not longest:
            self._abort = FaultInjected
        self._limit = inf if settings.limit is None else settings.limit
        self._operations = _pattern(settings.operations)
        self._keys = frozenset(settings.keys)
        self._colour = settings.colour
        self._when = settings.when
        self._choosy = bool(settings.operations or settings.keys or settings.when) or settings.colour is not None
        self._chance: Chance = settings.random or system.random

    def snapshot(self) -> dict[str, Any]:
        return {
            "rate": 0.0 if self.idle else self._rate,
            "injected": self.injected,
            "aborted": self.aborted,
            "delayed": self.delayed,
            "corrupted": self.corrupted,
        }

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            if not self._hits(call):
                return inner(call)
            fn = call.fn
            call.fn = self._faulty(call, fn)
            try:
                return inner(call)
            finally:
                call.fn = fn

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            if not self._hits(call):
                return await inner(call)
            fn = call.fn
            call.fn = self._faulty_async(call, fn)
            try:
                return await inner(call)
            finally:
                call.fn = fn

        return run

    def _hits(self, call: Call) -> bool:
        """Whether ``call`` gets a fault; it is counted then."""
        if (self._choosy and not self._is_meant(call)) or self._chance() >= self._rate:
            return False
        if self.injected < self._limit:
            self.injected += 1
            return True
        return False

    def _is_meant(self, call: Call) -> bool:
        if self._operations is not None and self._operations.match(call.operation) is None:
            return False
        if self._keys and not self._has_key(call):
            return False
        if self._colour is not None and colour_of(call) != self._colour:
            return False
        return self._when is None or self._wanted(call)

    def _has_key(self, call: Call) -> bool:
        try:
            return call.key in self._keys
        except TypeError:  # it is not hashable, so it is none of these
            return False

    def _wanted(self, call: Call) -> bool:
        assert self._when is not None
        try:
            return bool(self._when(call))
        except Exception:  # a mistake in an experiment must not break calls that are none of it
            logger.exception("%s: when failed on a call of %s", self.name, call.operation)
            return False

    def _faulty(self, call: Call, fn: Callable[..., Any]) -> Callable[..., Any]:
        delay, abort, corrupt = self._drawn(call)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            if delay:
                left = self._left(call)
                call.clock.pause(min(delay, left))
                if delay >= left:
                    raise DeadlineExceeded(self.name, LATE, None, None, call.operation)
            if abort is not None:
                raise self._error(abort, call)
            result = fn(*args, **kwargs)
            return result if corrupt is None else self._changed(corrupt, result)

        return faulty

    def _faulty_async(self, call: Call, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        delay, abort, corrupt = self._drawn(call)

        async def faulty(*args: Any, **kwargs: Any) -> Any:
            if delay:
                left = self._left(call)
                await call.clock.sleep(min(delay, left))
                if delay >= left:
                    raise DeadlineExceeded(self.name, LATE, None, None, call.operation)
            if abort is not None:
                raise self._error(abort, call)
            result = await fn(*args, **kwargs)
            return result if corrupt is None else self._changed(corrupt, result)

        return faulty

    def _drawn(self, call: Call) -> tuple[float, Abort | None, Callable[[Any], Any] | None]:
        """The delay of this fault, and what comes after it."""
        delay = self._shortest + self._spread * self._chance() if self._spread else self._shortest
        abort, corrupt = self._abort, self._corrupt
        if self.listeners.active:
            fault = "abort" if abort is not None else "delay" if corrupt is None else "corrupt"
            error = getattr(abort, "__name__", "a function") if abort is not None else ""
            at = call.clock.wall()
            self.listeners.emit(lambda: Injected(at, self.name, call.operation, fault, delay, error))
        return delay, abort, corrupt

    def _left(self, call: Call) -> float:
        self.delayed += 1
        return current_deadline() - call.clock.now()

    def _error(self, abort: Abort, call: Call) -> Exception:
        self.aborted += 1
        if isinstance(abort, type):
            return _made(abort, self.name, REASON)
        error: Any = abort(call)
        if not isinstance(error, Exception):
            return TypeError(f"{self.name}: the function given as abort made {error!r}, which is no exception")
        return error

    def _changed(self, corrupt: Callable[[Any], Any], result: Any) -> Any:
        self.corrupted += 1
        return corrupt(result)


def _pattern(names: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, names))) if names else None
