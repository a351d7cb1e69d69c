"""Executions that ask for each other must not wait for ever: in tasks, in threads, and across both."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import pytest

from holdfast.core.context import use_deadline
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.policy import Policy
from holdfast.resilience.cache import Cache
from holdfast.resilience.sharing.waiting import INSIDE, Running, begin_wait, end_wait
from holdfast.resilience.singleflight import SingleFlight
from resilience.loops import RunAsync
from resilience.witness import until

PATIENCE = 30.0
POLICIES = pytest.mark.parametrize("make", [SingleFlight, Cache], ids=["single_flight", "cache"])


def by_first(call: Any) -> Any:
    return call.args[0]


@POLICIES
@pytest.mark.parametrize("length", [2, 3, 5])
def test_tasks_that_ask_for_each_other_in_a_circle_all_end(
    run_async: RunAsync, make: Callable[..., Policy[Any]], length: int
) -> None:
    policy = make(key=by_first)
    begun: list[int] = []

    @policy
    async def ask(number: int) -> list[int]:
        begun.append(number)
        if len(begun) > length:  # asked for by the one that would have closed the circle
            return [number]
        await until(lambda: len(begun) >= length)
        return [number, *await ask((number + 1) % length)]

    async def main() -> None:
        results = await asyncio.gather(*(ask(number) for number in range(length)))
        assert len(begun) == length + 1
        for number, chain in enumerate(results):
            assert chain == [(number + step) % length for step in range(len(chain))]
            assert chain[-1] == begun[-1]

    run_async(main())


@POLICIES
def test_threads_that_ask_for_each_other_all_end(make: Callable[..., Policy[Any]]) -> None:
    policy = make(key=by_first)
    both = threading.Barrier(2)
    begun: list[int] = []
    results: dict[int, int] = {}

    @policy
    def ask(number: int, inner: bool = False) -> int:
        begun.append(number)
        if inner:
            return number
        both.wait(PATIENCE)
        return ask(1 - number, True)

    def run(number: int) -> None:
        results[number] = ask(number)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert set(results) == {0, 1}
    assert len(begun) in (3, 4)  # both may see the circle at the same moment
    assert policy.snapshot().get("under_way", 0) == 0


def test_one_who_asks_through_another_that_it_has_begun_does_not_wait_for_itself(run_async: RunAsync) -> None:
    policy = SingleFlight(key=by_first)
    begun: list[int] = []

    @policy
    async def ask(number: int) -> list[int]:
        begun.append(number)
        return [number] if len(begun) > 3 else [number, *await ask((number + 1) % 3)]

    @policy
    def ask_sync(number: int) -> list[int]:
        begun.append(number)
        return [number] if len(begun) > 3 else [number, *ask_sync((number + 1) % 3)]

    async def main() -> None:
        assert await ask(0) == [0, 1, 2, 0]
        begun.clear()
        context = copy_context()  # in a thread of its own, which does not show by who leads
        assert await asyncio.to_thread(context.run, ask_sync, 0) == [0, 1, 2, 0]

    run_async(main())


def test_a_circle_that_never_ends_is_a_recursion_error() -> None:
    policy = SingleFlight(key=by_first)

    @policy
    async def ask(number: int) -> int:
        return await ask(1 - number)

    @policy
    def ask_sync(number: int) -> int:
        return ask_sync(1 - number)

    async def main() -> list[Any]:
        return list(await asyncio.gather(ask(0), ask(1), return_exceptions=True))

    assert [type(error) for error in asyncio.run(main())] == [RecursionError] * 2
    with pytest.raises(RecursionError):
        ask_sync(0)
    assert policy.snapshot()["under_way"] == 0


def test_a_circle_may_go_through_two_policies() -> None:
    one, two = SingleFlight(name="one"), SingleFlight(name="two")
    begun: list[str] = []

    @one
    async def first() -> str:
        begun.append("first")
        if len(begun) > 2:
            return "first"
        await until(lambda: len(begun) == 2)
        return await second()

    @two
    async def second() -> str:
        begun.append("second")
        if len(begun) > 2:
            return "second"
        await until(lambda: len(begun) == 2)
        return await first()

    async def main() -> list[str]:
        async with asyncio.timeout(PATIENCE):
            return list(await asyncio.gather(first(), second()))

    results = asyncio.run(main())
    assert results in (["first", "first"], ["second", "second"])
    assert len(begun) == 3


def test_a_circle_may_go_through_tasks_and_threads() -> None:
    tasks, threads = SingleFlight(name="tasks"), SingleFlight(name="threads")
    begun: list[str] = []

    async def main() -> str:
        loop = asyncio.get_running_loop()

        @tasks
        async def in_task() -> str:
            begun.append("task")
            if len(begun) > 1:
                return "unshared"
            return await asyncio.to_thread(in_thread)

        @threads
        def in_thread() -> str:
            begun.append("thread")
            # The thread asks the loop for what waits for the thread.
            return asyncio.run_coroutine_threadsafe(again(), loop).result(PATIENCE)

        async def again() -> str:
            return await in_task()

        return await in_task()

    assert asyncio.run(main()) == "unshared"
    assert begun == ["task", "thread", "task"]


def test_an_execution_that_asks_for_itself_in_another_thread_does_not_wait_for_itself() -> None:
    policy = SingleFlight()
    begun: list[int] = []

    @policy
    def ask() -> str:
        begun.append(1)
        if len(begun) > 1:
            return "unshared"
        context, results = copy_context(), list[str]()
        thread = threading.Thread(target=lambda: results.append(context.run(ask)), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return results[0]

    assert ask() == "unshared"


def test_an_execution_that_asks_for_itself_from_an_empty_context_does_not_wait_for_itself() -> None:
    begun: list[int] = []

    @SingleFlight()
    def ask() -> str:
        begun.append(1)
        return "unshared" if len(begun) > 1 else Context().run(ask)

    assert ask() == "unshared"


def test_a_thread_that_has_given_up_waiting_says_so() -> None:
    policy = SingleFlight(key=by_first)
    may_end, begun = threading.Event(), threading.Event()

    @policy
    def ask(name: str) -> str:
        if name == "slow":
            begun.set()
            assert may_end.wait(PATIENCE)
        else:
            with use_deadline(0.0), pytest.raises(DeadlineExceeded):
                ask("slow")
            own = INSIDE.get()
            assert own is not None
            assert own.awaits == []
        return name

    slow = threading.Thread(target=ask, args=("slow",), daemon=True)
    slow.start()
    assert begun.wait(PATIENCE)
    assert ask("hurried") == "hurried"
    may_end.set()
    slow.join(PATIENCE)


def test_who_waits_for_the_same_without_a_circle_shares(run_async: RunAsync) -> None:
    policy = SingleFlight(key=by_first)
    begun: list[str] = []

    @policy
    async def ask(name: str) -> str:
        begun.append(name)
        await asyncio.sleep(0)
        return name if name == "base" else await ask("base")

    async def main() -> None:
        assert list(await asyncio.gather(ask("left"), ask("right"), ask("base"))) == ["base"] * 3

    run_async(main())
    assert sorted(begun) == ["base", "left", "right"]
    assert policy.snapshot() == {"executions": 3, "shared": 2, "abandoned": 0, "under_way": 0}


def test_one_who_has_given_up_waiting_closes_no_circle() -> None:
    policy = SingleFlight(key=by_first)
    begun: list[str] = []

    async def main() -> None:
        may_ask, may_end = asyncio.Event(), asyncio.Event()

        @policy
        async def ask(name: str) -> str:
            begun.append(name)
            if name == "a":
                try:
                    async with asyncio.timeout(0):
                        await ask("b")
                except TimeoutError:
                    may_ask.set()
                await may_end.wait()
            else:
                await may_ask.wait()
                may_end.set()
                await ask("a")
            return name

        async with asyncio.timeout(PATIENCE):
            assert list(await asyncio.gather(ask("b"), ask("a"))) == ["b", "a"]

    asyncio.run(main())
    assert begun == ["b", "a"]  # b could wait for a, which does not wait for b any more
    assert policy.snapshot()["shared"] == 2


def test_a_wait_that_was_refused_or_has_ended_is_forgotten() -> None:
    own, other = Running(), Running()

    def inside() -> None:
        INSIDE.set(own)
        assert begin_wait(other)
        assert own.awaits == [other]
        end_wait(other)
        assert own.awaits == []
        other.awaits.append(own)
        assert not begin_wait(other)
        assert not begin_wait(own)
        assert own.awaits == []
        other.ended = True  # who has ended waits for nobody, whatever stands there
        assert begin_wait(other)

    copy_context().run(inside)
    assert begin_wait(other)  # who is inside of nothing may wait for everybody
    end_wait(other)


def test_after_an_execution_its_thread_is_inside_of_what_it_was_before() -> None:
    seen: list[Running | None] = []

    @SingleFlight(key=by_first)
    def ask(name: str) -> None:
        before = INSIDE.get()
        if name == "outer":
            ask("inner")
        seen.append(before)
        assert INSIDE.get() is before

    ask("outer")
    assert INSIDE.get() is None
    inner, outer = seen
    assert inner is not outer
    assert inner is not None
    assert outer is not None
    assert outer.awaits == []


def test_a_wait_for_what_could_not_begin_is_forgotten() -> None:
    policy = SingleFlight(key=by_first)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    @policy
    async def ask(name: str) -> int:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(broken)
        with pytest.raises(MemoryError):
            await ask("inner")
        loop.set_task_factory(None)
        own = INSIDE.get()
        assert own is not None
        return len(own.awaits)

    assert asyncio.run(ask("outer")) == 0


def test_a_context_that_outlives_an_execution_holds_neither_its_result_nor_its_arguments() -> None:
    class Big:
        pass

    contexts: list[Any] = []

    @SingleFlight(key=lambda call: "same")
    async def load(big: Big) -> Big:
        contexts.append(copy_context())
        return big

    @SingleFlight(key=lambda call: "same")
    def load_sync(big: Big) -> Big:
        contexts.append(copy_context())
        return big

    async def ask() -> "weakref.ref[Big]":
        return weakref.ref(await load(Big()))

    def ask_sync() -> "weakref.ref[Big]":
        return weakref.ref(load_sync(Big()))

    gc.collect()
    gc.disable()
    try:
        assert [asyncio.run(ask())(), ask_sync()()] == [None, None]
    finally:
        gc.enable()
    assert [context[INSIDE].ended for context in contexts] == [True, True]
