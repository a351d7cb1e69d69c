import asyncio
import gc

import pytest

from core.gates import Recorder, Twice
from holdfast.core.call import FAILED, OK
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.cache import Cache
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.timeout import Timeout
from holdfast.testing import failing, recorded, recording


def test_a_retried_call_is_told_with_its_attempts_and_waits() -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("stock", Twice(), clock=clock)

    @pipeline
    def fetch(sku: str) -> str:
        return sku

    with recorded(fetch) as calls, failing(fetch, OSError("reset"), times=1):
        assert fetch("book") == "book"
    call = calls.last
    assert (call.operation, call.retries, call.result, call.error) == ("stock", 1, "book", None)
    assert [attempt.verdict for attempt in call.attempts] == [FAILED, OK]
    assert str(call.attempts[0].error) == "reset"
    assert call.waits == [1.0]
    assert (call.began, call.ended) == (0.0, 1.0)


def test_async_calls_that_overlap_are_told_apart() -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", Timeout(2.0), Twice(), clock=clock)

    async def main() -> None:
        with recorded(pipeline) as calls:
            results = await asyncio.gather(
                pipeline.acall(asyncio.sleep, 1, "a"), pipeline.acall(asyncio.sleep, 60), return_exceptions=True
            )
        assert results[0] == "a"
        assert [len(call.attempts) for call in calls.calls] == [1, 1]
        assert isinstance(calls.last.error, DeadlineExceeded)
        assert calls.last.refused_by == "timeout"
        assert calls.refusals == [calls.last]
        assert calls.attempts == 2

    clock.run(main())


def test_a_refused_call_has_no_attempt() -> None:
    pipeline = Pipeline("x", Recorder([], "door", refuses=True))
    with recorded(pipeline) as calls, pytest.raises(Exception, match="told to"):
        pipeline.call(lambda: 1)
    assert (calls.last.attempts, calls.last.refused_by, calls.last.retries) == ([], "door", 0)


def test_after_the_block_the_pipeline_is_what_it_was_and_what_was_added_stays() -> None:
    first, second = Recorder([]), Recorder([])
    pipeline = Pipeline("x", first)
    with recorded(pipeline) as calls:
        pipeline.replace(*pipeline.policies, second)
    pipeline.call(lambda: 1)
    assert pipeline.policies == (first, second)
    assert calls.calls == []
    with pytest.raises(LookupError, match="no call"):
        _ = calls.last


def test_recordings_nest() -> None:
    pipeline = Pipeline("x", Twice(), clock=VirtualClock())
    with recorded(pipeline) as outer, recorded(pipeline) as inner:
        pipeline.call(lambda: 1)
    assert outer.last.attempts[0].verdict is OK
    assert [len(calls.calls) for calls in (outer, inner)] == [1, 1]
    assert [calls.attempts for calls in (outer, inner)] == [1, 1]
    assert not recording._records.get()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_result_is_what_the_caller_got_wherever_it_came_from(asynchronous: bool) -> None:
    breaker = Breaker()
    pipeline = Pipeline("x", Fallback(0), breaker, clock=VirtualClock())

    async def answer() -> int:
        return 5

    def ask() -> int:
        return asyncio.run(pipeline.acall(answer)) if asynchronous else pipeline.call(lambda: 5)

    with recorded(pipeline) as calls:
        assert ask() == 5
        with failing(pipeline, OSError):
            assert ask() == 0
        breaker.force_open()
        assert ask() == 0
    assert [call.result for call in calls.calls] == [5, 0, 0]
    assert [call.error for call in calls.calls] == [None] * 3
    assert [len(call.attempts) for call in calls.calls] == [1, 1, 0]


def test_the_result_of_a_cache_is_a_result_without_an_attempt() -> None:
    cached = Pipeline("x", Cache(60.0), clock=VirtualClock())(lambda number: number)
    assert cached(3) == 3
    with recorded(cached) as calls:
        assert cached(3) == 3
    assert (calls.last.result, calls.last.attempts) == (3, [])


def test_a_block_is_a_call_with_one_attempt() -> None:
    clock = VirtualClock(start=0.0)
    breaker = Breaker(consecutive=1)
    pipeline = Pipeline("x", breaker, clock=clock)

    async def main() -> None:
        async with pipeline.guard():
            clock.advance(1)

    with recorded(pipeline) as calls:
        with pipeline.guard():
            clock.advance(2)
        with pytest.raises(OSError, match="no"), pipeline.guard():
            raise OSError("no")
        with pytest.raises(CircuitOpen), pipeline.guard():
            raise AssertionError("not to run")
        breaker.disable()
        asyncio.run(main())
    good, bad, refused, waited = calls.calls
    assert (good.began, good.ended, good.attempts[0].verdict, good.error, good.result) == (0.0, 2.0, OK, None, None)
    assert (str(bad.error), bad.attempts[0].verdict, bad.attempts[0].error) == ("no", FAILED, bad.error)
    assert (refused.refused_by, refused.attempts) == ("breaker", [])
    assert (waited.ended, waited.attempts[0].verdict) == (3.0, OK)


def test_a_call_within_the_handling_of_an_error_has_none_of_its_own() -> None:
    pipeline = Pipeline("x")
    with recorded(pipeline) as calls:
        try:
            raise OSError("somebody else's")
        except OSError:
            assert pipeline.call(lambda: 5) == 5
    assert (calls.last.error, calls.last.attempts[0].error, calls.last.result) == (None, None, 5)


@pytest.mark.parametrize("fault_first", [False, True])
def test_faults_are_attempts_in_whatever_order_a_test_names_them(fault_first: bool) -> None:
    pipeline = Pipeline("x", Twice(), clock=VirtualClock())
    if fault_first:
        with failing(pipeline, OSError("reset"), times=1), recorded(pipeline) as calls:
            pipeline.call(lambda: 5)
    else:
        with recorded(pipeline) as calls, failing(pipeline, OSError("reset"), times=1):
            pipeline.call(lambda: 5)
    assert [attempt.verdict for attempt in calls.last.attempts] == [FAILED, OK]
    assert pipeline.policies[1:] == ()


def test_a_call_whose_coroutine_is_closed_elsewhere_is_over_too() -> None:
    pipeline = Pipeline("x")

    async def main() -> None:
        call = pipeline.acall(asyncio.sleep, 60)

        async def begin() -> None:
            call.send(None)

        await asyncio.create_task(begin())  # in a context of its own
        call.close()
        await asyncio.sleep(0)
        gc.collect()

    with recorded(pipeline) as calls:
        asyncio.run(main())
    assert isinstance(calls.last.error, GeneratorExit)


def test_a_recording_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.testing.recording.RECORDS_LIMIT", 2)
    pipeline = Pipeline("x")
    with recorded(pipeline) as calls:
        for _ in range(2):
            pipeline.call(lambda: 5)
        with pytest.raises(RuntimeError, match="more than 2 calls"):
            pipeline.call(lambda: 5)
    assert len(calls.calls) == 2
