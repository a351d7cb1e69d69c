import asyncio
import gc
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from flow.loops import Numbers, Run, at_rest, double, gather, others, take, turns, until
from holdfast.core.component import Component
from holdfast.core.errors import HoldfastError, Rejected
from holdfast.flow import Broadcast, FellBehind, map_concurrent


def test_every_subscriber_gets_every_item_in_order(run: Run) -> None:
    async def main() -> list[list[int]]:
        seen: list[list[int]] = [[], [], []]
        async with Broadcast(Numbers(20), buffer=2) as hub, asyncio.TaskGroup() as group:
            for one in seen:
                group.create_task(gather(hub.subscribe(), one))
        return seen

    assert run(main) == [list(range(20))] * 3


def test_a_slow_consumer_that_is_waited_for_sets_the_pace(run: Run) -> None:
    async def main() -> None:
        source = Numbers(100)
        async with Broadcast(source, buffer=3, slow="wait") as hub:
            slow, fast = hub.subscribe(), hub.subscribe()
            assert [await anext(fast) for _ in range(3)] == [0, 1, 2]
            more = take(fast)
            await turns(20)
            assert not more.done()
            assert source.read == 4  # the buffer, and one in hand
            assert await anext(slow) == 0
            assert await more == 3

    run(main)


def test_a_slow_consumer_that_may_drop_loses_the_oldest_and_counts_them(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(10), buffer=3) as hub:
            slow, fast = hub.subscribe(slow="drop"), hub.subscribe()
            assert [item async for item in fast] == list(range(10))
            assert [item async for item in slow] == [7, 8, 9]
            assert (slow.dropped, fast.dropped) == (7, 0)

    run(main)


def test_a_slow_consumer_that_may_not_fall_behind_gets_what_waits_and_then_an_error(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(10), buffer=3, name="prices") as hub:
            slow, fast = hub.subscribe(slow="raise", buffer=2), hub.subscribe()
            assert [item async for item in fast] == list(range(10))
            seen: list[int] = []
            with pytest.raises(FellBehind, match="prices: 2 items waited and one more came") as raised:
                await gather(slow, seen)
            assert seen == [0, 1]
            assert isinstance(raised.value, HoldfastError)
            with pytest.raises(StopAsyncIteration):
                await anext(slow)

    run(main)


def test_a_consumer_that_leaves_holds_up_nobody_any_more(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(10), buffer=1) as hub:
            leaver, stayer = hub.subscribe(), hub.subscribe()
            assert await anext(stayer) == 0
            rest: list[int] = []
            reading = asyncio.ensure_future(gather(stayer, rest))
            await turns(10)
            assert rest == []
            async with leaver:
                pass
            await reading
            assert rest == list(range(1, 10))
            with pytest.raises(StopAsyncIteration):
                await anext(leaver)

    run(main)


def test_a_subscription_that_is_dropped_has_left(run: Run) -> None:
    async def main() -> list[int]:
        async with Broadcast(Numbers(10), buffer=1) as hub:
            stayer = hub.subscribe()
            async for _ in hub.subscribe():
                break
            gc.collect()
            return [item async for item in stayer]

    assert run(main) == list(range(10))


def test_nothing_is_lost_while_nobody_is_subscribed(run: Run) -> None:
    async def main() -> None:
        source = Numbers(10)
        async with Broadcast(source, buffer=2) as hub:
            await turns(20)
            assert source.read == 1
            async with hub.subscribe() as first:
                assert await anext(first) == 0
                await turns(20)
            late = hub.subscribe()
            # 1 and 2 were in the mailbox of the one that left.
            assert [item async for item in late] == [3, 4, 5, 6, 7, 8, 9]
            assert [item async for item in hub.subscribe()] == []

    run(main)


def test_a_failing_source_is_told_to_each_subscriber_after_what_waits(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(2, error=OSError("gone")), buffer=5) as hub:
            for subscription in (hub.subscribe(), hub.subscribe()):
                seen: list[int] = []
                with pytest.raises(OSError, match="gone"):
                    await gather(subscription, seen)
                assert seen == [0, 1]
            with pytest.raises(OSError, match="gone"):
                await anext(hub.subscribe())

    run(main)


def test_an_error_that_nobody_was_told_is_raised_at_the_end(run: Run) -> None:
    async def main() -> None:
        hub = Broadcast(Numbers(0, error=OSError("gone")), buffer=5)
        with pytest.raises(OSError, match="gone"):
            async with hub:
                await turns(10)
        await hub.stop()

    run(main)


