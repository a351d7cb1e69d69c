import asyncio
import functools
import gc
import inspect
import random
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.call import FAILED, Call
from holdfast.core.classify import Classifier
from holdfast.core.context import cancellation_scope
from holdfast.core.errors import CallCancelled, CircuitOpen, DeadlineExceeded, Overloaded, Rejected
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import GateSettings
from holdfast.resilience.retry import GaveUp, Retried, Retry, point_of_no_return
from holdfast.resilience.retrying.backoff import Constant, Exponential, next_delay
from holdfast.resilience.timeout import Timeout
from resilience.attempts import Form, notes

SEED = 11


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


def steady(attempts: int = 3, **settings: Any) -> Retry:
    """Retries after a second each, without jitter."""
    return Retry(attempts, **{"backoff": 1.0, "jitter": "none", **settings})


def test_a_call_that_failed_is_made_again_after_a_delay_that_grows(form: Form) -> None:
    script = form.script(OSError("one"), ConnectionError("two"), "fine")
    retry = Retry(3, backoff=Exponential(1, 3), jitter="none")
    assert form.run(form.pipeline(retry), script) == "fine"
    assert script.times == [0, 1, 4]


def test_three_attempts_in_all_are_the_default_and_the_delays_are_spread(form: Form) -> None:
    script = form.script(TimeoutError())
    pipeline = form.pipeline(Retry(random=random.Random(SEED)))
    assert isinstance(form.caught(pipeline, script), TimeoutError)
    chance = random.Random(SEED).random
    first, second = (next_delay(attempt, Exponential(0.1, 2, 10), "full", chance) for attempt in (1, 2))
    assert script.times == pytest.approx([0, first, first + second])
    assert 0 < first < 0.1
    assert 0 < second < 0.2


def test_randomness_may_be_any_function(form: Form) -> None:
    script = form.script(OSError(), "fine")
    form.run(form.pipeline(Retry(backoff=8.0, random=lambda: 0.25)), script)
    assert script.times == [0, 2]


def test_decorrelated_delays_go_by_the_one_before_of_the_same_call(form: Form) -> None:
    script = form.script(OSError())
    retry = Retry(4, backoff=Exponential(1, cap=60), jitter="decorrelated", random=lambda: 0.5)
    form.caught(form.pipeline(retry), script)
    assert script.times == [0, 2, 5.5, 11.25]
    again = form.script(OSError())
    began = form.clock.now() - 1000
    form.caught(form.pipeline(retry), again)
    assert [at - began for at in again.times] == pytest.approx([0, 2, 5.5, 11.25])


def test_the_last_error_comes_out_itself_with_its_traceback_and_its_story(form: Form) -> None:
    errors = [OSError("one"), OSError("two"), OSError("three")]
    script = form.script(*errors, takes=0.5)
    error = form.caught(form.pipeline(steady()), script)
    assert error is errors[2]
    assert notes(error) == ["retry: 3 attempts in 3.5 s; all attempts are used up"]
    assert (error.__cause__, error.__context__) == (None, None)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "__call__"
    assert [notes(other) for other in errors[:2]] == [[], []]


def test_an_error_that_is_not_listed_goes_through_as_if_nobody_was_there(form: Form) -> None:
    script = form.script(KeyError("sku"))
    retry = steady()
    told: list[Event] = []
    retry.listeners.subscribe(told.append)
    error = form.caught(form.pipeline(retry), script)
    assert (script.times, notes(error), told) == ([0], [], [])
    assert not any(retry.snapshot()["gave_up"].values())


def test_an_error_that_is_not_listed_ends_a_call_that_was_retried(form: Form) -> None:
    script = form.script(OSError(), KeyError("sku"))
    error = form.caught(form.pipeline(steady()), script)
    assert isinstance(error, KeyError)
    assert notes(error) == ["retry: 2 attempts in 1 s; this error is not one to retry"]


@pytest.mark.parametrize(
    ("settings", "error", "attempts"),
    [
        ({"on": KeyError}, KeyError(), 3),
        ({"on": (KeyError, ValueError)}, ValueError(), 3),
        ({"on": KeyError}, OSError(), 1),
        ({"not_on": FileNotFoundError}, FileNotFoundError(), 1),
        ({"not_on": FileNotFoundError}, PermissionError(), 3),
        ({"when": lambda error: error.errno == 5}, OSError(5, "io"), 3),
        ({"when": lambda error: error.errno == 5}, OSError(6, "other"), 1),
        ({"on": ()}, OSError(), 1),
    ],
)
def test_on_and_not_on_and_when_say_what_is_retried(
    form: Form, settings: dict[str, Any], error: Exception, attempts: int
) -> None:
    script = form.script(error)
    form.caught(form.pipeline(steady(**settings)), script)
    assert len(script.times) == attempts


def test_a_predicate_that_fails_is_not_hidden_and_neither_is_what_it_was_asked_about(form: Form) -> None:
    error = form.caught(form.pipeline(steady(when=lambda error: 1 / 0 > 0)), form.script(OSError("first")))
    assert isinstance(error, ZeroDivisionError)
    assert str(error.__context__) == "first"


