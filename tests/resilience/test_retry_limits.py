"""What ends a call before its attempts are used up: the deadline, the budget, and what the other side asks for."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.core.classify import Classifier
from holdfast.core.context import use_deadline
from holdfast.core.errors import CircuitOpen, DeadlineExceeded
from holdfast.core.fuse import Again
from holdfast.resilience.retry import Retry
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.resilience.timeout import Timeout
from resilience.attempts import START, Form, notes


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


def steady(attempts: int = 3, **settings: Any) -> Retry:
    """Retries after a second each, without jitter."""
    return Retry(attempts, **{"backoff": 1.0, "jitter": "none", **settings})


def test_a_delay_that_would_not_end_before_the_deadline_is_not_begun(form: Form) -> None:
    script = form.script(OSError())
    error = form.caught(form.pipeline(Timeout(2.5), steady(5)), script)
    assert script.times == [0, 1, 2]
    assert form.clock.now() == START + 2
    assert notes(error) == ["retry: 3 attempts in 2 s; another attempt does not fit into the deadline"]


def test_a_delay_that_ends_at_the_deadline_leaves_no_time_for_an_attempt(form: Form) -> None:
    script = form.script(OSError())
    with use_deadline(START + 1):
        form.caught(form.pipeline(steady()), script)
    assert script.times == [0]


def test_the_deadline_of_an_attempt_is_not_that_of_the_call(form: Form) -> None:
    # The attempt's limit has passed when the delay is judged; only what is around the retries counts.
    script = form.script(OSError(), OSError(), "fine", takes=0.4)
    assert form.run(form.pipeline(Timeout(10), steady(), Timeout(0.3)), script) == "fine"


def test_a_time_limit_is_not_retried_when_it_was_the_calls_own(form: Form) -> None:
    calls: list[float] = []

    async def slow() -> None:
        calls.append(form.clock.now() - START)
        await asyncio.sleep(60)

    retry = steady(9)
    pipeline = form.pipeline(Timeout(2.7), retry, Timeout(1))
    with pytest.raises(DeadlineExceeded):
        form.clock.run(pipeline.acall(slow))
    assert calls == [0, 2]
    assert form.clock.now() == START + 2.7
    assert retry.retries == 1


def test_a_retry_needs_room_in_the_budget_before_its_delay_begins(form: Form) -> None:
    retry = steady(5, budget={"ratio": 0.1, "floor": 0})
    pipeline = form.pipeline(retry)
    for _ in range(19):
        form.run(pipeline, lambda: "fine")
    script = form.script(OSError())
    error = form.caught(pipeline, script)
    assert script.times == [0, 1, 2]
    assert form.clock.now() == START + 2
    assert notes(error) == ["retry: 3 attempts in 2 s; the retry budget is used up"]
    assert retry.snapshot()["budget"] == {
        "ratio": 0.1, "floor": 0.0, "window": 10.0, "requests": 20, "spent": 2, "denied": 1,
    }  # fmt: skip


def test_retries_stay_under_a_tenth_of_the_requests_while_everything_fails(form: Form) -> None:
    retry = steady(3, backoff=0, budget={"floor": 0})
    pipeline = form.pipeline(retry)
    seen: list[int] = []
    failing = form.script(OSError())
    for _ in range(200):
        form.caught(pipeline, failing)
        seen.append(len(failing.times))
        form.clock.advance(0.01)
    assert all(attempts <= calls * 1.1 for calls, attempts in enumerate(seen, 1))
    assert seen[-1] == 220


def test_a_budget_is_on_by_default_and_can_be_turned_off(form: Form) -> None:
    limited, free = Retry(2, backoff=0), Retry(2, backoff=0, budget=False)
    for retry, attempts in ((limited, 200 + 20 + 30), (free, 400)):
        script = form.script(OSError())
        pipeline = form.pipeline(retry)
        for _ in range(200):
            form.caught(pipeline, script)
        assert len(script.times) == attempts
    assert (free.budget, Retry(budget=None).budget) == (None, None)
    assert Retry(budget=True).budget is not Retry(budget=True).budget


def test_a_call_is_counted_by_the_budget_without_asking_it() -> None:
    # Until a bucket ends, the fused function counts by itself.
    retry = Retry(3)
    fragment = retry.fragment(False)
    assert isinstance(fragment, Again)
    assert fragment.tally is retry.budget


def test_one_budget_may_be_shared(form: Form) -> None:
    shared = RetryBudget(0.5, floor=0)
    orders, stock = steady(9, budget=shared), steady(9, budget=shared, name="stock")
    for _ in range(5):
        form.run(form.pipeline(orders), lambda: "fine")
    form.caught(form.pipeline(stock), form.script(OSError()))
    assert (shared.count, shared.spent, stock.retries, orders.retries) == (6, 3, 3, 0)
    form.caught(form.pipeline(orders), form.script(OSError()))
    assert (orders.retries, orders.gave_up["budget"]) == (0, 1)


def test_policies_made_from_the_same_settings_share_no_budget(form: Form) -> None:
    settings = Retry(budget={"ratio": 0.1}).settings
    one, other = Retry.from_settings(settings), Retry.from_settings(settings)
    form.run(form.pipeline(one), lambda: "fine")
    assert isinstance(one, Retry)
    assert isinstance(other, Retry)
    assert one.budget is not None
    assert other.budget is not None
    assert (one.budget.count, other.budget.count) == (1, 0)


class Busy(OSError):
    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after


def test_who_asks_to_wait_is_waited_for_and_the_delay_comes_on_top(form: Form) -> None:
    script = form.script(Busy(7.0), "fine")
    form.run(form.pipeline(steady()), script)
    assert script.times == [0, 8]


def test_an_open_breaker_that_is_listed_is_left_alone_for_as_long_as_it_says(form: Form) -> None:
    script = form.script(CircuitOpen("breaker", "open", 5.0), "fine")
    form.run(form.pipeline(steady(on=(OSError, CircuitOpen))), script)
    assert script.times == [0, 6]


def test_what_a_response_says_is_heard_in_errors_and_in_results(form: Form) -> None:
    response = SimpleNamespace(status=503, headers={"Retry-After": "3"})
    error = OSError()
    error.response = response  # type: ignore[attr-defined]
    script = form.script(error, response, SimpleNamespace(status=200))
    classify = Classifier(failed=lambda response: response.status >= 500)
    assert form.run(form.pipeline(steady(), classify=classify), script).status == 200
    assert script.times == [0, 4, 8]


def test_who_asks_to_wait_for_too_long_gets_the_error_at_once(form: Form) -> None:
    retry = steady(retry_after_limit="10s")
    error = form.caught(form.pipeline(retry), form.script(Busy(10.5)))
    assert form.clock.now() == START
    assert notes(error) == ["retry: 1 attempt in 0 s; the other side asked to wait for longer than retry_after_limit"]
    assert form.run(form.pipeline(retry), form.script(Busy(10), "fine")) == "fine"
    assert retry.gave_up["retry_after"] == 1


def test_a_wait_that_was_asked_for_has_to_fit_into_the_deadline_too(form: Form) -> None:
    error = form.caught(form.pipeline(Timeout(5), steady()), form.script(Busy(4.5)))
    assert form.clock.now() == START
    assert notes(error) == ["retry: 1 attempt in 0 s; another attempt does not fit into the deadline"]


@pytest.mark.parametrize(("said", "second"), [(2.0, 3.0), (None, 1.0), (-5.0, 1.0), (float("nan"), 1.0)])
def test_what_is_asked_for_may_be_found_by_a_function(form: Form, said: float | None, second: float) -> None:
    script = form.script(Busy(7.0), "fine")
    form.run(form.pipeline(steady(retry_after=lambda outcome: said)), script)
    assert script.times == [0, second]


def test_no_budget_is_spent_on_what_ends_for_another_reason(form: Form) -> None:
    retry = steady(2)
    assert retry.budget is not None
    form.caught(form.pipeline(Timeout(0.5), retry), form.script(OSError()))
    form.caught(form.pipeline(retry), form.script(Busy(600)))
    form.caught(form.pipeline(retry), form.script(OSError()), idempotent=False)
    assert (retry.budget.spent, retry.budget.denied) == (0, 0)
    form.caught(form.pipeline(retry), form.script(OSError()))
    assert (retry.budget.spent, retry.budget.denied) == (1, 0)
