import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from flow.loops import Numbers, Run, gather, others, take, turns
from holdfast.flow import merge


def test_nothing_is_lost_and_each_source_keeps_its_order(run: Run) -> None:
    async def letters() -> AsyncGenerator[str, None]:
        for letter in "abcdefgh":
            yield letter
            await turns(2)

    async def main() -> list[int | str]:
        sources: list[Any] = [Numbers(20), letters(), [100, 101, 102]]
        return [item async for item in merge(*sources)]

    items = run(main)
    assert [item for item in items if isinstance(item, str)] == list("abcdefgh")
    assert [item for item in items if isinstance(item, int) and item < 100] == list(range(20))
    assert [item for item in items if isinstance(item, int) and item >= 100] == [100, 101, 102]


def test_a_quiet_source_holds_up_nobody(run: Run) -> None:
    async def quiet() -> AsyncGenerator[int, None]:
        await asyncio.Event().wait()
        yield 0

    async def main() -> list[int]:
        async with aclosing(merge(quiet(), Numbers(5))) as items:
            return [await anext(items) for _ in range(5)]

    assert run(main) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("buffer", [1, 3])
def test_each_source_is_read_ahead_by_its_buffer_and_no_more(run: Run, buffer: int) -> None:
    async def main() -> None:
        sources = [Numbers(50), Numbers(50)]
        async with aclosing(merge(*sources, buffer=buffer)) as items:
            taken = 0
            async for _ in items:
                taken += 1
                await turns(10)
                ahead = sum(source.read for source in sources) - taken
                assert ahead == min(2 * buffer, 100 - taken)

    run(main)


def test_a_source_that_is_always_ready_does_not_starve_the_other(run: Run) -> None:
    async def main() -> list[int]:
        async with aclosing(merge(range(1000), range(5000, 6000), buffer=4)) as items:
            return [await anext(items) for _ in range(20)]

    first = [item for item in run(main) if item < 1000]
    assert 8 <= len(first) <= 12


def test_the_first_failure_comes_after_what_was_read_and_ends_the_others(run: Run) -> None:
    async def main() -> list[int]:
        failing, endless = Numbers(3, error=OSError("gone")), Numbers(1000)
        items = merge(failing, endless, buffer=5)
        first = await take(items)
        await turns(20)
        seen = [first]
        with pytest.raises(OSError, match="gone"):
            await gather(items, seen)
        assert endless.closed
        assert endless.read < 20
        assert not others()
        assert len(seen) == failing.read + endless.read
        return seen

    assert {0, 1, 2} <= set(run(main))


def test_of_sources_that_fail_at_the_same_time_the_first_is_raised_and_the_other_noted(run: Run) -> None:
    async def failing(error: Exception | None) -> AsyncGenerator[int, None]:
        if error is not None:
            raise error
        yield 0

    async def main() -> None:
        with pytest.raises(OSError, match="one") as raised:
            await anext(merge(failing(OSError("one")), failing(ValueError("two"))))
        assert raised.value.__notes__ == ["Before the flow had ended, 1 more failed: ValueError: two"]

    run(main)


def test_no_sources_give_no_items(run: Run) -> None:
    async def main() -> list[int]:
        sources: list[list[int]] = []
        return [item async for item in merge(*sources)]

    assert run(main) == []


def test_merge_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="buffer is 0"):
        merge([1], buffer=0)
    with pytest.raises(TypeError, match="not NoneType"):
        merge([1], None)  # type: ignore[arg-type]
