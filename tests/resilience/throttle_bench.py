"""A throttle on a virtual clock, and calls through it that end as told."""

from typing import Any

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import Overloaded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.throttle import Throttle
from resilience.breaker_bench import Broken

SEED = 17


class Bench:
    """A throttle on a virtual clock; ``lot`` is what it draws, unless it has a seed of its own."""

    def __init__(self, *, lot: float | None = None, start: float = 1000.0, **options: Any) -> None:
        self.clock = VirtualClock(start)
        self.throttle = Throttle(**{"seed": SEED, **options})
        self.pipeline = Pipeline("stock", self.throttle, clock=self.clock)
        self.lot = 0.0
        if lot is not None:
            self.lot = lot
            self.throttle._random = lambda: self.lot

    def end(self, verdict: Any, times: int = 1) -> None:
        """So many calls that all began before the first of them ended."""
        calls = [bare_call(clock=self.clock) for _ in range(times)]
        entered = [(call, self.throttle.enter(call)) for call in calls]
        for call, token in entered:
            call.verdict = verdict
            self.throttle.exit(call, token)

    def attempt(self, error: type[Exception] | None = None) -> bool:
        """Whether a call is admitted; it fails with ``error``."""

        def run() -> None:
            if error is not None:
                raise error

        try:
            self.pipeline.call(run)
        except Overloaded:
            return False
        except Broken:
            pass
        return True

    @property
    def probability(self) -> float:
        seen = self.throttle.snapshot()
        return float(seen["probability"])
