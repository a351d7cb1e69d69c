"""The queue before the handlers: who goes first, who waits too long, and what that does to an overloaded loop."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.server.admission import run_queue
from holdfast.server.admission.run_queue import FLOWS, HOLD, INTERVAL, Entry, RunQueue


def filled(*keys: Any, rank: int = 0, classes: int = 1) -> RunQueue[Any]:
    queue: RunQueue[Any] = RunQueue(classes)
    for number, key in enumerate(keys):
        queue.push(f"{key}{number}", arrived=0.0, rank=rank, key=key)
    return queue


def taken(queue: RunQueue[Any], count: int, now: float = 0.0) -> list[Any]:
    return [queue.pop(now) for _ in range(count)]


def test_one_line_is_served_in_the_order_of_arrival() -> None:
    queue = filled("a", "a", "a")
    assert taken(queue, 4) == ["a0", "a1", "a2", None]


def test_lines_take_turns() -> None:
    queue = filled("a", "a", "a", "a", "b", "b", "c")
    assert taken(queue, 7) == ["a0", "b4", "c6", "a1", "b5", "a2", "a3"]


def test_a_new_line_goes_first_and_one_that_comes_and_goes_does_not() -> None:
    queue = filled("a", "a", "a", "a")
    assert queue.pop(0.0) == "a0"
    queue.push("b", arrived=0.0, rank=0, key="b")
    assert queue.pop(0.0) == "b"
    queue.push("again", arrived=0.0, rank=0, key="b")  # its line is not new any more
    assert taken(queue, 3) == ["a1", "again", "a2"]


def test_more_critical_requests_go_first() -> None:
    queue: RunQueue[str] = RunQueue(4)
    for rank in (0, 3, 1, 2, 3):
        queue.push(f"{rank}", arrived=0.0, rank=rank, key=rank)
    assert taken(queue, 5) == ["3", "3", "2", "1", "0"]


def test_a_burst_may_wait_and_a_standing_queue_may_not() -> None:
    queue = filled("a", "b")
    assert queue.expire(queue.target + 0.001) == []
    assert queue.expire(queue.patience) == []
    assert queue.expire(queue.patience + 0.001) == ["a0", "b1"]
    queue = filled("a")
    for number in range(1, 31):  # never empty
        queue.push(f"a{number}", arrived=number * 0.01, rank=0, key="a")
        late = queue.expire(number * 0.01)
        assert late == ([] if number * 0.01 <= INTERVAL else late)
        assert queue.pop(number * 0.01) is not None
    assert queue.standing(0.31)
    queue.push("last", arrived=0.31, rank=0, key="a")
    assert queue.expire(0.31 + queue.target + 0.001) == ["a30", "last"]
    assert (len(queue), queue.expired) == (0, 2)


def test_who_waits_alone_stays_and_the_longest_line_pays() -> None:
    queue = filled("a", "a", "a", "b")
    assert queue.pop(0.0) == "a0"
    queue._classes[0].short_until = 1.0
    late = queue.target + 0.001
    assert queue.expire(late) == ["a1", "a2", "b3"]  # none had a longer line before it
    queue = filled("b", "a", "a", "a")
    queue._classes[0].short_until = 1.0
    assert queue.expire(late) == ["a1", "a2", "a3"]
    assert queue.pop(late) == "b0"
    queue = filled("b", "a", "a", "a")
    queue._classes[0].short_until = 1.0
    queue.expire(late)
    assert queue.expire(queue.patience) == []
    assert queue.expire(queue.patience + 0.001) == ["b0"]  # another paid, once; for ever it does not stay


def test_after_a_refusal_the_queue_is_kept_short_for_a_while() -> None:
    queue = filled("a")
    assert queue.expire(1.0) == ["a0"]
    queue.push("x", arrived=1.0 + HOLD / 2, rank=0)
    assert queue.expire(1.0 + HOLD / 2 + queue.target) == []
    assert queue.expire(1.0 + HOLD / 2 + queue.target + 0.001) == ["x"]
    queue.push("y", arrived=2.0 + HOLD, rank=0)
    assert not queue.standing(2.0 + HOLD)
    assert queue.expire(2.0 + HOLD + queue.target + 0.001) == []


def test_an_empty_queue_is_not_a_standing_one() -> None:
    queue = filled("a")
    assert queue.pop(0.01) == "a0"
    assert not queue.standing(5.0)
    queue.push("b", arrived=5.0, rank=0)
    assert not queue.standing(5.0 + INTERVAL - 0.001)
    assert queue.standing(5.0 + INTERVAL + 0.001)


def test_who_leaves_is_not_served() -> None:
    queue: RunQueue[str] = RunQueue(1)
    entries = [queue.push(name, arrived=0.0, rank=0, key="k")[0] for name in "abcd"]
    assert queue.remove(entries[1])
    assert not queue.remove(entries[1])
    assert taken(queue, 4) == ["a", "c", "d", None]
    assert not queue.remove(entries[0])


def test_where_there_is_no_room_the_longest_line_of_the_least_critical_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_queue, "LENGTH_LIMIT", 4)
    queue: RunQueue[str] = RunQueue(2)
    for name in ("a1", "a2", "a3", "b1"):
        assert queue.push(name, arrived=0.0, rank=0, key=name[0])[1] is None
    assert queue.push("b2", arrived=0.0, rank=0, key="b")[1] == "a3"
    assert queue.push("c1", arrived=0.0, rank=1, key="c")[1] in ("a2", "b2")
    entry, out = queue.push("a4", arrived=0.0, rank=0, key="a")
    assert out is not None
    assert entry.gone == (out == "a4")
    assert len(queue) == 4
    for number in range(10):
        queue.push(f"d{number}", arrived=0.0, rank=1, key="d")
    assert len(queue) == 4
    _, out = queue.push("late", arrived=0.0, rank=0, key="e")
    assert out == "late"  # all places are taken by more critical ones
    assert queue.evicted == 14


def test_keys_and_those_that_left_take_no_memory() -> None:
    queue: RunQueue[int] = RunQueue(1)
    for number in range(20_000):
        entry, _ = queue.push(number, arrived=float(number), rank=0, key=f"key {number}")
        if number % 2:
            queue.remove(entry)
        else:
            queue.expire(float(number) + 0.5)
    (group,) = queue._classes
    assert len(group.order) + len(group.spared) <= 2
    assert len(group.flows) <= FLOWS
    assert len(group.new) + len(group.old) <= FLOWS
    assert sum(len(flow.entries) for flow in group.flows.values()) <= 2


class Waiting(NamedTuple):
    number: int
    arrived: float
    rank: int
    key: int


class Model(RuleBasedStateMachine):
    """Held against lists that are looked through from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: RunQueue[int] = RunQueue(2)
        self.now = 0.0
        self.number = 0
        self.entries: dict[int, Entry[int]] = {}
        self.waiting: list[Waiting] = []
        self.spared: list[Waiting] = []
        self.new: tuple[list[int], list[int]] = ([], [])
        self.old: tuple[list[int], list[int]] = ([], [])
        self.empty_at = [float("-inf")] * 2
        self.short_until = [float("-inf")] * 2

    def here(self, rank: int) -> list[Waiting]:
        return [one for one in self.waiting if one.rank == rank]

    def line(self, rank: int, key: int) -> list[Waiting]:
        return [one for one in self.here(rank) if one.key == key]

    def standing(self, rank: int) -> bool:
        long = bool(self.here(rank)) and self.now - self.empty_at[rank] > INTERVAL
        return long or self.now < self.short_until[rank]

    @rule(rank=st.integers(0, 1), key=st.integers(0, 3))
    def push(self, rank: int, key: int) -> None:
        if not self.here(rank):
            self.empty_at[rank] = self.now
        self.number += 1
        self.entries[self.number], out = self.queue.push(self.number, arrived=self.now, rank=rank, key=key)
        assert out is None
        self.waiting.append(Waiting(self.number, self.now, rank, key))
        if key not in self.new[rank] + self.old[rank]:
            self.new[rank].append(key)

    @rule()
    def pop(self) -> None:
        ranks = [rank for rank in (1, 0) if self.here(rank)]
        if not ranks:
            assert self.queue.pop(self.now) is None
            return
        rank = ranks[0]
        while True:
            key = self.new[rank].pop(0) if self.new[rank] else self.old[rank].pop(0)
            if self.line(rank, key):
                break
        self.old[rank].append(key)
        first = self.line(rank, key)[0]
        self.waiting.remove(first)
        if not self.here(rank):
            self.empty_at[rank] = self.now
        assert self.queue.pop(self.now) == first.number

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.2, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        out: list[Waiting] = []

        def drop(one: Waiting) -> None:
            self.waiting.remove(one)
            out.append(one)

        for rank in (0, 1):
            before = len(out)
            for one in [one for one in self.spared if one in self.here(rank)]:
                if self.now - one.arrived > self.queue.patience:
                    drop(one)
            limit = self.queue.target if self.standing(rank) else self.queue.patience
            for one in self.here(rank):
                if one not in self.waiting or one in self.spared or self.now - one.arrived <= limit:
                    continue
                lengths = {key: len(self.line(rank, key)) for key in self.old[rank] + self.new[rank]}
                longest = max(lengths, key=lambda key: lengths[key])
                if self.now - one.arrived <= self.queue.patience and lengths[longest] > lengths[one.key]:
                    self.spared.append(one)
                    drop(self.line(rank, longest)[0])
                else:
                    drop(one)
            if len(out) > before:
                self.short_until[rank] = self.now + HOLD
        assert self.queue.expire(self.now) == [one.number for one in out]

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.entries)))
        here = [one for one in self.waiting if one.number == number]
        assert self.queue.remove(self.entries[number]) is bool(here)
        self.waiting = [one for one in self.waiting if one.number != number]

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.standing(self.now) is (self.standing(0) or self.standing(1))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


