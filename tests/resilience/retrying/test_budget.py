"""The numbers named after Finagle and tower are those of their own test suites."""

import contextlib
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import ConfigError
from holdfast.resilience.retrying.budget import BUCKETS, RetryBudget, RetryBudgetSettings

START = 1000.0


def asked(budget: RetryBudget, now: float, times: int) -> RetryBudget:
    for _ in range(times):
        budget.begin(now)
    return budget


def spent(budget: RetryBudget, now: float, tries: int) -> int:
    return sum(budget.try_spend(now) for _ in range(tries))


def test_retries_are_a_tenth_of_the_requests_and_three_a_second_for_those_who_ask_little() -> None:
    budget = RetryBudget()
    assert budget.balance(START) == 30
    asked(budget, START, 1000)
    assert budget.balance(START) == 130
    assert spent(budget, START, 1000) == 130
    assert (budget.balance(START), budget.count, budget.spent, budget.denied) == (0, 1000, 130, 870)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.25, 0.75, 0.99, 0.999, 0.9999, 0.01, 0.001, 0.0001])
def test_finagle_ten_thousand_requests_give_their_share_of_retries(ratio: float) -> None:
    budget = RetryBudget(ratio, floor=0, window=60)
    assert budget.balance(START) == 0
    assert not budget.try_spend(START)
    retried = 0
    for _ in range(10_000):
        budget.begin(START)
        retried += budget.try_spend(START)
    assert retried == round(10_000 * ratio)


def test_finagle_more_retries_than_requests() -> None:
    assert asked(RetryBudget(2.0, floor=0, window=60), START, 10_000).balance(START) == 20_000


@pytest.mark.parametrize(("window", "floor", "ratio"), [(1, 10, 0.0), (2, 5, 0.0), (1, 10, 0.1), (2, 5, 0.5)])
def test_finagle_the_reserve_is_the_floor_for_the_whole_window(window: float, floor: float, ratio: float) -> None:
    budget = RetryBudget(ratio, floor=floor, window=window)
    assert budget.balance(START) == 10
    retried = 0
    for _ in range(10_000):
        budget.begin(START)
        retried += budget.try_spend(START)
    assert retried == 10_000 * ratio + 10


def test_finagle_nothing_given_nothing_to_spend() -> None:
    budget = RetryBudget(0.0, floor=0)
    assert not asked(budget, START, 100).try_spend(START)


def test_tower_requests_are_forgotten_after_the_window() -> None:
    budget = asked(RetryBudget(1.0, floor=0, window=1), START, 1)
    assert not budget.try_spend(START + 3)


def test_tower_each_request_is_forgotten_in_its_turn() -> None:
    budget = asked(RetryBudget(0.5, floor=0, window=1), START, 2)
    assert budget.try_spend(START + 0.901)
    now = START + 0.901 + 2.001
    asked(budget, now, 1)
    asked(budget, now + 0.301, 1)
    asked(budget, now + 0.301 + 0.801, 1)
    assert spent(budget, now + 0.301 + 0.801, 2) == 1


def test_tower_the_reserve() -> None:
    assert spent(RetryBudget(1.0, floor=5, window=1), START, 6) == 5


def test_retries_are_forgotten_too_so_that_a_reserve_comes_back() -> None:
    budget = RetryBudget(0.0, floor=1, window=10)
    assert spent(budget, START, 20) == 10
    assert spent(budget, START + 8.9, 20) == 0
    assert spent(budget, START + 10, 20) == 10


def test_no_retry_is_lost_to_rounding() -> None:
    assert 0.29 * 100 < 29
    budget = asked(RetryBudget(0.29, floor=0), START, 100)
    assert budget.balance(START) == 29
    assert spent(budget, START, 100) == 29


def test_what_was_denied_changes_nothing() -> None:
    budget = asked(RetryBudget(0.1, floor=0), START, 19)
    assert spent(budget, START, 50) == 1
    assert asked(budget, START, 1).try_spend(START)


def test_a_time_that_lies_back_gives_nothing_and_breaks_nothing() -> None:
    budget = asked(RetryBudget(0.1, floor=0), START, 10)
    asked(budget, START - 500, 10)
    assert spent(budget, START - 500, 5) == 2


def test_memory_does_not_grow_with_time_or_traffic() -> None:
    budget = RetryBudget(window=10)
    for step in range(1000):
        asked(budget, START + step * 0.7, 3)
    assert len(budget._marks) == BUCKETS


def test_new_settings_keep_what_is_counted_and_a_new_window_begins_empty() -> None:
    budget = asked(RetryBudget(0.1, floor=0), START, 100)
    assert spent(budget, START, 5) == 5
    budget.update(ratio=0.2)
    assert budget.balance(START) == 15
    budget.update(window=20)
    assert (budget.balance(START), budget.count, budget.spent) == (0, 100, 5)
    assert asked(budget, START, 5).balance(START) == 1


