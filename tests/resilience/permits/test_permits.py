"""The bookkeeping of permits under threads and loops that do everything at once, and in its narrowest moments."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import uvloop

from core.test_one_step import stores_after_a_switch
from holdfast.core.call import bare_call
from holdfast.core.clock import SYSTEM, VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.permits import permits
from holdfast.resilience.permits.partitions import Partition
from holdfast.resilience.permits.permits import FULL, Permits
from holdfast.resilience.permits.waiters import GRANTED, LEFT, WAITING, TaskWaiter, ThreadWaiter, Waiter

THREADS = 50


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


def test_giving_a_permit_back_never_blocks_in_the_middle_of_a_job() -> None:
    bulkhead = Bulkhead(2, queue=2, max_wait=30)
    calls = [bare_call(), bare_call()]
    tokens = [bulkhead.enter(call) for call in calls]
    passed = threading.Event()
    waiter = threading.Thread(target=lambda: bulkhead.call(passed.set))
    waiter.start()
    while not bulkhead.queued:
        assert waiter.is_alive()

    def meanwhile() -> None:
        bulkhead.exit(calls[0], tokens[0])
        assert (bulkhead.in_flight, bulkhead.queued) == (2, 1)

    bulkhead._turns.run(meanwhile)  # as when a finalizer or a signal handler runs inside of it
    bulkhead.exit(calls[1], tokens[1])  # whoever has the turn next passes on what came in meanwhile
    waiter.join(10)
    assert passed.is_set()
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_permit_that_comes_back_just_before_the_turn_is_over_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bulkhead = Bulkhead(2, queue=2, max_wait=30)
    calls = [bare_call(), bare_call()]
    tokens = [bulkhead.enter(call) for call in calls]
    both_are_in = threading.Barrier(2)
    waiters = [threading.Thread(target=lambda: bulkhead.call(both_are_in.wait, 10)) for _ in range(2)]
    for number, waiter in enumerate(waiters):
        waiter.start()
        while bulkhead.queued <= number:
            assert waiter.is_alive()
    note = Permits._note_news

    def note_while_another_call_ends(permits: Permits) -> None:
        if calls:
            bulkhead.exit(calls.pop(), tokens.pop())
        note(permits)

    monkeypatch.setattr(Permits, "_note_news", note_while_another_call_ends)
    bulkhead.exit(calls.pop(), tokens.pop())
    for waiter in waiters:
        waiter.join(10)
    assert not both_are_in.broken
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_waiter_that_has_just_given_up_and_still_stands_in_line_is_passed_by() -> None:
    bulkhead = Bulkhead(1, queue=2, max_wait=30)
    token = bulkhead.enter(bare_call())
    gone, next_one = (ThreadWaiter(bulkhead._everybody, SYSTEM.now(), inf) for _ in range(2))
    for waiter in (gone, next_one):
        bulkhead._join(waiter, SYSTEM)
    assert gone.leave()  # as a thread does that has not come to leave the line
    bulkhead.exit(bare_call(), token)
    assert (gone.stage, next_one.stage) == (LEFT, GRANTED)
    assert (bulkhead.in_flight, bulkhead.queued) == (1, 0)


def test_no_waiter_makes_room_where_nobody_may_wait_any_more() -> None:
    bulkhead = Bulkhead(1, queue=1, order="lifo", max_wait=30)
    token = bulkhead.enter(bare_call())
    waiter, newcomer = (ThreadWaiter(bulkhead._everybody, SYSTEM.now(), inf) for _ in range(2))
    bulkhead._join(waiter, SYSTEM)
    bulkhead.update(queue=0)
    assert bulkhead._join(newcomer, SYSTEM) is FULL
    assert (waiter.stage, bulkhead.queued, bulkhead.pushed_out) == (WAITING, 1, 0)
    bulkhead.exit(bare_call(), token)
    assert waiter.stage is GRANTED


def test_a_permit_that_went_to_another_partition_and_back_is_counted_there() -> None:
    bulkhead = Bulkhead(1, queue=2, partitions={"a": 1, "b": 1})
    call = bare_call(key="a")
    token = bulkhead.enter(call)

    async def wait_for_ever() -> TaskWaiter:
        return TaskWaiter(bulkhead._named["b"], SYSTEM.now(), inf)

    loop = asyncio.new_event_loop()
    bulkhead._join(loop.run_until_complete(wait_for_ever()), SYSTEM)
    loop.close()
    bulkhead.exit(call, token)
    assert [part.in_flight for part in bulkhead.partitions] == [0, 0]
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


@pytest.mark.parametrize(("late", "stage", "in_flight"), [(0.0, WAITING, 0), (-0.25, GRANTED, 1)])
def test_a_waiter_has_until_its_time_is_over_and_no_longer(late: float, stage: Any, in_flight: int) -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=1)
    token = bulkhead.enter(bare_call())
    waiter = ThreadWaiter(bulkhead._everybody, clock.now(), clock.now() + 1.0)
    bulkhead._join(waiter, clock)
    clock.advance(1.0 + late)
    bulkhead.exit(bare_call(), token)
    assert (waiter.stage, bulkhead.in_flight, bulkhead.queued) == (stage, in_flight, 0)


def test_a_task_may_be_woken_by_its_timer_and_by_a_permit_at_once() -> None:
    async def main() -> None:
        waiter = TaskWaiter(Partition(None), 0.0, inf)
        assert waiter.wake()
        assert waiter.wake()
        await waiter.wait(30.0)

    asyncio.run(main())


def test_a_thread_that_is_interrupted_while_it_waits_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    bulkhead = Bulkhead(1, queue=1)
    call = bare_call()
    token = bulkhead.enter(call)

    def interrupted(waiter: ThreadWaiter, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadWaiter, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bulkhead.call(print)
    assert (bulkhead.in_flight, bulkhead.queued) == (1, 0)
    bulkhead.exit(call, token)
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize("shares", [{}, {"*": 1}])
def test_a_refusal_in_the_middle_of_new_settings_tells_the_real_limit(shares: dict[str, int]) -> None:
    bulkhead = Bulkhead(2, partitions=shares)
    bulkhead._limit = -1  # as it is for a moment, when somebody waits
    bulkhead._open = min(bulkhead._open, 2)
    bulkhead.in_flight = 2
    with pytest.raises(BulkheadFull) as caught:
        bulkhead.enter(bare_call(key="a"))
    assert caught.value.snapshot["limit"] == 2


def test_a_line_stands_once_it_has_for_longer_than_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "STANDING", 1.0)
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=1)
    token = bulkhead.enter(bare_call())
    bulkhead._join(ThreadWaiter(bulkhead._everybody, clock.now(), inf), clock)
    for seconds, stands in ((1.0, False), (0.5, True)):
        clock.advance(seconds)
        bulkhead._refresh()
        assert bulkhead._standing is stands
    bulkhead.exit(bare_call(), token)
    assert not bulkhead._standing


def test_the_quick_way_is_taken_again_once_nobody_waits() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=2, max_wait=1000)
    pipeline = Pipeline("x", bulkhead, clock=clock)

    async def main() -> None:
        await asyncio.gather(*(pipeline.acall(asyncio.sleep, 0.01) for _ in range(3)))
        assert bulkhead._plain
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert all(timer.cancelled() for timer in timers)

    clock.run(main())
    assert bulkhead.waited == 2


@pytest.mark.parametrize(
    "step",
    [
        Permits._take,
        Permits._begin,
        Permits._give_up_place,
        Permits._give_back,
        Permits._transfer,
        Permits._hand,
        Permits._drop,
        Waiter.leave,
        Waiter.recall,
        Waiter.push_out,
        Partition.retire,
        Bulkhead.admit,
    ],
    ids=lambda step: step.__qualname__,
)
def test_what_has_to_be_one_step_is_one(step: Callable[..., Any]) -> None:
    assert stores_after_a_switch(step) == []
