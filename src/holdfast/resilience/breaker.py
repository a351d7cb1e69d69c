"""Breaker: keeps calls away from a dependency that fails, and finds out by a few of them when it is well again."""

import random
import weakref
from collections.abc import Callable, Hashable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

from holdfast.core.call import IGNORED, OK, Call, Verdict
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import CircuitOpen
from holdfast.core.event import Event
from holdfast.core.fuse import Around, Fragment
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import read_seconds
from holdfast.core.turns import Turns
from holdfast.resilience.circuit.announcer import Announcer
from holdfast.resilience.circuit.keys import Circuits
from holdfast.resilience.circuit.settings import BreakerSettings
from holdfast.resilience.circuit.states import (
    ASK,
    CLOSED,
    DISABLED,
    FORCED_OPEN,
    Began,
    BreakerState,
    Circuit,
    Lease,
    Refusal,
)
from holdfast.resilience.circuit.window import Window

if TYPE_CHECKING:
    from holdfast.core.pipeline import Pipeline

__all__ = ["Breaker", "BreakerChanged", "BreakerSettings", "BreakerState"]

SPARED: Final = Lease(-inf)
"""The token of a call that would have been refused: no half-open period knows it, so its result is dropped."""
CHANGING: Final = "its state is about to change"


class EveryKey:
    """What stands for every key; it is compared by identity, since anything may be a key."""

    def __repr__(self) -> str:
        return "every key"


EVERY: Final = EveryKey()


class BreakerChanged(Event, frozen=True):
    """A breaker went from one state to another. ``key`` is whose, when there is one for each key."""

    policy: str
    old: BreakerState
    new: BreakerState
    reason: str
    snapshot: Mapping[str, Any]
    key: Any = None


