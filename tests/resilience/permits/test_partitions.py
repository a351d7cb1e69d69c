import asyncio
import random
import threading
import time
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull, ConfigError
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.catalog import CATALOG, build
from holdfast.resilience.permits import permits
from holdfast.resilience.permits.partitions import LISTED_LIMIT, Partition, part_of
from holdfast.resilience.permits.permits import KEPT
from holdfast.resilience.permits.waiters import TaskWaiter
from resilience.room import Room, settle


def fill(bulkhead: Bulkhead, key: object, most: int = 100) -> list[Any]:
    """Enter with ``key`` until it is refused; the tokens."""
    tokens = []
    for _ in range(most):
        try:
            tokens.append(bulkhead.enter(bare_call(key=key)))
        except BulkheadFull:
            break
    return tokens


def leave(bulkhead: Bulkhead, tokens: list[Any]) -> None:
    for token in tokens:
        bulkhead.exit(bare_call(), token)


def test_no_partition_takes_more_than_its_share_and_the_rest_stays_free_for_others() -> None:
    bulkhead = Bulkhead(10, partitions={"paid": 0.7, "free": 0.3})
    free = fill(bulkhead, "free")
    assert len(free) == 3
    with pytest.raises(BulkheadFull, match="3 calls of 'free' are under way"):
        bulkhead.enter(bare_call(key="free"))
    paid = fill(bulkhead, "paid")
    assert len(paid) == 7
    leave(bulkhead, [*free, *paid])
    assert bulkhead.in_flight == 0
    assert len(fill(bulkhead, "free")) == 3


def test_shares_that_add_up_to_more_than_all_let_one_use_what_the_other_leaves() -> None:
    bulkhead = Bulkhead(10, partitions={"paid": 1.0, "free": 0.3})
    assert len(fill(bulkhead, "free")) == 3
    assert len(fill(bulkhead, "paid")) == 7
    assert bulkhead.in_flight == 10


def test_a_star_is_each_other_name_by_itself() -> None:
    bulkhead = Bulkhead(10, partitions={"*": 2, "vip": 5})
    assert [len(fill(bulkhead, key)) for key in ("a", "b", "vip", "c", "d")] == [2, 2, 5, 1, 0]


def test_names_that_are_not_listed_share_what_the_limit_leaves() -> None:
    bulkhead = Bulkhead(5, partitions={"free": 2})
    tokens = fill(bulkhead, "free") + fill(bulkhead, "x", 2) + fill(bulkhead, None)
    assert len(tokens) == 5
    leave(bulkhead, tokens)
    assert bulkhead.in_flight == 0


def test_a_function_of_the_call_may_choose_the_partition_and_its_error_holds_nothing() -> None:
    class Tier(Enum):
        FREE = 1
        PAID = 2

    tiers = {"alice": Tier.FREE, "bob": Tier.PAID}
    bulkhead = Bulkhead(4, partitions={Tier.FREE: 1, Tier.PAID: 3}, partition_by=lambda call: tiers[call.args[0]])

    @bulkhead
    def visit(user: str) -> int:
        if user == "alice":
            with pytest.raises(BulkheadFull):
                visit("alice")
        return bulkhead.in_flight

    assert [visit("alice"), visit("bob")] == [1, 1]
    with pytest.raises(KeyError):
        visit("nobody")
    assert bulkhead.in_flight == 0


@pytest.mark.parametrize(
    ("limit", "share", "part"),
    [(10, 0.3, 3), (25, 0.7, 18), (25, 0.3, 8), (3, 0.01, 1), (4, 9, 4), (4, 1, 1), (4, 1.0, 4)],
)
def test_a_share_is_rounded_and_a_number_is_a_number(limit: int, share: float, part: int) -> None:
    assert part_of(limit, share) == part


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_min=True))
def test_a_part_is_at_least_one_and_never_more_than_the_whole(limit: int, share: float) -> None:
    assert 1 <= part_of(limit, share) <= limit


def test_shares_may_be_written_as_percent_and_come_from_plain_data() -> None:
    catalog = CATALOG.adding(Bulkhead)
    data = [{"bulkhead": {"limit": 10, "queue": 4, "max_wait": "1s", "partitions": {"paid": "70%", "*": 1, "x": 0.5}}}]
    (bulkhead,) = build("x", data, catalog=catalog).policies
    assert bulkhead.settings.partitions == {"paid": 0.7, "*": 1, "x": 0.5}


