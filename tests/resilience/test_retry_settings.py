"""What can be set, from code and from plain data, and changed while calls are under way."""

import asyncio
import random
from typing import Any

import pytest

from holdfast.core.errors import ConfigError, RateLimited
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.retry import RULES_LIMIT, Retry, RetrySettings, Rule
from holdfast.resilience.retrying.backoff import Constant, Exponential, Linear, Listed
from holdfast.resilience.retrying.budget import RetryBudget, RetryBudgetSettings
from resilience.attempts import START, Form, notes


@pytest.fixture(params=["sync", "async"])
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


def test_the_first_rule_that_fits_says_how_often_and_how_fast(form: Form) -> None:
    retry = Retry(
        3,
        backoff=1.0,
        jitter="none",
        rules=(
            Rule(on=ConnectionResetError, attempts=5, backoff=0.25),
            Rule(on=ConnectionError, attempts=1),
            Rule(on=(KeyError, RateLimited), backoff=Listed((2.0, 3.0))),
            Rule(on=ValueError, jitter="equal"),
        ),
        random=lambda: 0.5,
    )
    pipeline = form.pipeline(retry)
    for outcome, times in [
        (ConnectionResetError(), [0, 0.25, 0.5, 0.75, 1]),
        (ConnectionAbortedError(), [0]),
        (KeyError(), [0, 2, 5]),
        (RateLimited("limit", "too many"), [0, 2, 5]),
        (ValueError(), [0, 0.75, 1.5]),
        (OSError(), [0, 1, 2]),
        (TypeError(), [0]),
    ]:
        began = form.clock.now() - START
        script = form.script(outcome)
        form.caught(pipeline, script)
        assert [at - began for at in script.times] == pytest.approx(times), outcome


def test_the_attempts_of_a_rule_are_those_of_the_call_whatever_the_others_failed_of(form: Form) -> None:
    retry = Retry(2, backoff=0, rules=[Rule(on=TimeoutError, attempts=4)])
    script = form.script(TimeoutError(), TimeoutError(), OSError(), "never")
    assert notes(form.caught(form.pipeline(retry), script)) == [
        "retry: 3 attempts in 0 s; all attempts are used up"
    ]  # fmt: skip
    script = form.script(OSError(), TimeoutError(), TimeoutError(), "fine")
    assert form.run(form.pipeline(retry), script) == "fine"


def test_what_is_not_to_be_retried_is_not_whatever_the_rules_say(form: Form) -> None:
    retry = Retry(rules=[Rule(on=OSError, attempts=9)], not_on=PermissionError)
    script = form.script(PermissionError())
    form.caught(form.pipeline(retry), script)
    assert script.times == [0]


