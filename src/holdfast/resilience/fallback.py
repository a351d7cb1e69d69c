"""Fallback: an answer for the caller when there is none from further in."""

import copy
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple, TypeAlias

from holdfast.core.call import Call
from holdfast.core.context import current_deadline
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError, Rejected
from holdfast.core.event import Event
from holdfast.core.fuse import RAISE, Fragment, Instead
from holdfast.core.kinds import Reader, Refused
from holdfast.core.policy import Fused, accepts
from holdfast.core.settings import FUNCTION, Errors, PolicySettings, Seconds, Settings, about, placed, read_table
from holdfast.resilience.sharing.keys import KEY, KeyFunction, keyed_by, unhashable
from holdfast.resilience.sharing.sieve import Sieve, Slot

RULES_LIMIT: Final = 64
"""Rules of one fallback."""
PLAIN: Final = (list, dict, set, bytearray)
"""Kinds of values that callers could change: each caller gets a copy."""


LAST_GOOD: Final = "last_good"
_TO_MAKE: Final = object()


class NotGiven:
    """The value that is no value, not even None."""

    def __repr__(self) -> str:
        return "not given"


NOT_GIVEN: Final = NotGiven()

OnFailure: TypeAlias = Callable[[Call, Exception | None], Any]
"""Makes an answer from the call and the error, which is None when a result was a failure. May be async."""


def _read_value(value: Any) -> Any:
    if callable(value):
        raise Refused("a value", "a function goes into function= or handler=")
    if type(value) in PLAIN:
        try:
            copy.deepcopy(value)
        except Exception:  # copying runs the code of whatever is in there; later would be when it is needed
            raise Refused("a value that can be copied", "give handler=lambda call, error: ... to make one") from None
    return value


def _read_rules(value: Any) -> tuple["FallbackRule", ...]:
    if not isinstance(value, list | tuple):
        raise ValueError
    if len(value) > RULES_LIMIT:
        raise Refused(f"at most {RULES_LIMIT} rules")
    rules = []
    for number, item in enumerate(value):
        try:
            rules.append(read_table(FallbackRule, item))
        except ConfigError as error:
            raise placed(error, f"[{number}]") from None
    return tuple(rules)


VALUE: Final = Reader(_read_value, "a value")
RULES: Final = Reader(_read_rules, 'a list of tables such as { on = "TimeoutError", value = 0 }')


class FallbackRule(Settings, frozen=True):
    """What stands in for some errors: a ``value``, or what ``function`` or ``handler`` returns."""

    on: Annotated[Errors, about("The errors that this is about.")]
    value: Annotated[Any, about("The answer.", reader=VALUE)] = NOT_GIVEN
    function: Annotated[
        Callable[..., Any] | None, about("Another upstream: called with the call's own arguments.", reader=FUNCTION)
    ] = None
    handler: Annotated[
        OnFailure | None, about("Makes the answer: called with the call and the error.", reader=FUNCTION)
    ] = None

    def check(self) -> None:
        _check_errors(self)
        if _count(self) != 1:
            raise ConfigError("FallbackRule value", None, "exactly one of value, function and handler")


class FallbackSettings(PolicySettings, frozen=True):
    """Settings of ``Fallback``."""

    value: Annotated[Any, about("The answer. A list, dict or set is copied for each caller.", reader=VALUE)] = NOT_GIVEN
    function: Annotated[
        Callable[..., Any] | None, about("Another upstream: called with the call's own arguments.", reader=FUNCTION)
    ] = None
    handler: Annotated[
        OnFailure | None, about("Makes the answer: called with the call and the error.", reader=FUNCTION)
    ] = None
    last_good: Annotated[
        Seconds, about("The last good result of the same call comes first, if it is not older than this. 0: never.")
    ] = Duration(0.0)
    keys: Annotated[int, about("Calls whose last good result is kept.", ge=1)] = 1000
    key: Annotated[
        KeyFunction | None,
        about("What makes two calls the same; by default the function and its arguments.", reader=KEY),
    ] = None
    on: Annotated[Errors, about("The errors that it is for; refusals by policies further in are Rejected.")] = Exception
    rules: Annotated[
        Sequence[FallbackRule | Mapping[str, Any]],
        about("Errors with an answer of their own; the first that fits counts, then on.", reader=RULES),
    ] = ()
    on_result: Annotated[bool, about("Stand in for results too that the pipeline's classifier calls failures.")] = False

    def check(self) -> None:
        _check_errors(self)
        if _count(self) > 1:
            raise ConfigError("Fallback value", None, "at most one of value, function and handler")
        if not (_count(self) or self.last_good or self.rules):
            wanted = "an answer: value, function, handler, last_good or rules"
            raise ConfigError("Fallback value", None, wanted, hint="write value=None for the answer None")


