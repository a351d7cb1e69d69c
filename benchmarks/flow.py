"""What holdfast.flow costs an item, beside what asyncio offers and, where they are installed, other libraries.

    python -m benchmarks.flow --items 10000 --rounds 7

Every call waits one turn of the loop, so nothing but the machinery is measured. The ways run one after the other
in each round; a ratio is that of one round to the first way of its table, and the median over the rounds is printed.
Memory is the peak that tracemalloc sees, in a run of its own. Peers that are missing are named, not guessed.
"""

import argparse
import asyncio
import gc
import importlib
import importlib.util
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from holdfast.flow import Broadcast, WorkerPool, batch, map_concurrent, merge

LIMIT = 50
BATCH = 100
PEERS = ("aiostream", "aiometer", "streamable", "aioitertools")

Work = Callable[[range], Awaitable[int]]
"""Does something with every item, and says how many came out."""


class Way(NamedTuple):
    name: str
    work: Work
    package: str = ""


async def call(item: int) -> int:
    await asyncio.sleep(0)
    return item


async def gather(items: range) -> int:
    return len(await asyncio.gather(*(call(item) for item in items)))


async def semaphore(items: range) -> int:
    places = asyncio.Semaphore(LIMIT)

    async def limited(item: int) -> int:
        async with places:
            return await call(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(limited(item)) for item in items]
    return len([task.result() for task in tasks])


async def ordered(items: range) -> int:
    return await count(map_concurrent(items, call, limit=LIMIT))


async def unordered(items: range) -> int:
    return await count(map_concurrent(items, call, limit=LIMIT, ordered=False))


async def outcomes(items: range) -> int:
    return await count(map_concurrent(items, call, limit=LIMIT, on_error="outcome"))


async def pool(items: range) -> int:
    done = 0

    def ended(_: "asyncio.Future[int]") -> None:
        nonlocal done
        done += 1

    async with WorkerPool(call, workers=LIMIT, queue=LIMIT) as workers:
        for item in items:
            (await workers.submit(item)).add_done_callback(ended)
    await asyncio.sleep(0)
    return done


async def aiostream(items: range) -> int:
    stream = importlib.import_module("aiostream").stream
    async with stream.map(stream.iterate(items), call, task_limit=LIMIT).stream() as results:
        return await count(results)


async def aiometer(items: range) -> int:
    library = importlib.import_module("aiometer")
    async with library.amap(call, list(items), max_at_once=LIMIT) as results:
        return await count(results)


async def streamable(items: range) -> int:
    return await count(aiter(importlib.import_module("streamable").stream(items).map(call, concurrency=LIMIT)))


async def aioitertools(items: range) -> int:
    library = importlib.import_module("aioitertools.asyncio")
    return len(await library.gather(*(call(item) for item in items), limit=LIMIT))


CALLS = (
    Way("asyncio.gather, no limit", gather),
    Way("Semaphore and TaskGroup", semaphore),
    Way("map_concurrent", ordered),
    Way("map_concurrent, ordered=False", unordered),
    Way('map_concurrent, on_error="outcome"', outcomes),
    Way("WorkerPool.submit", pool),
    Way("aiostream map", aiostream, "aiostream"),
    Way("aiometer amap", aiometer, "aiometer"),
    Way("streamable map", streamable, "streamable"),
    Way("aioitertools gather", aioitertools, "aioitertools"),
)


async def numbers(items: range) -> AsyncIterator[int]:
    for item in items:
        yield item


async def queue(items: range) -> int:
    hand: asyncio.Queue[int | None] = asyncio.Queue(LIMIT)

    async def put() -> None:
        async for item in numbers(items):
            await hand.put(item)
        await hand.put(None)

    taken = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        while await hand.get() is not None:
            taken += 1
    return taken


async def merged(items: range) -> int:
    half = len(items) // 2
    return await count(merge(numbers(items[:half]), numbers(items[half:]), buffer=LIMIT))


async def batched(items: range) -> int:
    return sum([len(some) async for some in batch(numbers(items), BATCH, within=1.0)])


async def broadcast(items: range) -> int:
    async with Broadcast(numbers(items), buffer=LIMIT) as hub, asyncio.TaskGroup() as group:
        tasks = [group.create_task(count(hub.subscribe())) for _ in range(2)]
    return tasks[0].result()


HANDING_ON = (
    Way("asyncio.Queue, one task to another", queue),
    Way("merge of two sources", merged),
    Way(f"batch of {BATCH}", batched),
    Way("Broadcast to two", broadcast),
)


async def count(results: AsyncIterator[Any]) -> int:
    number = 0
    async for _ in results:
        number += 1
    return number


def main() -> None:
    options = _parse()
    print(
        f"Python {sys.version.split()[0]}, {options.loop}, {os.cpu_count()} cores, {options.items} items, limit {LIMIT}"
    )
    for peer in PEERS:
        found = importlib.util.find_spec(peer) is not None
        print(f"{peer} {version(peer)}" if found else f"{peer} is not installed: left out")
    for ways in (CALLS, HANDING_ON):
        _compare([way for way in ways if not way.package or importlib.util.find_spec(way.package)], options)


def _compare(ways: list[Way], options: argparse.Namespace) -> None:
    items = range(options.items)
    rounds = [[_seconds(way, items, options.loop) for way in ways] for _ in range(options.rounds)]
    print(f"\n{'':36}{'us an item':>12}{'ratio':>8}{'peak KiB':>10}")
    for number, way in enumerate(ways):
        each = statistics.median(one[number] for one in rounds) / len(items) * 1e6
        ratio = statistics.median(one[number] / one[0] for one in rounds)
        print(f"{way.name:36}{each:12.2f}{ratio:8.2f}{_peak(way, items, options.loop):10.0f}")


def _seconds(way: Way, items: range, loop: str) -> float:
    gc.collect()
    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        began = time.perf_counter()
        assert runner.run(_awaited(way.work(items))) == len(items)
        return time.perf_counter() - began


def _peak(way: Way, items: range, loop: str) -> float:
    gc.collect()
    with asyncio.Runner(loop_factory=_factory(loop)) as runner:
        tracemalloc.start()
        runner.run(_awaited(way.work(items)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / 1024


async def _awaited(work: Awaitable[int]) -> int:
    return await work


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "asyncio":
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return made


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    return parser.parse_args()


if __name__ == "__main__":
    main()
