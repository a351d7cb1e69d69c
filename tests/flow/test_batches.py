import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.loops import Numbers, Run, gather, others, turns
from holdfast.core.clock import VirtualClock
from holdfast.flow import batch


async def timed(gaps: list[float], error: Exception | None = None) -> AsyncGenerator[int, None]:
    """0, 1, 2 and so on, each after its gap in seconds."""
    for number, gap in enumerate(gaps):
        await asyncio.sleep(gap)
        yield number
    if error is not None:
        raise error


def now() -> float:
    return asyncio.get_running_loop().time()


def test_lists_are_full_but_for_the_last(run: Run) -> None:
    async def main() -> list[list[int]]:
        return [items async for items in batch(Numbers(7), 3)]

    assert run(main) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_list_comes_within_its_time_after_the_first_item(run_in_virtual_time: Run) -> None:
    async def main() -> list[tuple[float, list[int]]]:
        began = now()
        flow = batch(timed([1, 0.2, 0.2, 5, 0.5, 0.5]), 10, within=0.3)
        return [(round(now() - began, 6), items) async for items in flow]

    assert run_in_virtual_time(main) == [(1.3, [0, 1]), (1.7, [2]), (6.7, [3]), (7.2, [4]), (7.4, [5])]


def test_without_a_time_a_list_waits_for_its_items(run_in_virtual_time: Run) -> None:
    async def main() -> list[tuple[float, list[int]]]:
        began = now()
        return [(now() - began, items) async for items in batch(timed([1, 1000, 1]), 2)]

    assert run_in_virtual_time(main) == [(1001, [0, 1]), (1002, [2])]


def test_a_list_grows_while_the_consumer_is_busy_up_to_its_size_and_no_further(run_in_virtual_time: Run) -> None:
    async def main() -> list[list[int]]:
        seen = []
        async for items in batch(timed([0.1] * 12), 4, within=0.15):
            seen.append(items)
            await asyncio.sleep(1)
        return seen

    assert run_in_virtual_time(main) == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9], [10, 11]]


def test_at_most_one_list_is_read_ahead(run: Run) -> None:
    async def main() -> None:
        source = Numbers(100)
        async with aclosing(batch(source, 4)) as lists:
            for taken in range(1, 10):
                assert len(await anext(lists)) == 4
                await turns(20)
                assert source.read == 4 * taken + 4

    run(main)


def test_waiting_for_company_does_not_cancel_the_source(run_in_virtual_time: Run) -> None:
    async def main() -> list[list[int]]:
        source = timed([1, 50, 50])
        return [items async for items in batch(source, 5, within=1)]

    assert run_in_virtual_time(main) == [[0], [1], [2]]


def test_what_was_read_comes_before_the_error(run: Run) -> None:
    async def main() -> list[list[int]]:
        seen: list[list[int]] = []
        with pytest.raises(OSError, match="gone"):
            await gather(batch(Numbers(5, error=OSError("gone")), 3), seen)
        assert not others()
        return seen

    assert run(main) == [[0, 1, 2], [3, 4]]


def test_batch_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        batch([1], 0)
    with pytest.raises(ValueError, match="within is -1"):
        batch([1], 1, within=-1)
    with pytest.raises(ValueError, match="within is nan"):
        batch([1], 1, within=float("nan"))


def model(gaps: list[int], size: int, within: float, busy: float) -> list[tuple[float, list[int]]]:
    """What comes next, the arrival of an item or the handing out of a list, one after the other."""
    lists: list[tuple[float, list[int]]] = []
    waiting: list[int] = []
    read, now, first, free = 0, 0.0, 0.0, 0.0
    arrival = float(gaps[0]) if gaps else inf
    while waiting or read < len(gaps):
        full, over = len(waiting) == size, read == len(gaps)
        handing = max(free, now if full or over else first + within) if waiting else inf
        if not full and arrival < handing:
            now = arrival
            first = first if waiting else now
            waiting.append(read)
            read += 1
            arrival = now + gaps[read] if read < len(gaps) else inf
        else:
            now = handing
            lists.append((now, waiting))
            waiting, free = [], now + busy
            if full and read < len(gaps):
                arrival = now + gaps[read]
    return lists


@settings(max_examples=150)
@given(st.lists(st.integers(1, 6), max_size=25), st.integers(1, 5), st.none() | st.integers(0, 8), st.integers(0, 9))
def test_every_list_comes_as_the_model_has_it(gaps: list[int], size: int, whole: int | None, busy: int) -> None:
    clock = VirtualClock(start=0.0)
    lists: list[tuple[float, list[int]]] = []
    # Fractions that keep two events from falling on the same moment, where their order means nothing.
    within, rest = None if whole is None else whole + 0.37, busy + 0.0131

    async def main() -> None:
        async for items in batch(timed([float(gap) for gap in gaps]), size, within=within):
            lists.append((clock.now(), items))
            await asyncio.sleep(rest)

    clock.run(main())
    expected = model(gaps, size, inf if within is None else within, rest)
    assert [items for _, items in lists] == [items for _, items in expected]
    assert [at for at, _ in lists] == pytest.approx([at for at, _ in expected])
    assert [item for _, items in lists for item in items] == list(range(len(gaps)))
