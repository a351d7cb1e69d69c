"""The bookkeeping of permits against a slow model, and under threads and loops that do everything at once."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.permits import STANDING

THREADS = 50
MAX_WAIT = 1.0
SETTLED = 12
"""Turns of the loop in which everything that can happen without time has happened."""


class Model:
    """What a bulkhead should do, in lists that are searched from the front each time."""

    def __init__(self, limit: int, queue: int, order: str, caps: dict[str, int]) -> None:
        self.limit = limit
        self.queue = queue
        self.order = order
        self.caps = caps
        self.running: list[tuple[int, str]] = []
        self.waiting: list[tuple[int, str, float]] = []
        self.turns: list[str] = []
        self.refused: set[int] = set()
        self.waiting_since: float | None = None

    def cap(self, name: str) -> int:
        return self.caps.get(name, 10**9)

    def places(self, name: str) -> int:
        return -(-self.queue * min(self.cap(name), self.limit) // self.limit)

    def fits(self, name: str) -> bool:
        return len(self.running) < self.limit and sum(part == name for _, part in self.running) < self.cap(name)

    def newest_first(self, now: float) -> bool:
        standing = self.waiting_since is not None and now - self.waiting_since > STANDING
        return self.order == "lifo" or (self.order == "adaptive" and standing)

    def of(self, name: str) -> list[tuple[int, str, float]]:
        return [waiter for waiter in self.waiting if waiter[1] == name]

    def call(self, number: int, name: str, now: float) -> None:
        if self.fits(name):
            self.running.append((number, name))
            return
        full = len(self.waiting) >= self.queue or len(self.of(name)) >= self.places(name)
        if self.queue and full and self.of(name) and self.newest_first(now):
            self.refused.add(self.remove(self.of(name)[0]))
            full = False
        if full or not self.queue:
            self.refused.add(number)
            return
        self.waiting.append((number, name, now + MAX_WAIT))
        if name not in self.turns:
            self.turns.append(name)
        if self.waiting_since is None:
            self.waiting_since = now

    def remove(self, waiter: tuple[int, str, float]) -> int:
        self.waiting.remove(waiter)
        if not self.of(waiter[1]):
            self.turns.remove(waiter[1])
        return waiter[0]

    def end(self, number: int, now: float) -> None:
        self.running = [call for call in self.running if call[0] != number]
        for waiter in [waiter for waiter in self.waiting if waiter[0] == number]:
            self.remove(waiter)
        self.serve(now)

    def serve(self, now: float) -> None:
        while name := next((name for name in self.turns if self.fits(name)), None):
            self.turns.remove(name)
            self.turns.append(name)
            waiter = self.of(name)[-1 if self.newest_first(now) else 0]
            self.remove(waiter)
            self.running.append(waiter[:2])
        self.look()

    def look(self) -> None:
        if not self.waiting:
            self.waiting_since = None

    def pass_time(self, now: float) -> None:
        for waiter in [waiter for waiter in self.waiting if waiter[2] <= now + 1e-9]:
            self.refused.add(self.remove(waiter))
        self.look()


operations = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["finish", "cancel", "finish the newest"]), st.integers(0, 20)),
        st.tuples(st.just("time"), st.sampled_from([0.03, 0.07, 0.4])),
        st.tuples(st.just("limit"), st.integers(1, 4)),
    ),
    max_size=40,
)
tables: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}), st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1)
)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers(1, 3), st.integers(0, 5), st.sampled_from(["fifo", "lifo", "adaptive"]), tables)
def test_permits_and_places_go_as_in_the_slow_model(
    todo: list[tuple[str, Any]], limit: int, queue: int, order: Any, caps: dict[str, int]
) -> None:
    clock = VirtualClock(start=0.0)
    caps = {name: min(cap, limit) for name, cap in caps.items()}
    bulkhead = Bulkhead(limit, queue=queue, max_wait=MAX_WAIT, order=order, partitions=dict(caps))
    model = Model(limit, queue, order, caps)
    pipeline = Pipeline("x", bulkhead, clock=clock)
    inside: list[int] = []
    refused: set[int] = set()
    doors: dict[int, asyncio.Event] = {}
    tasks: dict[int, asyncio.Task[None]] = {}

    async def one(number: int, name: str) -> None:
        async def stay() -> None:
            inside.append(number)
            try:
                await doors[number].wait()
            finally:
                inside.remove(number)

        try:
            await pipeline.bind(key=name).acall(stay)
        except BulkheadFull:
            refused.add(number)

    async def main() -> None:
        for operation, value in todo:
            now = clock.now()
            if operation == "call":
                number = len(tasks)
                doors[number] = asyncio.Event()
                tasks[number] = asyncio.ensure_future(one(number, value))
                model.call(number, value if value in caps else "everybody else", now)
            elif operation == "time":
                await asyncio.sleep(value)
                model.pass_time(clock.now())
            elif operation == "limit":
                model.limit = max([value, *caps.values()])
                bulkhead.update(limit=model.limit)
                model.serve(now)
            else:
                under_way = [number for number, task in tasks.items() if not task.done()]
                if operation != "cancel":
                    under_way = [number for number in under_way if number in inside]
                if not under_way:
                    continue
                number = under_way[-1] if operation == "finish the newest" else under_way[value % len(under_way)]
                tasks[number].cancel() if operation == "cancel" else doors[number].set()
                model.end(number, now)
            for _ in range(SETTLED):
                await asyncio.sleep(0)
            assert sorted(inside) == sorted(number for number, _ in model.running)
            assert refused == model.refused
            assert (bulkhead.in_flight, bulkhead.queued) == (len(model.running), len(model.waiting))
        for door in doors.values():
            door.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
        assert all(not (part.in_flight or part.queued or len(part.line)) for part in bulkhead.partitions)

    clock.run(main())


class Meter:
    """Counts who is inside, by partition; ``list.append`` and ``len`` are exact under threads, ``+=`` is not."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.most: dict[Any, int] = {}
        self._inside: dict[Any, list[None]] = {}

    def enter(self, *names: Any) -> None:
        for name in names:
            inside = self._inside.setdefault(name, [])
            inside.append(None)
            time.sleep(0)  # lets another thread run, in the worst moment
            self.most[name] = max(self.most.get(name, 0), len(inside))

    def leave(self, *names: Any) -> None:
        for name in names:
            self._inside[name].pop()