class Breaker(Gate[BreakerSettings]):
    """Lets calls pass while few of them fail; else refuses them for a while, as ``CircuitOpen``, then probes.

    Three rules can open it, each may be off: the share of failed calls, the share of slow ones (``slow_call``), and
    failures in a row (``consecutive``). It stays open for ``open`` seconds, each time longer while probes fail, then
    lets ``probes`` calls through, never more at once, and decides as soon as the rest cannot change the verdict.

    A probe holds a lease: cancelled or ignored it gives it back, and one that does not end in ``half_open_timeout``
    counts as failed. Results of calls that began before the latest change of state are dropped. A success counts in
    the bucket that is current as far as is known: the clock is not read again when it ends, unless there is a
    ``slow_call``. So it leaves the window early, by its own duration at most; failures are always on time.

    With ``observe`` it goes through all states in name: the calls that it would have refused pass, are counted
    and change nothing else.

    Safe from any thread and event loop. Listeners hear of changes in their order, in the thread of a call.
    """

    kind: ClassVar[str] = "breaker"

    @accepts(BreakerSettings)
    def __init__(self, settings: BreakerSettings) -> None:
        self._chance = random.Random(settings.seed)  # noqa: S311 - spreads openings, keeps no secret
        self._circuit = Circuit(settings, self._chance)
        self._circuits: Circuits | None = None
        self._pipeline: Callable[[], Pipeline | None] = lambda: None
        self._turns = Turns()
        super().__init__(settings)
        self._announcer = Announcer(self.listeners)

    def apply(self, settings: BreakerSettings) -> None:
        self._turns.run(self._adopt, settings)

    def _adopt(self, settings: BreakerSettings) -> None:
        now = self._clock.now()
        self.timed = settings.slow_call is not None
        self._slow_call = inf if settings.slow_call is None else float(settings.slow_call)
        self._circuit.apply(settings, now)
        if not settings.per_key:
            self._circuits = None
        elif self._circuits is None:
            self._circuits = Circuits(lambda: Circuit(self.settings, self._chance), settings.keys)
        else:
            self._circuits.apply(settings, now)
        self._mirror()

    def fragment(self, asynchronous: bool) -> Fragment:
        if self.timed and self._circuits is None:
            return Around(self._enter_timed, self._exit_timed)
        return super().fragment(asynchronous)

    def enter(self, call: Call) -> Any:
        token = self._admitted
        if token is not None:
            return token
        left = self._until - call.now
        if 0.0 < left <= self._reach:
            until = left if self._ends else None
            if self.settings.observe:
                return self._spare(call, CircuitOpen(self.name, self._reason, until, self._facts, call.operation))
            raise self.counted(call, CircuitOpen(self.name, self._reason, until, self._facts, call.operation))
        answer = self._ask(call)
        if answer.__class__ is not CircuitOpen:
            return answer
        try:
            raise answer
        finally:
            del answer  # see Gate.enter

    def exit(self, call: Call, token: Any) -> None:
        # One step: see window.py. What is not that common has an edge of -inf.
        if call.verdict is OK and call.now < token.edge:
            token.ok += 1
        else:
            self._settle(call, token)

    def _enter_timed(self, call: Call) -> Any:
        """``enter`` where the duration of calls counts: the same in one frame less."""
        window = self._circuit.admitted
        return self.enter(call) if window is None else Began(window, call.now)

    def _exit_timed(self, call: Call, token: Any) -> None:
        if token.__class__ is Began:
            window = token.window
            now = call.now
            if call.verdict is OK and now < window.edge and now - token.at <= self._slow_call:
                window.ok += 1
                return
        self._settle(call, token)

    @property
    def state(self) -> BreakerState:
        """Its state. It goes from open to half-open with the first call after its time.

        ``TypeError`` when there is one for each key.
        """
        if self._circuits is not None:
            raise TypeError(f"{self.name} has a state for each key; use state_of(key)")
        return self._circuit.state

    def state_of(self, key: Hashable) -> BreakerState:
        """The state for one key; closed for one that is not known."""
        circuit = self._circuit if self._circuits is None else self._circuits.by_key.get(key)
        return CLOSED if circuit is None else circuit.state

    def trip(self, reason: str = "", *, seconds: float | str | None = None, key: Hashable = EVERY) -> None:
        """Open it, as if a rule had: for ``seconds``, or as long as the settings say; then it probes.

        For those who know better: a health check, a Retry-After of the dependency. ``key`` is whose breaker, when
        there is one for each; by default that of every key that is known. ``ConfigError`` when ``seconds`` is no
        duration; then nothing has changed.
        """
        last = None if seconds is None else read_seconds(seconds, "Breaker.trip seconds", "for ever is force_open()")
        self._command(key, lambda circuit, now: circuit.trip(now, reason, last))

    def force_open(self, reason: str = "", *, key: Hashable = EVERY) -> None:
        """Refuse every call until ``reset``."""
        self._command(key, lambda circuit, now: circuit.force(FORCED_OPEN, now, reason))

    def disable(self, reason: str = "", *, key: Hashable = EVERY) -> None:
        """Let every call pass and count nothing until ``reset``."""
        self._command(key, lambda circuit, now: circuit.force(DISABLED, now, reason))

    def reset(self, reason: str = "", *, key: Hashable = EVERY) -> None:
        """Close it and forget all calls so far, those under way as well."""
        self._command(key, lambda circuit, now: circuit.reset(now, reason))

    def snapshot(self) -> dict[str, Any]:
        circuits: Circuit | Circuits = self._circuit if self._circuits is None else self._circuits
        return {**super().snapshot(), **self._turns.look(circuits.snapshot, self._clock.now())}

    def used_by(self, pipeline: "Pipeline") -> None:
        super().used_by(pipeline)
        self._pipeline = weakref.ref(pipeline)

    @property
    def _clock(self) -> Clock:
        """For what is done outside of a call."""
        pipeline = self._pipeline()
        return SYSTEM if pipeline is None else pipeline.clock

    def _ask(self, call: Call) -> Any:
        """``enter`` for all but the commonest cases. Returns a refusal: each frame that it passes through costs."""
        circuits = self._circuits
        circuit = self._circuit if circuits is None else circuits.by_key.get(call.key)
        if circuit is not None:
            circuit.used = True
            window = circuit.admitted
            if window is not None:
                return Began(window, call.now) if self.timed else window
        if self._turns.mine:
            # A finalizer or a signal handler in the middle of a change: what it would find is not certain.
            return self._refusal(call, Refusal(reason=CHANGING), self._facts)
        token, refusal, facts = self._turns.look(self._admit, call)
        self._announcer.tell()
        if token is None:
            return self._refusal(call, refusal, facts)
        return Began(token, call.now) if self.timed and not isinstance(token, Lease) else token

    def _admit(self, call: Call) -> tuple[Window | Lease | None, Refusal, Mapping[str, Any]]:
        """A job: a token, or None and what is to be told."""
        circuits = self._circuits
        circuit = self._circuit if circuits is None else circuits.find_or_make(call.key)
        token = circuit.admit(call.now)
        self._follow(circuit, call.key, call.clock)
        return token, circuit.refusal, circuit.facts

    def _refusal(self, call: Call, refusal: Refusal, facts: Mapping[str, Any]) -> CircuitOpen | Lease:
        left = refusal.until - call.now if refusal.ends else None
        error = CircuitOpen(self.name, refusal.reason, left, facts, call.operation)
        return SPARED if self.spares(call, error) else error

    def _spare(self, call: Call, error: CircuitOpen) -> Lease:
        self.spares(call, error)
        return SPARED

    def _settle(self, call: Call, token: Any) -> None:
        """``exit`` for all but the commonest cases."""
        kind = token.__class__
        if kind is Began and call.verdict is OK:
            window = token.window
            if call.now < window.edge and call.now - token.at <= self._slow_call:
                window.ok += 1
                return
        if token is SPARED or (call.verdict is IGNORED and kind is not Lease):
            return
        self._turns.run(self._learn, token, call.now, call.verdict, call.key, call.clock)
        self._announcer.tell()

    def _learn(self, token: Any, now: float, verdict: Verdict, key: Hashable, clock: Clock) -> None:
        """A job: a call ended."""
        circuits = self._circuits
        circuit = self._circuit if circuits is None else circuits.by_key.get(key)
        if circuit is not None:
            circuit.settle(token, now, verdict)
            if circuit.changes or token.__class__ is Lease:
                self._follow(circuit, key, clock)

    def _command(self, key: Hashable, give: Callable[[Circuit, float], None]) -> None:
        if self._circuits is None and key is not EVERY:
            raise TypeError(f"{self.name} has no breaker for each key; set per_key, or leave key out")
        self._turns.run(self._obey, key, give)
        self._announcer.tell()

    def _obey(self, key: Hashable, give: Callable[[Circuit, float], None]) -> None:
        """A job: somebody gave an order."""
        clock = self._clock
        now = clock.now()
        circuits = self._circuits
        if circuits is None:
            chosen: list[tuple[Hashable, Circuit]] = [(None, self._circuit)]
        elif key is EVERY:
            chosen = list(circuits.by_key.items())
        else:
            chosen = [(key, circuits.find_or_make(key))]
        for whose, circuit in chosen:
            give(circuit, now)
            self._follow(circuit, whose, clock)

    def _follow(self, circuit: Circuit, key: Hashable, clock: Clock) -> None:
        """Take over what changed in ``circuit``. In a job."""
        self._mirror()
        if circuit.changes:
            if self.listeners.active:
                whose = None if self._circuits is None else key
                for change in circuit.changes:
                    self._announcer.note(BreakerChanged(clock.wall(), self.name, *change, whose))
            circuit.changes.clear()

    def _mirror(self) -> None:
        """Keep what ``enter`` reads where it is read fastest. In a job."""
        circuit = self._circuit
        keyed = self._circuits is not None
        self._until, self._reach, self._reason, self._ends = ASK if keyed else circuit.refusal
        self._facts = circuit.facts
        self._admitted = None if keyed or self.timed else circuit.admitted
