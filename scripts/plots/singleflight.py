"""A query that gets slower the more of it run at once, asked for by everybody when a cached page has expired."""

import asyncio
import random

import style

from holdfast import Pipeline, SingleFlight
from holdfast.core.clock import VirtualClock

SEED = 7
SECONDS = 16
KEYS = 5
CROWD = (5, 7)
CALM, BUSY = 2, 60
STEP = 0.1
ALONE = 0.2


def run(*policies: SingleFlight) -> tuple[list[float], list[tuple[float, float]]]:
    """Executions under way at each step, and how long each caller waited."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    running = 0
    levels: list[float] = []
    waits: list[tuple[float, float]] = []

    @Pipeline("report", *policies, clock=clock)
    async def report(key: int) -> None:
        nonlocal running
        running += 1
        left = ALONE
        while left > 0:  # the database shares its time among those who run
            await asyncio.sleep(STEP)
            left -= STEP * min(1.0, KEYS / running)
        running -= 1

    async def one() -> None:
        began = clock.now()
        await report(chance.randrange(KEYS))
        waits.append((began, clock.now() - began))

    async def arrive(group: asyncio.TaskGroup) -> None:
        while clock.now() < SECONDS:
            rate = BUSY if CROWD[0] <= clock.now() < CROWD[1] else CALM
            await asyncio.sleep(chance.expovariate(rate))
            group.create_task(one())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(arrive(group))
            while clock.now() < SECONDS:
                levels.append(running)
                await asyncio.sleep(STEP)

    clock.run(main())
    return levels, waits


def main() -> None:
    made, (above, below) = style.figure(2, height=2.2)
    for label, policies in (("each on its own", ()), ("SingleFlight", (SingleFlight(),))):
        levels, waits = run(*policies)
        above.plot([number * STEP for number in range(len(levels))], levels, label=label, linewidth=1.2)
        below.plot([began for began, _ in waits], [lasted for _, lasted in waits], ".", markersize=3, label=label)
    for plot in (above, below):
        plot.axvspan(*CROWD, color="#57606a", alpha=0.1)
    above.set_ylabel("executions under way")
    above.legend(loc="upper right")
    below.set_ylabel("a caller's wait, s")
    below.set_xlabel("time, s (grey: a crowd asks for the same five reports)")
    style.save(made, "singleflight")


if __name__ == "__main__":
    main()