def test_settings_that_make_no_sense_are_refused_and_change_nothing() -> None:
    budget = RetryBudget(0.2)
    for wrong in ({"ratio": -0.1}, {"floor": -1}, {"window": 0.5}, {"window": "2m"}, {"ratio": float("nan")}):
        with pytest.raises(ConfigError, match=f"RetryBudget {next(iter(wrong))}"):
            budget.update(**wrong)
    with pytest.raises(TypeError, match=r"^RetryBudget has no setting percent; there are ratio, floor, window"):
        budget.update(percent=20)
    assert budget.settings == RetryBudgetSettings(0.2)


def test_it_shows_what_it_allows_and_takes_it_as_the_first() -> None:
    budget = RetryBudget(0.2, window="30s")
    assert repr(budget) == 'RetryBudget(ratio=0.2, window="30s")'
    budget.update(0.3)
    assert budget.settings == RetryBudgetSettings(0.3, window=30.0)
    with pytest.raises(TypeError, match=r"^RetryBudget\(\) takes from 0 to 1 positional arguments but 2 were given"):
        RetryBudget(0.2, 3)


def test_the_snapshot_has_settings_and_counters() -> None:
    budget = asked(RetryBudget(0.1, floor=0), START, 10)
    spent(budget, START, 3)
    values = {"ratio": 0.1, "floor": 0.0, "window": 10.0, "requests": 10, "spent": 1, "denied": 2}
    assert budget.snapshot() == values


def together(threads: int, work: Callable[[], None]) -> None:
    barrier = threading.Barrier(threads)

    def run() -> None:
        barrier.wait(10)
        work()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)


@pytest.mark.usefixtures("switching_often")
def test_fifty_threads_lose_no_request_and_spend_no_retry_twice() -> None:
    budget = RetryBudget(0.1, floor=0, window=60)
    granted: list[int] = []
    clock = iter(range(10**9))

    def work() -> None:
        mine = 0
        for _ in range(200):
            now = START + next(clock) * 1e-3  # ten seconds in all, so that buckets end under way
            # What the fused function does.
            if now < budget.edge:
                budget.count += 1
            else:
                budget.begin(now)
            mine += budget.try_spend(now)
        granted.append(mine)

    together(50, work)
    assert budget.count == 10_000
    assert sum(granted) == budget.spent == 1000
    assert budget.denied == 9000


class Contended(RetryBudget):
    """Lets another thread in between the look at the balance and the spending, if that can be."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2)
        super().__init__(0.0, floor=1, window=1)

    def _left(self) -> float:
        left = super()._left()
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.05)
        return left


def test_the_last_retry_is_not_spent_by_two_threads_that_both_saw_it() -> None:
    budget = Contended()
    granted: list[bool] = []
    together(2, lambda: granted.append(budget.try_spend(START)))
    assert sorted(granted) == [False, True]


class Slow:
    """The obvious budget: every event with its time, and a grid of buckets that begins anew when all is forgotten."""

    def __init__(self, ratio: float, floor: float, window: float) -> None:
        self.ratio, self.reserve, self.window, self.width = ratio, floor * window, window, window / BUCKETS
        self.begun = False
        self.end = 0.0
        self.events: list[tuple[float, float]] = []

    def now(self, at: float) -> float:
        if not self.begun or at >= self.end + self.window - self.width:
            self.begun, self.end = True, at + self.width
        while self.end <= at:
            self.end += self.width
        return max(at, self.end - self.width)  # time never goes back

    def left(self) -> float:
        oldest = self.end - self.window
        return self.reserve + sum(amount for at, amount in self.events if at >= oldest)

    def begin(self, at: float) -> None:
        self.events.append((self.now(at), self.ratio))

    def try_spend(self, at: float) -> bool:
        at = self.now(at)
        if self.left() < 1:
            return False
        self.events.append((at, -1.0))
        return True


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([(0.25, 0.0, 10.0), (0.5, 1.0, 10.0), (0.125, 0.5, 20.0), (2.0, 0.0, 10.0)]),
    st.lists(st.tuples(st.sampled_from("bbbbs"), st.integers(-2, 9) | st.integers(30, 45)), max_size=120),
)
def test_a_budget_does_what_a_list_of_all_events_would(
    numbers: tuple[float, float, float], steps: list[tuple[str, int]]
) -> None:
    ratio, floor, window = numbers
    budget, slow = RetryBudget(ratio, floor=floor, window=window), Slow(*numbers)
    now = START
    for action, quarters in steps:
        now += quarters / 4
        if action == "b":
            budget.begin(now)
            slow.begin(now)
        else:
            assert budget.try_spend(now) == slow.try_spend(now)
        assert budget.balance(now) == max(0, int((slow.now(now), slow.left())[1]))
