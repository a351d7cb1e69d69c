"""A burst at a dependency that takes 25 calls at a time: with no queue, and with one."""

import asyncio
import random

import style

from holdfast import Bulkhead, BulkheadFull, Pipeline
from holdfast.core.clock import VirtualClock

SEED = 3
SECONDS = 12


def run(bulkhead: Bulkhead) -> tuple[list[float], list[int], list[int], list[int]]:
    """For each tenth of a second: calls under way, waiting, and refused so far."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    pipeline = Pipeline("x", bulkhead, clock=clock)
    times, under_way, waiting, refused = [], [], [], []

    async def one() -> None:
        try:
            await pipeline.acall(asyncio.sleep, 0.2 + chance.expovariate(1 / 0.3))
        except BulkheadFull:
            return

    async def watch() -> None:
        while clock.now() < SECONDS:
            seen = bulkhead.snapshot()
            times.append(clock.now())
            under_way.append(seen["in_flight"])
            waiting.append(seen["queued"])
            refused.append(seen["refused"])
            await asyncio.sleep(0.1)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            while clock.now() < SECONDS - 2:
                group.create_task(one())
                await asyncio.sleep(chance.expovariate(75 if 3 <= clock.now() < 6 else 25))

    clock.run(main())
    return times, under_way, waiting, refused


def main() -> None:
    made, (above, below) = style.figure(2)
    for bulkhead, label in ((Bulkhead(25), "no queue"), (Bulkhead(25, queue=50, max_wait=1.0), "queue of 50, 1 s")):
        times, under_way, waiting, refused = run(bulkhead)
        (line,) = above.plot(times, under_way, label=f"under way, {label}")
        if any(waiting):
            above.plot(times, waiting, linestyle="--", color=line.get_color(), label=f"waiting, {label}")
        below.plot(times, refused, label=label)
    above.axhline(25, linestyle=":", color="#57606a")
    above.set_ylabel("calls")
    above.legend(loc="upper right")
    below.set_ylabel("refused so far")
    below.set_xlabel("time, s")
    below.legend(loc="upper left")
    style.save(made, "bulkhead")


if __name__ == "__main__":
    main()
