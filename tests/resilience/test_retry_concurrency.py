"""Many calls at a time: tasks on every loop, threads, and cancellations in the middle."""

import asyncio
import threading
import time
from collections import Counter
from contextvars import ContextVar

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.retry import Retry, point_of_no_return
from holdfast.resilience.timeout import Timeout
from resilience.attempts import notes
from resilience.loops import RunAsync

CALLS = 50


class Failing:
    """Fails so often for each caller, then answers with the caller's name."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.attempts: Counter[int] = Counter()

    def __call__(self, caller: int) -> int:
        self.attempts[caller] += 1
        if self.attempts[caller] <= self.times:
            raise OSError(str(caller))
        return caller

    async def later(self, caller: int) -> int:
        await asyncio.sleep(0)
        return self(caller)


def quick(attempts: int = 3) -> Retry:
    return Retry(attempts, backoff=0.001, budget=None)


def test_fifty_tasks_each_have_attempts_of_their_own(run_async: RunAsync) -> None:
    failing, retry = Failing(2), quick()
    call = Pipeline("x", retry)(failing.later)

    async def main() -> list[int]:
        return await asyncio.gather(*(call(number) for number in range(CALLS)))

    assert run_async(main()) == list(range(CALLS))
    assert set(failing.attempts.values()) == {3}
    assert (retry.retried, retry.retries, retry.recovered) == (CALLS, 2 * CALLS, CALLS)
    assert not any(retry.gave_up.values())


def test_fifty_tasks_that_fail_each_get_their_own_last_error(run_async: RunAsync) -> None:
    failing, retry = Failing(9), quick()
    call = Pipeline("x", retry)(failing.later)

    async def main() -> list[int | BaseException]:
        return await asyncio.gather(*(call(number) for number in range(CALLS)), return_exceptions=True)

    errors = run_async(main())
    assert [str(error) for error in errors] == [str(number) for number in range(CALLS)]
    assert all(isinstance(error, OSError) and len(notes(error)) == 1 for error in errors)
    assert retry.gave_up["attempts"] == CALLS


def test_a_cancellation_gets_out_of_an_attempt_at_once(run_async: RunAsync) -> None:
    retry = quick()
    begun = 0

    @Pipeline("x", retry)
    async def hang() -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.ensure_future(hang())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(main())
    assert (begun, retry.retries, sum(retry.gave_up.values())) == (1, 0, 0)


def test_a_cancellation_gets_out_of_a_delay_at_once(run_async: RunAsync) -> None:
    retry = Retry(backoff=60.0, jitter="none")
    failing = Failing(9)
    call = Pipeline("x", retry)(failing.later)

    async def main() -> None:
        asleep = asyncio.Event()
        retry.listeners.subscribe(lambda event: asleep.set())
        task = asyncio.ensure_future(call(1))
        await asleep.wait()
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 5

    run_async(main())
    assert (failing.attempts[1], retry.recovered, sum(retry.gave_up.values())) == (1, 0, 0)


def test_wait_for_ends_a_long_delay_on_time() -> None:
    clock = VirtualClock()
    failing = Failing(9)
    call = Pipeline("x", Retry(backoff=60.0, jitter="none"), clock=clock)(failing.later)
    began = clock.now()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(1), 0.05)

    clock.run(main())
    assert clock.now() - began == pytest.approx(0.05)
    assert failing.attempts[1] == 1


def test_a_cancellation_is_not_retried_when_a_callee_makes_an_error_of_it() -> None:
    clock = VirtualClock()
    attempts = 0

    @Pipeline("x", Retry(backoff=60.0, jitter="none"), clock=clock)
    async def rude() -> None:
        nonlocal attempts
        attempts += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    async def main() -> None:
        began = clock.now()
        with pytest.raises(ConnectionError) as caught:
            async with asyncio.timeout(0.05):
                await rude()
        assert clock.now() - began == pytest.approx(0.05)
        assert notes(caught.value) == ["retry: 1 attempt in 0.05 s; the work was called off"]

    clock.run(main())
    assert attempts == 1


def test_a_time_limit_inside_that_a_callee_makes_an_error_of_is_retried() -> None:
    clock = VirtualClock()
    attempts = 0

    @Pipeline("x", Retry(backoff=1.0), Timeout(0.5), clock=clock)
    async def rude() -> None:
        nonlocal attempts
        attempts += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await rude()

    clock.run(main())
    assert attempts == 3


variable: ContextVar[str] = ContextVar("variable", default="none")


def test_each_attempt_sees_the_context_of_the_caller(run_async: RunAsync) -> None:
    seen: list[str] = []

    @Pipeline("x", Timeout(10), quick(), Timeout(5))
    async def look() -> None:
        seen.append(variable.get())
        if len(seen) < 3:
            raise OSError

    async def main() -> None:
        variable.set("set")
        await look()

    run_async(main())
    assert seen == ["set"] * 3


def test_the_point_of_no_return_lets_cancellations_through(run_async: RunAsync) -> None:
    @Pipeline("x", quick())
    async def stream() -> None:
        with point_of_no_return():
            await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream(), 0.01)

    run_async(main())


@pytest.mark.usefixtures("switching_often")
def test_fifty_threads_lose_no_count_and_mix_no_calls_up() -> None:
    rounds = 20
    retry = Retry(3, backoff=0, budget={"ratio": 2, "floor": 0, "window": 60})
    failing = [Failing(2) for _ in range(CALLS)]
    hopeless = [Failing(10**9) for _ in range(CALLS)]
    wrong: list[object] = []
    barrier = threading.Barrier(CALLS)
    clock = VirtualClock()
    pipeline = Pipeline("x", retry, clock=clock)

    def work(number: int) -> None:
        good, bad = pipeline(failing[number]), pipeline(hopeless[number])
        barrier.wait(10)
        for step in range(rounds):
            if good(step) != step:
                wrong.append(step)
            try:
                bad(step)
            except OSError as error:
                if str(error) != str(step) or len(notes(error)) != 1:
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    calls = CALLS * rounds
    assert not wrong
    assert all(set(one.attempts.values()) == {3} for one in failing + hopeless)
    assert (retry.retried, retry.retries) == (2 * calls, 4 * calls)
    assert (retry.recovered, retry.gave_up["attempts"]) == (calls, calls)
    assert retry.budget is not None
    assert (retry.budget.count, retry.budget.spent, retry.budget.denied) == (2 * calls, 4 * calls, 0)
