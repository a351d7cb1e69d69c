"""Keys, exceptions, hooks and dependencies that behave badly, and a cache that goes on."""

import asyncio
import contextlib
import functools
import gc
import logging
import threading
import weakref
from typing import Any

import msgspec
import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import use_deadline
from holdfast.core.errors import CallCancelled, CircuitOpen, ConfigError, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.singleflight import SingleFlight
from resilience.witness import turns, until
from resilience.work import Work, start

PATIENCE = 30.0


class Changing:
    """A key whose hash changes: what a dataclass with ``unsafe_hash`` does when a field is set."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changing) and self.number == other.number


def test_keys_that_change_break_neither_calls_nor_the_bound() -> None:
    cache = Cache(entries=3)
    asked: list[Any] = []

    @cache
    def load(key: Any) -> int:
        asked.append(key)
        return 1

    keys = [Changing(number) for number in range(3)]
    for key in keys:
        load(key)
    for key in keys:
        key.number += 100
    for number in range(20):
        assert load(number) == 1
        assert cache.snapshot()["entries"] == 3
    assert [load(number) for number in (18, 19)] == [1, 1]
    assert len(asked) == 23


def test_a_key_that_calls_the_cache_when_it_is_compared_does_not_hang_it() -> None:
    cache = Cache(key=lambda call: call.args[0])
    ended: list[int] = []

    class Lazy:
        """Compares by something that it has to load first, through the same cache."""

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            cache.clear()
            load(5)
            return self is other

    @cache
    def load(key: Any) -> int:
        return 1

    def run() -> None:
        ended.extend(load(Lazy()) for _ in range(3))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended == [1, 1, 1]


@pytest.mark.parametrize("make", [Cache, SingleFlight, lambda key: Fallback(last_good=1, key=key)])
def test_a_key_function_that_would_have_to_be_awaited_is_refused(make: Any) -> None:
    async def key(call: Any) -> int:
        return 1

    with pytest.raises(ConfigError, match=r"key: got .*, expected a plain function; nothing is awaited here"):
        make(key=key)
    with pytest.raises(ConfigError, match="key: got 'id', expected a function; it can only be given in code"):
        make(key="id")


def test_what_a_key_function_raises_is_raised() -> None:
    for policy in (Cache(key=lambda call: call.kwargs["id"]), SingleFlight(key=lambda call: call.kwargs["id"])):
        with pytest.raises(KeyError, match="id"):
            Pipeline("x", policy).call(lambda: 1)
        with pytest.raises(KeyError, match="id"):
            asyncio.run(Pipeline("x", policy).acall(asyncio.sleep, 0))


def test_whoever_joined_a_refresh_that_is_too_slow_is_told_so_and_not_cancelled() -> None:
    clock, work = VirtualClock(), Work()
    cache = Cache(10, stale=5, refresh_timeout=20, jitter=0)
    call = Pipeline("x", cache, clock=clock)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        clock.advance(11)
        assert await call() == "old"  # the refresh begins
        await asyncio.sleep(6)
        began = clock.now()
        with pytest.raises(DeadlineExceeded, match="cache: a refresh took too long while the call waited"):
            await call()
        assert clock.now() == began + 14
        await turns()
        assert work.cancelled == 1
        again = start(call)
        await until(lambda: len(work.begun) == 3)
        work.finish(2, "new")
        assert await again == "new"

    clock.run(main())


@pytest.mark.parametrize("useful", [0, 1000])
def test_a_refresh_that_does_not_end_when_it_is_cancelled_keeps_nobody(useful: float) -> None:
    clock = VirtualClock()
    cache = Cache(10, stale=5, stale_if_error=useful, refresh_timeout=20, refreshes=1, jitter=0)
    begun: list[int] = []

    async def main() -> None:
        may_end = asyncio.Event()

        @Pipeline("x", cache, clock=clock)
        async def load() -> int:
            begun.append(1)
            number = len(begun)
            while number == 2 and not may_end.is_set():
                with contextlib.suppress(asyncio.CancelledError):  # it will not hear
                    await may_end.wait()
            return number

        assert await load() == 1
        clock.advance(11)
        assert await load() == 1
        await asyncio.sleep(6)
        if useful:
            assert await load() == 1  # too slow: the old one is served
        else:
            with pytest.raises(DeadlineExceeded, match="refresh took too long"):
                await load()
        await asyncio.sleep(2)
        assert cache.snapshot()["refreshing"] == 1
        assert not any(cache._flights._by_loop.values())
        assert await load() == 3  # begins anew
        may_end.set()
        await until(lambda: cache.snapshot()["refreshing"] == 0)
        assert await load() == 3  # and what comes late is not remembered

    clock.run(main())


def test_a_refresh_that_has_ended_holds_nothing_until_its_time_limit() -> None:
    class Big:
        pass

    clock, cache = VirtualClock(), Cache(10, stale=50, jitter=0, key=lambda call: "same")

    @Pipeline("x", cache, clock=clock)
    async def load(big: Big) -> int:
        return 1

    async def ask() -> "weakref.ref[Big]":
        big = Big()
        await load(big)
        return weakref.ref(big)

    async def main() -> None:
        await ask()
        clock.advance(11)
        seen = await ask()
        await until(lambda: cache.snapshot()["loads"] == 2 and not cache.snapshot()["refreshing"])
        assert seen() is None

    gc.collect()
    gc.disable()
    try:
        clock.run(main())
    finally:
        gc.enable()


def test_a_refresh_that_cannot_begin_gives_its_place_back() -> None:
    clock, cache = VirtualClock(), Cache(10, stale=50, refreshes=1, jitter=0)

    @Pipeline("x", cache, clock=clock)
    async def load() -> int:
        return 1

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    async def main() -> None:
        await load()
        clock.advance(10)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(broken)
        with pytest.raises(MemoryError):
            await load()
        loop.set_task_factory(None)
        assert cache.snapshot()["refreshing"] == 0
        assert await load() == 1
        await turns()
        assert cache.snapshot()["refreshes"] == 1

    clock.run(main())


@pytest.mark.parametrize("refusal", [CallCancelled(), CircuitOpen("breaker", "open"), DeadlineExceeded()], ids=repr)
def test_a_refusal_is_no_answer_to_be_remembered(refusal: Exception) -> None:
    cache = Cache(negative=(Exception,), negative_ttl=60)
    outcomes: list[Any] = [refusal, ValueError("no"), "answer"]

    @cache
    def load() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(type(refusal)):
        load()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            load()
    assert outcomes == ["answer"]


def test_an_exception_that_cannot_say_what_it_is_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    clock, cache = VirtualClock(), Cache(10, stale_if_error=60, jitter=0)
    cache.listeners.subscribe(lambda event: None)

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @Pipeline("x", cache, clock=clock)
    def load() -> int:
        if cache.snapshot()["loads"] > 1:
            raise Mute
        return 1

    assert load() == 1
    clock.advance(11)
    with caplog.at_level(logging.ERROR):
        assert load() == 1
    assert "an event could not be built" in caplog.text


def test_a_function_around_another_is_forgotten_by_its_own_name() -> None:
    def inner(number: int) -> int:
        return number

    @functools.wraps(inner)
    def around(number: int) -> int:
        asked.append(number)
        return inner(number)

    asked, cache = list[int](), Cache()
    call = Pipeline("x", cache)
    call.call(around, 1)
    assert cache.invalidate_call(around, 1)
    call.call(around, 1)
    assert asked == [1, 1]


def test_of_two_updates_at_the_same_time_one_wins_wholly() -> None:
    for policy in (Cache(entries=5), Fallback(last_good=60, keys=5)):
        bound = "entries" if isinstance(policy, Cache) else "keys"
        sieve = policy._sieve if isinstance(policy, Cache) else policy._kept
        entered, may_go_on = threading.Event(), threading.Event()
        real = sieve.bound

        def slow(limit: int, real: Any = real, entered: Any = entered, may_go_on: Any = may_go_on) -> Any:
            if limit == 1:
                entered.set()
                assert may_go_on.wait(PATIENCE)
            return real(limit)

        sieve.bound = slow  # type: ignore[method-assign]
        wanted = [msgspec.structs.replace(policy.settings, **{bound: limit}) for limit in (1, 3)]
        first, second = (threading.Thread(target=policy.replace_settings, args=(one,), daemon=True) for one in wanted)
        first.start()
        assert entered.wait(PATIENCE)
        second.start()
        second.join(0.05)  # it may be through already only if it did not wait for the first
        may_go_on.set()
        for thread in (first, second):
            thread.join(PATIENCE)
        assert sieve.limit == getattr(policy.settings, bound) == 3


@pytest.mark.parametrize("seconds", ["0", "nan", "inf", -1, "1e400"])
def test_a_time_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="Cache ttl"):
        Cache(seconds)


def test_a_huge_time_is_for_ever() -> None:
    clock, cache = VirtualClock(), Cache(1e300, stale=1e300, refresh_timeout=1e300)
    asked: list[int] = []
    call = Pipeline("x", cache, clock=clock)(lambda: asked.append(1))
    call()
    clock.advance(1e12)
    call()
    assert asked == [1]


def test_an_old_result_needs_the_time_limit_inside_of_the_cache() -> None:
    # As the documentation says: a limit around the cache is the caller's, and when it has passed nobody is served.
    clock, cache = VirtualClock(), Cache(10, stale_if_error=60, jitter=0)
    asked: list[int] = []

    async def load() -> str:
        asked.append(1)
        await asyncio.sleep(0 if len(asked) == 1 else 100)
        return "old"

    async def main() -> None:
        call = Pipeline("x", cache, clock=clock)(load)
        assert await call() == "old"
        clock.advance(11)
        with use_deadline(clock.now() + 2):
            assert await call() == "old"

    clock.run(main())
