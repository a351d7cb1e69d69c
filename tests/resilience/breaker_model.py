"""A breaker that is slow and obvious: it keeps every call, and looks at all of them each time."""

from dataclasses import dataclass, field
from itertools import product

from holdfast.core.call import FAILED, IGNORED, Verdict
from holdfast.resilience.breaker import BreakerSettings


@dataclass(eq=False)
class Attempt:
    """A call that was admitted, in which generation, whether it is a probe, and whether it counts at all."""

    began: float
    generation: int
    probe: bool
    counts: bool = True
    outcome: tuple[bool, bool] | None = None
    """Failed, slow; None while it is under way."""


@dataclass
class Model:
    settings: BreakerSettings
    state: str = "closed"
    generation: int = 0
    ended: list[tuple[float, bool, bool]] = field(default_factory=list)
    probes: list[Attempt] = field(default_factory=list)
    until: float = 0.0
    length: float = 0.0
    opened: int = 0
    late: int = 0

    def enter(self, now: float) -> Attempt | None:
        """An attempt, or None when the call is refused."""
        if self.state == "open" and now >= self.until:
            self._begin("half_open")
        if self.state == "half_open":
            self._look_at_probes(now)
        if self.state in ("closed", "disabled"):
            return Attempt(now, self.generation, False, self.state == "closed")
        if self.state == "half_open" and len(self.probes) < self.settings.probes:
            attempt = Attempt(now, self.generation, True)
            self.probes.append(attempt)
            return attempt
        return None

    def exit(self, attempt: Attempt, now: float, verdict: Verdict) -> None:
        limit = self.settings.slow_call
        outcome = (verdict is FAILED, limit is not None and now - attempt.began > float(limit))
        if attempt.generation != self.generation or attempt.outcome is not None:
            self.late += verdict is not IGNORED and attempt.counts
        elif attempt.probe:
            if verdict is IGNORED:
                self.probes.remove(attempt)
            attempt.outcome = outcome
            self._look_at_probes(now)
        elif verdict is not IGNORED and self.state == "closed":
            self.ended.append((now, *outcome))
            self._look_at_calls(now, outcome[0])

    def command(self, state: str) -> None:
        if state == "closed":
            self.length = 0.0
        self._begin(state)

    def trip(self, now: float, seconds: float) -> None:
        self._open(now)
        self.until = now + seconds

    def inside(self, now: float) -> list[tuple[float, bool, bool]]:
        """The calls that the window holds."""
        if self.settings.last is not None:
            return self.ended[-self.settings.last :]
        width = self.settings.window / self.settings.buckets
        oldest = now // width - self.settings.buckets + 1
        return [call for call in self.ended if call[0] // width >= oldest]

    def _look_at_calls(self, now: float, failed: bool) -> None:
        settings = self.settings
        row = 0
        for _, bad, _ in reversed(self.ended):
            if not bad:
                break
            row += 1
        inside = self.inside(now)
        needed = settings.min_calls if settings.last is None else min(settings.min_calls, settings.last)
        if failed and settings.consecutive is not None and row >= settings.consecutive:
            self._open(now)
        elif len(inside) < needed:
            return
        elif (
            settings.failure_rate != "off" and sum(call[1] for call in inside) / len(inside) >= settings.failure_rate
        ) or (settings.slow_call is not None and sum(call[2] for call in inside) / len(inside) >= settings.slow_rate):
            self._open(now)

    def _look_at_probes(self, now: float) -> None:
        """Every way in which the probes may still end is tried; if all lead to one verdict, that is it."""
        settings = self.settings
        for probe in self.probes:
            if probe.outcome is None and now - probe.began >= settings.half_open_timeout:
                probe.outcome = (True, True)
        known = [probe.outcome for probe in self.probes if probe.outcome is not None]
        ways = product(
            [(False, False), (False, True), (True, False), (True, True)], repeat=settings.probes - len(known)
        )
        verdicts = {self._bad([*known, *way]) for way in ways}
        if verdicts == {True}:
            self._open(now)
        elif verdicts == {False}:
            self.length = 0.0
            self._begin("closed")

    def _bad(self, outcomes: list[tuple[bool, bool]]) -> bool:
        settings = self.settings
        failed = sum(outcome[0] for outcome in outcomes)
        slow = sum(outcome[1] for outcome in outcomes)
        if settings.slow_call is not None and slow / len(outcomes) >= settings.slow_rate:
            return True
        if settings.failure_rate == "off":
            return settings.consecutive is not None and failed > 0
        return failed / len(outcomes) >= settings.failure_rate

    def _open(self, now: float) -> None:
        settings = self.settings
        if self.state == "half_open" or not self.length:
            self.length = min(max(self.length * settings.open_growth, settings.open), settings.open_max)
        self.until = now + self.length
        self.opened += 1
        self._begin("open")

    def _begin(self, state: str) -> None:
        self.state = state
        self.generation += 1
        self.ended = []
        self.probes = []