def test_an_error_that_nobody_was_told_does_not_replace_the_one_of_the_block() -> None:
    reports: list[str] = []

    async def block() -> None:
        async with Broadcast(Numbers(0, error=OSError("gone")), buffer=5):
            await asyncio.Event().wait()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["exception"])))
        task = asyncio.ensure_future(block())
        await turns(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert reports == ["gone"]


def test_the_end_closes_the_source_and_ends_the_streams(run: Run) -> None:
    async def main() -> None:
        source = Numbers(1000)
        async with Broadcast(source, buffer=2) as hub:
            waiting = hub.subscribe()
            assert await anext(waiting) == 0
        assert source.closed
        assert not others()
        assert len([item async for item in waiting]) <= 2
        with pytest.raises(StopAsyncIteration):
            await anext(hub.subscribe())

    run(main)


@pytest.mark.parametrize("subscribed", [True, False])
def test_a_source_that_answers_its_cancellation_with_an_item_is_ended_all_the_same(run: Run, subscribed: bool) -> None:
    async def main() -> None:
        async def stubborn() -> AsyncGenerator[int, None]:
            yield 0
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:  # what this test is about
                    yield 1

        hub = Broadcast(stubborn(), buffer=5)
        await hub.start()
        subscription = hub.subscribe()
        assert await anext(subscription) == 0
        if not subscribed:
            await subscription.aclose()
        await turns(3)
        stopping = asyncio.ensure_future(hub.stop())
        await until(stopping.done, "the broadcast had stopped")
        assert [item async for item in subscription] == []

    run(main)


def test_a_source_that_never_waits_leaves_the_loop_to_others_also_when_items_are_dropped(run: Run) -> None:
    def endless() -> Iterator[int]:
        yield from range(10_000)
        raise AssertionError("the loop was its own for 10,000 items")

    async def main() -> None:
        async with Broadcast(endless(), buffer=2, slow="drop") as hub, hub.subscribe() as subscription:
            for _ in range(3):
                await anext(subscription)
                await turns(3)
            assert 0 < subscription.dropped < 100

    run(main)


def test_a_consumer_that_waits_at_the_end_hears_of_it(run: Run) -> None:
    async def endless() -> AsyncGenerator[int, None]:
        await asyncio.Event().wait()
        yield 0

    async def main() -> None:
        hub = Broadcast(endless(), buffer=1)
        await hub.start()
        items: list[int] = []
        reading = asyncio.ensure_future(gather(hub.subscribe(), items))
        await turns(5)
        await hub.stop()
        await reading
        assert items == []

    run(main)


def test_a_cancelled_wait_for_an_item_loses_nothing(run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def source() -> AsyncGenerator[int, None]:
            await gate.wait()
            for item in range(3):
                yield item

        async with Broadcast(source(), buffer=1) as hub:
            subscription = hub.subscribe()
            waiting = take(subscription)
            await turns(3)
            waiting.cancel()
            await turns(1)
            gate.set()
            assert [item async for item in subscription] == [0, 1, 2]
            assert waiting.cancelled()

    run(main)


def test_a_subscription_is_a_source_for_the_other_flows_which_close_it(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(50), buffer=1) as hub:
            stayer = hub.subscribe()
            async with aclosing(map_concurrent(hub.subscribe(), double, limit=2)) as results:
                both = asyncio.ensure_future(anext(stayer))
                assert await anext(results) == 0
                assert await both == 0
            assert len([item async for item in stayer]) == 49

    run(main)


def test_two_tasks_cannot_share_a_subscription(run: Run) -> None:
    async def main() -> None:
        async def endless() -> AsyncGenerator[int, None]:
            await asyncio.Event().wait()
            yield 0

        async with Broadcast(endless(), buffer=1) as hub:
            subscription = hub.subscribe()
            first = take(subscription)
            await turns(2)
            with pytest.raises(RuntimeError, match="give each an iterator of its own"):
                await anext(subscription)
            first.cancel()
            await until(first.done)

    run(main)


def test_a_second_start_and_a_subscription_without_one_are_refused(run: Run) -> None:
    async def main() -> None:
        hub = Broadcast([1, 2], buffer=1, name="feed")
        with pytest.raises(RuntimeError, match="feed is not started"):
            hub.subscribe()
        await hub.stop()
        await hub.start()
        with pytest.raises(RuntimeError, match="feed was started before"):
            await hub.start()
        await hub.stop()
        await hub.stop()
        await at_rest()

    run(main)


def test_there_are_no_more_subscribers_than_allowed(run: Run) -> None:
    async def main() -> None:
        async with Broadcast(Numbers(5), buffer=1, subscribers=2) as hub:
            first, second = hub.subscribe(), hub.subscribe()
            with pytest.raises(Rejected, match="broadcast: there are 2 subscribers already"):
                hub.subscribe()
            await first.aclose()
            third = hub.subscribe()
            for left in (second, third):
                await left.aclose()

    run(main)


def test_a_broadcast_is_a_component() -> None:
    hub: Component = Broadcast([1], buffer=1, name="feed")
    assert isinstance(hub, Component)
    assert hub.name == "feed"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"buffer": 0}, ValueError, "buffer is 0"),
        ({"buffer": 1, "subscribers": 0}, ValueError, "subscribers is 0"),
        ({"buffer": 1, "slow": "skip"}, ValueError, "slow is 'skip'; give one of 'wait', 'drop', 'raise'"),
        ({"buffer": 1, "source": 5}, TypeError, "not int"),
        ({"buffer": 1, "stop_within": -1.0}, ValueError, "stop_within is -1.0; give 0 or more"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Broadcast(**{"source": [1], **arguments})
