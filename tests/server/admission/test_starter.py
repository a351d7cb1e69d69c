"""Handlers in their turn, on a loop whose handlers take virtual time from it."""

import asyncio
import random
from collections.abc import Callable

import pytest

from effort import examples
from holdfast.core.clock import VirtualClock
from holdfast.server.admission.starter import (
    BUDGET,
    CREDIT_LIMIT,
    LEAST_TARGET,
    REFUSAL,
    REFUSING,
    UNTOLD_LIMIT,
    WAITS,
    Starter,
)

WORK = 0.005
NEVER = 10_000


class Request:
    def __init__(self, at: float) -> None:
        self.at = at
        self.answered = 0.0
        self.refused = 0.0
        self.left = False
        self.work = 0.0
        """Seconds; 0.0: what all take."""


class Bench:
    """A starter whose handlers compute for ``work`` seconds, and then wait for ``rest`` seconds."""

    def __init__(self, clock: VirtualClock, *, work: float = WORK, rest: float = 0.0, limit: int = NEVER) -> None:
        self.clock = clock
        self.work = work
        self.rest = rest
        self.most = self.running = 0
        self.requests: list[Request] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.starter: Starter[Request] = Starter(
            asyncio.get_running_loop(),
            classes=4,
            start=self.start,
            refuse=self.refuse,
            wanted=lambda request: not request.left,
            limit=limit,
        )

    def start(self, request: Request) -> None:
        task = asyncio.get_running_loop().create_task(self.handle(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def handle(self, request: Request) -> None:
        began = self.clock.now()
        self.running += 1
        self.most = max(self.most, self.running)
        self.clock.advance(request.work or self.work)
        if self.rest:
            await asyncio.sleep(self.rest)
        self.running -= 1
        request.answered = self.clock.now()
        self.starter.done(self.clock.now() - began)

    def refuse(self, request: Request) -> None:
        request.refused = self.clock.now()

    def submit(self, count: int = 1, rank: int = 2, work: float = 0.0) -> list[Request]:
        made = [Request(self.clock.now()) for _ in range(count)]
        for request in made:
            request.work = work
            self.requests.append(request)
            self.starter.submit(request, rank=rank)
        return made


def run(scenario: Callable[[VirtualClock], object]) -> None:
    clock = VirtualClock()

    async def main() -> None:
        await scenario(clock)  # type: ignore[misc]

    clock.run(main())


def test_the_first_request_is_started_at_once() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock)
        (request,) = bench.submit()
        assert (bench.starter.started, len(bench.starter.queue)) == (1, 0)
        await asyncio.sleep(0.1)
        assert request.answered - request.at == pytest.approx(WORK)

    run(scenario)


def test_one_turn_starts_one_handler_that_computes() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock)
        burst = bench.submit(10)
        assert (bench.starter.started, len(bench.starter.queue)) == (1, 9)
        looked: list[int] = []
        for _ in range(10):
            await asyncio.sleep(0)
            looked.append(bench.starter.started)
        assert looked == [*range(2, 11), 10]  # the loop has looked between any two
        await asyncio.sleep(1)
        assert [request.refused for request in burst] == [0.0] * 10
        assert burst[-1].answered - burst[-1].at == pytest.approx(10 * WORK)

    run(scenario)


def test_one_turn_starts_many_handlers_that_wait() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.0001, rest=0.5)
        bench.submit()
        await asyncio.sleep(1)
        bench.submit(100)
        await asyncio.sleep(0)
        assert bench.starter.started >= BUDGET / 0.0001 - 1
        await asyncio.sleep(2)
        assert all(request.answered for request in bench.requests)
        assert bench.most == 100

    run(scenario)


def test_the_target_follows_the_work_of_a_handler() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.02)
        bench.submit()
        await asyncio.sleep(1)
        assert bench.starter.work == pytest.approx(0.02)
        assert bench.starter.queue.target == pytest.approx(WAITS * 0.02)
        bench.work = 0.0
        for _ in range(200):
            bench.submit()
            await asyncio.sleep(0.01)
        assert bench.starter.queue.target == LEAST_TARGET

    run(scenario)


def test_no_more_than_the_limit_run_at_a_time() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.0, rest=0.01, limit=3)
        bench.submit(9)
        await asyncio.sleep(1)
        assert bench.most == 3
        assert all(request.answered for request in bench.requests)

    run(scenario)


def test_who_waits_for_others_to_end_is_refused_in_time() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.0, rest=60.0, limit=1)
        bench.submit()
        (late,) = bench.submit()
        await asyncio.sleep(1)
        starter = bench.starter
        assert starter.queue.patience < late.refused - late.at <= starter.queue.patience + starter.queue.target + 0.01
        assert starter.snapshot()["waiting"] == 0

    run(scenario)


def test_a_client_that_left_is_neither_started_nor_refused() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock)
        burst = bench.submit(3)
        burst[1].left = True
        await asyncio.sleep(1)
        assert [bool(request.answered) for request in burst] == [True, False, True]
        assert bench.starter.started == 2

    run(scenario)


def test_what_waits_at_the_end_is_refused() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, rest=60.0, limit=1)
        burst = bench.submit(3)
        bench.starter.clear()
        assert [bool(request.refused) for request in burst] == [False, True, True]
        assert bench.starter.refused == 2
        for task in bench.tasks:
            task.cancel()

    run(scenario)


