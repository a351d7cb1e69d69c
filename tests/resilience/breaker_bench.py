"""A breaker on a virtual clock, and calls through it that end as told."""

from typing import Any

from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker, BreakerChanged


class Broken(Exception):
    """The dependency failed."""


class Asked(Exception):
    """The caller asked for something silly: ignored."""


class Bench:
    """Calls that succeed, fail or are ignored, ``seconds`` after they began."""

    def __init__(self, *args: Any, start: float = 1000.0, **options: Any) -> None:
        self.clock = VirtualClock(start)
        self.breaker = Breaker(*args, **options)
        self.pipeline = Pipeline("stock", self.breaker, classify=Classifier(ignore=(Asked,)), clock=self.clock)
        self.changes: list[BreakerChanged] = []
        self.breaker.listeners.subscribe(
            lambda event: self.changes.append(event) if isinstance(event, BreakerChanged) else None
        )

    def succeed(self, times: int = 1, *, seconds: float = 0.0, key: Any = None) -> int:
        """How many of so many calls were admitted."""
        return sum(self._call(None, seconds, key) for _ in range(times))

    def fail(self, times: int = 1, *, seconds: float = 0.0, key: Any = None) -> int:
        return sum(self._call(Broken(), seconds, key) for _ in range(times))

    def ignore(self, times: int = 1, *, seconds: float = 0.0) -> int:
        return sum(self._call(Asked(), seconds, None) for _ in range(times))

    def refusal(self, key: Any = None) -> CircuitOpen:
        """The refusal of a call."""
        try:
            self.pipeline.bind(key=key).call(lambda: None)
        except CircuitOpen as error:
            return error
        raise AssertionError("the call was admitted")

    def open(self) -> None:
        """Let it open, by twenty failures."""
        assert self.fail(20) == 20
        assert self.breaker.state == "open"

    def half_open(self) -> None:
        """Let it open, and wait until it probes."""
        self.open()
        self.clock.advance(self.breaker.snapshot()["retry_after"])
        assert self.ignore() == 1
        assert self.breaker.state == "half_open"

    def _call(self, error: Exception | None, seconds: float, key: Any) -> bool:
        def run() -> None:
            self.clock.advance(seconds)
            if error is not None:
                raise error

        try:
            self.pipeline.bind(key=key).call(run)
        except CircuitOpen:
            return False
        except (Broken, Asked):
            pass
        return True