@pytest.mark.parametrize(
    ("on", "error", "attempts"),
    [
        (OSError, CircuitOpen("breaker", "open"), 1),
        (Exception, CircuitOpen("breaker", "open"), 1),
        (Exception, CallCancelled(), 1),
        (CallCancelled, CallCancelled(), 1),
        ((Exception, CircuitOpen), CircuitOpen("breaker", "open"), 3),
        (CircuitOpen, Overloaded("limit", "full"), 1),
        (Rejected, Overloaded("limit", "full"), 3),
        (OSError, DeadlineExceeded("timeout", "took too long"), 3),
        (Exception, DeadlineExceeded("timeout", "took too long"), 3),
        (ConnectionError, DeadlineExceeded("timeout", "took too long"), 1),
    ],
)
def test_a_refusal_is_retried_only_when_it_is_named_but_a_time_limit_is_a_failure(
    form: Form, on: Any, error: Exception, attempts: int
) -> None:
    script = form.script(error)
    form.caught(form.pipeline(steady(on=on)), script)
    assert len(script.times) == attempts


def test_an_attempt_that_took_too_long_is_made_again(form: Form) -> None:
    calls: list[float] = []

    async def slow() -> str:
        calls.append(form.clock.now())
        await asyncio.sleep(60 if len(calls) < 3 else 0)
        return "fine"

    pipeline = form.pipeline(steady(), Timeout(0.5))
    assert form.clock.run(pipeline.acall(slow)) == "fine"
    assert calls == [1000, 1001.5, 1003]


def test_results_that_the_classifier_calls_failures_are_retried_and_the_last_one_returned(form: Form) -> None:
    server_errors = Classifier(failed=lambda status: status >= 500)
    script = form.script(500, 200)
    retry = steady()
    assert form.run(form.pipeline(retry, classify=server_errors), script) == 200
    script = form.script(500, 501, 502, 503)
    assert form.run(form.pipeline(retry, classify=server_errors), script) == 502
    assert (retry.recovered, retry.gave_up["attempts"]) == (1, 1)
    retry.update(on_result=False)
    script = form.script(500)
    assert form.run(form.pipeline(retry, classify=server_errors), script) == 500
    script = form.script(OSError(), 500, 200)
    assert form.run(form.pipeline(retry, classify=server_errors), script) == 500
    assert (retry.recovered, retry.gave_up["not_retryable"]) == (1, 1)


class Streaming(Gate[GateSettings]):
    """Marks the call once its first byte is out."""

    kind = "streaming"

    @accepts(GateSettings)
    def __init__(self, settings: GateSettings) -> None:
        super().__init__(settings)

    def enter(self, call: Call) -> None:
        return None

    def exit(self, call: Call, token: object) -> None:
        if call.verdict is FAILED:
            call.idempotent = False


def test_a_call_that_is_not_idempotent_is_not_made_again_unless_told_to(form: Form) -> None:
    script = form.script(OSError(), "fine")
    error = form.caught(form.pipeline(steady()), script, idempotent=False)
    assert notes(error) == ["retry: 1 attempt in 0 s; the call is not idempotent"]
    assert script.times == [0]
    assert form.run(form.pipeline(steady(non_idempotent=True)), form.script(OSError(), "fine"), idempotent=False)
    script = form.script(OSError(), "fine")
    form.caught(form.pipeline(steady(), Streaming()), script)
    assert len(script.times) == 1


def test_nothing_is_made_again_past_the_point_of_no_return(form: Form) -> None:
    script = form.script(OSError("before"), OSError("after"), "never")

    def stream() -> Any:
        with point_of_no_return():
            return script()

    def open_and_stream() -> Any:
        return script() if not script.times else stream()

    error = form.caught(form.pipeline(steady()), open_and_stream)
    assert str(error) == "after"
    assert script.times == [0, 1]
    assert notes(error) == ["retry: 2 attempts in 1 s; this error is not one to retry"]


def test_work_that_was_called_off_is_not_begun_again(form: Form) -> None:
    with cancellation_scope() as token:
        script = form.script(OSError("first"))

        def call_off() -> Any:
            token.cancel()
            return script()

        error = form.caught(form.pipeline(steady()), call_off)
    assert notes(error) == ["retry: 1 attempt in 0 s; the work was called off"]


def test_retries_inside_of_retries_each_count_their_own_attempts(form: Form) -> None:
    inner, outer = steady(2, name="inner"), steady(3, name="outer")
    script = form.script(*[OSError()] * 4, "fine")
    assert form.run(form.pipeline(outer, inner), script) == "fine"
    assert (inner.retries, inner.gave_up["attempts"], inner.recovered) == (2, 2, 0)
    assert (outer.retries, outer.recovered) == (2, 1)
    error = form.caught(form.pipeline(outer, inner), form.script(OSError()))
    assert len(notes(error)) == 2


def test_an_error_that_is_raised_by_many_calls_tells_the_last_story_only(form: Form) -> None:
    shared = OSError("the one instance")
    for _ in range(20):
        form.caught(form.pipeline(steady(2)), form.script(shared))
    form.caught(form.pipeline(steady(3)), form.script(shared))
    assert notes(shared) == ["retry: 3 attempts in 2 s; all attempts are used up"]


