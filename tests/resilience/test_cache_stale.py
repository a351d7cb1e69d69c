"""Old results: served while a new one is fetched, and when it cannot be had (RFC 5861)."""

import asyncio
import threading
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Verdict
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import use_deadline
from holdfast.core.errors import CircuitOpen, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from resilience.loops import RunAsync
from resilience.witness import Witness, turns, until
from resilience.work import Work, cancelled, start

EVENT_FIELDS = ("policy", "operation", "error", "age")


class Source:
    """Returns, or raises, what it is told to."""

    def __init__(self) -> None:
        self.outcome: Any = "first"
        self.asked = 0

    def __call__(self, *args: Any) -> Any:
        self.asked += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def test_past_its_second_time_an_old_result_is_not_served() -> None:
    clock, source = VirtualClock(), Source()
    call = Pipeline("x", Cache(10, stale=5, jitter=0), clock=clock)(source)
    assert call() == "first"
    clock.advance(15)
    source.outcome = "second"
    assert call() == "second"


class Missing(Exception):
    """An answer: there is no such thing."""


CLASSIFY = Classifier(ignore=(Missing,), record=(OSError,), failed=lambda result: result == "bad")


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [(OSError("down"), FAILED), ("bad", FAILED), (DeadlineExceeded(), FAILED), (Missing(), IGNORED)],
    ids=lambda value: type(value).__name__,
)
def test_when_the_dependency_fails_an_old_result_is_served(outcome: Any, verdict: Verdict) -> None:
    clock, source, outside = VirtualClock(), Source(), Witness()
    cache = Cache(10, stale_if_error=100, pause=0, jitter=0)
    call = Pipeline("x", outside, cache, clock=clock, classify=CLASSIFY)(source)
    assert call() == "first"
    clock.advance(10)
    source.outcome = outcome
    assert [call(), call()] == ["first"] * 2
    assert source.asked == 3
    assert outside.verdicts == [OK, verdict, verdict]
    assert cache.snapshot()["kept_stale"] == 2
    clock.advance(100)
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)):
            call()
    else:
        assert call() == "bad"


def test_after_a_failure_the_old_result_is_served_for_a_pause_without_asking() -> None:
    clock, source = VirtualClock(), Source()
    call = Pipeline("x", Cache(10, stale_if_error=100, pause=3, jitter=0), clock=clock)(source)
    call()
    clock.advance(10)
    source.outcome = OSError("down")
    for asked in (2, 3):
        assert [call() for _ in range(5)] == ["first"] * 5
        clock.advance(2.9)
        assert call() == "first"
        assert source.asked == asked
        clock.advance(0.1)


def test_a_pause_does_not_make_an_old_result_good_for_longer() -> None:
    clock, source = VirtualClock(), Source()
    call = Pipeline("x", Cache(10, stale_if_error=5, pause=100, jitter=0), clock=clock)(source)
    call()
    source.outcome = OSError("down")
    clock.advance(14)
    assert call() == "first"
    clock.advance(1)
    with pytest.raises(OSError, match="down"):
        call()


def test_when_a_policy_further_in_refuses_an_old_result_is_served() -> None:
    clock, source, breaker = VirtualClock(), Source(), Witness("breaker")
    cache = Cache(10, stale_if_error=100, jitter=0)
    events: list[Any] = []
    cache.listeners.subscribe(events.append)
    call = Pipeline("x", cache, breaker, clock=clock)(source)
    assert call() == "first"
    clock.advance(30)
    breaker.refuses = True
    assert call() == "first"
    assert [tuple(getattr(event, name) for name in EVENT_FIELDS) for event in events] == [
        ("cache", "x", "CircuitOpen: breaker: told to", 30)
    ]
    clock.advance(80)
    with pytest.raises(CircuitOpen):
        call()


def test_an_answer_that_is_an_exception_drops_the_old_result() -> None:
    clock, source = VirtualClock(), Source()
    cache = Cache(10, stale=50, stale_if_error=100, jitter=0)
    call = Pipeline("x", cache, clock=clock, classify=CLASSIFY)(source)
    assert call() == "first"
    clock.advance(10)
    source.outcome = KeyError("not there any more")  # not among the failures: the dependency works
    for _ in range(2):
        with pytest.raises(KeyError):
            call()
    source.outcome = OSError("down")
    with pytest.raises(OSError, match="down"):
        call()
    assert cache.snapshot()["entries"] == 0


