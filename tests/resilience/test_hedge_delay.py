import asyncio
import random
from math import inf
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError, DeadlineExceeded
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.hedge import Hedge, HedgeStarted, HedgeWon
from holdfast.resilience.racing.quantile import BATCH
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.resilience.timeout import Timeout
from resilience.scripted import NEVER, Dependency, ask


def test_without_room_in_the_budget_the_first_attempt_goes_on_alone() -> None:
    budget = RetryBudget(ratio=0.0, floor=0.0)
    dependency, hedge = Dependency((1.0, "first")), Hedge(0.1, budget=budget)
    assert ask(dependency, hedge) == ("first", pytest.approx(1.0))
    assert (hedge.hedges, hedge.suppressed, budget.denied) == (0, 1, 1)
    outcome, _ = ask(Dependency((0.01, OSError("down"))), hedge)
    assert str(outcome) == "down"


def test_an_own_budget_is_filled_by_calls_and_a_shared_one_by_its_owner() -> None:
    clock = VirtualClock()
    own = Hedge(0.1, budget={"ratio": 0.2, "floor": 0})
    shared = Hedge(0.1, budget=RetryBudget(ratio=0.2, floor=0))

    async def main() -> None:
        for hedge in (own, shared):
            for number in range(10):
                slow = Dependency((0.3 if number > 4 else 0.0, "first"), (NEVER, "second"))
                assert await Pipeline("x", hedge, clock=clock).acall(slow) == "first"

    clock.run(main())
    assert (own.hedges, own.suppressed) == (2, 3)
    assert (shared.hedges, shared.suppressed) == (0, 5)


def test_a_hedge_without_a_budget_is_not_limited() -> None:
    hedge = Hedge(0.1, budget=False)
    for _ in range(100):
        ask(Dependency((NEVER, 1), (0.0, 2)), hedge)
    assert (hedge.hedges, hedge.snapshot()["budget"]) == (100, None)


def test_one_attempt_is_no_hedge() -> None:
    hedge = Hedge(0.1, attempts=1)
    assert ask(Dependency((0.3, "first")), hedge)[0] == "first"
    outcome, _ = ask(Dependency((0.0, OSError("down"))), hedge)
    assert str(outcome) == "down"


def test_the_delay_is_the_quantile_once_enough_answers_are_known() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(quantile=0.9, samples=BATCH)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        for number in range(BATCH):
            assert hedge.delay == inf
            await pipeline.acall(asyncio.sleep, (number % 10 + 1) / 100)
        assert hedge.delay == pytest.approx(0.09)
        dependency = Dependency((NEVER, "first"), (0.01, "second"))
        began = clock.now()
        assert await pipeline.acall(dependency) == "second"
        assert clock.now() - began == pytest.approx(0.1)

    clock.run(main())
    assert hedge.snapshot()["samples"] == BATCH


def test_calls_that_lose_count_as_slow_so_that_the_share_of_hedges_stays() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(quantile=0.9, samples=BATCH, budget=False)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        for _ in range(BATCH * 20):
            await pipeline.acall(Dependency((0.01 + chance.random() / 10, "first"), (0.0, "second")))

    chance = random.Random(8)
    clock.run(main())
    assert hedge.delay == pytest.approx(0.1, rel=0.05)
    assert hedge.hedges == pytest.approx(BATCH * 19 * 0.1, rel=0.2)
    assert hedge.won == pytest.approx(hedge.hedges, rel=0.1)


def test_timeouts_count_as_slow_and_other_failures_not_at_all() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(quantile=0.5, samples=BATCH, attempts=2, budget=RetryBudget(ratio=0, floor=0))
    pipeline = Pipeline("x", hedge, Timeout(0.5), clock=clock)

    async def main() -> None:
        for _ in range(BATCH):
            with pytest.raises(OSError):  # noqa: PT011 - any OSError
                await pipeline.acall(Dependency((0.0, ConnectionError())))
        assert hedge._quantile is not None
        assert hedge._quantile.batch == []
        for _ in range(BATCH):
            with pytest.raises(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 1)

    clock.run(main())
    assert hedge.delay == pytest.approx(0.5, rel=0.01)


