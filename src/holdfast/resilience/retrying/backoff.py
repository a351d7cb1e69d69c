"""How long to wait before the next attempt, as pure functions.

A *backoff* says how the delays grow: a function from the number of the attempt that failed (1, 2, ...) to seconds.
*Jitter* spreads them, so that callers who failed together do not come back together. The four kinds are those of
Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015); its simulation is reproduced in
tests/resilience/test_backoff.py.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader, Refused
from holdfast.core.settings import Seconds, SecondsText, Settings, about, read_table

DELAY_LIMIT: Final = 86_400.0
"""Seconds. No delay is longer, whatever a function says."""
DELAYS_LIMIT: Final = 1000
"""Delays that a list may have."""
SPREAD: Final = 3.0
"""Decorrelated jitter: a delay is at most so many times the one before. The article's number."""

Backoff: TypeAlias = Callable[[int], float]
Jitter: TypeAlias = Literal["full", "equal", "decorrelated", "none"]
Chance: TypeAlias = Callable[[], float]
"""Returns numbers from 0.0 up to, not including, 1.0, as ``random.random`` does."""


class Exponential(Settings, frozen=True):
    """``initial``, then ``factor`` times as long after each attempt, up to ``cap``. Never overflows."""

    initial: Annotated[Seconds, about("The first delay.", le=DELAY_LIMIT)] = Duration(0.1)
    factor: Annotated[float, about("How much longer each delay is than the one before.", ge=1)] = 2.0
    cap: Annotated[Seconds, about("No delay is longer.", le=DELAY_LIMIT)] = Duration(10.0)

    def check(self) -> None:
        if self.cap < self.initial:
            raise self.wrong("cap", f"at least initial, which is {self.shown('initial')!r}")

    def __call__(self, attempt: int) -> float:
        try:
            return min(self.cap, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            return self.cap if self.initial else 0.0


class Linear(Settings, frozen=True):
    """``initial``, then ``step`` longer after each attempt, up to ``cap``. Never overflows."""

    initial: Annotated[Seconds, about("The first delay.", le=DELAY_LIMIT)] = Duration(0.1)
    step: Annotated[Seconds, about("How much longer each delay is than the one before.", le=DELAY_LIMIT)] = Duration(
        0.1
    )
    cap: Annotated[Seconds, about("No delay is longer.", le=DELAY_LIMIT)] = Duration(10.0)

    def check(self) -> None:
        if self.cap < self.initial:
            raise self.wrong("cap", f"at least initial, which is {self.shown('initial')!r}")

    def __call__(self, attempt: int) -> float:
        try:
            return min(self.cap, self.initial + self.step * (attempt - 1))
        except OverflowError:
            return self.cap if self.step else min(self.cap, self.initial)


class Constant(Settings, frozen=True):
    """Always ``seconds``."""

    seconds: Annotated[Seconds, about("Each delay.", le=DELAY_LIMIT)]

    def __call__(self, attempt: int) -> float:
        return self.seconds


class Listed(Settings, frozen=True):
    """One delay after the other; the last one again and again."""

    delays: Annotated[tuple[SecondsText, ...], about("The delays.", min_length=1, max_length=DELAYS_LIMIT)]

    def __call__(self, attempt: int) -> float:
        return float(self.delays[min(attempt, len(self.delays)) - 1])

    def check(self) -> None:
        if max(map(float, self.delays)) > DELAY_LIMIT:
            raise self.wrong("delays", f"delays of at most {DELAY_LIMIT:g} s")


KINDS: Final[Mapping[str, type[Settings]]] = {
    "exponential": Exponential,
    "linear": Linear,
    "constant": Constant,
    "list": Listed,
}
"""What ``kind`` may be in a table."""


def next_delay(
    attempt: int,
    backoff: Backoff,
    jitter: Jitter = "full",
    chance: Chance = random.random,
    previous: float | None = None,
) -> float:
    """Seconds to wait after the attempt of that number (from 1) has failed; 0 up to ``DELAY_LIMIT``.

    ``previous`` is the delay before that attempt, None for the first. Only decorrelated jitter looks at it; that
    one needs an ``Exponential``, from which it takes the first delay and the cap.
    """
    if jitter == "decorrelated":
        assert isinstance(backoff, Exponential)
        least = backoff.initial
        most = SPREAD * (least if previous is None else previous)
        return min(backoff.cap, least + max(0.0, most - least) * chance())
    delay = backoff(attempt)
    # Comparisons in this order make 0 of a negative delay and of one that is no number (nan).
    if not delay > 0:
        return 0.0
    delay = min(delay, DELAY_LIMIT)
    if jitter == "full":
        return delay * chance()
    if jitter == "equal":
        return delay / 2 + delay / 2 * chance()
    return delay


def _read_backoff(value: Any) -> Backoff:
    if isinstance(value, str) and value in ("exponential", "linear"):
        return _made(KINDS[value], {})
    if isinstance(value, str | int | float):
        try:
            return Constant(value)
        except ConfigError:
            raise ValueError from None
    if isinstance(value, Mapping):
        settings = dict(value)
        kind = settings.pop("kind", "exponential")
        if kind not in KINDS:
            raise ConfigError("backoff kind", kind, "one of " + ", ".join(KINDS))
        return _made(KINDS[kind], settings)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return Listed(tuple(value))
    function: Backoff = read_function(value)
    return function


def _made(schema: Any, table: Mapping[str, Any]) -> Backoff:
    made: Backoff = read_table(schema, table)
    return made


def _read_chance(value: Any) -> Chance | None:
    if isinstance(value, random.Random):
        return value.random
    return None if value is None else read_function(value)


def read_function(value: Any) -> Any:
    """``value`` when it is a function to call. A class is none, and nobody would await a coroutine function."""
    import inspect  # heavy, and needed only when there is a function

    if not callable(value) or isinstance(value, type):
        raise ValueError
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise Refused("a plain function", "nothing is awaited here")
    return value


BACKOFF: Final = Reader(
    _read_backoff,
    'a delay such as 200ms, a list of delays, a table such as { kind = "linear", step = "100ms" }, or a function',
)
CHANCE: Final = Reader(_read_chance, "a random.Random, or a function that returns numbers from 0.0 to 1.0")