async def flood(
    clock: VirtualClock,
    load: float,
    seed: int,
    *,
    work: float = WORK,
    rest: float = 0.0,
    limit: int = NEVER,
    seconds: float = 20.0,
) -> tuple[float, float, Bench]:
    """Requests that do not wait for the server: goodput, and the 99th percentile of the latency."""
    bench = Bench(clock, work=work, rest=rest, limit=limit)
    bench.starter.patience = 0.06
    capacity = limit / (work + rest) if rest else 1 / work
    chance = random.Random(seed)
    at = began = clock.now()
    end = began + seconds
    while at < end:
        at += chance.expovariate(load * capacity)
        if at > clock.now():
            await asyncio.sleep(at - clock.now())
        bench.submit()[0].at = at
    await asyncio.sleep(1)
    settled = [request for request in bench.requests if request.at > began + 0.4]
    times = sorted(request.answered - request.at for request in settled if request.answered)
    goodput = len(times) / capacity / (end - began - 0.4)
    return goodput, times[int(len(times) * 0.99)], bench


@pytest.mark.parametrize("seed", range(examples(3)))
@pytest.mark.parametrize("load", [2.0, 5.0])
def test_an_overloaded_loop_answers_what_it_can_and_soon(load: float, seed: int) -> None:
    async def scenario(clock: VirtualClock) -> None:
        _, quiet, _ = await flood(clock, 0.1, seed)
        goodput, slowest, bench = await flood(clock, load, seed)
        assert goodput >= 0.95
        assert slowest <= 3 * quiet
        assert all(bool(request.answered) != bool(request.refused) for request in bench.requests)
        assert (bench.starter.running, len(bench.starter.queue)) == (0, 0)

    run(scenario)


@pytest.mark.parametrize("seed", range(examples(3)))
@pytest.mark.parametrize(("limit", "rest", "seconds"), [(4, 0.05, 20.0), (20, 0.01, 4.0), (2, 0.2, 20.0)])
def test_handlers_in_few_threads_are_kept_busy_and_the_queue_short(
    limit: int, rest: float, seconds: float, seed: int
) -> None:
    async def scenario(clock: VirtualClock) -> None:
        _, quiet, _ = await flood(clock, 0.1, seed, work=0.0, rest=rest, limit=limit, seconds=seconds)
        goodput, slowest, bench = await flood(clock, 2.0, seed, work=0.0, rest=rest, limit=limit, seconds=seconds)
        assert goodput >= 0.93
        assert slowest <= 3 * quiet
        assert bench.most == limit

    run(scenario)


def test_refusals_take_only_their_share_of_the_time() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.005)
        bench.submit()
        await asyncio.sleep(1)
        bench.starter.patience = 0.01
        told: list[int] = []
        seen = 0
        began = clock.now()
        for _ in range(100):  # a turn each, so that the loop always has something to do
            bench.submit(50)
            await asyncio.sleep(0)
            now = sum(bool(request.refused) for request in bench.requests)
            told.append(now - seen)
            seen = now
        assert max(told) <= CREDIT_LIMIT / REFUSAL + 1, "no more at once than was saved up"
        assert sum(told) * REFUSAL <= CREDIT_LIMIT + REFUSING * (clock.now() - began) + REFUSAL
        assert set(told[-20:]) <= {12, 13}
        assert bench.starter.snapshot()["untold"] > 1000, "the others are told later"
        assert bench.starter.started >= 90, "handlers go on meanwhile"
        await asyncio.sleep(30)
        assert all(request.refused or request.answered for request in bench.requests)
        assert bench.starter.snapshot()["untold"] == 0

    run(scenario)


def test_there_is_a_limit_to_those_who_wait_to_be_told() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock, work=0.005)
        for _ in range(40):
            bench.submit(500)
            await asyncio.sleep(0.005)
            assert bench.starter.snapshot()["untold"] <= UNTOLD_LIMIT
        await asyncio.sleep(60)
        assert all(request.refused or request.answered for request in bench.requests)

    run(scenario)


def blocked(load: float, seconds: float) -> tuple[int, int]:
    """How many of what came since one handler had held the loop for ``seconds`` were refused, and how many answered."""
    counts: list[int] = []

    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock)
        chance = random.Random(7)
        at = began = clock.now()
        block = began + 2.0
        while at < began + 6.0:
            at += chance.expovariate(load / WORK)
            if at > clock.now():
                await asyncio.sleep(at - clock.now())
            held, block = (seconds, NEVER) if at >= block else (0.0, block)
            bench.submit(work=held)[0].at = at
        await asyncio.sleep(3)
        late = [request for request in bench.requests if request.at >= began + 2.0]
        counts.extend((sum(bool(one.refused) for one in late), sum(bool(one.answered) for one in late)))

    run(scenario)
    return counts[0], counts[1]


def test_what_came_while_the_loop_was_blocked_by_accident_is_answered_late_rather_than_refused() -> None:
    refused, answered = blocked(0.2, 1.0)
    assert refused == 0
    assert answered > 50


def test_what_came_while_the_loop_was_blocked_is_refused_when_it_is_too_much() -> None:
    refused, _ = blocked(0.9, 1.5)
    assert refused > 50


def test_a_handler_that_computes_for_long_each_time_is_no_accident() -> None:
    async def scenario(clock: VirtualClock) -> None:
        bench = Bench(clock)
        bench.submit()
        await asyncio.sleep(1)
        bench.work = 0.5
        for _ in range(40):
            bench.submit()
            await asyncio.sleep(0.6)
        assert bench.starter.work > 0.4
        assert bench.starter.queue.target > 1.0

    run(scenario)
