"""Many at the same time: one execution for all who miss, and nothing remembered that was forgotten meanwhile."""

import asyncio
import random
import threading
from functools import partial
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from resilience.loops import RunAsync
from resilience.witness import until, wait_for
from resilience.work import Work, cancelled, start

THREADS = 50


def test_tasks_that_miss_the_same_key_ask_once(run_async: RunAsync) -> None:
    work, cache = Work(), Cache()
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        callers = [start(call, number % 2) for number in range(50)]
        await until(lambda: cache.snapshot()["misses"] == 50 and len(work.begun) == 2)
        await cancelled(callers[0])
        work.finish(0, "even")
        work.finish(1, "odd")
        assert await asyncio.gather(*callers[1:]) == [*["odd", "even"] * 24, "odd"]
        assert await call(0) == "even"
        assert cache.snapshot()["loads"] == 2

    run_async(main())


def test_whoever_comes_as_the_execution_ends_does_not_ask_again(run_async: RunAsync) -> None:
    asked: list[int] = []

    @Cache()
    async def load() -> int:
        await asyncio.sleep(0)
        asked.append(1)
        return 1

    async def late(turn: int) -> int:
        for _ in range(turn):
            await asyncio.sleep(0)
        return await load()

    async def main() -> None:
        assert await asyncio.gather(*(late(turn) for turn in range(12))) == [1] * 12

    run_async(main())
    assert asked == [1]


def test_whoever_missed_just_before_a_result_came_does_not_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    cache = Cache()

    @cache
    def load() -> int:
        asked.append(1)
        return 1

    def somebody_else_is_faster(key: object) -> None:
        monkeypatch.undo()
        load()

    monkeypatch.setattr(cache._thread_flights, "find", somebody_else_is_faster)
    assert load() == 1
    assert asked == [1]


@pytest.mark.usefixtures("switching_often")
def test_threads_that_miss_the_same_key_ask_once() -> None:
    asked: list[int] = []
    cache = Cache()
    barrier = threading.Barrier(THREADS)

    @cache
    def load(key: int) -> int:
        asked.append(key)
        return key

    wrong: list[int] = []

    def run(seed: int) -> None:
        chance = random.Random(seed)
        barrier.wait(10)
        for _ in range(60):
            key = chance.randrange(20)
            if load(key) != key:
                wrong.append(key)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(asked) == list(range(20))
    snapshot = cache.snapshot()
    assert snapshot["hits"] + snapshot["misses"] == 60 * THREADS
    assert snapshot["loads"] == 20


def test_what_is_forgotten_while_it_is_fetched_is_not_remembered(run_async: RunAsync) -> None:
    work, cache = Work(), Cache()
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        forget: list[Any] = [lambda: cache.invalidate_call(call, 1), cache.clear]
        for number in (0, 2):
            before = start(call, 1)
            await until(lambda: len(work.begun) == number + 1)  # noqa: B023 - it is over before the next one
            forget.pop()()
            # From here on nobody may see what was asked for before.
            after = start(call, 1)
            await until(lambda: len(work.begun) == number + 2)  # noqa: B023
            work.finish(number + 1, "new")
            assert await after == "new"
            work.finish(number, "old")
            assert await before == "old"
            assert await call(1) == "new"
            cache.clear()

    run_async(main())


def test_an_exception_that_is_remembered_is_no_old_result(run_async: RunAsync) -> None:
    work, cache = Work(), Cache(stale_if_error=60, negative=LookupError, negative_ttl=60)
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        before = start(call)
        await until(lambda: work.begun)
        cache.clear()
        after = start(call)
        await until(lambda: len(work.begun) == 2)
        work.finish(1, LookupError("nobody"))
        work.finish(0, OSError("down"))
        results = await asyncio.gather(before, after, return_exceptions=True)
        assert [type(result) for result in results] == [OSError, LookupError]

    run_async(main())


