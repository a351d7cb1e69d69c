"""What a breaker can be told."""

from typing import Annotated, Final, Literal

from holdfast.core.duration import Duration
from holdfast.core.settings import GateSettings, Seconds, SecondsText, about
from holdfast.resilience.circuit.window import BUCKETS_LIMIT, LAST_LIMIT

PROBES_LIMIT: Final = 1000
"""Probes of one half-open period."""
KEYS_LIMIT: Final = 1_000_000
"""Keys that one breaker may tell apart."""


class BreakerSettings(GateSettings, frozen=True):
    """Settings of ``Breaker``.

    The defaults: half of the calls, as resilience4j; 10 s in 10 buckets, as Hystrix; open for 5 s, as Polly v8.
    """

    failure_rate: Annotated[
        float | Literal["off"], about("Opens when this share of the calls has failed.", gt=0, le=1)
    ] = 0.5
    min_calls: Annotated[int, about("With fewer calls than this there is no rate, and none is judged.", ge=1)] = 20
    window: Annotated[Seconds, about("Rates are those of the calls of so long.", gt=0)] = Duration(10.0)
    buckets: Annotated[int, about("Parts of the window: it moves on by one at a time.", ge=1, le=BUCKETS_LIMIT)] = 10
    last: Annotated[
        int | None,
        about("Rates are those of so many calls, whenever they were; in place of window.", ge=1, le=LAST_LIMIT),
    ] = None
    slow_call: Annotated[SecondsText | None, about("A call that takes longer than this is slow.", gt=0)] = None
    slow_rate: Annotated[float, about("Opens when this share of the calls was slow.", gt=0, le=1)] = 0.5
    consecutive: Annotated[int | None, about("Opens when so many calls in a row have failed.", ge=1)] = None
    open: Annotated[Seconds, about("How long it stays open before it probes.", gt=0)] = Duration(5.0)
    open_growth: Annotated[float, about("Each opening after failed probes lasts so many times longer.", ge=1)] = 1.5
    open_max: Annotated[Seconds, about("No opening lasts longer than this, but for jitter.", gt=0)] = Duration(60.0)
    jitter: Annotated[float, about("An opening lasts longer by up to this share, at random.", ge=0, le=1)] = 0.0
    seed: Annotated[int | None, about("Where the randomness of jitter begins; by default anywhere.")] = None
    probes: Annotated[int, about("How many calls may find out whether it is well again.", ge=1, le=PROBES_LIMIT)] = 3
    half_open_timeout: Annotated[
        Seconds, about("A probe that has not ended after this long counts as failed.", gt=0)
    ] = Duration(60.0)
    per_key: Annotated[bool, about("A breaker of its own for each key of the calls, such as a host.")] = False
    keys: Annotated[
        int, about("How many keys are told apart; the least used ones are forgotten.", ge=1, le=KEYS_LIMIT)
    ] = 1000

    def check(self) -> None:
        if self.open_max < self.open:
            raise self.wrong("open_max", f"at least open, which is {self.shown('open')!r}")
        if self.failure_rate == "off" and self.slow_call is None and self.consecutive is None:
            raise self.wrong(
                "failure_rate",
                "a rule that can open it: failure_rate, slow_call or consecutive",
                "to switch a breaker off, call disable()",
            )
