"""The slowest calls, with and without hedges, of a dependency that now and then takes ten times as long."""

import asyncio
import random

import style

from holdfast import Hedge, Pipeline
from holdfast.core.clock import VirtualClock

SEED = 11
CALLS = 4000


def durations(*policies: Hedge) -> list[float]:
    """Milliseconds of each call, the shortest first."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    pipeline = Pipeline("x", *policies, clock=clock)
    taken = []

    async def work() -> None:
        usual = 0.02 + chance.expovariate(1 / 0.005)
        await asyncio.sleep(usual * (10 if chance.random() < 0.03 else 1))

    async def one() -> None:
        began = clock.now()
        await pipeline.acall(work)
        taken.append((clock.now() - began) * 1000)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(one())
                await asyncio.sleep(0.01)

    clock.run(main())
    return sorted(taken)


def main() -> None:
    made, plot = style.figure(height=3.0)
    for policies, label in (((), "without hedges"), ((Hedge(),), "Hedge(), after the 95th percentile")):
        taken = durations(*policies)
        shares = [1 - number / len(taken) for number in range(len(taken))]
        plot.plot(taken[::8], shares[::8], label=label)
    plot.set_yscale("log")
    plot.set_xlabel("duration, ms")
    plot.set_ylabel("share of calls that take longer")
    plot.legend(loc="upper right")
    style.save(made, "hedge")


if __name__ == "__main__":
    main()
