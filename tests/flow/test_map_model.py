"""``map_concurrent`` beside a slow, obvious model of it: what is handed out, when, and which error ends it."""

import asyncio
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from flow.loops import others
from holdfast.core.clock import VirtualClock
from holdfast.flow import map_concurrent


class Setting(NamedTuple):
    durations: list[float]
    failing: frozenset[int]
    limit: int
    buffer: int
    ordered: bool
    busy: float

    def seconds(self, item: int) -> float:
        return self.durations[item]


class Result(NamedTuple):
    handed_out: list[tuple[float, int]]
    begun: list[tuple[float, int]]
    failed: tuple[float, int] | None


@st.composite
def plans(draw: st.DrawFn) -> Setting:
    count = draw(st.integers(0, 14))
    # Small fractions keep two events from falling on the same moment, where their order means nothing.
    durations = [draw(st.integers(0, 9)) + 0.001 * 1.7**item for item in range(count)]
    return Setting(
        durations=durations,
        failing=frozenset(draw(st.sets(st.integers(0, 13), max_size=3))),
        limit=draw(st.integers(1, 5)),
        buffer=draw(st.integers(0, 4)),
        ordered=draw(st.booleans()),
        busy=draw(st.sampled_from([0.0, 1.00037, 4.00037])),
    )


def model(plan: Setting, stops: bool) -> Result:
    """Start what may start, hand out what may be handed out, else let the next thing happen."""
    now, free = 0.0, 0.0
    running: dict[int, float] = {}
    done: list[int] = []  # in the order in which they ended
    handed_out: list[tuple[float, int]] = []
    begun: list[tuple[float, int]] = []
    failed: int | None = None
    count = len(plan.durations)
    while True:
        held = len(running) + len(done)
        if failed is None and len(begun) < count and len(running) < plan.limit and held < plan.limit + plan.buffer:
            item = len(begun)
            running[item] = now + plan.seconds(item)
            begun.append((now, item))
            continue
        next_in_order = len(handed_out)
        ready = [item for item in done if not plan.ordered or item == next_in_order]
        if ready and now >= free:
            handed_out.append((now, ready[0]))
            done.remove(ready[0])
            free = now + plan.busy
            continue
        if not ready and (failed is not None or (not running and len(begun) == count)):
            end = max(now, free)
            return Result(handed_out, begun, None if failed is None else (end, failed))
        first = min(running, key=lambda item: running[item]) if running else None
        if first is None or (ready and free < running[first]):
            now = free
            continue
        now = running.pop(first)
        if stops and first in plan.failing:
            failed, running = first, {}
        else:
            done.append(first)


class Watch:
    """What really happens: calls under way, items read and not handed out."""

    def __init__(self, plan: Setting, clock: VirtualClock) -> None:
        self.plan = plan
        self.clock = clock
        self.begun: list[tuple[float, int]] = []
        self.handed_out: list[tuple[float, int]] = []
        self.under_way = 0

    async def call(self, item: int) -> int:
        self.begun.append((self.clock.now(), item))
        self.under_way += 1
        assert self.under_way <= self.plan.limit
        assert len(self.begun) - len(self.handed_out) <= self.plan.limit + self.plan.buffer
        try:
            await asyncio.sleep(self.plan.seconds(item))
        finally:
            self.under_way -= 1
        if item in self.plan.failing:
            raise LookupError(item)
        return item


def check_same(real: list[tuple[float, int]], expected: list[tuple[float, int]]) -> None:
    assert [item for _, item in real] == [item for _, item in expected]
    assert all(abs(at - when) < 1e-6 for (at, _), (when, _) in zip(real, expected, strict=True))


@settings(max_examples=150)
@given(plans())
def test_every_item_comes_once_at_its_time(plan: Setting) -> None:
    clock = VirtualClock(start=0.0)
    watch = Watch(plan, clock)

    async def main() -> None:
        flow = map_concurrent(
            range(len(plan.durations)),
            watch.call,
            limit=plan.limit,
            buffer=plan.buffer,
            ordered=plan.ordered,
            on_error="outcome",
        )
        async for outcome in flow:
            watch.handed_out.append((clock.now(), outcome.item))
            assert outcome.ok == (outcome.item not in plan.failing)
            assert outcome.value == (outcome.item if outcome.ok else None)
            await asyncio.sleep(plan.busy)
        assert not others()

    clock.run(main())
    expected = model(plan, stops=False)
    check_same(watch.handed_out, expected.handed_out)
    check_same(watch.begun, expected.begun)
    assert sorted(item for _, item in watch.handed_out) == list(range(len(plan.durations)))


@settings(max_examples=150)
@given(plans())
def test_the_first_error_ends_it_as_the_model_has_it(plan: Setting) -> None:
    clock = VirtualClock(start=0.0)
    watch = Watch(plan, clock)

    async def main() -> tuple[float, int] | None:
        flow = map_concurrent(
            range(len(plan.durations)), watch.call, limit=plan.limit, buffer=plan.buffer, ordered=plan.ordered
        )
        failed: tuple[float, int] | None = None
        try:
            async for result in flow:
                watch.handed_out.append((clock.now(), result))
                await asyncio.sleep(plan.busy)
        except LookupError as error:
            failed = clock.now(), error.args[0]
        assert watch.under_way == 0
        assert not others()
        return failed

    failed = clock.run(main())
    expected = model(plan, stops=True)
    check_same(watch.handed_out, expected.handed_out)
    check_same(watch.begun, expected.begun)
    assert (failed is None) == (expected.failed is None)
    if failed is not None and expected.failed is not None:
        check_same([failed], [expected.failed])
