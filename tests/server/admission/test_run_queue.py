"""The queue before the handlers: who goes first, who waits too long, and what that does to an overloaded loop."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from math import exp, log
from typing import Any, NamedTuple
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from effort import examples
from holdfast.server.admission import run_queue
from holdfast.server.admission.run_queue import (
    FLOWS,
    HEAVIER,
    HOLD,
    LATELY,
    MARGIN,
    SCALE_LIMIT,
    SPARED_LIMIT,
    TRIAL,
    TRIAL_LENGTH,
    TRIAL_LIMIT,
    Entry,
    RunQueue,
)


def line(name: object) -> int:
    """A key with a line of its own: a text's hash is another in each run, and may meet another text's."""
    return crc32(str(name).encode())


def filled(*keys: Any, rank: int = 0, classes: int = 1) -> RunQueue[Any]:
    queue: RunQueue[Any] = RunQueue(classes)
    for number, key in enumerate(keys):
        queue.push(f"{key}{number}", arrived=0.0, rank=rank, key=line(key))
    return queue


def taken(queue: RunQueue[Any], count: int) -> list[Any]:
    return [queue.pop(0.0) for _ in range(count)]


def test_one_line_is_served_in_the_order_of_arrival() -> None:
    queue = filled("a", "a", "a")
    assert taken(queue, 4) == ["a0", "a1", "a2", None]


def test_lines_take_turns() -> None:
    queue = filled("a", "a", "a", "a", "b", "b", "c")
    assert taken(queue, 7) == ["a0", "b4", "c6", "a1", "b5", "a2", "a3"]


def test_a_new_line_goes_first_and_one_that_comes_and_goes_does_not() -> None:
    queue = filled("a", "a", "a", "a")
    assert queue.pop(0.0) == "a0"
    queue.push("b", arrived=0.0, rank=0, key=line("b"))
    assert queue.pop(0.0) == "b"
    queue.push("again", arrived=0.0, rank=0, key=line("b"))  # its line is not new any more
    assert taken(queue, 3) == ["a1", "again", "a2"]


def test_more_critical_requests_go_first() -> None:
    queue: RunQueue[str] = RunQueue(4)
    for rank in (0, 3, 1, 2, 3):
        queue.push(f"{rank}", arrived=0.0, rank=rank, key=rank)
    assert taken(queue, 5) == ["3", "3", "2", "1", "0"]


def test_a_burst_may_wait_and_who_waits_for_longer_begins_an_overload() -> None:
    queue = filled("a", "b")
    assert queue.expire(queue.patience) == []
    assert not queue.overloaded(queue.patience)
    late = queue.patience + 0.001
    assert queue.expire(late) == ["a0", "b1"]
    assert queue.overloaded(late)
    queue.push("c", arrived=late, rank=0, key=line("a"))
    assert queue.expire(late + queue.target - 0.001) == []
    assert queue.expire(late + queue.target + 0.001) == ["c"]
    assert (len(queue), queue.expired) == (0, 3)


def test_connections_that_are_all_busy_are_no_overload() -> None:
    queue: RunQueue[int] = RunQueue(1)
    for number in range(64):  # as many come as go, for a minute
        queue.push(number, arrived=0.0, rank=0)
    for turn in range(12_000):
        now = turn * 0.005
        assert queue.expire(now) == []
        assert queue.pop(now) is not None
        queue.push(turn, arrived=now, rank=0)


def test_an_overload_that_only_goes_on_by_itself_ends_with_a_trial() -> None:
    queue: RunQueue[int] = RunQueue(1)
    queue.push(0, arrived=-1.0, rank=0)
    assert queue.expire(0.0) == [0]  # something had held the loop up
    refused = []
    coming = 30
    for turn in range(2600):  # thirty connections, of which each comes back at once, served or not
        now = turn * 0.005
        for _ in range(coming):
            queue.push(turn, arrived=now, rank=0)
        coming = len(queue.expire(now))
        refused += [now] * coming
        coming += queue.pop(now) is not None
    assert TRIAL - 0.1 < max(refused) < TRIAL + 0.1
    assert not queue.overloaded(TRIAL + TRIAL_LENGTH + 0.2)


def test_trials_of_an_overload_that_lasts_are_ever_rarer() -> None:
    queue: RunQueue[int] = RunQueue(1)
    trials: list[float] = []
    longest = 0.0
    for turn in range(60_000):  # twice as many come as go, for five minutes
        now = turn * 0.005
        for part in (0.0, 0.0025):
            queue.push(0, arrived=now - part, rank=0)
        trying = queue._classes[0].trying
        queue.expire(now)
        if queue._classes[0].trying and not trying:
            trials.append(now)
        if now > 2:
            oldest = next((one.arrived for one in queue._classes[0].order if not one.gone), now)
            longest = max(longest, now - oldest)
        queue.pop(now)
    gaps = [round(after - before) for before, after in itertools.pairwise(trials)]
    assert gaps[:3] == [21, 41, 61], "the trial itself has half a second each, twice as long the way there"
    assert max(gaps) <= TRIAL_LIMIT + 2
    assert longest <= queue.patience + 0.01


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
    assert not queue.overloaded(2.0 + HOLD)
    assert queue.expire(2.0 + HOLD + queue.target + 0.001) == []


def test_where_there_is_no_room_the_longest_line_of_the_least_critical_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_queue, "LENGTH_LIMIT", 4)
    queue: RunQueue[str] = RunQueue(2)
    for name in ("a1", "a2", "a3", "b1"):
        assert queue.push(name, arrived=0.0, rank=0, key=line(name[0]))[1] is None
    assert queue.push("b2", arrived=0.0, rank=0, key=line("b"))[1] == "a3"
    assert queue.push("c1", arrived=0.0, rank=1, key=line("c"))[1] in ("a2", "b2")
    entry, out = queue.push("a4", arrived=0.0, rank=0, key=line("a"))
    assert out is not None
    assert entry.gone == (out == "a4")
    assert len(queue) == 4
    for number in range(10):
        queue.push(f"d{number}", arrived=0.0, rank=1, key=line("d"))
    assert len(queue) == 4
    _, out = queue.push("late", arrived=0.0, rank=0, key=line("e"))
    assert out == "late"  # all places are taken by more critical ones
    assert queue.evicted == 14


def test_keys_take_no_memory() -> None:
    queue: RunQueue[int] = RunQueue(1)
    for number in range(20_000):
        queue.push(number, arrived=float(number), rank=0, key=line(number))
        if number % 2:
            queue.pop(float(number))
        else:
            queue.expire(float(number) + 0.6)
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
        self.begun: tuple[defaultdict[int, list[float]], ...] = (defaultdict(list), defaultdict(list))
        self.sent: tuple[defaultdict[int, list[float]], ...] = (defaultdict(list), defaultdict(list))
        self.heaviest: list[int | None] = [None, None]
        self.short_until = [float("-inf")] * 2
        self.trial_in = [TRIAL] * 2
        self.trial_at = [float("inf")] * 2
        self.trying = [False] * 2

    def here(self, rank: int) -> list[Waiting]:
        return [one for one in self.waiting if one.rank == rank]

    def line(self, rank: int, key: int) -> list[Waiting]:
        return [one for one in self.here(rank) if one.key == key]

    def lately(self, times: list[float]) -> float:
        return sum(exp((at - self.now) / LATELY) for at in times)

    def short(self, rank: int) -> bool:
        return self.now < self.short_until[rank]

    def limit(self, rank: int) -> float:
        if not self.short(rank):
            self.trying[rank], self.trial_in[rank] = False, TRIAL
        elif not self.trying[rank] and self.now >= self.trial_at[rank]:
            self.trying[rank], self.short_until[rank] = True, self.now + TRIAL_LENGTH
        return self.queue.target if self.short(rank) and not self.trying[rank] else self.queue.patience

    def refused(self, rank: int) -> None:
        if self.trying[rank]:
            self.trial_in[rank] = min(self.trial_in[rank] * 2, TRIAL_LIMIT)
        if self.trying[rank] or not self.short(rank):
            self.trying[rank], self.trial_at[rank] = False, self.now + self.trial_in[rank]
        self.short_until[rank] = self.now + HOLD

    @rule(rank=st.integers(0, 1), key=st.integers(0, 3))
    def push(self, rank: int, key: int) -> None:
        self.number += 1
        self.entries[self.number], out = self.queue.push(self.number, arrived=self.now, rank=rank, key=key)
        assert out is None
        self.waiting.append(Waiting(self.number, self.now, rank, key))
        if key not in self.new[rank] + self.old[rank]:
            self.new[rank].append(key)
        sent, heaviest = self.sent[rank], self.heaviest[rank]
        sent[key].append(self.now)
        if heaviest is None or self.lately(sent[key]) > self.lately(sent[heaviest]):
            self.heaviest[rank] = key

    def payer(self, rank: int, key: int) -> int | None:
        sent, heaviest = self.sent[rank], self.heaviest[rank]
        assert heaviest is not None
        if self.lately(sent[heaviest]) > HEAVIER * self.lately(sent[key]) + 1.0:
            if self.line(rank, heaviest):
                return heaviest
            if sum(one in self.here(rank) for one in self.spared) < SPARED_LIMIT:
                return None
        lengths = {other: len(self.line(rank, other)) for other in self.old[rank] + self.new[rank]}
        longest = max(lengths, key=lambda other: lengths[other])
        lighter = self.lately(sent[key]) > HEAVIER * self.lately(sent[longest]) + 1.0
        return key if lengths[longest] <= lengths[key] or lighter else longest

    @rule()
    def pop(self) -> None:
        ranks = [rank for rank in (1, 0) if self.here(rank)]
        if not ranks:
            assert self.queue.pop(self.now) is None
            return
        rank = ranks[0]
        new, old, begun = self.new[rank], self.old[rank], self.begun[rank]
        while True:
            key = new.pop(0) if new else old.pop(0)
            if self.line(rank, key):
                break
        lighter = [
            other
            for other in new + old
            if self.line(rank, other) and self.lately(begun[key]) > HEAVIER * self.lately(begun[other]) + MARGIN
        ]
        if lighter:
            old.insert(0, key)
            key = lighter[0]
            (new if key in new else old).remove(key)
        old.append(key)
        begun[key].append(self.now)
        first = self.line(rank, key)[0]
        self.waiting.remove(first)
        assert self.queue.pop(self.now) == first.number

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.2, 0.6, 11.0]))
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
            waiting = bool(self.here(rank))
            for one in [one for one in self.spared if one in self.here(rank)]:
                if self.now - one.arrived > self.queue.patience:
                    drop(one)
            limit = self.limit(rank) if waiting else 0.0
            for one in self.here(rank):
                if one not in self.waiting or one in self.spared or self.now - one.arrived <= limit:
                    continue
                payer = self.payer(rank, one.key) if self.now - one.arrived <= self.queue.patience else one.key
                if payer != one.key:
                    self.spared.append(one)
                if payer is not None:
                    drop(one if payer == one.key else self.line(rank, payer)[0])
            if len(out) > before:
                self.refused(rank)
        assert self.queue.expire(self.now) == [one.number for one in out]

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert self.queue.overloaded(self.now) is (self.short(0) or self.short(1))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=examples(100), stateful_step_count=50, deadline=None)


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
    queue = RunQueue(4, patience=0.08) if queue is None else queue
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
            queue.push((at, key), arrived=(before + looked) / 2, rank=sources[key][1], key=line(key))
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


@pytest.mark.parametrize("seed", range(examples(3)))
@pytest.mark.parametrize(("load", "least", "slower"), [(1.4, 0.94, 4), (2.0, 0.95, 3), (5.0, 0.9, 3)])
def test_an_overload_costs_neither_throughput_nor_latency(load: float, least: float, slower: int, seed: int) -> None:
    quiet = overloaded({None: (0.1, 1)}, seed=seed).p99()
    served = overloaded({None: (load, 1)}, seed=seed)
    assert served.goodput >= least
    assert served.p99() <= slower * quiet, "what comes before the overload is one waits longer, at 1.4 most of all"
    assert served.refused[None] > 0


def test_a_load_that_fits_is_hardly_refused() -> None:
    served = overloaded({None: (0.7, 1)})
    assert served.refused[None] <= 0.01 * len(served.latencies[None])
    assert not overloaded({None: (0.3, 1)}).refused


@pytest.mark.parametrize("seed", range(examples(3)))
def test_twelve_times_a_tenth_of_the_capacity_is_not_noticed_by_four_others_with_a_tenth_each(seed: int) -> None:
    others = {f"tenant {number}": (0.1, 1) for number in range(4)}
    calm = overloaded({**others, "loud": (0.1, 1)}, seed=seed, seconds=60.0)
    storm = overloaded({**others, "loud": (1.2, 1)}, seed=seed, seconds=60.0)
    assert sum(storm.refused[key] for key in others) <= 0.001 * sum(len(storm.latencies[key]) for key in others)
    assert storm.p99(*others) <= 1.1 * calm.p99(*others)
    assert storm.goodput >= 0.88


@pytest.mark.parametrize("seed", range(examples(2)))
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
    assert sum(served.refused[key] for key in top) <= 0.005 * sum(len(served.latencies[key]) for key in top)
    assert served.goodput >= overloaded({None: (load, 1)}).goodput - 0.05


def test_after_an_overload_everything_is_as_before() -> None:
    queue: RunQueue[Any] = RunQueue(4)
    overloaded({None: (1.3, 1)}, seconds=10.0, queue=queue)
    assert len(queue) == 0
    before = queue.expired
    overloaded({None: (0.5, 1)}, seconds=5.0, queue=queue)
    assert queue.expired - before <= 5


def test_who_has_had_many_turns_lately_lets_others_go_first_and_keeps_its_own() -> None:
    queue: RunQueue[str] = RunQueue(1)
    for number in range(9):
        queue.push(f"heavy {number}", arrived=0.0, rank=0, key=1)
    assert [queue.pop(0.0) for _ in range(7)] == [f"heavy {number}" for number in range(7)]
    for number in range(4):
        queue.push(f"light {number}", arrived=0.0, rank=0, key=2)
    assert [queue.pop(0.0) for _ in range(4)] == ["light 0", "light 1", "heavy 7", "light 2"], "7 is more than 2 + 4"
    assert [queue.pop(0.0) for _ in range(2)] == ["heavy 8", "light 3"]
    queue.push("heavy again", arrived=1e6, rank=0, key=1)
    queue.push("light again", arrived=1e6, rank=0, key=2)
    assert queue.pop(1e6) == "heavy again", "what was long ago does not count"


def test_who_sends_much_more_pays_although_the_lines_are_equally_short() -> None:
    queue: RunQueue[str] = RunQueue(1, target=0.01, patience=0.5)
    for number in range(100):
        queue.push(f"old {number}", arrived=number / 100, rank=0, key=line("loud"))
    queue.expire(2.0)  # more than can be done: from now on 10 ms is the most
    queue.push("light", arrived=2.0, rank=0, key=line("light"))
    queue.push("loud", arrived=2.005, rank=0, key=line("loud"))
    assert queue.expire(2.012) == ["loud"]
    assert queue.pop(2.012) == "light"


def test_nobody_pays_for_a_light_one_while_the_heavy_one_is_refused_already() -> None:
    queue: RunQueue[str] = RunQueue(1, target=0.01, patience=0.5)
    for number in range(100):
        queue.push(f"old {number}", arrived=number / 100, rank=0, key=FLOWS - 1)
    queue.expire(2.0)
    light = [f"light {number}" for number in range(SPARED_LIMIT + 2)]
    for number, name in enumerate(light):  # by number: hashes of texts differ from run to run, and two may share a line
        queue.push(name, arrived=2.0, rank=0, key=number)
    assert sorted(queue.expire(2.02)) == light[SPARED_LIMIT:]
    assert sorted(queue.expire(2.6)) == light[:SPARED_LIMIT]


def test_turns_of_long_ago_count_for_nothing_when_weights_begin_anew() -> None:
    queue: RunQueue[str] = RunQueue(1)
    for number in range(20):
        queue.push(f"heavy {number}", arrived=0.0, rank=0, key=1)
        assert queue.pop(0.0) == f"heavy {number}"
    queue.push("another", arrived=0.0, rank=0, key=2)  # both are known now, and it is the heavy one's turn
    assert queue.pop(0.0) == "another"
    now = LATELY * (log(SCALE_LIMIT) + 10)
    queue.push("heavy", arrived=now, rank=0, key=1)
    queue.push("light", arrived=now, rank=0, key=2)
    assert [queue.pop(now), queue.pop(now)] == ["heavy", "light"]