def _check_errors(settings: FallbackRule | FallbackSettings) -> None:
    assert isinstance(settings.on, tuple)
    if not all(issubclass(kind, Exception) for kind in settings.on):
        raise settings.wrong("on", "classes of Exception", "a cancellation always goes through")


def _count(settings: FallbackRule | FallbackSettings) -> int:
    given = settings.value is not NOT_GIVEN, settings.function is not None, settings.handler is not None
    return sum(given)


class FellBack(Event, frozen=True):
    """A caller got an answer that is not the dependency's.

    ``reason`` is error, refusal or result; ``error`` the exception's class and text, empty for a result; ``answer``
    what it was: value, function, handler or last_good.
    """

    policy: str
    operation: str
    reason: str
    error: str
    answer: str


class FallbackFailed(Event, frozen=True):
    """The function that was to make an answer failed itself, with ``failure``. The rest is as in ``FellBack``."""

    policy: str
    operation: str
    reason: str
    error: str
    answer: str
    failure: str


class _Way(NamedTuple):
    """What stands in for some errors."""

    on: tuple[type[BaseException], ...]
    answer: str
    value: Any = NOT_GIVEN
    copied: bool = False
    make: OnFailure | None = None


class _Kept(Slot):
    """The last good result of a call, and when it came. Both are replaced at once, in ``held``."""

    __slots__ = ("held",)

    def __init__(self, key: Hashable, result: Any, at: float) -> None:
        super().__init__(key)
        self.held = result, at


class _Source:
    forgotten = False


