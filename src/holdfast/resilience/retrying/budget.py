"""RetryBudget: retries are a share of what is asked, so that they cannot keep an overload alive.

After Finagle's ``RetryBudget`` and tower's ``TpsBudget``: each request pays in, each retry takes out, and both are
forgotten after a while. The numbers of both test suites are reproduced in tests/resilience/test_budget.py.
"""

import threading
from collections import deque
from itertools import repeat
from math import inf
from typing import Annotated, Any, Final

import msgspec

from holdfast.core.duration import Duration
from holdfast.core.parameters import changed
from holdfast.core.policy import accepts
from holdfast.core.settings import Seconds, Settings, about

BUCKETS: Final = 10
"""Parts of the window. The last one is not over yet, so what is remembered is 9 to 10 tenths of the window."""
EPSILON: Final = 1e-6
"""Of a retry; absorbs the rounding of ``ratio`` times the number of requests."""


class RetryBudgetSettings(Settings, frozen=True):
    """Settings of ``RetryBudget``.

    The ratio is half of what Finagle and linkerd allow: with theirs, an overload by a third keeps itself alive.
    """

    ratio: Annotated[float, about("Retries for each request.", ge=0, le=1000)] = 0.1
    floor: Annotated[float, about("Retries a second that come on top, for those who ask little.", ge=0)] = 3.0
    window: Annotated[Seconds, about("For how long a request counts, and a retry.", ge=1, le=60)] = Duration(10.0)


class RetryBudget:
    """Allows retries up to ``ratio`` of the requests of the last ``window`` seconds, and ``floor`` a second besides.

    What the floor gives is there at once, for the whole window: with the defaults 30 retries. One budget may serve
    many policies, threads and event loops; it is exact under threads. Nothing here waits or reads a clock: times
    are monotonic seconds, and one that lies back changes nothing.

    ``count`` and ``edge`` are for the path that every call takes, which needs no lock: ``if now < edge: count += 1``,
    else ``begin(now)``. Counters: ``count`` requests, ``spent`` retries, and ``denied`` ones.
    """

    @accepts(RetryBudgetSettings)
    def __init__(self, settings: RetryBudgetSettings) -> None:
        self.count = 0
        self.edge = -inf
        self.spent = 0
        self.denied = 0
        # A finalizer or a signal handler may make a call in the middle of another one, in the same thread.
        self._lock = threading.RLock()
        self._rolling = False
        # The counters as they were when each bucket began, the oldest first: they only grow, so that what happened
        # since is a difference, and no count is lost when a bucket ends.
        self._marks: deque[tuple[int, int]] = deque([(0, 0)], maxlen=BUCKETS)
        self._apply(settings)

    @classmethod
    def from_settings(cls, settings: RetryBudgetSettings) -> "RetryBudget":
        """A budget that works by ``settings``."""
        return cls(**msgspec.structs.asdict(settings))

    def update(self, /, *first: Any, **changes: Any) -> None:
        """Change some settings while calls are under way; the first may be given by position. Safe from any thread.

        What is counted stays; a new ``window`` begins empty. ``ConfigError`` for values that do not fit,
        ``TypeError`` for names that are none; then nothing has changed.
        """
        self.replace_settings(changed(type(self).__name__, self.settings, first, changes))

    def replace_settings(self, settings: RetryBudgetSettings) -> None:
        """As ``update``, with all settings at once."""
        with self._lock:
            if settings.window != self.settings.window:
                self.edge = -inf
            self._apply(settings)

    def begin(self, now: float) -> None:
        """A request begins."""
        with self._lock:
            self._roll(now)
        self.count += 1

    def try_spend(self, now: float) -> bool:
        """Take one retry out. False when there is none; then nothing has changed."""
        with self._lock:
            self._roll(now)
            count, spent = self._marks[0]
            # From here on one step, without a call, so that nobody else takes the last one out.
            if self._reserve + self._ratio * (self.count - count) - (self.spent - spent) < 1 - EPSILON:
                self.denied += 1
                return False
            self.spent += 1
            return True

    def balance(self, now: float) -> int:
        """Retries that could be made at this moment."""
        with self._lock:
            self._roll(now)
            return max(0, int(self._left() + EPSILON))

    def snapshot(self) -> dict[str, Any]:
        """Settings and counters, as plain values. Counters only grow."""
        return {
            **msgspec.structs.asdict(self.settings),
            "requests": self.count,
            "spent": self.spent,
            "denied": self.denied,
        }

    def __repr__(self) -> str:
        return repr(self.settings)

    def _apply(self, settings: RetryBudgetSettings) -> None:
        self.settings = settings
        self._ratio = settings.ratio
        self._reserve = settings.floor * settings.window
        self._width = settings.window / BUCKETS

    def _roll(self, now: float) -> None:
        late = now - self.edge
        if late < 0 or self._rolling:
            return
        self._rolling = True
        try:
            width = self._width
            steps = int(late / width) + 1 if late < width * BUCKETS else BUCKETS
            self._marks.extend(repeat((self.count, self.spent), steps))
            self.edge = now + width if steps >= BUCKETS else self.edge + steps * width
        finally:
            self._rolling = False

    def _left(self) -> float:
        count, spent = self._marks[0]
        return self._reserve + self._ratio * (self.count - count) - (self.spent - spent)
