import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.watch import Watch


def test_the_current_value_and_its_version_follow_every_set() -> None:
    watch = Watch("a")
    assert (watch.current, watch.version) == ("a", 0)
    watch.set("b")
    watch.set("b")
    assert (watch.current, watch.version) == ("b", 2)


def test_a_reader_sees_each_change_that_it_keeps_up_with() -> None:
    watch = Watch(0)
    seen: list[int] = []

    async def read() -> None:
        async for value in watch.changes():
            seen.append(value)
            if value == 3:
                return

    async def main() -> None:
        reader = asyncio.create_task(read())
        for value in (1, 2, 3):
            await asyncio.sleep(1)
            watch.set(value)
        await reader

    VirtualClock().run(main())
    assert seen == [1, 2, 3]


@given(st.lists(st.one_of(st.none(), st.integers()), max_size=40))
def test_a_slow_reader_sees_the_newest_value_and_never_an_older_one(steps: list[int | None]) -> None:
    """An int is a set, None lets the reader have its turn."""
    watch: Watch[tuple[int, int]] = Watch((0, 0))

    async def main() -> None:
        changes = watch.changes()
        written = read = 0
        for step in steps:
            if step is not None:
                written += 1
                watch.set((written, step))
            elif written > read:
                value = await anext(changes)
                assert value == watch.current
                read = value[0]
                assert read == written

    VirtualClock().run(main())


def test_changes_start_where_they_were_asked_for() -> None:
    watch = Watch(0)

    async def main() -> int:
        watch.set(1)
        changes = watch.changes()
        watch.set(2)
        return await anext(changes)

    assert VirtualClock().run(main()) == 2


def test_a_cancelled_reader_leaves_nothing_behind_and_may_go_on() -> None:
    watch = Watch(0)

    async def main() -> int:
        changes = watch.changes()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(changes)
        assert not watch._waiters
        watch.set(7)
        return await anext(changes)

    assert VirtualClock().run(main()) == 7


def test_waiting_returns_at_once_when_the_value_is_there() -> None:
    async def main() -> int:
        return await Watch(5).wait(lambda value: value > 4, timeout=1)

    assert VirtualClock().run(main()) == 5


def test_waiting_ends_with_the_value_or_with_the_timeout() -> None:
    watch = Watch(0)
    clock = VirtualClock()

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, watch.set, 1)
        asyncio.get_running_loop().call_later(2, watch.set, 2)
        assert await watch.wait(lambda value: value == 2) == 2
        assert clock.now() == 1002.0
        with pytest.raises(TimeoutError):
            await watch.wait(lambda value: value == 3, timeout=10)
        assert clock.now() == 1012.0
        assert not watch._waiters

    clock.run(main())


def test_setting_from_another_thread_is_refused_with_the_right_way() -> None:
    watch = Watch(0)

    async def main() -> int:
        waiting = asyncio.create_task(watch.wait(lambda value: value == 2))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            await asyncio.to_thread(watch.set, 1)
        assert watch.current == 0
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(watch.set, 2))
        thread.start()
        thread.join(10)
        return await waiting

    assert asyncio.run(main()) == 2
