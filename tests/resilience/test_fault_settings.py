import random
from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen, ConfigError, FaultInjected
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.fault import Fault


def real() -> None:
    pass


async def real_async() -> None:
    pass


class Picky(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (2, ".rate: got 2, expected a number, at least 0, at most 1"),
        ({"abort": "Nope"}, ".abort: got 'Nope', expected the name of an exception"),
        ({"abort": KeyboardInterrupt}, ".abort: got <class 'KeyboardInterrupt'>, expected a class of Exception; what"),
        ({"abort": Picky}, "expected an exception that is made from one text; give a function of the call that makes"),
        ({"abort": 5}, ".abort: got 5, expected an exception, its name, true for FaultInjected, or a function of"),
        ({"delay": [2, 1]}, ".delay: got [2, 1], expected the shorter duration first"),
        ({"delay": [1, 2, 3]}, '.delay: got [1, 2, 3], expected a duration such as 500ms, or two, such as ["100ms"'),
        ({"delay": "soon"}, ".delay: got 'soon', expected a duration such as 500ms"),
        ({"corrupt": 5}, ".corrupt: got 5, expected a function, given in code"),
        ({"corrupt": real_async}, "expected a plain function; nothing is awaited here"),
        ({"corrupt": real, "abort": True}, ".corrupt: got <function real at"),
        ({"random": True}, ".random: got True, expected a whole number as the seed"),
        ({"limit": -1}, ".limit: got -1, expected a whole number, at least 0"),
    ],
)
def test_a_mistake_in_the_settings_is_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("x", [{"fault": data}], catalog=CATALOG.adding(Fault))
    assert "[0].fault." in str(caught.value)
    assert message in str(caught.value)


def test_everything_that_is_data_can_be_given_as_data() -> None:
    table = {
        "rate": 1,
        "abort": "ConnectionResetError",
        "delay": ["100ms", "2s"],
        "operations": ["users.*"],
        "keys": ["a", 1],
        "colour": "chaos",
        "limit": 10,
        "random": 7,
    }
    pipeline = build("x", [{"fault": 0.5}, {"fault": table}], catalog=CATALOG.adding(Fault))
    first, second = (policy.settings for policy in pipeline.policies)
    assert first.rate == 0.5
    assert (second.abort, second.delay, second.keys) == (ConnectionResetError, (0.1, 2.0), ("a", 1))
    assert second.random() == random.Random(7).random()


def test_a_call_whose_key_is_not_hashable_is_none_of_those_listed() -> None:
    pipeline = Pipeline("x", Fault(1.0, keys=(1,)))
    assert pipeline.bind(key=[1]).call(lambda: "real") == "real"
    with pytest.raises(FaultInjected):
        pipeline.bind(key=1).call(lambda: "real")


def test_the_rate_is_exact_at_its_edge() -> None:
    chances = iter([0.25, 0.2499999])
    call = Pipeline("x", Fault(0.25, random=chances.__next__))(lambda: "real")
    assert call() == "real"
    with pytest.raises(FaultInjected):
        call()


def test_a_refusal_that_is_injected_says_who_refused_and_why() -> None:
    with pytest.raises(CircuitOpen) as caught:
        Fault(1.0, abort=CircuitOpen, name="chaos")(real)()
    assert (caught.value.policy, caught.value.reason) == ("chaos", "a fault was injected")


def test_what_is_turned_off_says_so() -> None:
    policy = Fault(0.5)
    assert policy.snapshot()["rate"] == 0.5
    policy.update(enabled=False)
    assert policy.snapshot()["rate"] == 0.0
