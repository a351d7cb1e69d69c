"""The arithmetic of "The Tail at Scale" (Dean and Barroso, Communications of the ACM 56:2, 2013), replayed."""

import asyncio
import random

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge

SEED = 11
SERVERS = 100
REQUESTS = 200
QUICK, SLOW, ONE_IN = 0.01, 1.0, 100


def fan_out(hedge: Hedge) -> tuple[float, float]:
    """The share of requests over 1 s, when each asks 100 servers of which each is slow once in 100; and extra calls."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    pipeline = Pipeline("leaf", hedge, clock=clock)
    slow = 0
    asked = 0

    async def leaf() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(SLOW if chance.randrange(ONE_IN) == 0 else QUICK)

    async def main() -> None:
        nonlocal slow
        for _ in range(REQUESTS):
            began = clock.now()
            await asyncio.gather(*(pipeline.acall(leaf) for _ in range(SERVERS)))
            slow += clock.now() - began >= SLOW

    clock.run(main(), limit=1e6)
    return slow / REQUESTS, asked / (REQUESTS * SERVERS) - 1


def test_one_slow_answer_in_100_makes_63_percent_of_the_requests_to_100_servers_slow() -> None:
    # The paper's figure; 1 - 0.99 ** 100 = 0.634.
    slow, extra = fan_out(Hedge(60.0))
    assert slow == pytest.approx(0.63, abs=0.07)
    assert extra == 0


def test_a_hedge_after_the_usual_latency_makes_that_1_percent_for_1_percent_more_calls() -> None:
    # Both attempts must be slow: 1 - 0.9999 ** 100 = 0.01.
    slow, extra = fan_out(Hedge(2 * QUICK))
    assert slow <= 0.03
    assert extra == pytest.approx(1 / ONE_IN, rel=0.15)
