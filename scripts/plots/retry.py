"""Ten seconds of overload, and what retries make of it: with no budget, with 20 %, with 10 %."""

import asyncio
import random

import style

from holdfast import Pipeline, Retry, RetryBudget, Timeout
from holdfast.core.clock import VirtualClock

SEED = 5
CAPACITY = 100.0
"""Requests a second that the dependency can serve, one after the other, in the order in which they came."""
USUAL, PEAK = 0.8, 1.3
"""Calls a second, in parts of the capacity."""
BEGINS, ENDS, SECONDS = 20, 30, 110
PATIENCE = 0.5


class Dependency:
    """A queue. It serves also those who have hung up, for it cannot know."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.free_at = clock.now()
        self.asked: list[float] = []

    async def serve(self) -> None:
        now = self.clock.now()
        self.asked.append(now)
        self.free_at = max(self.free_at, now) + 1 / CAPACITY
        await asyncio.sleep(self.free_at - now)


def run(retry: Retry) -> tuple[list[int], list[int]]:
    """Calls that were answered, and attempts made, in each second."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    dependency = Dependency(clock)
    pipeline = Pipeline("dependency", retry, Timeout(PATIENCE), clock=clock)
    answered: list[float] = []

    async def one() -> None:
        try:
            await pipeline.acall(dependency.serve)
        except TimeoutError:
            return
        answered.append(clock.now())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            while clock.now() < SECONDS:
                group.create_task(one())
                load = PEAK if BEGINS <= clock.now() < ENDS else USUAL
                await asyncio.sleep(chance.expovariate(load * CAPACITY))

    clock.run(main())
    return by_second(answered), by_second(dependency.asked)


def by_second(times: list[float]) -> list[int]:
    counts = [0] * SECONDS
    for at in times:
        if at < SECONDS:
            counts[int(at)] += 1
    return counts


def main() -> None:
    chance = random.Random(SEED).random
    policies = {
        "no budget": Retry(3, budget=None, random=chance),
        "20 % and 10 a second (Finagle's)": Retry(3, budget=RetryBudget(0.2, floor=10), random=chance),
        "10 % and 3 a second (the default)": Retry(3, random=chance),
        "no retries": Retry(1),
    }
    made, (above, below) = style.figure(2)
    for (label, policy), colour in zip(policies.items(), (1, 3, 0, 5), strict=True):
        answered, asked = run(policy)
        above.plot(answered, label=label, color=style.COLOURS[colour], linewidth=1.1)
        below.plot(asked, label=label, color=style.COLOURS[colour], linewidth=1.1)
    for plot in (above, below):
        plot.axvspan(BEGINS, ENDS, color="#d8dee4", alpha=0.5, linewidth=0)
    below.axhline(CAPACITY, color="#57606a", linewidth=0.8, linestyle="--")
    above.set_ylabel("calls answered, 1/s")
    below.set_ylabel("attempts made, 1/s")
    below.set_xlabel("time, s")
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    style.save(made, "retry")


if __name__ == "__main__":
    main()