def test_everything_but_functions_can_be_plain_data() -> None:
    data: dict[str, Any] = {
        "attempts": 5,
        "backoff": {"kind": "linear", "initial": "50ms", "step": "100ms", "cap": "2s"},
        "jitter": "equal",
        "on": ["OSError", "asyncio.TimeoutError", "holdfast.core.errors.CircuitOpen"],
        "not_on": "FileNotFoundError",
        "rules": [{"on": "ConnectionResetError", "attempts": 9, "backoff": "10ms", "jitter": "none"}],
        "on_result": False,
        "non_idempotent": True,
        "budget": {"ratio": 0.2, "floor": 1, "window": "30s"},
        "retry_after_limit": "5m",
        "name": "patient",
    }
    settings = Retry(**data).settings
    assert settings.backoff == Linear(0.05, 0.1, 2)
    assert settings.rules == (Rule(on=(ConnectionResetError,), attempts=9, backoff=Constant(0.01), jitter="none"),)
    assert settings.budget == RetryBudgetSettings(0.2, 1, 30)
    assert settings.retry_after_limit == 300
    assert RetrySettings(**data) == settings


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("attempts", 0, "Retry attempts: got 0, expected a whole number, at least 1, at most 1000"),
        ("attempts", 2.5, "Retry attempts: got 2.5, expected a whole number"),
        ("backoff", "soon", "Retry backoff: got 'soon', expected a delay such as 200ms, a list of delays, a table"),
        ("backoff", {"factor": 0}, "Retry backoff.factor: got 0, expected a number, at least 1"),
        ("backoff", {"kind": "log"}, "Retry backoff.kind: got 'log', expected one of exponential, linear"),
        ("backoff", asyncio.sleep, "Retry backoff: got <function sleep"),
        ("jitter", "ful", 'Retry jitter: got \'ful\', expected "full" or "equal" or "decorrelated" or "none"; did you'),
        ("jitter", "decorrelated", "Retry jitter: got 'decorrelated', expected another kind of jitter; decorrelated"),
        ("on", "NoSuchError", "Retry on: got 'NoSuchError', expected the name of an exception"),
        ("on", asyncio.CancelledError, "expected classes of Exception; a cancellation is never retried"),
        ("on", BaseException, "expected classes of Exception; a cancellation is never retried"),
        ("rules", {"on": "OSError"}, "Retry rules: got {'on': 'OSError'}, expected a list of tables such as"),
        ("rules", [{"attempts": 2}], "Retry rules[0].on: expected exceptions"),
        ("rules", [{"on": "OSError"}, {"on": "OSError", "atempts": 2}], "Retry rules[1].atempts: expected the name of"),
        ("rules", [{"on": "OSError", "backoff": {"cap": -1}}], "Retry rules[0].backoff.cap: got -1, expected"),
        ("rules", [{"on": "SystemExit"}], "expected classes of Exception; a cancellation is never retried"),
        ("rules", [{"on": "OSError"}] * (RULES_LIMIT + 1), "expected at most 64 rules"),
        ("when", "always", "Retry when: got 'always', expected a function, given in code"),
        ("when", asyncio.sleep, "expected a plain function; nothing is awaited here"),
        ("retry_after", 5, "Retry retry_after: got 5, expected a function, given in code"),
        ("budget", {"ratio": -1}, "Retry budget.ratio: got -1, expected a number, at least 0"),
        ("budget", {"window": "1h"}, "Retry budget.window: got '1h', expected a duration such as 500ms or 1m30s"),
        ("budget", "big", "Retry budget: got 'big', expected a RetryBudget, a table such as"),
        ("random", 7, "Retry random: got 7, expected a random.Random, or a function that returns numbers"),
        ("random", random.Random, "Retry random: got <class 'random.Random'>, expected a random.Random"),
        ("on_result", 1, "Retry on_result: got 1, expected true or false"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(setting: str, value: Any, message: str) -> None:
    values = {setting: value, **({"backoff": 1.0} if value == "decorrelated" else {})}
    with pytest.raises(ConfigError) as caught:
        Retry(**values)
    assert message in str(caught.value)
    retry = Retry(backoff=values.get("backoff", 1.0) if setting != "backoff" else 1.0)
    with pytest.raises(ConfigError):
        retry.update(**{setting: value})
    assert retry.settings == RetrySettings(backoff=1.0)


def test_decorrelated_jitter_needs_exponential_delays_in_the_rules_too() -> None:
    assert Retry(jitter="decorrelated", rules=[Rule(on=KeyError, backoff=Exponential(1))]).settings.rules
    assert Retry(jitter="decorrelated", rules=[Rule(on=KeyError, backoff=1, jitter="full")]).settings.rules
    with pytest.raises(ConfigError, match="decorrelated"):
        Retry(jitter="decorrelated", rules=[Rule(on=KeyError, backoff=1)])


def test_an_update_holds_for_what_is_decorated_already_and_keeps_budget_and_counters(form: Form) -> None:
    retry = Retry(2, backoff=0)
    pipeline = form.pipeline(retry)
    form.caught(pipeline, form.script(OSError()))
    budget = retry.budget
    assert budget is not None
    retry.update(attempts=4, budget={"ratio": 0.5})
    assert retry.budget is budget
    assert (budget.settings.ratio, budget.count, budget.spent) == (0.5, 1, 1)
    script = form.script(OSError())
    form.caught(pipeline, script)
    assert len(script.times) == 4
    assert (retry.retries, budget.count, budget.spent) == (4, 2, 4)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_an_update_of_the_attempts_reaches_retries_that_are_under_way(before: int, after: int) -> None:
    retry = Retry(before, backoff=0)
    begun: list[int] = []

    def fail() -> None:
        begun.append(len(begun))
        retry.update(attempts=after)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        Pipeline("x", retry).call(fail)
    assert len(begun) == after


def test_an_update_may_take_the_budget_away_and_give_another(form: Form) -> None:
    retry = Retry(2, backoff=0)
    pipeline = form.pipeline(retry)
    script = form.script("fine")
    first = retry.budget
    assert first is not None
    form.run(pipeline, script)
    retry.update(budget=False)
    form.run(pipeline, script)
    other = RetryBudget()
    retry.update(budget=other)
    form.run(pipeline, script)
    assert (first.count, other.count) == (1, 1)
    retry.update(budget=True)
    assert retry.budget is first


def test_as_many_rules_as_the_limit_says_are_taken() -> None:
    assert len(Retry(rules=[{"on": OSError}] * RULES_LIMIT).settings.rules) == RULES_LIMIT
