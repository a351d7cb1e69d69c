"""Who holds the tasks of a flow, and who may end them."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from flow.loops import Calls, Numbers, Run, at_rest, double, gather, take, turns, until
from holdfast.flow import Broadcast, batch, map_concurrent, merge

FLOWS: dict[str, Callable[[Any], AsyncGenerator[Any, None]]] = {
    "map": lambda source: map_concurrent(source, double, limit=2),
    "merge": lambda source: merge(source, Numbers(100)),
    "batch": lambda source: batch(source, 2),
    "stages": lambda source: batch(map_concurrent(source, double, limit=2), 2),
}


@pytest.mark.parametrize("build", FLOWS.values(), ids=FLOWS)
def test_a_flow_that_the_garbage_collector_finds_is_ended_in_order(
    run: Run, build: Callable[[Any], AsyncGenerator[Any, None]]
) -> None:
    """The collector itself must not close the coroutines: what a source awaits while it ends would be cut off."""

    async def main() -> None:
        ended: list[str] = []

        async def source() -> AsyncGenerator[int, None]:
            try:
                for number in range(100):
                    yield number
            finally:
                await turns(3)
                ended.append("in order")

        async def leave() -> None:
            flow = build(source())
            await anext(flow)
            await turns(10)  # all of it waits for room, and nothing outside knows of it
            cycle: list[Any] = [flow]
            cycle.append(cycle)

        await leave()
        gc.collect()
        await at_rest()
        assert ended == ["in order"]

    run(main)


def test_a_call_that_closes_its_own_flow_is_cancelled_after_the_others_have_ended(run: Run) -> None:
    async def main() -> None:
        seen: list[str] = []
        proceed = asyncio.Event()

        async def call(item: int) -> int:
            if item == 0:
                return item
            try:
                if item == 1:
                    await proceed.wait()
                    await flow.aclose()
                    seen.append("closed")
                await asyncio.Event().wait()
            finally:
                await turns(3)
                seen.append(f"{item} ended")
            return item

        source = Numbers(100)
        flow = map_concurrent(source, call, limit=2)
        assert await anext(flow) == 0
        await turns(10)
        proceed.set()
        await at_rest()
        assert seen == ["2 ended", "closed", "1 ended"]
        assert source.closed

    run(main)


def test_a_source_that_stops_its_own_broadcast_ends(run: Run) -> None:
    async def main() -> None:
        async def source() -> AsyncGenerator[int, None]:
            yield 0
            await hub.stop()
            yield 1

        hub = Broadcast(source(), buffer=5)
        await hub.start()
        items = [item async for item in hub.subscribe()]
        await at_rest()
        assert items == [0]

    run(main)


def test_another_loop_is_told_that_it_would_wait_for_ever() -> None:
    """The tasks are woken by their own loop, which may stand still or run in another thread."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin() -> tuple[AsyncGenerator[Any, None], Broadcast[int]]:
        calls: Calls[int] = Calls()
        flow = map_concurrent(range(3), calls, limit=1)
        result = take(flow)
        await until(lambda: calls.running)
        calls.finish(0, "zero")
        assert await result == "zero"
        hub = Broadcast(Numbers(10), buffer=1)
        await hub.start()
        return flow, hub

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="broadcast belongs to another event loop"):
            await hub.stop()
        with pytest.raises(RuntimeError, match="another event loop"):
            await gather(hub.subscribe(), [])
        waiting = take(flow)
        await turns(5)
        assert waiting.done(), "it waits for what can never come"
        assert isinstance(waiting.exception(), RuntimeError)

    async def end() -> None:
        await hub.stop()
        await at_rest()

    try:
        flow, hub = first.run_until_complete(begin())
        second.run_until_complete(elsewhere())
        first.run_until_complete(end())
    finally:
        first.close()
        second.close()
