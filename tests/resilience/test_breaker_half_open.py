import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Call, bare_call
from holdfast.core.errors import CircuitOpen
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from resilience.breaker_bench import Bench
from resilience.loops import RunAsync

CROWD = 50


def enter(bench: Bench) -> tuple[Call, Any]:
    call = bare_call(clock=bench.clock)
    return call, bench.breaker.enter(call)


def leave(bench: Bench, entered: tuple[Call, Any], verdict: Any) -> None:
    call, token = entered
    call.now = bench.clock.now()
    call.verdict = verdict
    bench.breaker.exit(call, token)


def ready() -> tuple[Breaker, Pipeline]:
    """A breaker on the system's clock that is ready to probe."""
    breaker = Breaker()
    pipeline = Pipeline("x", breaker)
    breaker.trip(seconds=1e-9)
    return breaker, pipeline


def crowd_of_threads(breaker: Breaker, pipeline: Pipeline) -> int:
    """How many of fifty threads at once are admitted. The admitted ones wait until all others were refused."""
    start = threading.Barrier(CROWD)
    inside = threading.Semaphore(0)
    hold = threading.Event()

    def probe() -> None:
        inside.release()
        assert hold.wait(20)

    def one() -> bool:
        start.wait(20)
        try:
            pipeline.call(probe)
        except CircuitOpen:
            return False
        return True

    with ThreadPoolExecutor(CROWD) as pool:
        results = [pool.submit(one) for _ in range(CROWD)]
        for _ in range(3):
            assert inside.acquire(timeout=20)
        while breaker.snapshot()["refused"] < CROWD - 3:
            assert not inside.acquire(timeout=0.001)  # nobody else gets in
        hold.set()
        return sum(result.result(20) for result in results)


@pytest.mark.usefixtures("switching_often")
def test_of_fifty_threads_exactly_three_probe() -> None:
    for _ in range(20):
        breaker, pipeline = ready()
        assert crowd_of_threads(breaker, pipeline) == 3
        assert breaker.state == "closed"


def test_of_fifty_tasks_exactly_three_probe(run_async: RunAsync) -> None:
    async def main() -> None:
        breaker, pipeline = ready()
        hold = asyncio.Event()

        async def one() -> bool:
            try:
                await pipeline.acall(hold.wait)
            except CircuitOpen:
                return False
            return True

        tasks = [asyncio.create_task(one()) for _ in range(CROWD)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) == CROWD - 3
        assert breaker.snapshot()["probing"] == 3
        hold.set()
        assert sum(await asyncio.gather(*tasks)) == 3
        assert breaker.state == "closed"

    run_async(main())


def test_a_cancelled_probe_returns_its_permit(run_async: RunAsync) -> None:
    async def main() -> None:
        breaker, pipeline = ready()
        tasks = [asyncio.create_task(pipeline.acall(asyncio.sleep, 60)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpen):
            await pipeline.acall(asyncio.sleep, 0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ended] == [asyncio.CancelledError] * 3
        seen = breaker.snapshot()
        assert (seen["state"], seen["probing"], seen["calls"]) == ("half_open", 0, 0)
        for _ in range(2):
            await pipeline.acall(asyncio.sleep, 0)
        assert breaker.snapshot()["state"] == "closed"

    run_async(main())


def test_cancelled_calls_never_open_it(run_async: RunAsync) -> None:
    async def main() -> None:
        breaker = Breaker(min_calls=1, consecutive=1)
        pipeline = Pipeline("x", breaker)
        tasks = [asyncio.create_task(pipeline.acall(asyncio.sleep, 60)) for _ in range(CROWD)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (breaker.state, breaker.snapshot()["calls"]) == ("closed", 0)

    run_async(main())


def test_a_cancelled_probe_returns_its_permit_on_the_virtual_clock() -> None:
    bench = Bench(slow_call=30.0)

    async def main() -> None:
        bench.half_open()
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await bench.pipeline.acall(asyncio.sleep, 60)
        assert bench.breaker.snapshot()["probing"] == 0

    bench.clock.run(main())
    assert bench.breaker.state == "half_open"


def test_an_ignored_probe_returns_its_permit() -> None:
    bench = Bench()
    bench.half_open()
    assert bench.ignore(10) == 10
    assert bench.breaker.state == "half_open"
    assert bench.succeed(2) == 2
    assert bench.breaker.state == "closed"


def test_a_probe_in_vain_holds_its_permit_only_as_long_as_it_runs() -> None:
    bench = Bench()
    bench.half_open()
    probes = [enter(bench) for _ in range(3)]
    assert bench.refusal().reason == "half-open, and 3 probes are under way"
    assert bench.refusal().retry_after is None
    leave(bench, probes[0], IGNORED)
    assert bench.ignore() == 1
    again = enter(bench)
    assert bench.succeed() == 0
    for probe in (again, probes[1]):
        leave(bench, probe, OK)
    assert bench.breaker.state == "closed"


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([OK], "half_open"),
        ([FAILED], "half_open"),
        ([OK, OK], "closed"),
        ([FAILED, FAILED], "open"),
        ([OK, FAILED], "half_open"),
        ([FAILED, OK, OK], "closed"),
        ([OK, FAILED, FAILED], "open"),
        ([IGNORED, OK, IGNORED, OK], "closed"),
    ],
)
def test_it_decides_as_soon_as_the_verdict_is_certain(outcomes: list[Any], state: str) -> None:
    bench = Bench()
    bench.half_open()
    for outcome in outcomes:
        assert bench.breaker.state == "half_open"
        leave(bench, enter(bench), outcome)
    assert bench.breaker.state == state


