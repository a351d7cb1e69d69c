import asyncio
import threading
import traceback
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import current_deadline
from holdfast.core.errors import ConfigError, DeadlineExceeded, Rejected
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.fallback import NOT_GIVEN, Fallback, FallbackFailed, FallbackRule, FellBack
from holdfast.resilience.retry import Retry
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.witness import Witness

REASONS = ("errors", "refusals", "results", "failed")


def fail(*args: Any, **kwargs: Any) -> Any:
    raise OSError("down")


async def fail_async(*args: Any, **kwargs: Any) -> Any:
    await asyncio.sleep(0)
    raise OSError("down")


def counts(policy: Fallback) -> tuple[int, ...]:
    return tuple(policy.snapshot()[name] for name in REASONS)


@pytest.mark.parametrize("value", [None, 0, "", False, "spare", 7, ()])
def test_a_value_stands_in_for_an_error(value: Any) -> None:
    policy = Fallback(value)
    assert Pipeline("x", policy)(fail)() is value
    assert counts(policy) == (1, 0, 0, 0)


def test_what_succeeds_is_not_touched(run_async: RunAsync) -> None:
    policy = Fallback("spare")
    assert Pipeline("x", policy)(lambda: "real")() == "real"
    assert run_async(Pipeline("x", policy).acall(asyncio.sleep, 0, "real")) == "real"
    assert counts(policy) == (0, 0, 0, 0)


def test_it_stands_in_on_every_loop(run_async: RunAsync) -> None:
    assert run_async(Pipeline("x", Fallback("spare"))(fail_async)()) == "spare"


@pytest.mark.parametrize("value", [[], {"a": [1]}, {1}, bytearray(b"x")], ids=lambda value: type(value).__name__)
def test_a_value_that_callers_could_change_is_copied_for_each(value: Any) -> None:
    call = Fallback(value)(fail)
    one, two = call(), call()
    assert one == two == value
    assert len({id(one), id(two), id(value)}) == 3
    if isinstance(value, dict):
        assert one["a"] is not value["a"]


def test_a_refusal_by_a_policy_further_in_is_an_error_too() -> None:
    policy, gate = Fallback("spare"), Witness()
    call = Pipeline("x", policy, gate)(lambda: "real")
    gate.refuses = True
    assert call() == "spare"
    assert counts(policy) == (0, 1, 0, 0)


def test_a_timeout_further_in_is_an_error_too(run_async: RunAsync) -> None:
    policy = Fallback("spare")
    call = Pipeline("x", policy, Timeout(0.001))(asyncio.sleep)
    assert run_async(call(3600)) == "spare"
    assert counts(policy) == (0, 1, 0, 0)


def test_errors_that_it_is_not_for_go_on() -> None:
    policy = Fallback("spare", on=(KeyError, Rejected))
    with pytest.raises(OSError, match="down") as caught:
        Pipeline("x", policy)(fail)()
    assert caught.value.__context__ is None
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"
    assert counts(policy) == (0, 0, 0, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_ends_a_task_or_thread_is_never_caught(error: type[BaseException]) -> None:
    def interrupted() -> None:
        raise error

    policy = Fallback("spare")
    with pytest.raises(error):
        Pipeline("x", policy)(interrupted)()
    assert counts(policy) == (0, 0, 0, 0)


@pytest.mark.parametrize("where", ["call", "function"])
def test_a_cancellation_gets_out_at_once(run_async: RunAsync, where: str) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    policy = Fallback(function=hang)
    call = Pipeline("x", policy)(hang if where == "call" else fail_async)

    async def main() -> None:
        task = asyncio.ensure_future(call())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=1)
        assert task.cancelled()

    run_async(main())
    assert counts(policy) == (0, 0, 0, 0)


