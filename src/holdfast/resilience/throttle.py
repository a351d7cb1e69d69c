"""Throttle: a client that sees its calls fail makes fewer of them, in proportion; nobody has to tell it."""

import random
import weakref
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from holdfast.core.call import FAILED, IGNORED, OK, Call
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.duration import Duration
from holdfast.core.errors import Overloaded
from holdfast.core.event import Event
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings, Seconds, about
from holdfast.core.turns import Turns
from holdfast.resilience.circuit.announcer import Announcer
from holdfast.resilience.circuit.window import BUCKETS_LIMIT, CountWindow, TimeWindow

if TYPE_CHECKING:
    from holdfast.core.pipeline import Pipeline

SPARED: Final = CountWindow(1)
"""The token of a call that would have been refused: its result counts nowhere."""
SPARED.watch(True)


class ThrottleSettings(GateSettings, frozen=True):
    """Settings of ``Throttle``. The defaults are those of the SRE book, with the guards of go-zero and aegis."""

    k: Annotated[float, about("Refuses nothing while calls are at most so many times those accepted.", ge=1)] = 2.0
    k_min: Annotated[
        float | None, about("What k falls to, by and by, for each part of the window in which nothing went well.", ge=1)
    ] = None
    min_calls: Annotated[int, about("With fewer calls than this it refuses none.", ge=1)] = 20
    window: Annotated[Seconds, about("It goes by the calls of so long.", gt=0)] = Duration(10.0)
    buckets: Annotated[int, about("Parts of the window: it moves on by one at a time.", ge=1, le=BUCKETS_LIMIT)] = 10
    cap: Annotated[float, about("It never refuses more than this share of the calls.", ge=0, le=1)] = 0.95
    pass_every: Annotated[Seconds, about("One call passes, whatever the odds, when none has for so long.", gt=0)] = (
        Duration(1.0)
    )
    seed: Annotated[int | None, about("Where its randomness begins; by default anywhere.")] = None

    def check(self) -> None:
        if self.k_min is not None and self.k_min > self.k:
            raise self.wrong("k_min", f"at most k, which is {self.k:g}")


class ThrottleBegan(Event, frozen=True):
    """Too few calls were accepted: from now on some are refused."""

    policy: str
    requests: int
    accepts: int


class ThrottleEnded(Event, frozen=True):
    """Enough calls are accepted again; told once a part of the window at most."""

    policy: str
    requests: int
    accepts: int


def drop_probability(requests: float, accepts: float, k: float) -> float:
    """How likely a call is to be refused.

    ``max(0, (requests - k * accepts) / (requests + 1))``: "Handling Overload", Site Reliability Engineering, chapter
    21, equation 1. ``requests`` are all that were wanted, refused ones too.
    """
    return max(0.0, (requests - k * accepts) / (requests + 1))


