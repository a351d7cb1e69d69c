from typing import Any

import pytest

from core.gates import Recorder
from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.retry import Retry
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.resilience.timeout import Timeout
from holdfast.testing import failing, fresh, recorded, slowed


def test_fresh_policies_know_nothing_and_what_they_learn_is_forgotten() -> None:
    breaker = Breaker(consecutive=1)
    pipeline = Pipeline("x", breaker)
    with fresh(pipeline), failing(pipeline, OSError("down")):
        with pytest.raises(OSError, match="down"):
            pipeline.call(lambda: 5)
        assert pipeline.policies[0].snapshot()["state"] == "open"
    assert pipeline.policies == (breaker,)
    assert breaker.state == "closed"
    breaker.force_open()
    with fresh(pipeline):
        assert pipeline.call(lambda: 5) == 5
    assert breaker.state == "forced_open"


def retries(pipeline: Pipeline, calls: int = 30) -> int:
    with recorded(pipeline) as seen, failing(pipeline, ConnectionResetError):
        for _ in range(calls):
            with pytest.raises(ConnectionResetError):
                pipeline.call(lambda: 5)
    return sum(call.retries for call in seen.calls)


def test_a_budget_that_policies_share_is_full_and_shared_again() -> None:
    budget = RetryBudget(ratio=0.0, floor=1.0)
    clock = VirtualClock()
    one, other = (Pipeline(name, Retry(2, budget=budget), clock=clock) for name in ("one", "other"))
    with fresh(one, other):
        assert 0 < retries(one) < 30
        assert retries(other) == 0
    assert budget.spent == 0
    for _ in range(2):
        with fresh(one), fresh(other):
            assert retries(one) > 0
            assert retries(other) > 0


def test_who_listens_hears_of_the_new_policies_too() -> None:
    breaker = Breaker(consecutive=1)
    heard: list[Any] = []
    breaker.listeners.subscribe(heard.append)
    pipeline = Pipeline("x", breaker)
    with fresh(pipeline), failing(pipeline, OSError), pytest.raises(OSError):  # noqa: PT011 - it has no text
        pipeline.call(lambda: 5)
    assert heard


def test_what_a_test_has_added_is_not_made_anew() -> None:
    pipeline = Pipeline("x", Timeout(5.0), clock=VirtualClock(start=0.0))
    with (
        recorded(pipeline) as calls,
        failing(pipeline, OSError, times=1),
        slowed(pipeline, 1.0),
        fresh(pipeline),
        pytest.raises(OSError),  # noqa: PT011 - it has no text
    ):
        pipeline.call(lambda: 5)
    assert calls.last.ended == 1.0


def test_what_comes_and_goes_meanwhile_is_kept() -> None:
    gone, kept, new = Timeout(5.0), Timeout(6.0, name="kept"), Timeout(7.0, name="new")
    pipeline = Pipeline("x", gone, kept)
    with fresh(pipeline):
        pipeline.replace(new, pipeline.policies[1])
    assert pipeline.policies == (new, kept)


def test_a_policy_whose_settings_are_not_known_cannot_be_new() -> None:
    pipeline = Pipeline("x", Recorder([]))
    with pytest.raises(TypeError, match="accepts"), fresh(pipeline):
        raise AssertionError("not to run")
    with pytest.raises(TypeError, match="needs the pipelines"), fresh():
        raise AssertionError("not to run")
