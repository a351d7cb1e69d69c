"""The algorithms of ``RateLimit``, one a file, as plain objects that are given the time."""

from typing import Final

from holdfast.resilience.rates.gcra import Gcra
from holdfast.resilience.rates.leaky_bucket import LeakyBucket
from holdfast.resilience.rates.meter import Meter, Terms
from holdfast.resilience.rates.sliding_counter import SlidingCounter
from holdfast.resilience.rates.sliding_log import SlidingLog
from holdfast.resilience.rates.token_bucket import TokenBucket
from holdfast.resilience.rates.warm_up import WarmUp

ALGORITHMS: Final[dict[str, type[Meter]]] = {
    "token_bucket": TokenBucket,
    "gcra": Gcra,
    "sliding_counter": SlidingCounter,
    "sliding_log": SlidingLog,
    "leaky_bucket": LeakyBucket,
    "warm_up": WarmUp,
}
"""By the name that settings give."""

__all__ = [
    "ALGORITHMS",
    "Gcra",
    "LeakyBucket",
    "Meter",
    "SlidingCounter",
    "SlidingLog",
    "Terms",
    "TokenBucket",
    "WarmUp",
]