@pytest.mark.parametrize("share", [0, 0.0, -1, 1.5, "70", "x%", "0%", "101%", True, None, float("nan")])
def test_a_share_that_is_none_is_refused_by_the_name_of_its_partition(share: Any) -> None:
    with pytest.raises(ConfigError, match=r"Bulkhead partitions: got .* for 'paid' a share such as 0\.3 or 30%"):
        Bulkhead(partitions={"paid": share})


def test_a_table_of_partitions_is_bounded() -> None:
    with pytest.raises(ConfigError, match=f"at most {LISTED_LIMIT} partitions"):
        Bulkhead(partitions={str(number): 1 for number in range(LISTED_LIMIT + 1)})


def test_a_table_may_be_as_long_as_the_limit_says_and_percent_may_stand_apart() -> None:
    shares: dict[Any, Any] = {**dict.fromkeys(range(LISTED_LIMIT - 1), 1), "x": " 30 % "}
    bulkhead = Bulkhead(10, partitions=shares)
    assert [part.limit for part in bulkhead.partitions if part.key == "x"] == [3]


def test_a_names_part_of_the_queue_is_rounded_up() -> None:
    bulkhead = Bulkhead(3, queue=2, partitions={"a": 1, "b": 2})
    assert {part.key: part.places for part in bulkhead.partitions} == {"a": 1, "b": 2}


def test_a_name_that_waits_takes_no_place_from_others_and_lets_others_pass() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(4, queue=4, max_wait=10, partitions={"noisy": 0.5, "quiet": 1.0})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        noisy = [room.call(f"n{number}", key="noisy") for number in range(10)]
        await settle()
        assert (bulkhead.in_flight, bulkhead.queued) == (2, 2)  # half of the permits, half of the places
        quiet = [room.call(f"q{number}", key="quiet") for number in range(4)]
        await settle()
        assert sorted(room.inside) == ["n0", "n1", "q0", "q1"]
        room.finish("n0")
        await settle()
        assert sorted(room.inside) == ["n1", "n2", "q0", "q1"]
        for name in ("n1", "n2", "n3", "q0", "q1", "q2", "q3"):
            room.finish(name)
            await settle()
        results = await asyncio.gather(*noisy, *quiet, return_exceptions=True)
        assert sum(isinstance(result, BulkheadFull) for result in results) == 6

    clock.run(main())
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_the_queue_is_bounded_as_a_whole_however_many_names_wait() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=2, max_wait=10, partitions={"*": 1.0})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(name, key=name) for name in "abcd"]
        await settle()
        assert bulkhead.queued == 2
        with pytest.raises(BulkheadFull, match="1 call is under way and 2 wait"):
            await calls[3]
        for name in "abc":
            room.finish(name)
        assert list(await asyncio.gather(*calls[:3])) == ["a", "b", "c"]

    clock.run(main())


def test_partitions_that_wait_take_turns() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=10, max_wait=10, partitions={"*": 1.0})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        names = ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]
        calls = [room.call(name, key=name[0]) for name in names]
        await settle()
        while room.inside:
            room.finish(room.inside[0])
            await settle()
        await asyncio.gather(*calls)

    clock.run(main())
    assert room.order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


def test_shares_change_while_calls_are_under_way() -> None:
    bulkhead = Bulkhead(10, partitions={"a": 0.2})
    tokens = fill(bulkhead, "a")
    bulkhead.update(partitions={"a": 0.5, "b": 1})
    tokens += fill(bulkhead, "a") + fill(bulkhead, "b")
    assert len(tokens) == 6
    bulkhead.update(partitions={})
    assert len(fill(bulkhead, "a")) == 4
    bulkhead.update(partitions={"a": 0.9}, limit=20)
    leave(bulkhead, tokens)
    assert bulkhead.in_flight == 4
    assert bulkhead.snapshot()["partitions"]["a"] == {"in_flight": 0, "limit": 18, "queued": 0}


def test_a_larger_share_lets_its_waiters_in() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(4, queue=4, max_wait=10, partitions={"a": 1})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number, key="a") for number in range(2)]
        await settle()
        assert room.inside == [0]
        bulkhead.update(partitions={"a": 2})
        await settle()
        assert room.inside == [0, 1]
        for number in range(2):
            room.finish(number)
        await asyncio.gather(*calls)

    clock.run(main())
    assert bulkhead.in_flight == 0


def test_names_in_which_nobody_is_are_forgotten_and_those_in_use_are_not() -> None:
    bulkhead = Bulkhead(10, partitions={"*": 1, "listed": 2})
    held = fill(bulkhead, "busy")
    for number in range(3 * KEPT):
        leave(bulkhead, fill(bulkhead, number))
    assert len(bulkhead.partitions) <= KEPT
    assert {"busy", "listed"} <= {partition.key for partition in bulkhead.partitions}
    assert fill(bulkhead, "busy") == []
    leave(bulkhead, held)
    assert bulkhead.in_flight == 0


