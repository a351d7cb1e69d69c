"""What a limit does to the calls of a dependency that gets slow and then hangs; one dot a call."""

import asyncio
import random

import style

from holdfast import DeadlineExceeded, Pipeline, Timeout
from holdfast.core.clock import VirtualClock

SEED = 7
LIMIT = 2.0
SECONDS = 60


def takes(at: float, chance: random.Random) -> float:
    """How long the dependency takes: 0.2 s, from 20 s on more and more, from 40 s to 50 s for ever."""
    if 40 <= at < 50:
        return 3600.0
    slow = 0.1 * (at - 20) if 20 <= at < 40 else 0.0
    return 0.2 + slow + chance.expovariate(4)


def calls(limited: bool) -> list[tuple[float, float, bool]]:
    """Start, duration and success of each call, up to 30 s long."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    pipeline = Pipeline("slow", Timeout(LIMIT if limited else 30.0), clock=clock)
    seen = []

    async def one(seconds: float) -> None:
        began = clock.now()
        try:
            await pipeline.acall(asyncio.sleep, seconds)
        except DeadlineExceeded:
            seen.append((began, clock.now() - began, False))
        else:
            seen.append((began, clock.now() - began, True))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            while clock.now() < SECONDS:
                group.create_task(one(takes(clock.now(), chance)))
                await asyncio.sleep(0.25)

    clock.run(main())
    return seen


def under_way(seen: list[tuple[float, float, bool]]) -> list[int]:
    return [sum(began <= at < began + lasted for began, lasted, _ in seen) for at in range(SECONDS)]


def main() -> None:
    limited, free = calls(True), calls(False)
    made, (above, below) = style.figure(2)
    for success, label in ((True, "answered"), (False, "ended at its deadline")):
        chosen = [call for call in limited if call[2] is success]
        above.plot([call[0] for call in chosen], [call[1] for call in chosen], ".", markersize=3.5, label=label)
    above.set_ylabel("a call's duration, s")
    above.legend(loc="upper left")
    below.plot(under_way(free), label="without a limit (30 s)")
    below.plot(under_way(limited), label="Timeout(2.0)")
    below.set_ylabel("calls under way")
    below.set_xlabel("time, s")
    below.legend(loc="upper left")
    style.save(made, "timeout")


if __name__ == "__main__":
    main()
