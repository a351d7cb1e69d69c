"""The throttle against a list of all calls, call by call."""

from itertools import takewhile
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from effort import examples
from holdfast.core.call import FAILED, IGNORED, OK, Call, bare_call
from holdfast.core.errors import Overloaded
from holdfast.resilience.throttle import drop_probability
from resilience.throttle_bench import Bench


class Machine(RuleBasedStateMachine):
    """Calls begin and end, time passes; the throttle must refuse exactly what a list of all calls says."""

    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(lot=0.0, start=1000.0, **self.options)
        self.ended: list[tuple[float, str]] = []
        self.calls: list[tuple[Call, Any]] = []
        self.last_pass = 0.0
        self.too_many = False

    @precondition(lambda self: len(self.calls) < 12)
    @rule(lot=st.integers(0, 20))
    def a_call_begins(self, lot: int) -> None:
        settings = self.bench.throttle.settings
        now = self.bench.clock.now()
        self._look(now)
        requests, accepts, k = self._counts(now)
        chance = min(settings.cap, drop_probability(requests, accepts, k)) if requests >= settings.min_calls else 0.0
        self.bench.lot = lot / 20
        call = bare_call(clock=self.bench.clock)
        if self.bench.lot < chance and now - self.last_pass < settings.pass_every:
            with pytest.raises(Overloaded):
                self.bench.throttle.enter(call)
            self.ended.append((now, "dropped"))
        else:
            self.calls.append((call, self.bench.throttle.enter(call)))
            self.last_pass = now
        self._compare()

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 11), verdict=st.sampled_from([OK, FAILED, FAILED, IGNORED]))
    def a_call_ends(self, number: int, verdict: Any) -> None:
        call, token = self.calls.pop(number % len(self.calls))
        call.now = self.bench.clock.now()
        call.verdict = verdict
        self.bench.throttle.exit(call, token)
        if verdict is not IGNORED:
            self.ended.append((call.now, "ok" if verdict is OK else "failed"))
            self._look(call.now)
        self._compare()

    @rule(quarters=st.integers(1, 8))
    def time_passes(self, quarters: int) -> None:
        self.bench.clock.advance(quarters / 4)
        self._compare()

    def _bucket(self, now: float, back: int) -> list[str]:
        """What happened in the bucket ``back`` buckets before the current one."""
        settings = self.bench.throttle.settings
        width = settings.window / settings.buckets
        return [what for at, what in self.ended if at // width == now // width - back]

    def _counts(self, now: float) -> tuple[int, int, float]:
        settings = self.bench.throttle.settings
        buckets = [self._bucket(now, back) for back in range(settings.buckets)]
        inside = [what for bucket in buckets for what in bucket]
        failing = sum("failed" in bucket for bucket in takewhile(lambda bucket: "ok" not in bucket, buckets))
        k = settings.k - (settings.k - (settings.k_min or settings.k)) * failing / settings.buckets
        return len(inside), inside.count("ok"), k

    def _look(self, now: float) -> None:
        requests, accepts, k = self._counts(now)
        too_many = requests > k * accepts
        if too_many and not self.too_many:
            self.last_pass = now
        self.too_many = too_many

    def _compare(self) -> None:
        seen = self.bench.throttle.snapshot()
        requests, accepts, _ = self._counts(self.bench.clock.now())
        assert (seen["requests"], seen["accepts"]) == (requests, accepts)


@pytest.mark.parametrize(
    "options",
    [
        {"min_calls": 3, "window": 4.0, "buckets": 4},
        {"min_calls": 5, "k": 1.5, "k_min": 1.1, "window": 2.0, "buckets": 2, "cap": 0.6, "pass_every": 0.5},
        {"min_calls": 1, "k": 1.0, "window": 8.0, "buckets": 4, "pass_every": 2.0},
    ],
)
def test_the_throttle_does_what_the_model_does(options: dict[str, Any]) -> None:
    machine = type("Chosen", (Machine,), {"options": options})
    run_state_machine_as_test(
        machine, settings=hypothesis_settings(max_examples=examples(60), stateful_step_count=50, deadline=None)
    )
