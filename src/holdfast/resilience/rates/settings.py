"""The settings of ``RateLimit``, and what meters go by under them."""

from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from holdfast.core.call import Call
from holdfast.core.clock import Clock
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader, Refused
from holdfast.core.rate import RATE, Rate, parse_rate
from holdfast.core.settings import FUNCTION, GateSettings, Seconds, Settings, about, placed, read_table
from holdfast.resilience.rates import ALGORITHMS
from holdfast.resilience.rates.meter import Terms

TIERS_LIMIT: Final = 256
"""Tiers that one limit may have."""
MAX_KEYS: Final = 100_000
"""Keys that a limit remembers unless told otherwise: about 30 MB."""
MAX_WAITING: Final = 1_000
"""Callers that may wait at the same time unless told otherwise."""

ByField: TypeAlias = Literal["key", "operation"]
"""A field of ``Call``."""


class TierSettings(Settings, frozen=True):
    """What one tier may use."""

    rate: Annotated[Rate | str | float, about("How many, and per what: 100/s, 5/m.", reader=RATE)]
    burst: Annotated[float | None, about("How many at once; by default what the rate allows in its period.", ge=0)] = (
        None
    )


def _read_tiers(value: Any) -> dict[str, TierSettings]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError
    if len(value) > TIERS_LIMIT:
        raise Refused(f"at most {TIERS_LIMIT} tiers")
    return {name: _read_tier(name, tier) for name, tier in value.items()}


def _read_tier(name: Any, value: Any) -> TierSettings:
    if not isinstance(name, str) or not name:
        raise Refused("names of tiers that are text", f"{name!r} is not")
    try:
        if isinstance(value, TierSettings | Mapping):
            return read_table(TierSettings, value)
        return TierSettings(value)
    except ConfigError as error:
        raise placed(error, name) from None


def _read_choice(value: Any) -> Any:
    if value is None or value in ("key", "operation") or callable(value):
        return value
    raise ValueError


TIERS: Final = Reader(_read_tiers, "a table of tiers, each a rate or a table with rate and burst")
CHOICE: Final = Reader(_read_choice, '"key" or "operation", or in code a function')


def _read_clock(value: Any) -> Any:
    if value is None or hasattr(value, "now"):
        return value
    raise Refused("a clock", "it can only be given in code")


CLOCK: Final = Reader(_read_clock, "a clock")


class RateLimitSettings(GateSettings, frozen=True):
    """Settings of ``RateLimit``."""

    rate: Annotated[Rate | str | float, about("How many calls, and per what: 100/s, 5/m, 1/10s.", reader=RATE)]
    burst: Annotated[float | None, about("How many at once; by default what the rate allows in its period.", ge=0)] = (
        None
    )
    algorithm: Annotated[
        Literal["token_bucket", "gcra", "sliding_counter", "sliding_log", "leaky_bucket", "warm_up"],
        about("How uses are counted."),
    ] = "token_bucket"
    max_wait: Annotated[Seconds, about("How long a call may wait for its turn; 0 refuses at once.", ge=0)] = Duration(
        0.0
    )
    max_waiting: Annotated[int, about("How many callers may wait at the same time.", ge=1)] = MAX_WAITING
    per: Annotated[ByField | None, about("One limit for each key or each operation of calls.")] = None
    key: Annotated[
        Callable[[Call], Hashable] | None, about("One limit for each value of this function.", reader=FUNCTION)
    ] = None
    max_keys: Annotated[int, about("How many keys have a limit of their own; past that new ones share one.", ge=1)] = (
        MAX_KEYS
    )
    tiers: Annotated[
        Mapping[str, TierSettings | str | float | Mapping[str, Any]] | None,
        about("Other rates by name; what is in none of them goes by rate.", reader=TIERS),
    ] = None
    tier: Annotated[Callable[[Call], str | None] | ByField | None, about("Which tier a call is in.", reader=CHOICE)] = (
        None
    )
    warm_up: Annotated[Seconds, about("For warm_up: how long it takes from cold to the full rate.", gt=0)] = Duration(
        10.0
    )
    cold: Annotated[float, about("For warm_up: how many times slower a cold start is.", ge=1)] = 3.0
    clock: Annotated[
        Clock | None,
        about("The time of acquire and reserve; by default the clock of the pipeline that it is in.", reader=CLOCK),
    ] = None

    def check(self) -> None:
        if self.per is not None and self.key is not None:
            raise self.wrong("per", "no per beside key", hint="one of them says which limit a call belongs to")
        if self.tiers and self.tier is None:
            raise self.wrong("tier", '"key", "operation" or a function', hint="tiers need something to choose by")
        if self.tier is not None and not self.tiers:
            raise self.wrong("tiers", TIERS.expected, hint="there is nothing for tier to choose from")
        if not ALGORITHMS[self.algorithm].bursts:
            expected = f"no burst with {self.algorithm}"
            if self.burst is not None:
                raise self.wrong("burst", expected, hint="token_bucket and gcra have one")
            for name, tier in self.named_tiers().items():
                if tier.burst is not None:
                    raise ConfigError(f"{self.owner()} tiers.{name}.burst", tier.burst, expected)

    def named_tiers(self) -> dict[str, TierSettings]:
        """The tiers as they have been read."""
        return dict(self.tiers or {})  # type: ignore[arg-type]  # the reader has made all of them settings

    def terms(self, since: float) -> dict[str, Terms]:
        """What each tier goes by from ``since`` on; that of calls in no tier has an empty name."""
        found = {"": self._terms("", self.rate, self.burst, since)}
        found.update(
            (name, self._terms(name, tier.rate, tier.burst, since)) for name, tier in self.named_tiers().items()
        )
        return found

    def _terms(self, name: str, written: Rate | str | float, burst: float | None, since: float) -> Terms:
        rate = parse_rate(written)
        # 0.5/s is one in two seconds: less than one at once would never let a call pass.
        count = max(rate.count, 1.0)
        limit = count if burst is None else burst
        at_once = f", {limit:g} at once" if ALGORITHMS[self.algorithm].bursts else ""
        return Terms(
            meter=ALGORITHMS[self.algorithm],
            rate=float(rate),
            limit=limit,
            period=rate.period if rate.count >= 1 else 1 / float(rate),
            warm_up=float(self.warm_up),
            cold=self.cold,
            text=f"more than {rate}{at_once}{f' for tier {name}' if name else ''}",
            name=name,
            since=since,
        )
