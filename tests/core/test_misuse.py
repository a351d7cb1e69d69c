"""Mistakes that people make who come to the policies for the first time, and what they are told."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.core.call import Call
from holdfast.core.classify import Classifier
from holdfast.core.context import Criticality
from holdfast.core.pipeline import SHOWN_LIMIT, Pipeline
from holdfast.core.policy import Gate
from holdfast.core.settings import GateSettings
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.retry import Retry
from holdfast.resilience.singleflight import SingleFlight
from holdfast.resilience.timeout import Timeout


def load(name: str) -> str:
    return name


async def load_async(name: str) -> str:
    return name


async def wrong(gate: object, call: Call, token: object = None) -> None:
    """What a gate must not have."""


@pytest.mark.parametrize("method", ["enter", "exit", "admit"])
def test_a_gate_whose_method_nobody_would_await_is_refused_when_it_is_defined(method: str) -> None:
    with pytest.raises(TypeError, match=f"Porter.{method} is a coroutine function.*admit_async, with waits = True"):
        type("Porter", (Gate,), {method: wrong})


def test_a_gate_may_wait_in_its_async_method() -> None:
    class Porter(Gate[GateSettings]):
        waits = True

        def enter(self, call: Call) -> None:
            return None

        async def admit_async(self, call: Call) -> None:
            return None

    assert Porter(GateSettings()).waits


def test_who_decorates_a_generator_is_told_what_a_block_takes() -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"with pipeline.guard\(\):.*gates only \(Breaker, RateLimit, Bulkhead, ...\)"):
        Pipeline("x", Timeout(1.0))(rows)


def test_an_exception_in_place_of_a_classifier_is_refused_with_the_way_to_write_it() -> None:
    oserror: Any = OSError
    expected = re.escape("give for example classify=Classifier(record=(OSError,))")
    with pytest.raises(TypeError, match=expected):
        Pipeline("x", classify=oserror)
    pipeline = Pipeline("x")
    with pytest.raises(TypeError, match=expected):
        pipeline.replace(classify=(OSError,))  # type: ignore[arg-type]
    assert Pipeline("x", classify=Classifier(record=(OSError,))).classifier.record == (OSError,)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("cost", "5", "cannot have cost='5'; give a number"),
        ("cost", True, "cannot have cost=True; give a number"),
        ("criticality", "high", "cannot have criticality='high'; give a Criticality, such as Criticality.SHEDDABLE"),
        ("idempotent", "no", "cannot have idempotent='no'; give True or False"),
        ("operation", 5, "cannot have operation=5; give text"),
        ("colour", 5, "cannot have colour=5; give text, or None"),
        ("arrived", "now", "cannot have arrived='now'; give seconds"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_when_it_is_bound(field: str, value: object, expected: str) -> None:
    for bind in (Pipeline("x", Bulkhead()).bind, Pipeline("x", Bulkhead()).guard):
        with pytest.raises(TypeError, match=re.escape(expected)):
            bind(**{field: value})


def test_fields_of_the_right_type_are_bound() -> None:
    seen: list[Call] = []

    class Seeing(Gate[GateSettings]):
        def enter(self, call: Call) -> None:
            seen.append(call.copy())

    bound: dict[str, Any] = {
        "operation": "load",
        "key": True,
        "cost": 2,
        "idempotent": False,
        "criticality": Criticality.SHEDDABLE,
        "colour": None,
        "arrived": 1.5,
    }
    assert Pipeline("x", Seeing(GateSettings())).bind(**bound).call(load, "book") == "book"
    assert {name: getattr(seen[0], name) for name in bound} == bound


def test_a_pipeline_shows_its_policies_up_to_a_limit() -> None:
    assert repr(Pipeline("stock", Timeout("2s"), Retry(4))) == "Pipeline('stock', Timeout(\"2s\"), Retry(attempts=4))"
    assert repr(Pipeline()) == "Pipeline('')"
    many = Pipeline("x", *(Timeout(number + 1.0) for number in range(SHOWN_LIMIT + 3)))
    assert repr(many).endswith('Timeout("8s"), and 3 more)')
    assert repr(Pipeline.__new__(Pipeline)) == "Pipeline('')"


@pytest.mark.parametrize("policy", [Timeout, Retry, Bulkhead])
def test_a_decorator_without_parentheses_is_refused_when_it_decorates(policy: Any) -> None:
    for function in (load, load_async):
        expected = f"{policy.__name__} was given {function.__name__} as a setting; to decorate it write @"
        with pytest.raises(TypeError, match=expected):
            policy(function)


def test_a_function_in_the_place_of_a_value_is_still_told_where_functions_go() -> None:
    expected = r"to decorate it write @Fallback\(...\); a function goes into function= or handler="
    with pytest.raises(TypeError, match=expected):
        Fallback(load)


def test_a_coroutine_function_is_no_key_but_a_decorator_without_parentheses() -> None:
    undecorated: Any = load_async
    with pytest.raises(TypeError, match=r"given load_async as a setting; to decorate it write @SingleFlight\(...\)"):
        SingleFlight(undecorated)


def test_where_a_function_is_a_setting_the_first_call_says_that_the_parentheses_are_missing() -> None:
    undecorated: Any = SingleFlight(load)  # type: ignore[arg-type]
    calls: tuple[Callable[[], Any], ...] = (lambda: undecorated("book"), lambda: undecorated(name="book"), undecorated)
    for call in calls:
        with pytest.raises(TypeError, match=r"write @SingleFlight\(\) or @SingleFlight\(...\) above the function"):
            call()