def test_a_function_is_another_upstream_with_the_same_arguments(run_async: RunAsync) -> None:
    async def mirror(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return "mirror", args, kwargs

    assert run_async(Pipeline("x", Fallback(function=mirror))(fail_async)(1, b=2)) == ("mirror", (1,), {"b": 2})
    plain = Fallback(function=lambda *args, **kwargs: (args, kwargs))
    assert Pipeline("x", plain)(fail)(1, b=2) == ((1,), {"b": 2})
    assert run_async(Pipeline("x", plain)(fail_async)(1)) == ((1,), {})


def test_a_handler_gets_the_call_and_the_error(run_async: RunAsync) -> None:
    def handler(call: Call, error: Exception | None) -> Any:
        return call.operation, call.args, error

    async def handler_async(call: Call, error: Exception | None) -> Any:
        await asyncio.sleep(0)
        return handler(call, error)

    def handler_future(call: Call, error: Exception | None) -> Any:
        return asyncio.ensure_future(handler_async(call, error))

    for made in (handler, handler_async, handler_future):
        operation, args, error = run_async(Pipeline("users", Fallback(handler=made))(fail_async)(7))
        assert (operation, args, str(error)) == ("users", (7,), "down")
    assert Pipeline("users", Fallback(handler=handler))(fail)(7)[:2] == ("users", (7,))


def test_an_async_handler_is_an_error_in_a_sync_call() -> None:
    async def handler(call: Call, error: Exception | None) -> None:
        pass

    policy = Fallback(handler=handler, name="spare")
    with pytest.raises(TypeError, match="spare: the handler is async, and the call is not") as caught:
        Pipeline("x", policy)(fail)()
    assert isinstance(caught.value.__context__, OSError)
    assert counts(policy) == (0, 0, 0, 1)


def test_a_handler_that_fails_raises_its_own_error_with_the_first_as_context(run_async: RunAsync) -> None:
    def handler(call: Call, error: Exception | None) -> None:
        raise LookupError("no spare")

    policy = Fallback(handler=handler)
    with pytest.raises(LookupError, match="no spare") as caught:
        Pipeline("x", policy)(fail)()
    assert str(caught.value.__context__) == "down"

    async def ask() -> BaseException:
        with pytest.raises(LookupError) as failure:
            await Pipeline("x", policy)(fail_async)()
        return failure.value

    assert str(run_async(ask()).__context__) == "down"
    assert counts(policy) == (0, 0, 0, 2)


def test_the_first_rule_that_fits_counts_then_the_policys_own_answer() -> None:
    policy = Fallback(
        "own",
        on=(LookupError, OSError),
        rules=[
            FallbackRule(TimeoutError, value="slow"),
            {"on": "LookupError", "function": lambda error: f"looked up {error!r}"},
            FallbackRule((OSError, KeyError), handler=lambda call, error: f"handled {error}"),
        ],
    )
    pipeline = Pipeline("x", policy)

    def throw(error: Exception) -> None:
        raise error

    assert pipeline.call(throw, DeadlineExceeded()) == "slow"
    assert pipeline.call(throw, KeyError("a")) == "looked up KeyError('a')"
    assert pipeline.call(throw, OSError("x")) == "handled x"
    with pytest.raises(ValueError, match="other"):
        pipeline.call(throw, ValueError("other"))
    policy.update(rules=())
    assert pipeline.call(throw, KeyError("a")) == "own"


def test_without_an_answer_of_its_own_only_the_rules_count() -> None:
    pipeline = Pipeline("x", Fallback(rules=[FallbackRule(KeyError, value=1)]))
    with pytest.raises(OSError, match="down"):
        pipeline.call(fail)


def test_results_that_are_failures_are_replaced_when_it_is_told_to(run_async: RunAsync) -> None:
    classify = Classifier(failed=lambda result: result == "bad")
    seen: list[Any] = []

    def handler(call: Call, error: Exception | None) -> str:
        seen.append(error)
        return "spare"

    policy, outside = Fallback(handler=handler, on_result=True), Witness()
    pipeline = Pipeline("x", outside, policy, classify=classify)
    assert pipeline.call(lambda: "bad") == "spare"
    assert run_async(pipeline.acall(asyncio.sleep, 0, "bad")) == "spare"
    assert pipeline.call(lambda: "good") == "good"
    assert seen == [None, None]
    assert counts(policy) == (0, 0, 2, 0)
    policy.update(on_result=False)
    assert pipeline.call(lambda: "bad") == "bad"
    assert outside.verdicts == [FAILED, FAILED, OK, FAILED]


def test_policies_further_out_see_that_the_call_failed() -> None:
    outside, gate = Witness(), Witness("inside")
    pipeline = Pipeline("x", outside, Fallback("spare"), gate)
    assert pipeline.call(fail) == "spare"
    gate.refuses = True
    assert pipeline.call(fail) == "spare"
    assert outside.verdicts == [FAILED, IGNORED]


def test_a_retry_further_out_tries_again_and_keeps_the_answer() -> None:
    calls: list[int] = []

    def down() -> None:
        calls.append(1)
        raise OSError

    assert Pipeline("x", Retry(3, backoff=0), Fallback("spare"))(down)() == "spare"
    assert len(calls) == 3


def test_when_one_cannot_answer_the_next_one_out_does() -> None:
    inner, outer = Fallback("late", on=TimeoutError, name="inner"), Fallback(name="outer", function=lambda: "outer")
    pipeline = Pipeline("x", outer, inner)
    assert pipeline.call(fail) == "outer"
    inner.update(on=(OSError,), value=NOT_GIVEN, function=lambda: 1 / 0)
    assert pipeline.call(fail) == "outer"
    inner.update(function=lambda: "inner")
    assert pipeline.call(fail) == "inner"
    # To whoever is further out the call has failed, and with on_result that is what counts.
    outer.update(on_result=True)
    assert pipeline.call(fail) == "outer"


def test_a_function_has_the_time_that_is_left_around_the_call() -> None:
    clock = VirtualClock()
    seen: list[float] = []

    async def mirror(seconds: float) -> str:
        seen.append(current_deadline() - clock.now())
        return "mirror"

    def handler(call: Call, error: Exception | None) -> Any:
        return call.deadline - clock.now()

    clock.run(Pipeline("x", Timeout(5), Fallback(function=mirror), Timeout(2), clock=clock)(asyncio.sleep)(60))
    left = clock.run(Pipeline("x", Timeout(5), Fallback(handler=handler), Timeout(2), clock=clock)(asyncio.sleep)(60))
    assert [*seen, left] == [3, 3]


def test_whoever_listens_hears_why_and_what() -> None:
    events: list[Any] = []
    gate, clock = Witness("breaker"), VirtualClock()
    policy = Fallback("spare", rules=[FallbackRule(KeyError, handler=lambda call, error: 1 / 0)])
    policy.listeners.subscribe(events.append)
    pipeline = Pipeline("users", policy, gate, clock=clock)

    def missing() -> None:
        raise KeyError("x")

    pipeline.call(fail)
    with pytest.raises(ZeroDivisionError):
        pipeline.call(missing)
    gate.refuses = True
    pipeline.call(fail)
    at, known = clock.wall(), ("fallback", "users")
    assert events == [
        FellBack(at, *known, "error", "OSError: down", "value"),
        FallbackFailed(at, *known, "error", "KeyError: 'x'", "handler", "ZeroDivisionError: division by zero"),
        FellBack(at, *known, "refusal", "CircuitOpen: breaker: told to", "value"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, ".value: expected an answer: value, function, handler, last_good or rules; write value=None"),
        ({"last_good": "soon"}, ".last_good: got 'soon', expected a duration"),
        ({"value": 1, "on": "KeyboardInterrupt"}, ".on: got (<class 'KeyboardInterrupt'>,), expected classes of Exc"),
        ({"value": 1, "function": "f"}, ".function: got 'f', expected a function; it can only be given in code"),
        ({"value": [threading.Lock()]}, ".value: got [<unlocked _thread.lock object at"),
        ({"value": print}, ".value: got <built-in function print>, expected a value; a function goes into function="),
        ({"value": 1, "function": print}, ".value: expected at most one of value, function and handler"),
        ({"rules": 5}, '.rules: got 5, expected a list of tables such as { on = "TimeoutError", value = 0 }'),
        ({"rules": [{"on": "OSError"}]}, ".rules[0].value: expected exactly one of value, function and handler"),
        ({"rules": [{"value": 1}]}, ".rules[0].on: expected exceptions, or their names such as OSError; it must"),
        ({"rules": [{"on": "OSError", "value": 1}, {"on": "x", "value": 1}]}, ".rules[1].on: got 'x', expected the"),
        ({"rules": [{"on": "OSError", "vlaue": 1}]}, ".rules[0].vlaue: expected the name of a setting; did you mean"),
        ({"rules": [{"on": "OSError", "value": 1}] * 65}, ".rules: got [{'on': 'OSError', 'value': 1}, {'on': "),
    ],
)
def test_a_mistake_in_the_settings_is_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("x", [{"fallback": data}], catalog=CATALOG.adding(Fallback))
    assert f"[0].fallback{message}" in str(caught.value)


def test_everything_that_is_data_can_be_given_as_data() -> None:
    table = {
        "value": {"items": []},
        "last_good": "10m",
        "on": ["OSError", "holdfast.core.errors.Rejected"],
        "rules": [{"on": "TimeoutError", "value": 0}],
        "on_result": True,
    }
    pipeline = build("x", [{"fallback": "spare"}, {"fallback": table}], catalog=CATALOG.adding(Fallback))
    settings = pipeline.policies[1].settings
    assert (settings.value, settings.last_good) == ({"items": []}, 600)
    assert settings.on == (OSError, Rejected)
    assert pipeline.call(fail) == {"items": []}
