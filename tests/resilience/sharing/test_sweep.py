"""Cancel each caller at each turn of the loop: the others get what they asked for, and nothing is left behind."""

import asyncio
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.fault import Fault
from holdfast.resilience.singleflight import SingleFlight
from resilience.loops import RunAsync
from resilience.witness import turns

TURNS = 12
"""More than an execution takes here."""
CALLERS = 3


async def slow(fails: bool) -> str:
    for _ in range(3):
        await asyncio.sleep(0)
    if fails:
        raise ValueError("no")
    return "answer"


async def swept(call: Any, fails: bool, turn: int, victims: tuple[int, ...]) -> list[Any]:
    """What each caller is told when some are cancelled after so many turns; None for those who were."""
    callers = [asyncio.ensure_future(call(fails)) for _ in range(CALLERS)]
    await turns(turn)
    hit = [number for number in victims if callers[number].cancel()]
    await asyncio.wait(callers, timeout=10)
    told: list[Any] = []
    for number, caller in enumerate(callers):
        assert caller.done()
        if number in hit:
            assert caller.cancelled()  # at once, whatever it was doing
            told.append(None)
        else:
            told.append(str(caller.exception()) if fails else caller.result())
    await turns(TURNS)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return told


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_shared_executions_survive_a_cancellation_at_any_turn(
    run_async: RunAsync, fails: bool, victims: tuple[int, ...]
) -> None:
    async def main() -> None:
        for make in (SingleFlight, Cache):
            for turn in range(TURNS):
                policy = make()
                told = await swept(Pipeline("x", policy)(slow), fails, turn, victims)
                assert set(told) <= {None, "no" if fails else "answer"}
                assert [number for number, what in enumerate(told) if what is None] in ([], list(victims))
                if isinstance(policy, SingleFlight):
                    assert policy.snapshot()["under_way"] == 0
                assert not any(policy._flights._by_loop.values())
                assert not policy._flights._tasks
                assert not policy._flights._ending

    run_async(main())


@pytest.mark.parametrize("turn", range(8))
def test_a_refresh_survives_a_cancellation_at_any_turn(turn: int) -> None:
    clock, cache = VirtualClock(), Cache(10, stale=60, jitter=0)
    call = Pipeline("x", cache, clock=clock)(slow)

    async def main() -> None:
        assert await call(False) == "answer"
        clock.advance(11)
        caller = asyncio.ensure_future(call(False))
        await turns(turn)
        caller.cancel()
        await asyncio.wait({caller})
        await turns(TURNS)
        snapshot = cache.snapshot()
        assert snapshot["refreshing"] == 0
        assert snapshot["refreshes"] == (turn > 0)
        assert snapshot["loads"] == 1 + (turn > 0)

    clock.run(main())


@pytest.mark.parametrize("make", [
    lambda: Fallback(function=slow, last_good=1, on_result=True),
    lambda: Fault(1.0, delay=1, abort=ValueError),
], ids=["fallback", "fault"])  # fmt: skip
def test_no_cancellation_is_swallowed_at_any_turn(make: Any) -> None:
    clock = VirtualClock()

    async def main() -> None:
        for fails in (False, True):
            for turn in range(TURNS):
                caller = asyncio.ensure_future(Pipeline("x", make(), clock=clock)(slow)(fails))
                await turns(turn)
                was_cancelled = caller.cancel()
                await turns(2)
                assert caller.done()
                assert caller.cancelled() is was_cancelled

    clock.run(main())