def test_a_remembered_exception_does_not_take_the_place_of_an_old_result() -> None:
    clock, source = VirtualClock(), Source()
    cache = Cache(10, stale_if_error=100, negative=OSError, negative_ttl=50, pause=0, jitter=0)
    call = Pipeline("x", cache, clock=clock)(source)
    call()
    clock.advance(10)
    source.outcome = OSError("down")
    assert [call(), call()] == ["first"] * 2
    source.outcome = "second"
    assert call() == "second"


def test_who_waits_for_somebody_elses_execution_gets_the_old_result_at_its_own_deadline() -> None:
    clock, outside = VirtualClock(), Witness()
    asked: list[float] = []

    @Pipeline("x", outside, Cache(10, stale_if_error=1000, pause=0, jitter=0), clock=clock)
    async def slow() -> str:
        asked.append(clock.now())
        await asyncio.sleep(0 if len(asked) == 1 else 50)
        return "old" if len(asked) == 1 else "new"

    async def main() -> None:
        assert await slow() == "old"
        clock.advance(10)
        patient = start(slow)
        await turns()
        began = clock.now()
        with use_deadline(began + 2):
            assert await slow() == "old"
        assert clock.now() == began + 2
        assert await patient == "new"

    clock.run(main())
    assert len(asked) == 2
    assert outside.verdicts == [OK, FAILED, OK]


def test_a_thread_that_waits_for_another_gets_the_old_result_at_its_own_deadline() -> None:
    clock, outside = VirtualClock(), Witness()
    may_end, begun = threading.Event(), threading.Event()
    cache = Cache(10, stale_if_error=1000, pause=0, jitter=0)

    @Pipeline("x", outside, cache, clock=clock)
    def slow() -> str:
        if cache.snapshot()["loads"] == 1:
            return "old"
        begun.set()
        assert may_end.wait(30)
        return "new"

    assert slow() == "old"
    clock.advance(10)
    patient = threading.Thread(target=slow, daemon=True)
    patient.start()
    assert begun.wait(30)
    with use_deadline(clock.now()):
        assert slow() == "old"
    assert outside.verdicts == [OK, FAILED]
    may_end.set()
    patient.join(30)
    assert slow() == "new"


def test_an_answer_to_what_was_asked_before_drops_no_result_that_came_after(run_async: RunAsync) -> None:
    work, cache = Work(), Cache()
    call = Pipeline("x", cache, classify=Classifier(record=(OSError,)))(work)

    async def main() -> None:
        before = start(call)
        await until(lambda: work.begun)
        cache.clear()
        after = start(call)
        await until(lambda: len(work.begun) == 2)
        work.finish(1, "new")
        assert await after == "new"
        work.finish(0, LookupError("nobody yet"))
        with pytest.raises(LookupError):
            await before
        assert await call() == "new"
        assert len(work.begun) == 2

    run_async(main())


def test_an_old_result_that_is_asked_for_outlives_those_that_are_not() -> None:
    clock, asked = VirtualClock(), list[Any]()
    cache = Cache(10, stale=1000, entries=3, pause=1000, jitter=0)

    async def load(key: Any) -> Any:
        asked.append(key)
        if asked.count("kept") > 1 and key == "kept":
            raise OSError
        return key

    call = Pipeline("x", cache, clock=clock)(load)

    async def main() -> None:
        await call("kept")
        for number in range(20):
            await call(number)
            await call("kept")  # fresh
        assert asked.count("kept") == 1
        clock.advance(10)
        for number in range(20, 40):
            await call(number)
            await call(number)  # the hand goes past it, and round to the oldest
            assert await call("kept") == "kept"  # old
            await turns()
        assert asked.count("kept") == 2

    clock.run(main())


def test_a_cancelled_caller_gets_no_old_result(run_async: RunAsync) -> None:
    work, cache = Work(), Cache(0.001, stale_if_error=3600, jitter=0)
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        await asyncio.sleep(0.002)
        caller = start(call)
        await until(lambda: len(work.begun) == 2)
        assert await cancelled(caller)
        await until(lambda: work.cancelled == 1)
        # That somebody gave up says nothing about the dependency: the next one asks again.
        later = start(call)
        await until(lambda: len(work.begun) == 3)
        work.finish(2, "new")
        assert await later == "new"
        assert cache.snapshot()["kept_stale"] == 0

    run_async(main())


def test_an_interrupt_is_no_error_that_an_old_result_stands_in_for() -> None:
    clock, source = VirtualClock(), Source()
    call = Pipeline("x", Cache(10, stale=50, stale_if_error=100, jitter=0), clock=clock)(source)
    call()
    for seconds in (10, 60):
        clock.advance(seconds)
        source.outcome = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            call()
