from types import ModuleType
from typing import Any

import pytest

from holdfast.core.call import FAILED, OK, bare_call
from holdfast.core.errors import CircuitOpen, Rejected
from holdfast.core.policy import Gate
from holdfast.resilience import breaker, throttle
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.circuit import states, window
from holdfast.resilience.throttle import Throttle
from resilience.interruption import interrupted_everywhere


class Probe:
    """Calls through a gate, and what comes into the middle of them."""

    def __init__(self, gate: Gate[Any]) -> None:
        self.gate = gate
        self.interrupted = False
        self.ended = self.refused = 0

    def call(self, now: float, verdict: Any) -> None:
        one = bare_call(now=now, key="k")
        try:
            token = self.gate.enter(one)
        except Rejected:
            self.refused += 1
            return
        one.verdict = verdict
        self.gate.exit(one, token)
        self.ended += 1

    def work(self) -> None:
        for now, verdict in ((1.0, FAILED), (1.5, FAILED), (2.0, FAILED), (3.0, OK), (3.5, FAILED), (4.0, OK)):
            self.call(now, verdict)
        self.gate.snapshot()

    def interrupt(self) -> None:
        self.interrupted = True
        self.call(3.0, FAILED)
        self.call(3.0, OK)
        self.gate.snapshot()

    def check(self) -> None:
        """Whatever came into what: nothing is held, and it still works."""
        self.gate.snapshot()


class BreakerProbe(Probe):
    gate: Breaker

    def interrupt(self) -> None:
        super().interrupt()
        self.gate.trip(seconds=0.1)

    def check(self) -> None:
        assert not self.gate._turns.mine
        self.gate.reset()
        seen = self.gate.snapshot()
        assert sum(seen.get("states", {"closed": 1}).values()) == 1
        assert self.gate.state_of("k") == "closed"


class ThrottleProbe(Probe):
    gate: Throttle

    def check(self) -> None:
        assert not self.gate._turns.mine
        assert sum(self.gate._window.counts()) == self.ended + self.refused


@pytest.mark.parametrize("module", [breaker, states, window], ids=["breaker", "states", "window"])
@pytest.mark.parametrize("options", [{}, {"slow_call": 1.0}, {"per_key": True}], ids=["plain", "slow", "keys"])
def test_a_breaker_does_not_wait_for_a_thread_that_it_interrupted(module: ModuleType, options: dict[str, Any]) -> None:
    lines = interrupted_everywhere(
        module, lambda: BreakerProbe(Breaker("off", **{"consecutive": 2, "open": 0.25, "probes": 1, **options}))
    )
    assert lines > 20


@pytest.mark.parametrize("module", [throttle, window], ids=["throttle", "window"])
def test_a_throttle_does_not_wait_for_a_thread_that_it_interrupted(module: ModuleType) -> None:
    assert interrupted_everywhere(module, lambda: ThrottleProbe(Throttle(min_calls=2, seed=3))) > 20


def test_a_call_that_comes_into_a_change_of_state_is_refused_or_passes_uncounted() -> None:
    for observe in (False, True):
        made = Breaker(observe=observe)
        made.force_open()
        made._until = 0.0  # as it is for a moment while it changes

        def inside(made: Breaker = made, observe: bool = observe) -> None:
            call = bare_call()
            if observe:
                made.exit(call, made.enter(call))
            else:
                with pytest.raises(CircuitOpen, match="about to change"):
                    made.enter(call)

        made._turns.run(inside)
        seen = made.snapshot()
        assert (seen["refused"], seen["observed"], seen["late"]) == ((0, 1, 0) if observe else (1, 0, 0))


def test_settings_may_change_in_the_middle_of_a_job() -> None:
    made = Breaker("off", consecutive=3)
    made._turns.run(made.update)
    made._turns.run(lambda: made.update(consecutive=1))
    call = bare_call()
    token = made.enter(call)
    call.verdict = FAILED
    made.exit(call, token)
    assert made.state == "open"
