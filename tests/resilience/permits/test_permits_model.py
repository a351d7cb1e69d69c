"""The bookkeeping of permits against a slow model."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead

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

    def of(self, name: str) -> list[tuple[int, str, float]]:
        return [waiter for waiter in self.waiting if waiter[1] == name]

    def call(self, number: int, name: str, now: float) -> None:
        if self.fits(name):
            self.running.append((number, name))
            return
        full = len(self.waiting) >= self.queue or len(self.of(name)) >= self.places(name)
        if self.queue and full and self.of(name) and self.order == "lifo":
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
            waiter = self.of(name)[-1 if self.order == "lifo" else 0]
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
        st.tuples(st.just("queue"), st.integers(0, 5)),
    ),
    max_size=40,
)
tables: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}), st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1)
)


@settings(max_examples=examples(150), deadline=None)
@given(operations, st.integers(1, 3), st.integers(0, 5), st.sampled_from(["fifo", "lifo"]), tables)
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
            elif operation == "queue":
                bulkhead.update(queue=value)
                model.queue = value
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
