import asyncio
from typing import Any

import pytest

from core.gates import Twice
from holdfast.core.clock import SYSTEM, VirtualClock, VirtualTimeError
from holdfast.core.errors import CircuitOpen, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.timeout import Timeout
from holdfast.testing import failing, on_clock, recorded, without_waiting


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


def made_by_a_module() -> tuple[Pipeline, Any]:
    """A pipeline on the system clock, and a function that takes a minute under it."""
    pipeline = Pipeline("stock", Timeout(2.0))

    @pipeline
    async def ask() -> str:
        await asyncio.sleep(60)
        return "late"

    return pipeline, ask


def test_a_time_limit_by_another_clock_is_an_error_that_names_the_pipeline() -> None:
    _, ask = made_by_a_module()
    with pytest.raises(VirtualTimeError, match=r"stock has a time limit by a SystemClock.*on_clock"):
        VirtualClock().run(ask())


def test_a_pipeline_on_the_clock_of_another_run_is_an_error_too() -> None:
    pipeline, _ = made_by_a_module()
    with on_clock(VirtualClock(), pipeline), pytest.raises(VirtualTimeError, match="by a VirtualClock"):
        VirtualClock().run(pipeline.acall(asyncio.sleep, 1))


def test_a_fallback_does_not_hide_that_a_limit_was_not_kept() -> None:
    pipeline = Pipeline("stock", Fallback("none"), Timeout(2.0))

    async def main() -> None:
        assert await pipeline.acall(asyncio.sleep, 60, "late") == "late"  # it is the fallback's answer

    for coroutine in (pipeline.acall(asyncio.sleep, 60, "late"), main()):
        with pytest.raises(VirtualTimeError, match="stock has a time limit"):
            VirtualClock().run(coroutine)


def test_on_a_clock_the_limits_of_a_pipeline_are_kept() -> None:
    pipeline, ask = made_by_a_module()
    clock = VirtualClock(start=0.0)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            await ask()
        assert clock.now() == pytest.approx(2.0)

    with on_clock(clock, ask) as yielded:
        clock.run(main())
    assert yielded is clock
    assert pipeline.clock is SYSTEM


def test_on_a_clock_nothing_is_known_of_the_other_clocks_times() -> None:
    breaker = Breaker(consecutive=1)
    pipeline = Pipeline("stock", breaker)
    with failing(pipeline, OSError), pytest.raises(OSError):  # noqa: PT011 - it has no text
        pipeline.call(lambda: 5)
    clock = VirtualClock(start=0.0)
    with on_clock(clock, pipeline):
        with failing(pipeline, OSError), pytest.raises(OSError):  # noqa: PT011 - it has no text
            pipeline.call(lambda: 5)
        with pytest.raises(CircuitOpen):
            pipeline.call(lambda: 5)
        clock.advance(10.0)
        assert pipeline.call(lambda: 5) == 5
    assert pipeline.policies == (breaker,)
    assert breaker.state == "open"


def test_several_pipelines_go_by_one_clock_and_share_what_they_shared() -> None:
    limit = RateLimit(1.0, burst=1)
    one, other = Pipeline("one", limit), Pipeline("other", limit)
    virtual = VirtualClock()
    with on_clock(virtual, one, other, one):
        assert [pipeline.clock for pipeline in (one, other)] == [virtual, virtual]
        assert one.policies == other.policies != (limit,)
    assert one.policies == other.policies == (limit,)
    assert [pipeline.clock for pipeline in (one, other)] == [SYSTEM, SYSTEM]


@pytest.mark.parametrize("clock_first", [False, True])
def test_a_recording_goes_on_whatever_the_clock(clock_first: bool) -> None:
    pipeline = Pipeline("x", Timeout(5.0))
    clock = VirtualClock(start=0.0)
    if clock_first:
        with on_clock(clock, pipeline), recorded(pipeline) as calls:
            clock.run(pipeline.acall(asyncio.sleep, 3))
    else:
        with recorded(pipeline) as calls, on_clock(clock, pipeline):
            clock.run(pipeline.acall(asyncio.sleep, 3))
    assert (calls.last.began, calls.last.ended, len(calls.last.attempts)) == (0.0, 3.0, 1)
    assert len(pipeline.policies) == 1


def test_an_error_in_the_block_puts_everything_back() -> None:
    pipeline = Pipeline("x", Timeout(5.0))
    before = pipeline.policies
    with pytest.raises(KeyError), on_clock(VirtualClock(), pipeline):
        raise KeyError
    assert (pipeline.policies, pipeline.clock) == (before, SYSTEM)


def test_a_policy_that_cannot_be_new_leaves_every_pipeline_as_it_was() -> None:
    one, other = Pipeline("one", Timeout(5.0)), Pipeline("other", Twice())
    before = one.policies
    with pytest.raises(TypeError, match="Twice"), on_clock(VirtualClock(), one, other):
        raise AssertionError("not to run")
    assert (one.policies, one.clock) == (before, SYSTEM)


def test_a_clock_for_nobody_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="such as on_clock"), on_clock(VirtualClock()):
        raise AssertionError("not to run")
    with pytest.raises(LookupError, match="not decorated"), on_clock(VirtualClock(), print):
        raise AssertionError("not to run")


def test_an_instant_clock_goes_on_from_the_time_it_stands_in_for_and_lets_others_run() -> None:
    pipeline = Pipeline("x", clock=VirtualClock(start=77.0))
    seen: list[str] = []

    async def main() -> None:
        with without_waiting(pipeline) as clock:
            assert clock.now() == 77.0
            other = asyncio.ensure_future(asyncio.sleep(0))
            other.add_done_callback(lambda _: seen.append("ran"))
            for _ in range(5):
                await clock.sleep(60)
            assert (clock.now(), seen) == (77.0 + 300.0, ["ran"])
        await other

    asyncio.run(main())
