"""What a cache keeps from a dependency, and from its callers while it is down."""

import asyncio
import random

import style

from holdfast import Cache, Pipeline
from holdfast.core.clock import VirtualClock

SEED = 7
SECONDS = 90
RATE = 60
KEYS = 100
DOWN = (40, 70)
TAKES = 0.3

KINDS = {
    "no cache": (),
    "ttl=10": ({},),
    "ttl=10, stale=5, stale_if_error=60": ({"stale": 5, "stale_if_error": 60},),
}


def run(settings: tuple[dict[str, float], ...]) -> tuple[list[int], list[int], list[int]]:
    """Calls that reach the dependency, callers who wait, and errors; all a second."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    policies = [Cache(10, random=random.Random(SEED), **more) for more in settings]
    asked, waited, errors = [0] * SECONDS, [0] * SECONDS, [0] * SECONDS

    @Pipeline("pages", *policies, clock=clock)
    async def page(number: int) -> int:
        asked[int(clock.now())] += 1
        await asyncio.sleep(TAKES)
        if DOWN[0] <= clock.now() < DOWN[1]:
            raise ConnectionError
        return number

    async def one(second: int) -> None:
        began = clock.now()
        try:
            await page(int(chance.paretovariate(0.7)) % KEYS)
        except ConnectionError:
            errors[second] += 1
        waited[second] += clock.now() > began

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range((SECONDS - 1) * RATE):
                group.create_task(one(number // RATE))
                await asyncio.sleep(1 / RATE)

    clock.run(main())
    return asked, waited, errors


def main() -> None:
    made, plots = style.figure(3, height=1.8)
    for label, settings in KINDS.items():
        for plot, series in zip(plots, run(settings), strict=True):
            plot.step(range(SECONDS - 1), series[:-1], where="post", label=label, linewidth=1.2)
    for plot, title in zip(plots, ("reach the dependency", "wait for an answer", "fail"), strict=True):
        plot.axvspan(*DOWN, color="#57606a", alpha=0.1)
        plot.set_ylabel("calls a second")
        plot.set_title(title, loc="left")
        plot.set_ylim(-2, RATE + 6)
    plots[0].legend(loc="center left", bbox_to_anchor=(0, 0.65))
    plots[-1].set_xlabel("time, s (grey: the dependency is down)")
    style.save(made, "cache")


if __name__ == "__main__":
    main()
