"""A dependency hangs for a minute: what callers and dependency see of it, with a breaker and without."""

import asyncio
import random

import style

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker, BreakerChanged
from holdfast.resilience.timeout import Timeout

SEED = 3
RATE = 20.0
"""Calls a second."""
HANGS, WELL, SECONDS = 20, 80, 140
PATIENCE = 2.0
USUAL = 0.1
COLOURS = {"open": "#d1242f", "half_open": "#bf8700"}


def run(with_breaker: bool) -> tuple[dict[str, list[int]], list[int], list[BreakerChanged]]:
    """How the calls that began in each second ended, calls under way at each second, and changes of state."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    breaker = Breaker()
    changes: list[BreakerChanged] = []

    def keep(event: Event) -> None:
        if isinstance(event, BreakerChanged):
            changes.append(event)

    breaker.listeners.subscribe(keep)
    limit = Timeout(PATIENCE)
    pipeline = Pipeline("stock", *((breaker, limit) if with_breaker else (limit,)), clock=clock)
    ended: dict[str, list[int]] = {end: [0] * SECONDS for end in ("answered", "timed out", "refused at once")}
    spans: list[tuple[float, float]] = []

    async def one() -> None:
        began = clock.now()
        hangs = HANGS <= began < WELL
        try:
            await pipeline.acall(asyncio.sleep, 3600 if hangs else chance.expovariate(1 / USUAL))
        except CircuitOpen:
            end = "refused at once"
        except TimeoutError:
            end = "timed out"
        else:
            end = "answered"
        ended[end][int(began)] += 1
        spans.append((began, clock.now()))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            while clock.now() < SECONDS - 1:
                group.create_task(one())
                await asyncio.sleep(chance.expovariate(RATE))

    start = clock.wall()
    clock.run(main())
    under_way = [sum(began <= at < end for began, end in spans) for at in range(SECONDS)]
    return ended, under_way, [type(change)(change.at - start, *_rest(change)) for change in changes]


def _rest(change: BreakerChanged) -> tuple[object, ...]:
    return change.policy, change.old, change.new, change.reason, change.snapshot


def main() -> None:
    ended, with_breaker, changes = run(True)
    _, without, _ = run(False)
    made, (above, below) = style.figure(2)
    labelled = set()
    for change, following in zip(changes, [*changes[1:], None], strict=True):
        if change.new in COLOURS:
            end = following.at if following is not None else SECONDS
            label = None if change.new in labelled else change.new.replace("_", "-")
            labelled.add(change.new)
            for axes in (above, below):
                axes.axvspan(change.at, end, color=COLOURS[change.new], alpha=0.12, lw=0, label=label)
                label = None
    for (end, counts), colour in zip(
        ended.items(), (style.COLOURS[2], style.COLOURS[1], style.COLOURS[5]), strict=True
    ):
        above.plot(counts[:-1], label=end, color=colour, lw=1.2)
    above.set_ylabel("calls, 1/s")
    above.legend(loc="upper center", ncols=5, bbox_to_anchor=(0.5, 1.22), fontsize=8)
    below.plot(without[:-1], label="without a breaker", color=style.COLOURS[1])
    below.plot(with_breaker[:-1], label="Breaker()", color=style.COLOURS[0])
    below.set_ylabel("calls under way")
    below.set_xlabel("time, s; the dependency hangs from 20 s to 80 s")
    below.legend(loc="upper right")
    style.save(made, "breaker")


if __name__ == "__main__":
    main()
