"""The state machine of one breaker. Pure; the time is an argument, the lock is its owner's."""

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from random import Random
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import msgspec

from holdfast.core.call import FAILED, IGNORED, Verdict
from holdfast.resilience.circuit.settings import BreakerSettings
from holdfast.resilience.circuit.window import Counts, CountWindow, TimeWindow, Window


class BreakerState(StrEnum):
    """What a breaker does with calls: let them pass, refuse them, or try some of them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


CLOSED: Final = BreakerState.CLOSED
OPEN: Final = BreakerState.OPEN
HALF_OPEN: Final = BreakerState.HALF_OPEN
FORCED_OPEN: Final = BreakerState.FORCED_OPEN
DISABLED: Final = BreakerState.DISABLED


class Facts(dict[str, Any]):
    """A snapshot that many refusals share, so nobody may change it. It can be pickled and encoded as any dict."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a snapshot is shared and cannot be changed; make a dict of it first")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type["Facts"], tuple[dict[str, Any]]]:
        return Facts, (dict(self),)


class Began(msgspec.Struct, eq=False):
    """The token of a call whose duration counts."""

    window: Window
    at: float
    edge: float = -inf


class Lease(msgspec.Struct, eq=False):
    """The token of a probe: it counts as long as the half-open period knows it."""

    at: float
    edge: float = -inf


Token: TypeAlias = Window | Began | Lease
"""What an admitted call holds. The commonest one is the window that its result belongs to."""


class Change(NamedTuple):
    """From one state to another."""

    old: BreakerState
    new: BreakerState
    reason: str
    facts: Mapping[str, Any]


class Refusal(NamedTuple):
    """How calls before ``until`` are refused without asking. ``ends``: after that they will not be.

    A time that is more than ``reach`` before ``until`` comes from another clock.
    """

    until: float = -inf
    reach: float = inf
    reason: str = ""
    ends: bool = False


ASK: Final = Refusal()
UNCOUNTED: Final = CountWindow(1)
"""What calls under a disabled breaker are counted in; nobody reads it."""