def together(targets: list[Callable[[], object]]) -> None:
    """Run each in a thread of its own, at the same time, and raise what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(targets))

    def run(target: Callable[[], object]) -> None:
        try:
            start.wait(30)
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a waiter was never woken"
    assert errors == []


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_50_threads_get_every_permit_and_never_one_too_many(order: Any) -> None:
    bulkhead = Bulkhead(3, queue=THREADS, max_wait=30, order=order)
    meter = Meter(bulkhead)
    done: list[int] = []

    @bulkhead
    def work(number: int) -> None:
        meter.enter("all")
        meter.leave("all")
        done.append(number)

    together([lambda: [work(number) for number in range(100)]] * THREADS)
    assert len(done) == THREADS * 100
    assert meter.most["all"] <= 3
    assert (bulkhead.in_flight, bulkhead.queued, bulkhead.refused) == (0, 0, 0)
    assert bulkhead.waited > 0


@pytest.mark.usefixtures("switching_often")
def test_without_a_queue_50_threads_hold_no_permit_too_many_and_lose_none() -> None:
    bulkhead = Bulkhead(3)
    meter = Meter(bulkhead)
    done: list[int] = []

    @bulkhead
    def work() -> None:
        meter.enter("all")
        meter.leave("all")
        done.append(1)

    def many() -> None:
        for _ in range(200):
            try:
                work()
            except BulkheadFull:
                done.append(0)

    together([many] * THREADS)
    assert len(done) == THREADS * 200
    assert meter.most["all"] <= 3
    assert bulkhead.in_flight == 0
    assert bulkhead.refused == done.count(0)


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_threads_and_loops_that_cancel_time_out_and_change_the_limit_leak_nothing(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    seed = 20
    bulkhead = Bulkhead(4, queue=40, max_wait=20, partitions={"a": 3, "b": 3, "*": 2})
    pipeline = Pipeline("x", bulkhead)
    meter = Meter(bulkhead)
    names = ["a", "b", "c", "d"]

    def in_threads(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(100):
            name = chance.choice(names)
            impatient = chance.random() < 0.3

            def work(name: str = name) -> None:
                meter.enter("all", name)
                meter.leave("all", name)

            try:
                with deadline_within(0.0003 if impatient else 30):
                    pipeline.bind(key=name).call(work)
            except BulkheadFull:
                assert impatient or bulkhead.settings.queue < 41

    async def in_tasks(number: int) -> None:
        chance = random.Random(seed + number)

        async def work(name: str) -> None:
            meter.enter("all", name)
            try:
                await asyncio.sleep(0)
            finally:
                meter.leave("all", name)

        async def one() -> None:
            name = chance.choice(names)
            try:
                with deadline_within(0.0003 if chance.random() < 0.3 else 30):
                    await pipeline.bind(key=name).acall(work, name)
            except BulkheadFull:
                pass

        for _ in range(40):
            tasks = [asyncio.ensure_future(one()) for _ in range(6)]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            chance.choice(tasks).cancel()
            await asyncio.wait(tasks)

    def on_a_loop(number: int) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(in_tasks(number))

    def change() -> None:
        chance = random.Random(seed)
        for _ in range(200):
            bulkhead.update(limit=chance.randint(3, 4))

    together(
        [lambda number=number: in_threads(number) for number in range(10)]
        + [lambda number=number: on_a_loop(number) for number in range(3)]
        + [change]
    )
    assert meter.most["all"] <= 4
    assert max(meter.most["a"], meter.most["b"]) <= 3
    assert max(meter.most["c"], meter.most["d"]) <= 2
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    assert all(not (part.in_flight or part.queued or len(part.line)) for part in bulkhead.partitions)
    assert not bulkhead._returned


@pytest.mark.usefixtures("switching_often")
def test_who_comes_while_the_last_permit_is_given_back_is_never_forgotten() -> None:
    # The moment that matters: exit has seen nobody waiting, and somebody begins to wait.
    bulkhead = Bulkhead(1, queue=1, max_wait=30)
    passes: list[int] = []

    def one() -> None:
        for _ in range(3000):
            bulkhead.call(time.sleep, 0)
            passes.append(1)

    together([one, one])
    assert len(passes) == 6000
    assert bulkhead.timeouts == 0
    assert bulkhead.waited > 100
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_giving_a_permit_back_never_blocks_even_while_the_lock_is_held() -> None:
    bulkhead = Bulkhead(2, queue=2, max_wait=30)
    calls = [bare_call(), bare_call()]
    tokens = [bulkhead.enter(call) for call in calls]
    passed = threading.Event()
    waiter = threading.Thread(target=lambda: bulkhead.call(passed.set))
    waiter.start()
    while not bulkhead.queued:
        assert waiter.is_alive()
    with bulkhead._permit_lock:  # as when a finalizer or a signal handler runs inside of it
        bulkhead.exit(calls[0], tokens[0])
        assert (bulkhead.in_flight, bulkhead.queued) == (2, 1)
    bulkhead.exit(calls[1], tokens[1])  # whoever has the lock next passes on what came in meanwhile
    waiter.join(10)
    assert passed.is_set()
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