class ForgettingNames(dict[Any, Partition]):
    """Makes the first partition that somebody looks up be forgotten, just after he has found it."""

    done = False

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        if not self.done and found is not None:
            self.done = True
            assert found.retire()
            del self[key]
        return found


@pytest.mark.parametrize("queue", [0, 1])
def test_whoever_has_found_a_partition_that_is_forgotten_in_that_moment_gets_the_new_one(queue: int) -> None:
    bulkhead = Bulkhead(10, queue=queue, partitions={"*": 1})
    leave(bulkhead, fill(bulkhead, "a"))
    bulkhead._named = ForgettingNames(bulkhead._named)
    token = (bulkhead.admit if queue else bulkhead.enter)(bare_call(key="a"))
    assert isinstance(token, Partition)
    assert (token is bulkhead._named["a"], token.in_flight, token.retired) == (True, 1, False)
    assert fill(bulkhead, "a") == []
    leave(bulkhead, [token])
    assert (bulkhead.in_flight, token.in_flight) == (0, 0)


def test_names_in_use_are_not_looked_through_for_each_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "KEPT", 2)
    looked: list[Partition] = []
    retire = Partition.retire

    def count(partition: Partition) -> bool:
        looked.append(partition)
        return retire(partition)

    monkeypatch.setattr(Partition, "retire", count)
    bulkhead = Bulkhead(256, partitions={"*": 1})
    bulkhead._sweep_at = 2
    for number in range(256):
        bulkhead.guard(key=number).__enter__()
    assert 0 < len(looked) <= 2 * 256


def test_a_name_that_only_waits_is_not_forgotten() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=10, partitions={"*": 1.0})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        held, waiting = room.call("held", key="held"), room.call("waiting", key="waiting")
        await settle()
        bulkhead._sweep_at = 0
        assert fill(bulkhead, "new") == []
        assert {partition.key for partition in bulkhead.partitions} == {"held", "waiting", "new"}
        room.finish("held")
        room.finish("waiting")
        assert list(await asyncio.gather(held, waiting)) == ["held", "waiting"]

    clock.run(main())


def test_nobody_comes_between_a_larger_share_and_those_who_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(9, queue=9, max_wait=10, partitions={"a": 1})
    room = Room(Pipeline("x", bulkhead, clock=clock))
    refusals: list[BulkheadFull] = []
    wake = TaskWaiter.wake

    def wake_and_let_somebody_come(waiter: TaskWaiter) -> bool:
        with pytest.raises(BulkheadFull) as caught:
            bulkhead.enter(bare_call(key="a"))
        refusals.append(caught.value)
        return wake(waiter)

    async def main() -> None:
        bulkhead.update(queue=81)
        calls = [room.call(number, key="a") for number in range(4)]
        await settle()
        monkeypatch.setattr(TaskWaiter, "wake", wake_and_let_somebody_come)
        bulkhead.update(partitions={"a": 4})
        monkeypatch.undo()
        await settle()
        assert room.inside == [0, 1, 2, 3]
        for number in range(4):
            room.finish(number)
        await asyncio.gather(*calls)

    clock.run(main())
    assert len(refusals) == 3
    assert bulkhead.in_flight == 0


def test_a_new_partition_has_its_share_before_others_can_see_it() -> None:
    class Watched(Bulkhead):
        def _measure(self, partition: Partition) -> None:
            seen.append(partition.key in self._named)
            super()._measure(partition)

    seen: list[bool] = []
    bulkhead = Watched(10, partitions={"*": 1, "listed": 2})
    assert seen[0] is False
    seen.clear()
    with bulkhead.guard(key="new"):
        assert seen == [False]


@pytest.mark.usefixtures("switching_often")
def test_threads_that_meet_in_forgotten_partitions_keep_to_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "KEPT", 3)  # nearly every new name makes the others be forgotten
    bulkhead = Bulkhead(100, queue=2000, max_wait=30, partitions={"*": 1})
    bulkhead._sweep_at = 3
    pipeline = Pipeline("x", bulkhead)
    inside: dict[int, list[None]] = {key: [] for key in range(8)}
    most: list[int] = []

    def work(key: int) -> None:
        inside[key].append(None)
        time.sleep(0)
        most.append(len(inside[key]))
        inside[key].pop()

    def many(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(200):
            key = chance.randrange(8)
            pipeline.bind(key=key).call(work, key)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(most), max(most)) == (16 * 200, 1)
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    assert len(bulkhead.partitions) <= 16
