"""The last good result of the same call, as an answer while there is no other."""

import asyncio
import random
import threading
from typing import Any

import pytest

from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import colour
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.fallback import Fallback, FallbackRule
from resilience.loops import RunAsync


class Source:
    """Answers with what it is told to, or raises it."""

    def __init__(self) -> None:
        self.outcome: Any = "good"

    def __call__(self, *args: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return (self.outcome, *args)


def test_the_last_good_result_of_the_same_call_stands_in_for_an_error() -> None:
    source, policy = Source(), Fallback(last_good=60)
    call = Pipeline("x", policy)(source)
    assert [call(1), call(2)] == [("good", 1), ("good", 2)]
    source.outcome = "better"
    assert call(1) == ("better", 1)
    source.outcome = OSError("down")
    assert [call(1), call(2)] == [("better", 1), ("good", 2)]
    with pytest.raises(OSError, match="down"):
        call(3)
    assert policy.snapshot() == {
        "errors": 2,
        "refusals": 0,
        "results": 0,
        "from_last_good": 2,
        "failed": 0,
        "kept": 2,
    }


def test_a_coroutines_last_good_result_stands_in_too(run_async: RunAsync) -> None:
    source = Source()

    @Fallback(last_good=60)
    async def ask(number: int) -> Any:
        await asyncio.sleep(0)
        return source(number)

    async def main() -> None:
        assert await ask(1) == ("good", 1)
        source.outcome = OSError("down")
        assert await ask(1) == ("good", 1)
        with pytest.raises(OSError, match="down"):
            await ask(2)

    run_async(main())


def test_it_is_used_up_to_its_age_and_then_the_value_is() -> None:
    clock, source = VirtualClock(), Source()
    policy = Fallback("spare", last_good=60)
    call = Pipeline("x", policy, clock=clock)(source)
    call()
    source.outcome = OSError()
    clock.advance(60)
    assert call() == ("good",)
    clock.advance(0.001)
    assert call() == "spare"
    policy.update(last_good=100)
    assert call() == ("good",)
    policy.update(last_good=0)
    assert call() == "spare"


def test_an_error_with_a_rule_of_its_own_gets_that_answer() -> None:
    source = Source()
    call = Pipeline("x", Fallback(last_good=60, rules=[FallbackRule(KeyError, value="rule")]))(source)
    call()
    source.outcome = KeyError()
    assert call() == "rule"
    source.outcome = OSError()
    assert call() == ("good",)


def test_only_results_of_the_dependency_itself_that_are_no_failures_are_kept() -> None:
    source = Source()
    classify = Classifier(failed=lambda result: result == ("bad",))
    call = Pipeline("x", Fallback(last_good=60, on_result=True), Fallback("made up"), classify=classify)(source)
    source.outcome = OSError()
    assert call() == "made up"
    source.outcome = "bad"
    assert call() == ("bad",)
    source.outcome = "good"
    assert call() == ("good",)
    source.outcome = "bad"
    assert call() == ("good",)


def test_what_a_cache_further_in_remembers_does_not_make_it_younger() -> None:
    clock, source = VirtualClock(), Source()
    call = Pipeline("x", Fallback("spare", last_good=15), Cache(10, jitter=0), clock=clock)(source)
    call()
    clock.advance(9)
    call()
    source.outcome = OSError()
    clock.advance(7)
    assert call() == "spare"


def test_the_calls_whose_last_good_result_is_kept_are_bounded() -> None:
    source, policy = Source(), Fallback("spare", last_good=60, keys=10)
    call = Pipeline("x", policy)(source)
    for number in range(1000):
        call("asked for again")
        call(number)
        assert policy.snapshot()["kept"] <= 10
    source.outcome = OSError()
    assert call("asked for again") == ("good", "asked for again")
    assert call(999) == ("good", 999)
    assert call(5) == "spare"
    policy.update(keys=1)
    assert policy.snapshot()["kept"] == 1


def test_a_result_that_has_stood_in_outlives_those_that_have_not() -> None:
    source, policy = Source(), Fallback(last_good=60, keys=2)
    call = Pipeline("x", policy)(source)
    call("needed")
    source.outcome = OSError()
    assert call("needed") == ("good", "needed")
    source.outcome = "good"
    call(1)
    call(2)
    source.outcome = OSError()
    assert call("needed") == ("good", "needed")
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        call(1)


def test_turned_off_it_lets_go_of_what_it_kept() -> None:
    source, policy = Source(), Fallback("spare", last_good=60, keys=10)
    call = Pipeline("x", policy)(source)
    call(1)
    policy.update(last_good=0, keys=1)
    call(1)
    assert policy.snapshot()["kept"] == 0
    policy.update(last_good=60)
    source.outcome = OSError()
    assert call(1) == "spare"
    source.outcome = "good"
    call(1)
    call(2)
    assert policy.snapshot()["kept"] == 1


def test_a_function_may_make_the_key_and_none_is_not_kept() -> None:
    source, policy = Source(), Fallback("spare", last_good=60, key=lambda call: call.args[0].get("id"))
    call = Pipeline("x", policy)(source)
    call({"id": 1, "a": 1})
    call({})
    source.outcome = OSError()
    assert call({"id": 1, "a": 2}) == ("good", {"id": 1, "a": 1})
    assert call({}) == "spare"


def test_arguments_that_cannot_be_a_key_are_a_clear_error() -> None:
    source, policy = Source(), Fallback("spare", last_good=60)
    call = Pipeline("users", policy)(source)
    with pytest.raises(TypeError, match=r"fallback: the arguments of users cannot be a key \(unhashable type: 'list"):
        call([])
    source.outcome = OSError()
    assert call([]) == "spare"


def test_an_experiment_has_last_good_results_of_its_own() -> None:
    source = Source()
    call = Pipeline("x", Fallback("spare", last_good=60))(source)
    with colour("chaos"):
        source.outcome = "broken"
        call()
    source.outcome = OSError()
    assert call() == "spare"
    with colour("chaos"):
        assert call() == ("broken",)


@pytest.mark.usefixtures("switching_often")
def test_threads_get_results_of_their_own_call_only() -> None:
    policy = Fallback(last_good=60, keys=20, key=lambda call: call.args[0])
    wrong: list[Any] = []

    @policy
    def ask(key: int, chance: random.Random) -> int:
        if chance.random() < 0.3:
            raise OSError
        return key

    def run(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            key = chance.randrange(30)
            try:
                if ask(key, chance) != key:
                    wrong.append(key)
            except OSError:
                continue

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert policy.snapshot()["kept"] == 20
    assert policy.snapshot()["from_last_good"] > 100
