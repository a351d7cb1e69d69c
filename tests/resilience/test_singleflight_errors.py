"""What callers of a shared execution are told when it fails: the same, and nothing of each other."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import use_deadline
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.singleflight import SingleFlight
from resilience.loops import RunAsync
from resilience.witness import Witness, until, wait_for
from resilience.work import Work, start

PATIENCE = 30.0


class Stop(BaseException):
    """What some test tools and servers raise: neither an ``Exception`` nor a cancellation."""


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def spoil(error: BaseException, number: int) -> tuple[Any, ...]:
    """What a caller sees of ``error``, who then changes whatever it can."""
    seen = (error.args, list(getattr(error, "__notes__", [])), error.__cause__)
    error.add_note(f"note of {number}")
    error.args = ("changed", number)
    error.__cause__ = KeyError(number)
    return seen


def test_what_one_caller_does_to_its_exception_no_other_sees(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)
    cause = OSError("down")
    failure = ValueError("no")
    failure.add_note("for all")
    failure.__cause__ = cause
    seen: list[tuple[Any, ...]] = []

    async def ask(number: int) -> None:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is what is looked at
            await call()
        seen.append(spoil(caught.value, number))

    async def main() -> None:
        callers = [start(ask, number) for number in range(4)]
        await until(lambda: policy.snapshot()["shared"] == 3 and work.begun)
        work.finish(0, failure)
        await asyncio.gather(*callers)

    run_async(main())
    assert seen == [(("no",), ["for all"], cause)] * 4


def test_what_the_leading_thread_does_to_its_exception_no_other_sees() -> None:
    policy = SingleFlight()
    may_end = threading.Event()
    seen: dict[int, tuple[Any, ...]] = {}

    @policy
    def fail() -> None:
        assert may_end.wait(PATIENCE)
        raise ValueError("no")

    def ask(number: int) -> None:
        try:
            fail()
        except ValueError as error:
            seen[number] = spoil(error, number)

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(5)]
    for thread in threads:
        thread.start()
    wait_for(lambda: policy.snapshot()["shared"] == 4)
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert seen == dict.fromkeys(range(5), (("no",), [], None))


def test_a_dependency_that_is_too_slow_for_itself_is_so_for_followers_with_more_time_too() -> None:
    clock, policy = VirtualClock(), SingleFlight()
    begun: list[int] = []
    may_end = threading.Event()
    told: list[BaseException] = []

    @Pipeline("x", policy, clock=clock)
    def fail() -> None:
        begun.append(1)
        assert may_end.wait(PATIENCE)
        raise TimeoutError("the dependency's own")

    def ask(seconds: float) -> None:
        with use_deadline(clock.now() + seconds), pytest.raises(TimeoutError) as caught:
            fail()
        told.append(caught.value)

    threads = [threading.Thread(target=ask, args=(seconds,), daemon=True) for seconds in (100, 200)]
    threads[0].start()
    wait_for(lambda: begun)
    threads[1].start()
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [str(error) for error in told] == ["the dependency's own"] * 2
    assert begun == [1]


def test_a_follower_whose_time_is_up_with_the_leaders_does_not_begin_again() -> None:
    clock, policy = VirtualClock(), SingleFlight()
    begun: list[int] = []
    may_end = threading.Event()
    told: list[BaseException] = []

    @Pipeline("x", policy, clock=clock)
    def late() -> None:
        begun.append(1)
        assert may_end.wait(PATIENCE)
        clock.advance(100)
        raise TimeoutError

    def ask() -> None:
        with use_deadline(deadline), pytest.raises(TimeoutError) as caught:
            late()
        told.append(caught.value)

    deadline = clock.now() + 100
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(told) == 2
    assert begun == [1]


@pytest.mark.parametrize(
    "failure",
    [Slotted(7), ExceptionGroup("several", [ValueError(1), OSError(2)]), BaseExceptionGroup("all", [Stop()]), Stop(3)],
    ids=lambda failure: type(failure).__name__,
)
def test_every_kind_of_exception_reaches_all_as_what_it_is(run_async: RunAsync, failure: BaseException) -> None:
    policy = SingleFlight()
    told: list[BaseException] = []

    @policy
    async def fail() -> None:
        await until(lambda: policy.snapshot()["shared"] == 2)
        raise failure

    async def ask() -> None:
        try:
            await fail()
        except BaseException as error:
            told.append(error)

    async def main() -> None:
        await asyncio.gather(*(ask() for _ in range(3)))
        await until(lambda: policy.snapshot()["under_way"] == 0)

    run_async(main())
    assert [(type(error), error.args) for error in told] == [(type(failure), failure.args)] * 3
    assert len({id(error) for error in told}) == 3


def test_the_end_of_an_execution_is_stamped_for_each_who_waited() -> None:
    clock, outside = VirtualClock(), Witness()

    async def slow(fails: bool) -> None:
        await asyncio.sleep(10)
        if fails:
            raise ValueError

    call = Pipeline("x", outside, SingleFlight(), clock=clock)(slow)

    async def main() -> None:
        await asyncio.gather(*(call(fails) for fails in (True, True, False, False)), return_exceptions=True)

    began = clock.now()
    clock.run(main())
    assert [seen.now - began for seen in outside.calls] == [10] * 4


def test_an_interrupt_of_the_program_goes_to_the_program_and_not_to_callers() -> None:
    policy = SingleFlight()
    told: list[BaseException] = []

    @policy
    async def interrupted() -> None:
        await until(lambda: policy.snapshot()["shared"] == 1)
        raise KeyboardInterrupt

    async def ask() -> None:
        try:
            await interrupted()
        except BaseException as error:
            told.append(error)
            raise

    async def main() -> None:
        await asyncio.gather(ask(), ask())

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert [type(error) for error in told] == [asyncio.CancelledError] * 2


def test_a_refresh_that_failed_leaves_nothing_for_the_garbage_collector() -> None:
    clock, cache = VirtualClock(), Cache(10, stale=50, jitter=0)
    failures: list[weakref.ref[Exception]] = []

    class Failure(Exception):
        def __init__(self) -> None:
            super().__init__()
            failures.append(weakref.ref(self))

    @Pipeline("x", cache, clock=clock)
    async def load() -> int:
        if cache.snapshot()["loads"] > 1:
            cache._sieve.clear()  # no old result is left that could stand in for the failure
            raise Failure
        return 1

    async def main() -> None:
        assert await load() == 1
        clock.advance(10)
        assert await load() == 1
        await until(lambda: cache.snapshot()["refreshing"] == 0)
        assert [failure() for failure in failures] == [None]

    gc.collect()
    gc.disable()
    try:
        clock.run(main())
    finally:
        gc.enable()
