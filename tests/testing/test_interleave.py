import asyncio
import math

import pytest

from holdfast.testing import OrderFailed, every_order


def test_all_orders_of_independent_steps_are_tried_once() -> None:
    seen: list[tuple[str, ...]] = []

    async def scenario() -> None:
        order: list[str] = []

        async def one(name: str) -> None:
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(one(name))
        seen.append(tuple(order))

    explored = every_order(scenario, limit=100_000)
    assert explored.complete
    assert len(set(seen)) == math.factorial(4)


class Account:
    """Loses money when another task comes between the look and the change."""

    def __init__(self, *, locked: bool) -> None:
        self.balance = 100
        self.lock = asyncio.Lock()
        self.locked = locked

    async def pay(self, amount: int) -> None:
        if self.locked:
            async with self.lock:
                await self._pay(amount)
        else:
            await self._pay(amount)

    async def _pay(self, amount: int) -> None:
        if self.balance >= amount:
            await asyncio.sleep(0)
            self.balance -= amount


async def pay_twice(account: Account) -> None:
    await asyncio.gather(account.pay(70), account.pay(70))
    assert account.balance >= 0


def test_a_race_is_found_and_its_order_brings_it_back() -> None:
    with pytest.raises(OrderFailed, match="schedule=") as caught:
        every_order(lambda: pay_twice(Account(locked=False)))
    with pytest.raises(OrderFailed):
        every_order(lambda: pay_twice(Account(locked=False)), schedule=caught.value.schedule)


def test_code_without_a_race_passes_every_order() -> None:
    assert every_order(lambda: pay_twice(Account(locked=True))).complete


def test_a_race_that_only_few_orders_show_is_found_by_chance_too() -> None:
    async def scenario() -> None:
        log: list[str] = []

        async def step(name: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            log.append(name)

        async with asyncio.TaskGroup() as group:
            for name in "abcdef":
                group.create_task(step(name))
        assert log[0] != "f" or log[1] != "e"

    with pytest.raises(OrderFailed):
        every_order(scenario, limit=2000, seed=3)


def test_an_endless_scenario_is_ended() -> None:
    async def scenario() -> None:
        async def spin() -> None:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(0)

        await asyncio.gather(spin(), spin())

    with pytest.raises(OrderFailed) as caught:
        every_order(scenario, limit=1)
    assert "endless" in str(caught.value.__cause__)


def test_time_is_virtual_in_every_order() -> None:
    async def scenario() -> None:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))

    assert every_order(scenario).complete


def test_timers_of_one_moment_run_in_every_order() -> None:
    seen: set[tuple[str, ...]] = set()

    async def scenario() -> None:
        log: list[str] = []
        loop = asyncio.get_running_loop()
        for name in "abc":
            loop.call_later(1, log.append, name)
        await asyncio.sleep(2)
        seen.add(tuple(log))

    assert every_order(scenario, limit=10_000).complete
    assert len(seen) == math.factorial(3)


def test_a_timer_that_is_cancelled_in_the_moment_it_falls_due_does_not_run() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        log: list[str] = []
        timers: list[asyncio.TimerHandle] = []

        def first(name: str, other: int) -> None:
            log.append(name)
            timers[other].cancel()

        timers += [loop.call_later(1, first, "a", 1), loop.call_later(1, first, "b", 0)]
        await asyncio.sleep(2)
        assert len(log) == 1

    assert every_order(scenario).complete


@pytest.mark.parametrize("error", [asyncio.CancelledError, pytest.fail.Exception])
def test_what_is_no_exception_fails_an_order_too(error: type[BaseException]) -> None:
    async def scenario() -> None:
        raise error

    with pytest.raises(OrderFailed) as caught:
        every_order(scenario)
    assert isinstance(caught.value.__cause__, error)
