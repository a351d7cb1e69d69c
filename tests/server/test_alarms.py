"""Deadlines of many requests at one timer."""

import asyncio
import random

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.server.http.alarms import FAR, SLOT, Alarms


class Timed:
    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.rang: list[float] = []

    def expire(self) -> None:
        self.rang.append(self.clock.now())


@pytest.mark.parametrize("seed", range(5))
def test_each_rings_once_never_early_and_at_most_a_slot_late(seed: int) -> None:
    clock = VirtualClock()
    chance = random.Random(seed)

    async def main() -> None:
        alarms = Alarms(asyncio.get_running_loop(), clock.now)
        kept: list[tuple[Timed, float]] = []
        ended: list[Timed] = []
        for _ in range(500):
            timed = Timed(clock)
            deadline = clock.now() + chance.choice([0.0001, 0.3, 2.0, FAR, 2 * FAR]) * (0.1 + chance.random())
            alarm = alarms.set(timed, deadline, clock.now())
            if chance.random() < 0.5:
                alarms.clear(timed, alarm)
                ended.append(timed)
            else:
                kept.append((timed, deadline))
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.001, 0.05]))
        await asyncio.sleep(3 * FAR)
        for timed, deadline in kept:
            (rang,) = timed.rang
            assert deadline <= rang + 1e-9
            assert rang <= deadline + SLOT + 0.001
        assert not any(timed.rang for timed in ended)
        assert (alarms._slots, alarms._order, alarms._timer) == ({}, [], None)

    clock.run(main())


def test_one_that_rings_may_end_another_and_set_a_new_one() -> None:
    clock = VirtualClock()

    async def main() -> None:
        alarms = Alarms(asyncio.get_running_loop(), clock.now)
        again = Timed(clock)

        class First(Timed):
            def expire(self) -> None:
                super().expire()
                alarms.set(again, clock.now() + 1.0, clock.now())

        first = First(clock)
        began = clock.now()
        alarms.set(first, began + 1.0, began)
        await asyncio.sleep(5)
        assert [round(rang - began, 2) for rang in (*first.rang, *again.rang)] == [1.0, 2.01]

    clock.run(main())


def test_what_is_closed_rings_no_more() -> None:
    clock = VirtualClock()

    async def main() -> None:
        alarms = Alarms(asyncio.get_running_loop(), clock.now)
        timed = Timed(clock)
        alarms.set(timed, clock.now() + 1.0, clock.now())
        alarms.close()
        await asyncio.sleep(5)
        assert timed.rang == []

    clock.run(main())