def test_a_result_that_comes_after_everybody_has_left_is_not_remembered(run_async: RunAsync) -> None:
    cache = Cache()

    async def main() -> None:
        may_end = asyncio.Event()
        ended: list[int] = []

        @cache
        async def stubborn() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await may_end.wait()
            ended.append(1)
            return "old"

        caller = start(stubborn)
        await until(lambda: cache.snapshot()["loads"] == 1)
        await cancelled(caller)
        cache.invalidate_call(stubborn)
        may_end.set()
        await until(lambda: ended)
        for _ in range(5):
            await asyncio.sleep(0)
        assert cache.snapshot()["entries"] == 0

    run_async(main())


@pytest.mark.parametrize("everything", [False, True])
def test_what_is_forgotten_while_a_thread_fetches_it_is_not_remembered(everything: bool) -> None:
    may_end = threading.Event()
    asked: list[int] = []
    cache = Cache()

    @cache
    def load() -> int:
        asked.append(1)
        number = len(asked)
        assert number > 1 or may_end.wait(10)
        return number

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(load()))
    thread.start()
    wait_for(lambda: asked)
    if everything:
        cache.clear()
    else:
        assert not cache.invalidate_call(load)
    may_end.set()
    thread.join(10)
    assert results == [1]
    assert cache.snapshot()["entries"] == 0
    assert [load(), load()] == [2, 2]


def has_loaded(cache: Cache, times: int) -> bool:
    return cache.loads > times


@pytest.mark.usefixtures("switching_often")
def test_after_an_invalidation_no_thread_ever_sees_what_was_there_before() -> None:
    cache = Cache()
    version = [0]
    wrong: list[Any] = []
    done = threading.Event()

    @cache
    def load() -> int:
        return version[0]

    def read() -> None:
        while not done.is_set():
            least = version_forgotten[0]
            seen = load()
            if seen < least:
                wrong.append((least, seen))

    version_forgotten = [0]
    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for number in range(1, 150):
        version[0] = number
        cache.invalidate_call(load)
        version_forgotten[0] = number
        if number % 2:
            wait_for(partial(has_loaded, cache, number // 2))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert cache.snapshot()["loads"] > 20


def test_tasks_of_several_loops_share_what_is_remembered() -> None:
    cache = Cache()
    asked: list[int] = []

    @cache
    async def load() -> str:
        asked.append(1)
        return "answer"

    for _ in range(3):
        assert asyncio.run(load()) == "answer"
    assert asked == [1]


def test_what_an_execution_makes_unshared_is_not_remembered() -> None:
    # Nobody could find it to say that it is out of date.
    cache = Cache(key=lambda call: "same")
    seen: list[int] = []

    @cache
    def nested(level: int) -> int:
        if level == 0:
            assert nested(1) == 1
            seen.append(cache.snapshot()["entries"])
        return level

    @cache
    async def nested_async(level: int) -> int:
        if level == 0:
            assert await nested_async(1) == 1
            seen.append(cache.snapshot()["entries"])
        return level

    assert nested(0) == 0
    cache.clear()
    assert asyncio.run(nested_async(0)) == 0
    assert seen == [0, 0]


def test_refreshes_that_closed_loops_leave_behind_take_up_no_places() -> None:
    cache, clock = Cache(10, stale=1000, refreshes=1, jitter=0), VirtualClock()
    asked: list[int] = []
    left: list[Any] = []

    @Pipeline("x", cache, clock=clock)
    async def load() -> int:
        asked.append(1)
        if len(asked) > 1:
            await asyncio.sleep(10)
        return len(asked)

    for number in range(4):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(load()) == 1
        loop.run_until_complete(asyncio.sleep(0.001))
        assert len(asked) == number + 1
        left += asyncio.all_tasks(loop)
        loop.close()
        clock.advance(10)
    for task in left:
        task._log_destroy_pending = False  # it is what this test is about
    assert cache.snapshot()["refreshing"] == 1
