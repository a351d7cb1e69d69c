from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from holdfast.core.call import FAILED, OK, bare_call
from holdfast.core.errors import CircuitOpen, Rejected
from holdfast.core.policy import Gate
from holdfast.resilience import breaker, throttle
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.circuit import states, window
from holdfast.resilience.circuit.turns import POSTPONED_LIMIT, Turns
from holdfast.resilience.throttle import Throttle
from resilience.test_reentrance import ends_although_interrupted

LINES_LIMIT = 2000


def test_a_job_in_the_middle_of_another_is_run_right_after_it() -> None:
    taking = Turns()
    done: list[str] = []

    def outer() -> str:
        assert taking.mine
        assert taking.run(done.append, "inner") is None
        done.append("outer")
        return "result"

    assert not taking.mine
    assert taking.run(outer) == "result"
    assert done == ["outer", "inner"]
    assert not taking.mine


def test_a_look_is_not_put_off() -> None:
    taking = Turns()
    assert taking.run(lambda: taking.look(lambda: 5)) == 5
    assert taking.look(lambda: 7) == 7


def test_a_job_that_fails_gives_the_turn_back_and_what_was_put_off_is_run() -> None:
    taking = Turns()
    done: list[int] = []

    def fail() -> None:
        taking.run(done.append, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taking.run(fail)
    assert done == [1]
    assert taking.run(lambda: 5) == 5


def test_of_more_jobs_than_may_wait_the_oldest_are_forgotten() -> None:
    taking = Turns()
    done: list[int] = []

    def flood() -> None:
        for number in range(POSTPONED_LIMIT + 5):
            taking.run(done.append, number)

    taking.run(flood)
    assert done == list(range(5, POSTPONED_LIMIT + 5))


@pytest.mark.usefixtures("switching_often")
def test_jobs_of_threads_never_overlap() -> None:
    taking = Turns()
    inside = 0
    most = 0

    def job() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside, len(str(inside)))
        inside -= 1

    def work() -> None:
        for _ in range(300):
            taking.run(job)

    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(work) for _ in range(8)]:
            result.result(20)
    assert (inside, most) == (0, 1)
    assert not taking.mine


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


def interrupted_everywhere(module: ModuleType, make: Callable[[], Probe]) -> int:
    """Do the work once for each line of ``module`` that it runs, interrupted there. How many lines there are."""
    for line in range(1, LINES_LIMIT):
        probe = make()
        assert ends_although_interrupted(module, probe.work, probe.interrupt, only=line), line
        probe.check()
        if not probe.interrupted:
            return line - 1
    raise AssertionError("too much work")


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