def test_timeouts_count_as_slow_once_the_delay_is_known_too() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(quantile=0.5, samples=BATCH, budget=RetryBudget(ratio=0, floor=0))
    pipeline = Pipeline("x", hedge, Timeout(0.5), clock=clock)

    async def main() -> None:
        for _ in range(BATCH):
            await pipeline.acall(asyncio.sleep, 0.1)
        assert hedge.delay == pytest.approx(0.1, rel=0.02)
        for _ in range(2 * BATCH):
            with pytest.raises(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 1)

    clock.run(main())
    assert hedge.delay == pytest.approx(0.5, rel=0.02)


def test_fewer_answers_than_asked_for_are_not_trusted() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(samples=2 * BATCH)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        for _ in range(2 * BATCH - 1):
            await pipeline.acall(asyncio.sleep, 0.01)
            assert hedge.delay == inf
        await pipeline.acall(asyncio.sleep, 0.01)

    clock.run(main())
    assert hedge.delay == pytest.approx(0.01)


def test_the_delay_of_the_quantile_is_not_shorter_than_the_least_one() -> None:
    clock = VirtualClock()
    hedge = Hedge(samples=BATCH, min_delay=0.02)

    async def main() -> None:
        for _ in range(BATCH):
            await Pipeline("x", hedge, clock=clock).acall(asyncio.sleep, 0)

    clock.run(main())
    assert hedge.delay == 0.02
    hedge.update(min_delay=0.5)
    assert hedge.delay == 0.5
    hedge.update(quantile=0.5)
    assert hedge.delay == inf


def test_settings_change_while_calls_are_under_way() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(1.0)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        old = asyncio.ensure_future(pipeline.acall(Dependency((NEVER, 1), (0.0, "old"))))
        await asyncio.sleep(0.1)
        hedge.update(delay="200ms")
        new = asyncio.ensure_future(pipeline.acall(Dependency((NEVER, 1), (0.0, "new"))))
        assert await new == "new"
        assert clock.now() == pytest.approx(0.3)
        assert await old == "old"
        assert clock.now() == pytest.approx(1.0)

    clock.run(main())


def test_hedges_and_their_wins_are_told() -> None:
    hedge = Hedge(0.1)
    heard: list[Event] = []
    hedge.listeners.subscribe(heard.append)
    ask(Dependency((NEVER, "first"), (0.0, "second")), hedge)
    started, won = heard
    assert isinstance(started, HedgeStarted)
    assert (started.policy, started.operation, started.delay) == ("hedge", "ask", 0.1)
    assert isinstance(won, HedgeWon)
    assert won.operation == "ask"


def test_it_can_be_built_from_plain_data() -> None:
    data = [{"hedge": {"delay": "250ms", "attempts": 3, "budget": {"ratio": 0.05}}}, {"hedge": {"name": "second"}}]
    fixed, learned = build("x", data, catalog=CATALOG.adding(Hedge)).policies
    assert isinstance(fixed, Hedge)
    assert fixed.delay == 0.25
    assert fixed.budget is not None
    assert fixed.budget.settings.ratio == 0.05
    assert learned.settings.delay is None
    (short,) = build("x", [{"hedge": "1s"}], catalog=CATALOG.adding(Hedge)).policies
    assert short.settings.delay == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delay": 0}, "Hedge delay: got 0, expected a duration such as 500ms or 1m30s, more than 0"),
        ({"delay": "soon"}, "Hedge delay: got 'soon', expected a duration"),
        ({"quantile": 1.0}, "Hedge quantile: got 1.0, expected a number, more than 0, less than 1"),
        ({"attempts": 6}, "Hedge attempts: got 6, expected a whole number, at least 1, at most 5"),
        ({"samples": 2000}, "Hedge samples: got 2000, expected a whole number, at least 1, at most 1024"),
        ({"budget": 5}, "Hedge budget: got 5, expected a RetryBudget, a table such as"),
        ({"threads": 0}, "Hedge threads: got 0, expected a whole number, at least 1"),
    ],
)
def test_wrong_settings_are_refused_with_what_was_expected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Hedge(**wrong)
    assert message in str(caught.value)
