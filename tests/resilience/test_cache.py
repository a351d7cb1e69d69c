import asyncio
import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core.call import IGNORED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import colour
from holdfast.core.errors import ConfigError
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.fallback import Fallback
from resilience.loops import RunAsync
from resilience.witness import Witness


class Counter:
    """Returns how often it was called, or what it is told to; raises exceptions."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.outcome: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return len(self.calls) if self.outcome is None else self.outcome


def cached(counter: Counter | None = None, **settings: Any) -> tuple[VirtualClock, Cache, Callable[..., Any]]:
    clock = VirtualClock()
    cache = Cache(**{"jitter": 0} | settings)
    return clock, cache, Pipeline("x", cache, clock=clock)(counter or Counter())


def test_a_result_is_remembered_for_its_time() -> None:
    clock, cache, call = cached(ttl=10)
    assert [call(7), call(7), call(8)] == [1, 1, 2]
    clock.advance(9.99)
    assert call(7) == 1
    clock.advance(0.01)
    assert [call(7), call(7)] == [3, 3]
    assert cache.snapshot() == {
        "entries": 2,
        "hits": 3,
        "misses": 3,
        "loads": 3,
        "failures": 0,
        "served_stale": 0,
        "kept_stale": 0,
        "refreshes": 0,
        "refreshing": 0,
        "evicted": 0,
    }


def test_a_coroutines_result_is_remembered(run_async: RunAsync) -> None:
    calls: list[int] = []

    @Cache()
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        calls.append(number)
        return 2 * number

    async def main() -> list[int]:
        return [await double(3), await double(3), await double(4), await double(3)]

    assert run_async(main()) == [6, 6, 8, 6]
    assert calls == [3, 4]


def test_none_is_a_result_too() -> None:
    calls: list[int] = []
    call = Cache()(lambda: calls.append(1))
    call()
    call()
    assert calls == [1]


def test_the_time_runs_from_when_the_result_came() -> None:
    clock = VirtualClock()
    cache = Cache(10, jitter=0)
    slow = Pipeline("x", cache, clock=clock)(lambda: clock.advance(8))
    slow()
    clock.advance(9)
    slow()
    assert cache.snapshot()["loads"] == 1


def test_results_are_fresh_for_up_to_the_jitter_less() -> None:
    clock, _, call = cached(ttl=10, jitter=0.5, random=iter([0.0, 0.9, 0.5, 0.0, 0.0]).__next__)
    assert [call(number) for number in range(3)] == [1, 2, 3]
    clock.advance(5.6)
    assert [call(number) for number in range(3)] == [1, 4, 3]
    clock.advance(2)
    assert [call(number) for number in range(3)] == [1, 4, 5]


def test_the_default_jitter_spreads_results_over_a_tenth_of_their_time() -> None:
    clock, cache, call = cached(ttl=100, jitter=0.1, random=random.Random(3))
    for number in range(200):
        call(number)
    clock.advance(90)
    fresh = sum(entry.fresh_until > clock.now() for entry in cache._sieve.entries.values())
    assert fresh == 200
    clock.advance(5)
    assert 70 < sum(entry.fresh_until > clock.now() for entry in cache._sieve.entries.values()) < 130
    clock.advance(5)
    assert not any(entry.fresh_until > clock.now() for entry in cache._sieve.entries.values())


def test_failures_are_not_remembered() -> None:
    counter = Counter()
    _, cache, call = cached(counter)
    counter.outcome = OSError("no")
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            call()
    assert len(counter.calls) == 2
    assert cache.snapshot()["failures"] == 2
    assert cache.snapshot()["entries"] == 0


def test_results_that_are_failures_are_not_remembered() -> None:
    counter, cache = Counter(), Cache()
    call = Pipeline("x", cache, classify=Classifier(failed=lambda result: result == "bad"))(counter)
    counter.outcome = "bad"
    assert [call(), call()] == ["bad", "bad"]
    counter.outcome = "good"
    assert [call(), call()] == ["good", "good"]
    assert len(counter.calls) == 3
    assert cache.snapshot()["failures"] == 2


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_fallback_further_in_makes_up_is_not_remembered(refused: bool) -> None:
    counter, witness = Counter(), Witness()
    call = Pipeline("x", Cache(), Fallback("made up"), witness)(counter)
    counter.outcome, witness.refuses = OSError(), refused
    assert [call(), call()] == ["made up"] * 2
    counter.outcome, witness.refuses = "real", False
    assert [call(), call()] == ["real"] * 2


def test_a_hit_says_nothing_about_the_dependency() -> None:
    counter, outside = Counter(), Witness()
    call = Pipeline("x", outside, Cache())(counter)
    call()
    call()
    assert outside.verdicts == [OK, IGNORED]


def test_each_function_has_results_of_its_own() -> None:
    cache = Cache()
    pipeline = Pipeline("shared", cache)
    one, two = pipeline(lambda number: ("one", number)), pipeline(lambda number: ("two", number))
    assert [one(1), two(1), one(1), two(1)] == [("one", 1), ("two", 1)] * 2
    assert cache.snapshot()["hits"] == 2


def test_keyword_arguments_count_in_any_order() -> None:
    _, _, call = cached()
    assert [call(1, a=1, b=2), call(1, b=2, a=1), call(1, a=1), call(1)] == [1, 1, 2, 3]


def test_a_function_of_the_call_may_make_the_key() -> None:
    _, cache, call = cached(key=lambda call: call.args[0]["id"])
    assert [call({"id": 1, "x": 1}), call({"id": 1, "x": 2}), call({"id": 2})] == [1, 1, 2]
    assert cache.invalidate(1)
    assert call({"id": 1}) == 3


def test_a_key_of_none_is_not_remembered() -> None:
    _, cache, call = cached(key=lambda call: None)
    assert [call(), call()] == [1, 2]
    with colour("chaos"):
        assert [call(), call()] == [3, 4]
    assert asyncio.run(Pipeline("x", cache).acall(asyncio.sleep, 0, "slept")) == "slept"
    assert cache.snapshot()["entries"] == 0


def test_arguments_that_cannot_be_a_key_are_a_clear_error() -> None:
    counter = Counter()
    _, _, call = cached(counter)
    expected = r"cache: the arguments of x cannot be a key \(unhashable type: 'list'\); give a function that makes one"
    for arguments in (([1],), {"a": [1]}):
        with pytest.raises(TypeError, match=expected):
            call(*arguments) if isinstance(arguments, tuple) else call(**arguments)
    with pytest.raises(TypeError, match=expected):
        asyncio.run(Pipeline("x", Cache()).acall(asyncio.sleep, 0, [1]))
    assert not counter.calls


def test_the_number_of_results_is_bounded() -> None:
    counter = Counter()
    _, cache, call = cached(counter, entries=100)
    gc.collect()
    for number in range(5000):
        call(number)
        assert len(cache._sieve.entries) <= 100
    assert cache.snapshot()["evicted"] == 4900
    before = len(gc.get_objects())
    for number in range(5000, 20_000):
        call(number)
    gc.collect()
    assert len(gc.get_objects()) < before + 1000 + 20_000  # the calls that the counter wrote down, and nothing else
    cache.update(entries=10)
    assert cache.snapshot()["entries"] == 10


def test_a_result_that_is_asked_for_again_outlives_those_that_are_not() -> None:
    counter = Counter()
    _, _, call = cached(counter, entries=10)
    call("kept")
    for number in range(100):
        call(number)
        call("kept")
    assert counter.calls.count((("kept",), {})) == 1


def test_results_are_forgotten_by_function_and_arguments() -> None:
    counter = Counter()
    _, cache, call = cached(counter)
    for fn in (call, counter):
        before = call(1, a=2)
        assert not cache.invalidate_call(fn, 1)
        assert cache.invalidate_call(fn, 1, a=2)
        assert not cache.invalidate_call(fn, 1, a=2)
        assert call(1, a=2) == before + 1


def test_everything_can_be_forgotten() -> None:
    _, cache, call = cached()
    assert [call(1), call(2)] == [1, 2]
    cache.clear()
    assert cache.snapshot()["entries"] == 0
    assert [call(1), call(2)] == [3, 4]


def test_what_is_forgotten_or_evicted_is_freed_at_once() -> None:
    class Value:
        pass

    cache = Cache(entries=2)
    call = cache(lambda number: Value())
    gc.collect()
    gc.disable()
    try:
        seen = [weakref.ref(call(number)) for number in range(4)]
        assert [ref() is None for ref in seen] == [True, True, False, False]
        cache.invalidate_call(call, 3)
        cache.clear()
        assert [ref() for ref in seen] == [None] * 4
    finally:
        gc.enable()


def test_an_experiment_has_results_of_its_own() -> None:
    counter = Counter()
    _, cache, call = cached(counter)
    with colour("chaos"):
        counter.outcome = "broken"
        assert call(1) == "broken"
    counter.outcome = "real"
    assert call(1) == "real"
    with colour("chaos"):
        assert call(1) == "broken"
        assert Pipeline("x", cache).bind(colour="").call(counter, 1) == "real"
        assert cache.invalidate_call(call, 1)
        counter.outcome = "whole"
        assert call(1) == "whole"
    assert call(1) == "whole"


def test_chosen_exceptions_are_remembered() -> None:
    counter = Counter()
    clock, cache, call = cached(counter, negative=KeyError, negative_ttl=5)
    counter.outcome = KeyError("nobody")
    with pytest.raises(KeyError) as first:
        call(1)
    errors = []
    for _ in range(2):
        with pytest.raises(KeyError, match="nobody") as caught:
            call(1)
        errors.append(caught.value)
    assert len({id(error) for error in (first.value, *errors)}) == 3
    assert (len(counter.calls), cache.snapshot()["hits"]) == (1, 2)
    counter.outcome = OSError("other")
    with pytest.raises(OSError, match="other"):
        call(2)
    counter.outcome = "somebody"
    clock.advance(5)
    assert [call(1), call(2)] == ["somebody"] * 2


def test_a_remembered_exception_holds_no_frames() -> None:
    cache = Cache(negative=ValueError)

    class Big:
        pass

    def fail() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        try:
            raise KeyError
        except KeyError as error:
            raise ValueError("no") from error

    seen: list[Any] = []
    call = cache(fail)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                call()
        gc.collect()
        assert len(seen) == 1
        assert seen[0]() is None
    finally:
        gc.enable()


def test_an_exception_that_cannot_be_copied_is_not_remembered() -> None:
    class Wordy(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}")

    counter = Counter()
    _, cache, call = cached(counter, negative=Wordy)
    counter.outcome = Wordy(5)
    for _ in range(2):
        with pytest.raises(Wordy, match="code 5"):
            call()
    assert len(counter.calls) == 2
    assert cache.snapshot()["entries"] == 0


def test_new_settings_count_at_once_and_results_keep_their_times() -> None:
    clock, cache, call = cached(ttl=10)
    call(1)
    cache.update(ttl=2)
    call(2)
    clock.advance(5)
    assert [call(1), call(2)] == [1, 3]
    cache.update(key=lambda call: "one for all")
    assert [call(1), call(2)] == [4, 4]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ttl": 0}, "ttl: got 0, expected a duration such as 500ms or 1m30s, more than 0"),
        ({"entries": 0}, "entries: got 0, expected a whole number, at least 1"),
        ({"jitter": 1.0}, "jitter: got 1.0, expected a number, at least 0, less than 1"),
        ({"key": "id"}, "key: got 'id', expected a function; it can only be given in code"),
        ({"negative": "Nope"}, "negative: got 'Nope', expected the name of an exception"),
        ({"negative": "KeyboardInterrupt"}, "negative: got (<class 'KeyboardInterrupt'>,), expected exceptions that"),
        ({"stael": 1}, "stael: expected the name of a setting; did you mean stale?"),
    ],
)
def test_a_mistake_in_the_settings_is_named(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("x", [{"cache": data}], catalog=CATALOG.adding(Cache))
    assert f"[0].cache.{message}" in str(caught.value)


def test_everything_that_is_data_can_be_given_as_data() -> None:
    table = {"ttl": "5m", "stale": "30s", "stale_if_error": "1h", "negative": ["KeyError"], "negative_ttl": "500ms"}
    pipeline = build("x", [{"cache": table}, {"cache": "2s"}], catalog=CATALOG.adding(Cache))
    first, second = (policy.settings for policy in pipeline.policies)
    assert (first.ttl, first.stale, first.stale_if_error, first.negative_ttl) == (300, 30, 3600, 0.5)
    assert first.negative == (KeyError,)
    assert second.ttl == 2