class Throttle(Gate[ThrottleSettings]):
    """Refuses calls with a probability that grows as fewer of them are accepted: ``drop_probability``.

    An accept is a call that went well. A failed one is not accepted, an ignored one says nothing. Calls count when
    they end, refused ones at once: so calls that take long are no reason to refuse others. A success counts in the
    bucket that is current as far as is known, see ``Breaker``.

    With ``observe`` it draws lots all the same: a call that would have been refused passes, counts as refused, and
    its result counts nowhere.

    Safe from any thread and event loop. What it refuses is random, and the same for the same ``seed`` and calls.
    """

    kind: ClassVar[str] = "throttle"

    @accepts(ThrottleSettings)
    def __init__(self, settings: ThrottleSettings) -> None:
        self._random = random.Random(settings.seed).random  # noqa: S311 - sheds load, keeps no secret
        self._window = TimeWindow(settings.window, settings.buckets)
        self._pipeline: Callable[[], Pipeline | None] = lambda: None
        self._end = self._last_pass = -inf
        self._k = float(settings.k)
        self._accepts_before = self._requests_before = 0
        self._watched = self._throttling = False
        self._reason = ""
        self._turns = Turns()
        super().__init__(settings)
        self._announcer = Announcer(self.listeners)

    def apply(self, settings: ThrottleSettings) -> None:
        self._turns.run(self._adopt, settings)

    def _adopt(self, settings: ThrottleSettings) -> None:
        """A job: go by other settings."""
        self._k_max = float(settings.k)
        self._k_fall = 0.0 if settings.k_min is None else (self._k_max - settings.k_min) / settings.buckets
        self._min_calls = settings.min_calls
        self._cap = float(settings.cap)
        self._pass_every = float(settings.pass_every)
        self._seconds = settings.window
        self._window.resize(self._clock.now(), settings.window, settings.buckets)
        # The next call looks again.
        self._window.watch(True)
        self._end = -inf

    def enter(self, call: Call) -> Any:
        window = self._window
        now = call.now
        if now < window.edge:
            return window
        if now >= self._end:
            self._turns.run(self._roll, now, call.clock)
            self._announcer.tell()
        if self._draw_lots(now, self._random()):
            return window
        if self.settings.observe:
            return self._spare(call, Overloaded(self.name, self._reason, None, None, call.operation))
        raise self.counted(call, Overloaded(self.name, self._reason, None, None, call.operation))

    def exit(self, call: Call, token: Any) -> None:
        # One step: see window.py.
        if call.verdict is OK and call.now < token.edge:
            token.ok += 1
        else:
            self._learn(call, token)

    def snapshot(self) -> dict[str, Any]:
        ok, failed, dropped = self._turns.look(self._window.counts, self._clock.now())
        requests = ok + failed + dropped
        odds = drop_probability(requests, ok, self._k) if requests >= self._min_calls else 0.0
        return {
            **super().snapshot(),
            "throttling": self._throttling,
            "probability": min(odds, self._cap),
            "requests": requests,
            "accepts": ok,
            "dropped": dropped,
            "k": self._k,
        }

    def used_by(self, pipeline: "Pipeline") -> None:
        super().used_by(pipeline)
        self._pipeline = weakref.ref(pipeline)

    @property
    def _clock(self) -> Clock:
        """For what is done outside of a call."""
        pipeline = self._pipeline()
        return SYSTEM if pipeline is None else pipeline.clock

    def _draw_lots(self, now: float, lot: float) -> bool:
        """Whether a call passes. One step: it calls nothing before it has stored what it stores."""
        window = self._window
        accepts = window.ok - self._accepts_before
        requests = window.ok + window.failed + window.marked - self._requests_before
        if (
            requests >= self._min_calls
            and lot < self._cap
            and lot * (requests + 1) < requests - self._k * accepts
            and 0.0 <= now - self._last_pass < self._pass_every
        ):
            window.marked += 1
            return False
        self._last_pass = now
        return True

    def _spare(self, call: Call, error: Overloaded) -> CountWindow:
        self.spares(call, error)
        return SPARED

    def _roll(self, now: float, clock: Clock) -> None:
        """A job: go on to the bucket of ``now``."""
        self._window.roll(now)
        self._weigh(now, clock)

    def _learn(self, call: Call, token: Any) -> None:
        """``exit`` for all but the commonest cases."""
        verdict = call.verdict
        if verdict is IGNORED or token is SPARED:
            return
        self._turns.run(self._count, call.now, verdict is FAILED, call.clock)
        self._announcer.tell()

    def _count(self, now: float, failed: bool, clock: Clock) -> None:
        """A job: a call ended."""
        self._window.add(now, failed)
        self._weigh(now, clock)

    def _weigh(self, now: float, clock: Clock) -> None:
        """Derive what ``enter`` goes by. In a job."""
        window = self._window
        self._k = self._k_max - self._k_fall * window.failing() if self._k_fall else self._k_max
        ok, failed, dropped = window.before()
        self._accepts_before = ok
        self._requests_before = ok + failed + dropped
        ok, failed, dropped = window.counts()
        requests = ok + failed + dropped
        too_many = requests > self._k * ok
        if too_many and not self._watched:
            self._last_pass = now  # until now all have passed
        self._watched = too_many
        window.watch(too_many)
        rolled = window.end != self._end
        self._end = window.end
        throttling = too_many and requests >= self._min_calls
        began = throttling and not self._throttling
        if began or (rolled and throttling):
            self._reason = f"{ok} of {requests} calls were accepted in {self._seconds:g} s"
        if began or (rolled and self._throttling and not throttling):
            self._throttling = throttling
            if self.listeners.active:
                event = ThrottleBegan if throttling else ThrottleEnded
                self._announcer.note(event(clock.wall(), self.name, requests, ok))