class Fallback(Fused[FallbackSettings]):
    """Answers the caller when what is further in fails or is refused. The first of these that there is:

    - for errors in one of ``rules``, that rule's answer;
    - for errors in ``on``, and with ``on_result`` for results that are failures: the last good result of the same
      call, if it came within ``last_good`` seconds; else ``value``, or what ``function`` returns for the call's own
      arguments, or ``handler`` for the call and the error;
    - else the error goes on.

    ``call.verdict`` stays what it is: to breakers, retries and caches further out the call has failed. When the
    function or handler fails itself, its error goes on in place of the first one, which is its ``__context__``;
    so a handler may raise a better error. A cancellation is never caught. An async function or handler is awaited;
    in a sync call it is a ``TypeError``. It runs within the deadline around the call. Safe from any thread.
    """

    kind: ClassVar[str] = "fallback"

    @accepts(FallbackSettings)
    def __init__(self, settings: FallbackSettings) -> None:
        self.errors = 0
        self.refusals = 0
        self.results = 0
        self.from_last_good = 0
        self.failed = 0
        self._kept: Sieve[_Kept] = Sieve(settings.keys)
        self._source = _Source()
        super().__init__(settings)

    def apply(self, settings: FallbackSettings) -> None:
        self._last_good = settings.last_good
        self._key_of = keyed_by(settings.key)
        self._own = _way(settings)
        self._ways = (*(_way(rule) for rule in settings.rules if isinstance(rule, FallbackRule)), self._own)

    def replace_settings(self, settings: FallbackSettings) -> None:
        """As ``update``, with all settings at once."""
        with self._changing:  # of two at the same time, the one whose settings stay has the last word here too
            super().replace_settings(settings)
            gone = self._kept.bound(settings.keys) if settings.last_good else self._kept.clear()
        del gone  # outside: what was kept may have finalizers

    def snapshot(self) -> dict[str, Any]:
        return {
            "errors": self.errors,
            "refusals": self.refusals,
            "results": self.results,
            "from_last_good": self.from_last_good,
            "failed": self.failed,
            "kept": len(self._kept.entries),
        }

    def fragment(self, asynchronous: bool) -> Fragment:
        settings = self.settings
        return Instead(
            self._after_error_async if asynchronous else self._after_error,
            (self._after_result_async if asynchronous else self._after_result) if settings.on_result else None,
            self._keep if settings.last_good else None,
        )

    def _after_error(self, call: Call, error: Exception) -> Any:
        for way in self._ways:
            if isinstance(error, way.on):
                return self._stand_in(call, error, way, RAISE)
        return RAISE

    async def _after_error_async(self, call: Call, error: Exception) -> Any:
        for way in self._ways:
            if isinstance(error, way.on):
                return await self._stand_in_async(call, error, way, RAISE)
        return RAISE

    def _after_result(self, call: Call, result: Any) -> Any:
        return self._stand_in(call, None, self._own, result)

    async def _after_result_async(self, call: Call, result: Any) -> Any:
        return await self._stand_in_async(call, None, self._own, result)

    def _stand_in(self, call: Call, error: Exception | None, way: _Way, otherwise: Any) -> Any:
        answer = self._ready(call, error, way, otherwise)
        if answer is not _TO_MAKE or way.make is None:
            return answer
        try:
            answer = way.make(call, error)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError(f"{self.name}: the {way.answer} is async, and the call is not")
        except Exception as failure:  # whatever it is, it goes on
            self._count_failure(call, error, way, failure)
            raise
        self._count_answer(call, error, way.answer)
        return answer

    async def _stand_in_async(self, call: Call, error: Exception | None, way: _Way, otherwise: Any) -> Any:
        answer = self._ready(call, error, way, otherwise)
        if answer is not _TO_MAKE or way.make is None:
            return answer
        try:
            answer = way.make(call, error)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as failure:  # whatever it is, it goes on
            self._count_failure(call, error, way, failure)
            raise
        self._count_answer(call, error, way.answer)
        return answer

    def _ready(self, call: Call, error: Exception | None, way: _Way, otherwise: Any) -> Any:
        """The answer that is at hand; ``otherwise`` when there is none, ``_TO_MAKE`` when a function makes it."""
        if way is self._own and self._last_good and (kept := self._last(call)) is not None:
            self.from_last_good += 1
            self._count_answer(call, error, LAST_GOOD)
            return kept[0]
        if way.make is not None:
            call.deadline = current_deadline()  # a time limit further in has left its own
            return _TO_MAKE
        if way.value is NOT_GIVEN:
            return otherwise
        self._count_answer(call, error, way.answer)
        return copy.deepcopy(way.value) if way.copied else way.value

    def _keep(self, call: Call, result: Any) -> None:
        try:
            key = self._key_of(call)
            entry = self._kept.entries.get(key)
        except TypeError as error:
            raise unhashable(self.name, call, error) from error
        if key is None:
            return
        now = call.clock.now()
        if entry is None:
            self._kept.put(_Kept(key, result, now), now, self._source)
        else:
            entry.visited = True
            entry.held = result, now

    def _last(self, call: Call) -> tuple[Any, float] | None:
        try:
            entry = self._kept.entries.get(self._key_of(call))
        except TypeError:
            return None  # nothing can have been kept for it
        if entry is None or call.clock.now() - entry.held[1] > self._last_good:
            return None
        entry.visited = True
        return entry.held

    def _count_answer(self, call: Call, error: Exception | None, answer: str) -> None:
        if error is None:
            self.results += 1
        elif isinstance(error, Rejected):
            self.refusals += 1
        else:
            self.errors += 1
        if self.listeners.active:
            at = call.clock.wall()
            self.listeners.emit(lambda: FellBack(at, self.name, call.operation, _reason(error), _text(error), answer))

    def _count_failure(self, call: Call, error: Exception | None, way: _Way, failure: Exception) -> None:
        self.failed += 1
        if self.listeners.active:
            at, name, operation, answer = call.clock.wall(), self.name, call.operation, way.answer
            self.listeners.emit(
                lambda: FallbackFailed(at, name, operation, _reason(error), _text(error), answer, _text(failure))
            )


def _way(settings: FallbackRule | FallbackSettings) -> _Way:
    assert isinstance(settings.on, tuple)
    function = settings.function
    if function is not None:
        return _Way(settings.on, "function", make=lambda call, error: function(*call.args, **call.kwargs))
    if settings.handler is not None:
        return _Way(settings.on, "handler", make=settings.handler)
    return _Way(settings.on, "value", settings.value, type(settings.value) in PLAIN)


def _reason(error: Exception | None) -> str:
    if error is None:
        return "result"
    return "refusal" if isinstance(error, Rejected) else "error"


def _text(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