class Served(NamedTuple):
    """What came of one simulated minute: the share of the time spent on answers in time, and latencies by key."""

    goodput: float
    latencies: dict[Any, list[float]]
    refused: Counter[Any]

    def p99(self, *keys: Any) -> float:
        times = sorted(seconds for key in keys or (None,) for seconds in self.latencies[key])
        return times[int(len(times) * 0.99)]


WORK = 0.005
READ = 60e-6
REFUSE = 25e-6


def overloaded(
    sources: dict[Any, tuple[float, int]], *, seconds: float = 30.0, seed: int = 1, queue: RunQueue[Any] | None = None
) -> Served:
    """An event loop whose handlers compute for ``WORK`` seconds. ``sources``: the load and the rank of each key.

    In a turn the loop reads what has come since the last one, refuses what has waited too long, and starts one handler.
    """
    chance = random.Random(seed)
    coming = sorted(
        (at, key) for key, (load, _) in sources.items() for at in arrivals(chance.expovariate, load / WORK, seconds)
    )
    queue = RunQueue(4) if queue is None else queue
    latencies: dict[Any, list[float]] = {key: [] for key in sources}
    refused: Counter[Any] = Counter()
    now, looked, place = 0.0, 0.0, 0
    while place < len(coming) or len(queue):
        if not len(queue) and coming[place][0] > now:
            now = looked = coming[place][0]
        before, looked = looked, now
        while place < len(coming) and coming[place][0] <= looked:
            at, key = coming[place]
            place += 1
            now += READ
            queue.push((at, key), arrived=(before + looked) / 2, rank=sources[key][1], key=key)
        for at, key in queue.expire(now):
            now += REFUSE
            refused[key] += at > 1.0
        request = queue.pop(now)
        if request is not None:
            at, key = request
            now += WORK
            if at > 1.0:
                latencies[key].append(now - at)
    done = sum(len(times) for times in latencies.values())
    return Served(done * WORK / (seconds - 1.0), latencies, refused)