class Circuit:
    """Closed, open, half-open, or what somebody said it shall be.

    Each closed period has a window of its own and each half-open one its own leases. A result that belongs to an
    earlier one is dropped, since its token is unknown by now: that is what the generation number of gobreaker does.

    Every method needs the owner's lock. ``admitted`` is the token that every call may have without asking, None
    while there is none; then ``refusal`` says which calls need not ask either. ``facts`` belong to it.
    """

    __slots__ = (
        "_answered",
        "_chance",
        "_counts",
        "_expired",
        "_failed",
        "_grown",
        "_leases",
        "_length",
        "_ok_before",
        "_settings",
        "_slow",
        "_streak",
        "admitted",
        "changes",
        "facts",
        "late",
        "opened",
        "reason",
        "refusal",
        "state",
        "used",
        "window",
    )

    def __init__(self, settings: BreakerSettings, chance: Random) -> None:
        self._settings = settings
        self._chance = chance
        self.state = CLOSED
        self.reason = ""
        self.facts: Mapping[str, Any] = Facts()
        self.refusal = ASK
        self.changes: list[Change] = []
        self.opened = 0
        self.late = 0
        self.used = False
        self._grown = self._length = 0.0
        self._counts: Counts = (0, 0, 0)
        self.window = _window_for(settings)
        self.admitted: Window | None = self.window
        self._streak = self._ok_before = 0
        self._leases: list[Lease] = []
        self._answered = self._failed = self._slow = self._expired = 0

    def apply(self, settings: BreakerSettings, now: float) -> None:
        """Go by other settings from here on. The state stays, and what the window holds, unless its kind changes."""
        self._settings = settings
        window = self.window
        if settings.last is not None and isinstance(window, CountWindow):
            window.resize(settings.last)
        elif settings.last is None and isinstance(window, TimeWindow):
            window.resize(now, settings.window, settings.buckets)
        else:
            window.watch(True)
            self.window = _window_for(settings)
            self._streak = self._ok_before = 0
            if self.state is CLOSED:
                self.admitted = self.window
        self.window.watch(True)  # the next call is judged by the new rules, whatever it is
        if self.state is HALF_OPEN:
            self.refusal = ASK

    def admit(self, now: float) -> Window | Lease | None:
        """A token, or None: refused."""
        refusal = self.refusal
        if self.state is OPEN:
            if refusal.until - now > refusal.reach:
                self.refusal = refusal._replace(until=now + self._length)  # the clock was set back
            elif now >= refusal.until:
                self._enter(HALF_OPEN, now, f"{self._length:g} s have passed")
        if self.state is HALF_OPEN:
            self._judge_probes(now)
        if self.state is not HALF_OPEN:
            return self.admitted
        if len(self._leases) + self._answered >= self._settings.probes:
            return None
        lease = Lease(now)
        self._leases.append(lease)
        self._refuse_without_asking()
        return lease

    def settle(self, token: Token, now: float, verdict: Verdict) -> None:
        """The call that holds ``token`` ended."""
        limit = self._settings.slow_call
        if isinstance(token, Lease):
            slow = limit is not None and now - token.at > float(limit)
            if token not in self._leases:
                self.late += verdict is not IGNORED
                return
            self._leases.remove(token)
            if verdict is not IGNORED:
                self._count_probe(verdict is FAILED, slow)
            self._judge_probes(now)
            return
        slow = False
        window = token
        if isinstance(token, Began):
            slow = limit is not None and now - token.at > float(limit)
            window = token.window
        if window is self.window and self.state is CLOSED:
            if verdict is not IGNORED:
                self._count(now, verdict is FAILED, slow)
        elif window is not UNCOUNTED:
            self.late += verdict is not IGNORED

    def trip(self, now: float, reason: str, seconds: float | None = None) -> None:
        """Open it, for ``seconds`` or as long as the settings say. When that is over it probes as always."""
        self._open(now, reason or "opened by hand", seconds)

    def force(self, state: BreakerState, now: float, reason: str) -> None:
        """``FORCED_OPEN`` or ``DISABLED``, until ``reset``."""
        self._enter(state, now, reason or ("forced open" if state is FORCED_OPEN else "disabled"))

    def reset(self, now: float, reason: str = "") -> None:
        """Close it and forget everything."""
        self._enter(CLOSED, now, reason or "reset")

    def snapshot(self, now: float) -> dict[str, Any]:
        """Its state and what it goes by, and when it is worth asking again."""
        left = max(0.0, self.refusal.until - now) if self.state is OPEN else None
        return {**self.describe(now), "retry_after": left}

    def describe(self, now: float) -> dict[str, Any]:
        """Its state and what it goes by."""
        counts = self._counts
        if self.state is CLOSED:
            counts = self.window.counts(now)
        elif self.state is HALF_OPEN:
            counts = self._probe_counts()
        calls = counts[0] + counts[1]
        judged = calls >= (self._min_calls() if self.state is CLOSED else 1)
        return {
            "state": self.state.value,
            "reason": self.reason,
            "open_for": self._length if self.state is OPEN else None,
            "calls": calls,
            "failed": counts[1],
            "slow": counts[2],
            "failure_rate": counts[1] / calls if judged else None,
            "slow_rate": counts[2] / calls if judged else None,
            "probing": len(self._leases),
            "opened": self.opened,
            "late": self.late,
        }

    def _count(self, now: float, failed: bool, slow: bool) -> None:
        settings = self._settings
        window = self.window
        if failed:
            # Successes keep no streak: it is enough that none has been counted between two failures.
            self._streak = self._streak + 1 if window.ok == self._ok_before else 1
            self._ok_before = window.ok
        window.add(now, failed, slow)
        ok, bad, slow_ones = window.counts()
        calls = ok + bad
        if failed and settings.consecutive is not None and self._streak >= settings.consecutive:
            self._open(now, f"{self._streak} calls in a row failed" if self._streak > 1 else "1 call failed")
        elif calls < self._min_calls():
            # A success may be the call that is missing for a rate. Otherwise none can make a rule true.
            window.watch(bad > 0 or slow_ones > 0)
        elif settings.failure_rate != "off" and bad / calls >= settings.failure_rate:
            self._open(now, self._of_calls(bad, calls, "failed"))
        elif settings.slow_call is not None and slow_ones / calls >= settings.slow_rate:
            self._open(now, self._of_calls(slow_ones, calls, f"took longer than {float(settings.slow_call):g} s"))
        else:
            window.watch(False)

    def _of_calls(self, some: int, calls: int, what: str) -> str:
        if self._settings.last is not None:
            return f"{some} of the last {calls} calls {what}"
        return f"{some} of {calls} calls {what} in {self._settings.window:g} s"

    def _min_calls(self) -> int:
        settings = self._settings
        return settings.min_calls if settings.last is None else min(settings.min_calls, settings.last)

    def _count_probe(self, failed: bool, slow: bool) -> None:
        self._answered += 1
        self._failed += failed
        self._slow += slow

    def _probe_counts(self) -> Counts:
        return self._answered - self._failed, self._failed, self._slow

    def _judge_probes(self, now: float) -> None:
        """Take back the leases of probes that do not end; then decide, if the rest cannot change the verdict."""
        settings = self._settings
        for lease in tuple(self._leases):
            lease.at = min(lease.at, now)  # the clock was set back
            if now - lease.at >= settings.half_open_timeout:
                self._leases.remove(lease)
                self._expired += 1
                self._count_probe(True, settings.slow_call is not None)
        probes, failed, slow = settings.probes, self._failed, self._slow
        to_come = max(0, probes - self._answered)
        well = True
        if settings.failure_rate != "off" or settings.consecutive is not None:
            # Without a rate the first failure decides.
            rate = 1 / probes if settings.failure_rate == "off" else settings.failure_rate
            if failed / probes >= rate:
                silent = f", {self._expired} by not ending in {settings.half_open_timeout:g} s"
                self._open(now, f"{failed} of {probes} probes failed{silent if self._expired else ''}")
                return
            well = (failed + to_come) / probes < rate
        if settings.slow_call is not None:
            if slow / probes >= settings.slow_rate:
                self._open(now, f"{slow} of {probes} probes took longer than {float(settings.slow_call):g} s")
                return
            well = well and (slow + to_come) / probes < settings.slow_rate
        if well:
            self._enter(CLOSED, now, f"{self._answered - failed} of {self._answered} probes went well")
        else:
            self._refuse_without_asking()

    def _refuse_without_asking(self) -> None:
        """While every permit is out, nobody needs to ask before the first lease runs out."""
        settings = self._settings
        self.refusal = ASK
        if self._leases and len(self._leases) + self._answered >= settings.probes:
            until = min(lease.at for lease in self._leases) + settings.half_open_timeout
            reason = f"half-open, and {len(self._leases)} probes are under way"
            self.refusal = Refusal(until, 2 * settings.half_open_timeout, reason)

    def _open(self, now: float, reason: str, seconds: float | None = None) -> None:
        settings = self._settings
        if self.state is HALF_OPEN or not self._grown:
            self._grown = min(max(self._grown * settings.open_growth, settings.open), settings.open_max)
        length = self._grown if seconds is None else seconds
        if settings.jitter:
            length *= 1 + settings.jitter * self._chance.random()
        self.opened += 1
        self._length = float(length)
        self._enter(OPEN, now, reason)

    def _enter(self, state: BreakerState, now: float, reason: str) -> None:
        """The one place where the state changes."""
        old = self.state
        if old is CLOSED:
            self._counts = self.window.counts(now)
        elif old is HALF_OPEN:
            self._counts = self._probe_counts()
        self.window.watch(True)  # from here on no call of this period is counted unseen
        self.state = state
        self.reason = reason
        self.admitted = None
        self.refusal = ASK
        self._leases = []
        self._answered = self._failed = self._slow = self._expired = 0
        if state is CLOSED:
            self._grown = 0.0
            self._streak = self._ok_before = 0
            self.window = self.admitted = _window_for(self._settings)
        elif state is DISABLED:
            self.admitted = UNCOUNTED
        elif state is OPEN:
            self.refusal = Refusal(now + self._length, 2 * self._length, reason, True)
        elif state is FORCED_OPEN:
            self.refusal = Refusal(inf, inf, reason)
        self.facts = Facts(self.describe(now))
        if state is not old:
            self.changes.append(Change(old, state, reason, self.facts))


def _window_for(settings: BreakerSettings) -> Window:
    if settings.last is not None:
        return CountWindow(settings.last)
    return TimeWindow(settings.window, settings.buckets)
