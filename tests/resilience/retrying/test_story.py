"""A refusal that ends a call tells what failed before it."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull, CircuitOpen, DeadlineExceeded, Rejected
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.retry import Retry
from holdfast.resilience.retrying.story import FAILURE_LIMIT, Delay, add_note, failure_of
from resilience.attempts import Form, notes

STORY = "retry: 2 attempts in 1 s; this error is not one to retry"


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


def steady(attempts: int = 3, **settings: Any) -> Retry:
    return Retry(attempts, **{"backoff": 1.0, "jitter": "none", **settings})


def test_a_breaker_that_refuses_the_second_attempt_hides_the_first_failure_no_more(form: Form) -> None:
    script = form.script(ConnectionResetError("peer\n  went away"), "never asked")
    error = form.caught(form.pipeline(steady(), Breaker(consecutive=1)), script)
    assert isinstance(error, CircuitOpen)
    assert notes(error) == [f"{STORY}; the failure before: ConnectionResetError: peer went away"]


@pytest.mark.parametrize("refusal", [BulkheadFull("inner", "full"), DeadlineExceeded("inner", "too late")])
def test_whatever_refuses_tells_the_failure_before(form: Form, refusal: Rejected) -> None:
    error = form.caught(form.pipeline(steady(2)), form.script(OSError("broken"), refusal))
    assert error is refusal
    assert notes(error)[-1].endswith("; the failure before: OSError: broken")


def test_of_refusals_that_are_retried_the_failure_before_them_is_told(form: Form) -> None:
    script = form.script(OSError("broken"), CircuitOpen("inner", "open"), CircuitOpen("inner", "open"))
    error = form.caught(form.pipeline(steady(3, on=(OSError, Rejected))), script)
    assert notes(error) == ["retry: 3 attempts in 2 s; all attempts are used up; the failure before: OSError: broken"]


def test_the_latest_failure_is_told_also_when_it_is_a_result(form: Form) -> None:
    script = form.script(OSError("broken"), 503, CircuitOpen("inner", "open"))
    error = form.caught(form.pipeline(steady(), classify=Classifier(failed=lambda status: status == 503)), script)
    assert notes(error)[0].endswith("; the failure before: a result that counts as a failure")


def test_an_error_that_shows_itself_what_failed_tells_no_other(form: Form) -> None:
    for errors in ((OSError("one"), OSError("two")), (OSError("one"), ValueError("two"))):
        error = form.caught(form.pipeline(steady(2)), form.script(*errors))
        assert "before" not in notes(error)[0]
    first = form.caught(form.pipeline(steady(2)), form.script(CircuitOpen("inner", "open")))
    assert notes(first) == []


class Unspeakable(OSError):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (OSError(), "OSError"),
        (OSError("x" * 1000), "OSError: " + "x" * FAILURE_LIMIT),
        (Unspeakable(), "Unspeakable"),
        (503, "a result that counts as a failure"),
        (CircuitOpen("inner", "open"), "CircuitOpen: inner: open"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_a_failure_is_told_in_one_short_line(outcome: Any, failure: str) -> None:
    assert failure_of(outcome, None) == failure
    assert failure_of(CircuitOpen("inner", "open"), Delay(1.0, failure)) == failure


def test_time_that_ran_out_is_a_failure_of_its_own() -> None:
    assert failure_of(DeadlineExceeded("attempt", "too late"), Delay(1.0, "OSError")).startswith("DeadlineExceeded: ")


def test_a_note_never_makes_a_failure_another_one() -> None:
    class Mute(Exception):
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    class Odd(Exception):
        __notes__ = [Unspeakable()]  # type: ignore[list-item]  # noqa: RUF012

    add_note(Mute(), "retry", "told")
    add_note(Odd(), "retry", "told")


def test_a_delay_is_the_number_that_it_was() -> None:
    delay = Delay(0.5, "OSError")
    assert (delay, delay.failure, delay * 2) == (0.5, "OSError", 1.0)


class Thing:
    """Something that can be watched as it goes."""


@pytest.mark.parametrize("end", ["refused", "recovered", "cancelled"])
def test_no_failure_waits_for_the_collector_with_the_calls_arguments(end: str) -> None:
    clock = VirtualClock()
    pipeline = Pipeline("x", steady(2), clock=clock)
    outcomes: list[Any] = [
        OSError,
        {"refused": CircuitOpen, "recovered": None, "cancelled": asyncio.CancelledError}[end],
    ]

    def fail(thing: Thing) -> None:
        kind = outcomes.pop(0)
        if kind is not None:
            raise kind("inner", "open")

    thing = Thing()
    reference = weakref.ref(thing)
    gc.collect()
    gc.disable()
    try:
        try:
            pipeline.call(fail, thing)
        except (CircuitOpen, asyncio.CancelledError):
            assert end != "recovered"
        del thing
        assert reference() is None
    finally:
        gc.enable()
    assert outcomes == []
