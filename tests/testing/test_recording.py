import asyncio
from typing import Any

import pytest

from core.gates import Recorder, Twice
from holdfast.core.call import FAILED, IGNORED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.timeout import Timeout
from holdfast.testing import failing, fresh, recorded, slowed, without_waiting


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
    assert [len(recording.calls) for recording in (outer, inner)] == [1, 1]


def test_faults_take_turns_and_end() -> None:
    pipeline = Pipeline("x")
    seen: list[Any] = []
    with failing(pipeline, OSError, ValueError("v"), times=3):
        for _ in range(4):
            try:
                seen.append(pipeline.call(lambda: "fine"))
            except (OSError, ValueError) as error:
                seen.append(type(error))
    assert seen == [OSError, ValueError, OSError, "fine"]
    assert pipeline.policies == ()
    with pytest.raises(TypeError, match="needs the exceptions"), failing(pipeline):
        pass


def test_an_injected_fault_is_the_dependencys_failure() -> None:
    log: list[Any] = []
    pipeline = Pipeline("x", Recorder(log))
    with failing(pipeline, OSError("injected")), pytest.raises(OSError, match="injected"):
        pipeline.call(lambda: 1)
    assert log[-1][2] is FAILED


def test_an_injected_fault_is_judged_as_the_functions_own_would_be() -> None:
    log: list[Any] = []
    pipeline = Pipeline("x", Recorder(log), classify=Classifier(ignore=(KeyError,), record=(OSError,)))
    with failing(pipeline, KeyError, OSError, ValueError):
        for kind in (KeyError, OSError, ValueError):
            with pytest.raises(kind):
                pipeline.call(lambda: 1)
    assert [entry[2] for entry in log if entry[0] == "exit"] == [IGNORED, FAILED, OK]


def test_slow_attempts_meet_the_limit() -> None:
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", Timeout(2.0), clock=clock)

    async def answer() -> str:
        return "yes"

    async def main() -> None:
        with slowed(pipeline, 5.0, times=1):
            with pytest.raises(DeadlineExceeded):
                await pipeline.acall(answer)
            assert await pipeline.acall(answer) == "yes"
        with slowed(pipeline, 1.0):
            await pipeline.acall(answer)
        assert clock.now() == pytest.approx(3.0, abs=0.01)

    clock.run(main())


def test_waits_are_skipped_on_any_loop_and_told() -> None:
    pipeline = Pipeline("x", Twice())
    before = pipeline.clock

    @pipeline
    async def fetch() -> str:
        return "x"

    async def main() -> None:
        with failing(pipeline, OSError, times=1), without_waiting(fetch) as clock:
            began = clock.now()
            assert await fetch() == "x"
            assert clock.now() - began == 1.0

    asyncio.run(main())
    with failing(pipeline, OSError, times=1), without_waiting(pipeline) as clock:
        began = clock.now()
        assert pipeline.call(lambda: 5) == 5
        assert clock.now() - began == 1.0
    assert pipeline.clock is before


@pytest.mark.parametrize("asynchronous", [False, True])
def test_slow_attempts_meet_the_limit_also_where_nothing_takes_time(asynchronous: bool) -> None:
    pipeline = Pipeline("x", Timeout(1.0))

    async def answer() -> int:
        return 5

    with slowed(pipeline, 2.0), without_waiting(pipeline) as clock, recorded(pipeline) as calls:
        began = clock.now()
        with pytest.raises(DeadlineExceeded):
            asyncio.run(pipeline.acall(answer)) if asynchronous else pipeline.call(lambda: 5)
        assert clock.now() - began == pytest.approx(1.0)
    assert calls.last.attempts == [] or calls.last.attempts[0].verdict is FAILED
    with slowed(pipeline, 0.5), without_waiting(pipeline):
        assert pipeline.call(lambda: 5) == 5


def test_fresh_policies_know_nothing_and_what_they_learn_is_forgotten() -> None:
    breaker = Breaker(consecutive=1)
    pipeline = Pipeline("x", breaker)
    with fresh(pipeline), failing(pipeline, OSError("down")):
        with pytest.raises(OSError, match="down"):
            pipeline.call(lambda: 5)
        assert pipeline.policies[0].snapshot()["state"] == "open"
    assert pipeline.policies == (breaker,)
    assert breaker.state == "closed"
    breaker.force_open()
    with fresh(pipeline):
        assert pipeline.call(lambda: 5) == 5
    assert breaker.state == "forced_open"
