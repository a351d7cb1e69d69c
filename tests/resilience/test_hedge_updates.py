"""Settings of a hedge that change, and what the delay does meanwhile."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import cancellation_scope, current
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing.quantile import BATCH
from resilience.loops import RunAsync
from resilience.scripted import NEVER


async def usual(pipeline: Pipeline, seconds: float = 0.1, count: int = BATCH) -> None:
    for _ in range(count):
        await pipeline.acall(asyncio.sleep, seconds)


def test_another_window_begins_empty_and_an_unknown_delay_is_none() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    clock.run(usual(Pipeline("x", hedge, clock=clock)))
    assert hedge.snapshot()["delay"] == pytest.approx(0.1)
    hedge.update(window=30.0)
    snapshot = hedge.snapshot()
    assert (snapshot["delay"], snapshot["samples"]) == (None, 0)


def test_sync_calls_fill_the_budget_too() -> None:
    hedge = Hedge(60.0, budget={"ratio": 0.5, "floor": 0.0})
    pipeline = Pipeline("x", hedge)
    for _ in range(3):
        pipeline.call(int)
    hedge.close()
    assert hedge.snapshot()["budget"]["requests"] == 3


def test_the_calls_of_a_loop_share_one_lane(run_async: RunAsync) -> None:
    hedge = Hedge(60.0)
    pipeline = Pipeline("x", hedge)

    async def main() -> None:
        calls = [asyncio.ensure_future(pipeline.acall(asyncio.sleep, NEVER)) for _ in range(3)]
        await asyncio.sleep(0)
        (lane,) = hedge._pace._by_loop.values()
        assert len(lane.late) == 3
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    run_async(main())


def test_the_lanes_stay_as_long_as_the_delay_has_hardly_moved() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    pipeline = Pipeline("x", hedge, clock=clock)
    clock.run(usual(pipeline))
    pace = hedge._pace
    hedge.update(attempts=3, min_delay=0.002)
    assert hedge._pace is pace
    clock.run(usual(pipeline, 0.103, 7 * BATCH))
    assert hedge._pace is pace
    clock.run(usual(pipeline, 0.12, 7 * BATCH))
    assert hedge.delay == pytest.approx(0.12)


def test_an_own_budget_takes_new_settings_and_keeps_its_counts() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(1.0)
    clock.run(usual(Pipeline("x", hedge, clock=clock), count=5))
    hedge.update(budget={"ratio": 0.5})
    assert hedge.budget is not None
    assert (hedge.budget.settings.ratio, hedge.budget.count) == (0.5, 5)
    hedge.update(budget=False)
    assert hedge.budget is None


def test_a_batch_is_taken_in_once_whoever_finds_it_full_and_not_after_the_quantile_has_changed() -> None:
    hedge = Hedge()
    old = hedge.recent
    assert old is not None
    old.batch.append(0.1)
    hedge._turn(old, 0.0)  # somebody else was quicker, and the batch is a new one
    assert old.batch == [0.1]
    hedge.update(quantile=0.5)
    old.batch.extend([0.1] * BATCH)
    hedge._turn(old, 0.0)
    assert (old.count, hedge.snapshot()["samples"]) == (0, 0)


def test_a_moment_without_an_answer_is_not_the_first_thing_that_is_learned() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge()

    async def out_of_time() -> None:
        raise DeadlineExceeded

    async def main() -> None:
        with contextlib.suppress(DeadlineExceeded):
            await Pipeline("x", hedge, clock=clock).acall(out_of_time)

    clock.run(main())
    assert hedge.recent is not None
    assert hedge.recent.batch == []


def test_a_hedged_call_in_which_somebody_lost_interest_is_not_learned_from() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        await usual(pipeline)
        call = asyncio.ensure_future(pipeline.acall(asyncio.sleep, 5.0))
        await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.wait([call])

    clock.run(main())
    assert hedge.hedges == 1
    assert hedge.recent is not None
    assert hedge.recent.batch == []


def test_a_sync_attempt_whose_time_ran_out_counts_as_slow_and_the_first_one_wins_nothing() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0, budget={"ratio": 0.0, "floor": 0.0})
    pipeline = Pipeline("x", hedge, clock=clock)
    for _ in range(BATCH):
        pipeline.call(clock.advance, 0.1)

    def out_of_time() -> None:
        clock.advance(0.5)
        raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        pipeline.call(out_of_time)
    pipeline.call(clock.advance, 0.2)
    hedge.close()
    assert hedge.recent is not None
    assert hedge.recent.batch == pytest.approx([0.5, 0.2])
    assert hedge.won == 0


def test_a_hedge_whose_thread_is_taken_in_the_last_moment_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hedge = Hedge(60.0)
    run = hedge.threads.run
    works: list[object] = []

    def taken(work: Callable[[], Callable[[], object] | None]) -> bool:
        works.append(work)
        return len(works) == 1 and run(work)

    monkeypatch.setattr(hedge.threads, "run", taken)

    def fn() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        Pipeline("x", hedge).call(fn)
    hedge.close()
    assert (len(works), hedge.without_thread) == (2, 1)


def test_attempts_in_threads_are_called_off_with_the_work_around_them() -> None:
    hedge = Hedge(60.0)

    def called_off() -> bool:
        token = current().cancellation
        return token is not None and token.cancelled

    with cancellation_scope() as cancellation:
        cancellation.cancel()
        assert Pipeline("x", hedge).call(called_off)
    hedge.close()
