"""The breaker against a slow, obvious model of it, call by call."""

from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from effort import examples
from holdfast.core.call import FAILED, IGNORED, OK, Call, bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen
from holdfast.core.fuse import Around
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from resilience.breaker_model import Attempt, Model

UNDER_WAY = 12
"""Calls that are under way at the same time."""
VERDICTS = st.sampled_from([OK, OK, FAILED, FAILED, IGNORED])


class Machine(RuleBasedStateMachine):
    """Calls begin and end, time passes, somebody gives orders; real and modelled breaker must always agree."""

    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock(start=1000.0)
        self.breaker = Breaker(**self.options)
        self.pipeline = Pipeline("x", self.breaker, clock=self.clock)  # the breaker keeps no more than a weak reference
        fragment = self.breaker.fragment(False)
        assert isinstance(fragment, Around)
        assert fragment.exit is not None
        self.enter, self.exit = fragment.enter, fragment.exit
        self.model = Model(self.breaker.settings)
        self.calls: list[tuple[Call, Any, Attempt]] = []

    @initialize(quarters=st.integers(0, 7))
    def begin_somewhere_in_a_bucket(self, quarters: int) -> None:
        self.clock.advance(quarters / 4)

    @precondition(lambda self: len(self.calls) < UNDER_WAY)
    @rule()
    def a_call_begins(self) -> None:
        self._begin()

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, UNDER_WAY), verdict=VERDICTS)
    def a_call_ends(self, number: int, verdict: Any) -> None:
        self._end(number % len(self.calls), verdict)

    @rule(verdicts=st.lists(VERDICTS, min_size=1, max_size=8))
    def calls_come_and_go(self, verdicts: list[Any]) -> None:
        for verdict in verdicts:
            if self._begin():
                self._end(-1, verdict)

    @rule(verdict=VERDICTS, quarters=st.integers(4, 5))
    def a_call_takes_its_time(self, verdict: Any, quarters: int) -> None:
        if self._begin():
            self.clock.advance(quarters / 4)
            self._end(-1, verdict)

    @rule(quarters=st.integers(1, 12))
    def time_passes(self, quarters: int) -> None:
        self.clock.advance(quarters / 4)
        self._compare()

    @rule()
    def much_time_passes(self) -> None:
        self.clock.advance(25.25)
        self._compare()

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.model.command("closed")
        self._compare()

    @rule(forced=st.booleans())
    def somebody_forces_it(self, forced: bool) -> None:
        if forced:
            self.breaker.force_open()
        else:
            self.breaker.disable()
        self.model.command("forced_open" if forced else "disabled")
        self._compare()

    @rule(seconds=st.sampled_from([1.0, 3.0]))
    def somebody_trips_it(self, seconds: float) -> None:
        self.breaker.trip(seconds=seconds)
        self.model.trip(self.clock.now(), seconds)
        self._compare()

    def _begin(self) -> bool:
        now = self.clock.now()
        call = bare_call(clock=self.clock)
        attempt = self.model.enter(now)
        if attempt is None:
            with pytest.raises(CircuitOpen) as caught:
                self.enter(call)
            left = self.model.until - now
            assert caught.value.retry_after == (left if self.model.state == "open" else None)
            assert self.model.state != "open" or left > 0
        else:
            self.calls.append((call, self.enter(call), attempt))
        self._compare()
        return attempt is not None

    def _end(self, number: int, verdict: Any) -> None:
        call, token, attempt = self.calls.pop(number)
        call.now = self.clock.now()
        call.verdict = verdict
        self.exit(call, token)
        self.model.exit(attempt, call.now, verdict)
        self._compare()

    def _compare(self) -> None:
        seen = self.breaker.snapshot()
        model = self.model
        assert seen["state"] == model.state
        assert seen["opened"] == model.opened
        assert seen["late"] == model.late
        if model.state == "closed":
            inside = model.inside(self.clock.now())
            counts = [len(inside), sum(call[1] for call in inside), sum(call[2] for call in inside)]
            assert [seen["calls"], seen["failed"], seen["slow"]] == counts
        if model.state == "half_open":
            assert seen["probing"] == sum(probe.outcome is None for probe in model.probes)
            assert seen["calls"] == sum(probe.outcome is not None for probe in model.probes)


@pytest.mark.parametrize(
    "options",
    [
        {"min_calls": 4, "half_open_timeout": 4.0},
        {"failure_rate": 0.3, "window": 4.0, "buckets": 4, "min_calls": 3, "probes": 1, "open_max": 6.0},
        {"last": 5, "min_calls": 8, "probes": 4, "half_open_timeout": 3.0},
        {"failure_rate": "off", "consecutive": 3, "probes": 2},
        {"min_calls": 6, "consecutive": 3, "failure_rate": 0.8},
        {"failure_rate": "off", "slow_call": 1.0, "slow_rate": 0.6, "min_calls": 3, "half_open_timeout": 5.0},
        {"slow_call": 1.0, "last": 4, "min_calls": 3, "consecutive": 4, "probes": 3, "half_open_timeout": 4.0},
    ],
    ids=["time", "short", "count", "consecutive", "both", "slow", "everything"],
)
def test_the_breaker_does_what_the_model_does(options: dict[str, Any]) -> None:
    machine = type("Chosen", (Machine,), {"options": options})
    run_state_machine_as_test(
        machine, settings=hypothesis_settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
    )