def test_without_a_rate_the_first_failed_probe_decides() -> None:
    bench = Bench("off", consecutive=20)
    bench.half_open()
    bench.succeed(2)
    assert bench.breaker.state == "half_open"
    bench.fail()
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "1 of 3 probes failed"
    bench.clock.advance(7.5)
    bench.succeed(3)
    assert bench.breaker.state == "closed"


def test_a_breaker_by_slow_calls_judges_its_probes_by_that() -> None:
    bench = Bench("off", slow_call=1.0, min_calls=2, open_growth=1.0)
    bench.succeed(2, seconds=2)
    assert bench.breaker.state == "open"
    bench.clock.advance(5)
    bench.fail(2)  # quick failures are not what it is about
    assert bench.breaker.state == "closed"
    bench.succeed(2, seconds=2)
    bench.clock.advance(5)
    bench.succeed(2, seconds=2)
    assert bench.breaker.state == "open"
    assert bench.refusal().reason == "2 of 3 probes took longer than 1 s"


def test_a_probe_that_never_ends_counts_as_failed_when_its_lease_is_over() -> None:
    bench = Bench(half_open_timeout=10.0)
    bench.half_open()
    hung = [enter(bench) for _ in range(3)]
    bench.clock.advance(9.75)
    assert bench.succeed() == 0
    bench.clock.advance(0.25)
    assert bench.succeed() == 0
    assert bench.breaker.state == "open"
    error = bench.refusal()
    assert error.reason == "3 of 3 probes failed, 3 by not ending in 10 s"
    assert error.retry_after == 7.5
    bench.clock.advance(7.5)
    for probe in hung:
        leave(bench, probe, OK)  # too late: that lease is long over
    assert bench.breaker.state == "open"
    assert bench.succeed(2) == 2
    assert bench.breaker.state == "closed"


def test_a_breaker_by_slow_calls_takes_a_probe_that_never_ends_for_a_slow_one() -> None:
    bench = Bench("off", slow_call=1.0, min_calls=2, half_open_timeout=10.0)
    bench.succeed(2, seconds=2)
    bench.clock.advance(5)
    for _ in range(2):
        enter(bench)
    bench.clock.advance(10)
    assert bench.succeed() == 0
    assert bench.breaker.state == "open"


def test_a_probe_that_takes_as_long_as_the_limit_is_not_slow() -> None:
    bench = Bench("off", slow_call=1.0, min_calls=2, half_open_timeout=10.0)
    bench.succeed(2, seconds=2)
    bench.clock.advance(5)
    bench.succeed(2, seconds=1)
    assert bench.breaker.state == "closed"


def test_the_first_lease_that_is_over_may_decide_alone() -> None:
    bench = Bench(0.3, half_open_timeout=10.0)
    bench.half_open()
    enter(bench)
    bench.clock.advance(4)
    enter(bench)
    enter(bench)
    bench.clock.advance(6)
    assert bench.succeed() == 0
    assert bench.refusal().reason == "1 of 3 probes failed, 1 by not ending in 10 s"


def test_one_probe_that_hangs_does_not_keep_the_others_from_deciding() -> None:
    bench = Bench(half_open_timeout=10.0)
    bench.half_open()
    hung = enter(bench)
    bench.succeed()
    bench.clock.advance(10)
    bench.succeed()
    assert bench.breaker.state == "closed"
    leave(bench, hung, FAILED)
    assert bench.breaker.snapshot()["calls"] == 0


def test_every_lease_counts_once() -> None:
    bench = Bench(probes=4, half_open_timeout=10.0)
    bench.half_open()
    hung = enter(bench)
    bench.clock.advance(10)
    assert bench.ignore() == 1
    assert bench.breaker.snapshot()["failed"] == 1
    leave(bench, hung, FAILED)
    assert bench.breaker.snapshot()["failed"] == 1
    assert bench.breaker.state == "half_open"


def test_a_clock_that_was_set_back_does_not_make_a_lease_last_for_ages() -> None:
    bench = Bench(start=1_000_000.0, half_open_timeout=10.0)
    bench.half_open()
    for _ in range(3):
        enter(bench)
    call = bare_call(now=50.0)
    with pytest.raises(CircuitOpen):
        bench.breaker.enter(call)
    call.now = 60.0
    with pytest.raises(CircuitOpen, match="3 by not ending in 10 s"):
        bench.breaker.enter(call)


def test_results_from_before_it_opened_are_no_probes() -> None:
    bench = Bench()
    early = [enter(bench) for _ in range(3)]
    bench.half_open()
    for call in early:
        leave(bench, call, FAILED)
    assert bench.breaker.snapshot()["late"] == 3
    assert bench.breaker.state == "half_open"


def test_results_of_an_earlier_half_open_period_are_dropped() -> None:
    bench = Bench()
    bench.half_open()
    slow = enter(bench)
    bench.fail(2)
    bench.clock.advance(7.5)
    bench.ignore()
    assert bench.breaker.state == "half_open"
    leave(bench, slow, FAILED)
    assert bench.breaker.snapshot()["calls"] == 0
    assert bench.fail(1) == 1
    assert bench.breaker.state == "half_open"