class Frozen(OSError):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class Slotted(OSError):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        return ["of its own"]


def test_an_error_that_does_not_let_itself_be_changed_comes_out_all_the_same(form: Form) -> None:
    assert notes(form.caught(form.pipeline(steady()), form.script(Frozen()))) == [
        "retry: 3 attempts in 2 s; all attempts are used up"
    ]
    error = form.caught(form.pipeline(steady()), form.script(Slotted()))
    assert isinstance(error, Slotted)
    assert notes(error) == ["of its own"]


def test_listeners_hear_of_each_attempt_that_failed_and_of_the_end(form: Form) -> None:
    told: list[Event] = []
    retry = steady(3, name="patient")
    retry.listeners.subscribe(told.append)
    form.caught(form.pipeline(retry), form.script(ConnectionResetError(), OSError()))
    at = form.clock.wall()
    assert told == [
        Retried(at - 2, "patient", "orders", 1, "ConnectionResetError", 1.0),
        Retried(at - 1, "patient", "orders", 2, "OSError", 1.0),
        GaveUp(at, "patient", "orders", 3, "OSError", "attempts"),
    ]
    told.clear()
    form.run(form.pipeline(retry, classify=Classifier(failed=lambda status: status >= 500)), form.script(500, 200))
    assert [event.error for event in told if isinstance(event, Retried)] == [""]


def test_the_counters_tell_calls_retries_recoveries_and_why_calls_were_given_up(form: Form) -> None:
    retry = steady(3, budget=None)
    pipeline = form.pipeline(retry)
    form.run(pipeline, form.script("fine"))
    form.run(pipeline, form.script(OSError(), OSError(), "fine"))
    form.caught(pipeline, form.script(OSError()))
    form.caught(pipeline, form.script(OSError(), KeyError()))
    found = retry.snapshot()
    assert (found["retried"], found["retries"], found["recovered"], found["budget"]) == (3, 5, 1, None)
    assert {reason: count for reason, count in found["gave_up"].items() if count} == {"attempts": 1, "not_retryable": 1}


def test_a_failed_call_leaves_no_cycle_behind(form: Form) -> None:
    pipeline = form.pipeline(steady())
    run = pipeline(form.script(ConnectionError()))

    def once() -> None:
        with pytest.raises(ConnectionError):
            run()

    once()
    gc.collect()
    gc.disable()
    try:
        once()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_what_is_decorated_keeps_its_name_and_signature_whatever_it_is() -> None:
    class Stock:
        @Retry(2)
        def count(self, sku: str, *, fresh: bool = False) -> int:
            """Counts."""
            return 5

        @Retry(2)
        async def refill(self, sku: str) -> int:
            return 6

    assert Stock().count("book", fresh=True) == 5
    assert asyncio.run(Stock().refill("book")) == 6
    assert (Stock.count.__name__, Stock.count.__doc__) == ("count", "Counts.")
    assert str(inspect.signature(Stock.count)) == "(self, sku: str, *, fresh: bool = False) -> int"
    assert inspect.iscoroutinefunction(Stock.refill)
    assert Retry(2)(functools.partial(Stock().count, "book"))() == 5
    assert asyncio.run(Retry(2)(functools.partial(Stock().refill, "book"))()) == 6


def test_generator_functions_are_refused() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, later):
        with pytest.raises(TypeError, match="generator function"):
            Retry(2)(function)


OUTCOMES = st.sampled_from([OSError, KeyError, 500, 200])


@settings(max_examples=150, deadline=None)
@given(st.lists(OUTCOMES, min_size=1, max_size=7), st.integers(1, 5), st.sampled_from(["sync", "async"]))
def test_a_call_does_what_a_plain_loop_would(outcomes: list[Any], attempts: int, name: str) -> None:
    form = Form(name)
    script = form.script(*(made if isinstance(made, int) else made() for made in outcomes))
    retry = Retry(attempts, backoff=Exponential(1, 2, 60), jitter="none")
    pipeline = form.pipeline(retry, classify=Classifier(failed=lambda status: status >= 500))

    times, now, result = [], 0.0, None
    for attempt in range(1, attempts + 1):
        times.append(now)
        result = outcomes[min(attempt, len(outcomes)) - 1]
        if result in (KeyError, 200):
            break
        now += 2 ** (attempt - 1)

    if isinstance(result, int):
        assert form.run(pipeline, script) == result
    else:
        assert result is not None
        assert type(form.caught(pipeline, script)) is result
    assert script.times == times
    assert retry.retries == len(times) - 1
    assert retry.recovered + sum(retry.gave_up.values()) == (1 if len(times) > 1 or result in (OSError, 500) else 0)


def test_a_policy_without_a_pipeline_works_as_well() -> None:
    form = Form("sync")
    script = form.script(OSError(), "fine")
    assert Pipeline("x", Retry(backoff=Constant(0)), clock=form.clock).call(script) == "fine"
    assert Retry(backoff=0)(form.script(OSError(), "fine"))() == "fine"