def arrivals(draw: Callable[[float], float], rate: float, seconds: float) -> list[float]:
    at, found = 0.0, []
    while (at := at + draw(rate)) < seconds:
        found.append(at)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("load", "least"), [(1.4, 0.94), (2.0, 0.95), (5.0, 0.9)])
def test_an_overload_costs_neither_throughput_nor_latency(load: float, least: float, seed: int) -> None:
    quiet = overloaded({None: (0.1, 1)}, seed=seed).p99()
    served = overloaded({None: (load, 1)}, seed=seed)
    assert served.goodput >= least
    assert served.p99() <= 3 * quiet
    assert served.refused[None] > 0


def test_a_load_that_fits_is_hardly_refused() -> None:
    served = overloaded({None: (0.7, 1)})
    assert served.refused[None] <= 0.01 * len(served.latencies[None])
    assert not overloaded({None: (0.3, 1)}).refused


@pytest.mark.parametrize("seed", range(2))
def test_twelve_times_the_traffic_of_one_tenant_is_not_noticed_by_the_others(seed: int) -> None:
    others = {f"tenant {number}": (0.05, 1) for number in range(8)}
    calm = overloaded({**others, "loud": (0.2, 1)}, seed=seed, seconds=120.0)
    storm = overloaded({**others, "loud": (2.4, 1)}, seed=seed, seconds=120.0)
    served = sum(len(storm.latencies[key]) for key in others)
    assert sum(storm.refused[key] for key in others) <= 0.002 * served
    assert storm.p99(*others) <= 1.5 * calm.p99(*others)
    assert storm.refused["loud"] > 0
    assert storm.goodput >= 0.95


@pytest.mark.parametrize("load", [1.4, 2.0, 3.0])
def test_the_most_critical_class_is_served_while_it_fits(load: float) -> None:
    sources = {
        f"{rank} {user}": (load * share / 20, rank)
        for rank, share in enumerate((0.3, 0.3, 0.2, 0.2))
        for user in range(20)
    }
    served = overloaded(sources)
    top = [key for key in sources if key.startswith("3")]
    assert sum(served.refused[key] for key in top) <= 0.001 * sum(len(served.latencies[key]) for key in top)
    assert served.goodput >= overloaded({None: (load, 1)}).goodput - 0.05


def test_after_an_overload_everything_is_as_before() -> None:
    queue: RunQueue[Any] = RunQueue(4)
    overloaded({None: (1.3, 1)}, seconds=10.0, queue=queue)
    assert len(queue) == 0
    before = queue.expired
    overloaded({None: (0.5, 1)}, seconds=5.0, queue=queue)
    assert queue.expired - before <= 5
