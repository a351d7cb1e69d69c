"""Exact under threads: no token is given twice, whoever reads the clock first, and whatever changes meanwhile."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.rates import ALGORITHMS

THREADS = 50
PATIENCE = 30.0
EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
BURSTING = pytest.mark.parametrize("algorithm", ["token_bucket", "gcra", "sliding_counter", "sliding_log"])
pytestmark = pytest.mark.usefixtures("switching_often")


def together(work: Callable[[int], None], threads: int = THREADS) -> float:
    """Run ``work(number)`` in so many threads that begin at the same time. Returns the seconds that it took."""
    barrier = threading.Barrier(threads + 1)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait(PATIENCE)
        try:
            work(number)
        except BaseException as error:  # handed to the test
            errors.append(error)

    crew = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    began = time.monotonic()
    barrier.wait(PATIENCE)
    for thread in crew:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in crew)
    assert errors == []
    return time.monotonic() - began


@EVERY
def test_a_standing_clock_gives_exactly_what_there_is(algorithm: Any) -> None:
    """TestSimultaneousRequests of golang.org/x/time/rate, with more of them."""
    clock = VirtualClock()
    limit = RateLimit("100/s", algorithm=algorithm, clock=clock)
    pipeline = Pipeline("x", limit, clock=clock)
    passed: Counter[int] = Counter()

    def work(number: int) -> None:
        for turn in range(20):
            if turn % 2:
                passed[number] += limit.try_acquire()
            else:
                try:
                    passed[number] += pipeline.call(lambda: 1)
                except RateLimited:
                    continue

    together(work)
    assert sum(passed.values()) == (1 if algorithm in ("leaky_bucket", "warm_up") else 100)
    assert limit.refused == THREADS * 20 - sum(passed.values())


@BURSTING
@pytest.mark.parametrize("key", [None, "user"])
def test_no_more_than_rate_and_burst_in_real_time(algorithm: Any, key: str | None) -> None:
    limit = RateLimit("2000/s", algorithm=algorithm)
    passed: Counter[int] = Counter()

    def work(number: int) -> None:
        refused = 0
        while refused < 20:  # once means that the burst has been used
            if limit.try_acquire(key=key):
                passed[number] += 1
            else:
                refused += 1

    began = time.monotonic()
    together(work)
    seconds = time.monotonic() - began
    assert 2000 <= sum(passed.values()) <= 2000 * seconds + 2000


def test_costs_add_up_exactly() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=10_000, clock=clock)
    taken: Counter[int] = Counter()

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(50):
            n = chance.choice((1, 2, 5, 16))
            if limit.try_acquire(n):
                taken[number] += n

    together(work)
    assert limit.usage()["remaining"] == 10_000 - sum(taken.values())


@BURSTING
def test_what_is_reserved_settled_cancelled_and_refunded_adds_up(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit(10_000_000, algorithm=algorithm, clock=clock)
    kept: Counter[tuple[int, str | None]] = Counter()

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(30):
            key = chance.choice((None, "anna"))
            held = limit.reserve(10, key=key)
            what = chance.random()
            if what < 0.25:
                assert limit.cancel(held) == 10
            elif what < 0.5:
                assert limit.refund(held) == 10
            else:
                limit.settle(held, 7)
                kept[number, key] += 7

    together(work)
    for key in (None, "anna"):
        used = sum(n for (_, whose), n in kept.items() if whose == key)
        assert limit.usage(key)["remaining"] == 10_000_000 - used


def test_a_reservation_is_given_back_once() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=100_000, clock=clock)
    held = [limit.reserve(10) for _ in range(300)]
    back: Counter[int] = Counter()

    def work(number: int) -> None:
        for reservation in held:
            back[number] += int(limit.refund(reservation))

    together(work, 8)
    assert sum(back.values()) == 3000
    assert limit.usage()["remaining"] == 100_000


@pytest.mark.parametrize("algorithm", ["token_bucket", "gcra"])
def test_keys_are_counted_while_the_table_forgets_them(algorithm: Any) -> None:
    """The watched key is full again and again, so it is forgotten and made anew all the time."""
    clock = VirtualClock()
    limit = RateLimit("1000/s", burst=2, max_keys=8, algorithm=algorithm, clock=clock)
    passed: Counter[int] = Counter()
    rounds = 40
    barrier = threading.Barrier(10, action=lambda: clock.advance(0.002))

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(rounds):
            barrier.wait(PATIENCE)
            for _ in range(5):
                passed[number] += limit.try_acquire(key="watched")
                limit.try_acquire(key=chance.randrange(1000))

    together(work, 10)
    assert limit.snapshot()["evicted"] > 100
    # When there was no room for it, it had its share of what those without room have.
    assert 2 * rounds <= sum(passed.values()) <= 4 * rounds


def test_changes_lose_nothing_and_give_nothing() -> None:
    clock = VirtualClock()
    limit = RateLimit("1000/h", burst=20_000, clock=clock)
    passed: Counter[int] = Counter()
    stop = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for turn in range(200):
                limit.update(rate=f"{1000 + turn}/h", burst=20_000 + turn % 2)
            stop.set()
            return
        while not stop.is_set():
            passed[number] += limit.try_acquire()

    together(work, 8)
    assert limit.usage()["remaining"] == pytest.approx(20_000 - sum(passed.values()), abs=1)


@pytest.mark.parametrize("algorithm", ["token_bucket", "gcra"])
def test_threads_that_wait_get_each_token_once(algorithm: Any) -> None:
    limit = RateLimit("2000/s", burst=10, algorithm=algorithm, max_wait=PATIENCE)
    pipeline = Pipeline("x", limit)
    went: list[float] = []

    def work(number: int) -> None:
        for _ in range(6):
            pipeline.call(lambda: went.append(time.monotonic()))

    began = time.monotonic()
    together(work)
    went.sort()
    assert len(went) == 300
    # Each is let go in time; how soon it runs then is up to the system.
    assert all(at - began >= (number - 9) / 2000 - 1e-6 for number, at in enumerate(went))
    assert (limit.waiting, limit.refused) == (0, 0)


def test_nobody_waits_above_the_bound() -> None:
    limit = RateLimit("1/h", max_wait=1e6, max_waiting=5, burst=1)
    assert limit.try_acquire()
    held = threading.Event()
    refused: Counter[int] = Counter()

    def work(number: int) -> None:
        try:
            limit.acquire(1, 1e6)
        except RateLimited:
            refused[number] += 1
            if len(refused) == THREADS - 5:
                held.set()

    def release(number: int) -> None:
        if number == THREADS:
            assert held.wait(PATIENCE)
            limit.update(rate="1000/s")
        else:
            work(number)

    together(release, THREADS + 1)
    assert sum(refused.values()) == THREADS - 5
    assert (limit.waiting, limit.waited) == (0, 5)
