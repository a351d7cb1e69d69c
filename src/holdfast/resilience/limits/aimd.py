"""Additive increase, multiplicative decrease: the limit of TCP Reno, for calls."""

from typing import Final

from holdfast.resilience.limits.sample import Limit, Sample

TIMEOUT: Final = 5.0
BACKOFF: Final = 0.9


class Aimd(Limit):
    """One more for every sample while the limit is in use; times ``backoff`` for one that was dropped or too slow.

    ``timeout``: seconds above which a sample counts as dropped. It knows no latency below that, so it is for
    servers that say no, or clients that give up, and finds its limit by running into it. Source of the rule and
    of the defaults: ``AIMDLimit`` of Netflix concurrency-limits, except for ``minimum`` (20 there).
    """

    def __init__(
        self,
        *,
        initial: float = 20,
        minimum: float = 1,
        maximum: float = 1000,
        backoff: float = BACKOFF,
        timeout: float = TIMEOUT,
    ) -> None:
        if not 0.5 <= backoff < 1:
            raise ValueError(f"backoff is at least 0.5 and below 1, not {backoff!r}")
        if not timeout > 0:
            raise ValueError(f"a timeout is more than 0 s, not {timeout!r}")
        super().__init__(initial=initial, minimum=minimum, maximum=maximum)
        self.backoff = backoff
        self.timeout = timeout

    def _learn(self, sample: Sample) -> None:
        if not sample.completed:
            return
        if sample.dropped or sample.rtt > self.timeout:
            self.limit = self._within(int(self.limit * self.backoff))
        elif sample.in_flight * 2 >= self.limit:
            self.limit = self._within(self.limit + 1)
