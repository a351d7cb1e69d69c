from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.context import Criticality
from holdfast.resilience.limits.ranks import BUCKETS, CALM_WINDOWS, CLASSES, Ranks, position

KEYS = [f"user-{number}" for number in range(2000)]


def offered(counts: dict[Criticality, int], *, seconds: float = 1.0) -> Ranks:
    """What a window of so many calls, each by a user of its own, leaves behind."""
    ranks = Ranks()
    ranks.start(0.0)
    for criticality, count in counts.items():
        for number in range(count):
            ranks.meet(criticality, f"user-{number}")
    assert ranks.measure(seconds, 0.0, quiet=False)
    return ranks


def admitted(ranks: Ranks, criticality: Criticality, count: int) -> int:
    return sum(not ranks.meet(criticality, f"user-{number}") for number in range(count))


def test_a_position_depends_on_key_and_salt_only() -> None:
    assert position("anna") == position("anna") != position("anna", 1)
    assert position(b"anna") == position("anna")
    assert 0 <= position(("tenant", 7)) < 1


def test_positions_do_not_depend_on_the_process() -> None:
    # Python's own hash differs from process to process; these must not, or each worker would refuse other users.
    assert [round(position(f"user-{number}"), 4) for number in range(4)] == [0.8245, 0.7105, 0.5787, 0.638]


@pytest.mark.parametrize("salt", [0, 1, 0xDEADBEEF])
def test_positions_are_evenly_spread(salt: int) -> None:
    tenths = [0] * 10
    for key in KEYS:
        tenths[int(position(key, salt) * 10)] += 1
    assert min(tenths) > 150 < max(tenths) < 250  # 200 each; a fair coin's spread is 13


def test_another_salt_refuses_other_users() -> None:
    first = {key for key in KEYS if position(key) > 0.5}
    second = {key for key in KEYS if position(key, 12345) > 0.5}
    assert 400 < len(first & second) < 600  # 500 by chance


def test_the_least_critical_go_first() -> None:
    counts = dict.fromkeys(Criticality, 100)
    ranks = offered(counts)
    ranks.admit(250, 250)
    shed, half, critical, top = (admitted(ranks, criticality, 100) for criticality in Criticality)
    assert (shed, critical, top) == (0, 100, 100)
    assert half == pytest.approx(50, abs=3)  # a slot of the threshold holds three of these users


def test_the_same_users_are_refused_each_time() -> None:
    ranks = offered({Criticality.CRITICAL: 1000})
    ranks.admit(500, 500)
    answers = [[ranks.meet(Criticality.CRITICAL, key) for key in KEYS] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert 0.4 < sum(answers[0]) / len(KEYS) < 0.6


def test_calls_without_a_user_are_refused_in_exact_proportion() -> None:
    ranks = Ranks()
    ranks.start(0.0)
    for _ in range(1000):
        ranks.meet(Criticality.CRITICAL, None)
    ranks.measure(1.0, 0.0, quiet=False)
    ranks.admit(300, 300)
    assert sum(not ranks.meet(Criticality.CRITICAL, None) for _ in range(1000)) == pytest.approx(300, abs=3)


def test_nobody_is_refused_while_everybody_fits() -> None:
    ranks = offered({Criticality.SHEDDABLE: 100})
    ranks.admit(100, 100)
    assert ranks.threshold == inf


def test_the_most_critical_are_not_refused_by_rank_while_they_fit() -> None:
    ranks = offered({Criticality.CRITICAL_PLUS: 80, Criticality.SHEDDABLE: 100})
    ranks.admit(40, 100)  # a moment's queue asks for less than the capacity
    assert admitted(ranks, Criticality.CRITICAL_PLUS, 80) == 80
    ranks.admit(40, 85)
    assert admitted(ranks, Criticality.CRITICAL_PLUS, 80) < 80


def test_after_quiet_windows_nothing_is_ranked_any_more() -> None:
    ranks = offered({Criticality.CRITICAL: 100})
    ranks.admit(50, 50)
    learned = [ranks.measure(2.0 + number, 0.0, quiet=True) for number in range(CALM_WINDOWS)]
    assert learned == [True] * (CALM_WINDOWS - 1) + [False]
    assert not ranks.active
    assert ranks.threshold == inf


def test_too_short_a_window_is_left_to_the_next() -> None:
    ranks = Ranks()
    ranks.start(0.0)
    ranks.meet(Criticality.CRITICAL, "anna")
    assert not ranks.measure(0.01, 0.05, quiet=False)
    assert ranks.measure(0.1, 0.05, quiet=False)
    assert ranks.rate == pytest.approx(10)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=CLASSES * BUCKETS, max_size=CLASSES * BUCKETS),
    st.floats(0.0, 5000.0),
)
def test_the_threshold_lets_through_what_is_wanted(counts: list[int], wanted: float) -> None:
    ranks = Ranks()
    ranks.start(0.0)
    for slot, count in enumerate(counts):
        ranks._offered[slot] += count
    ranks.measure(1.0, 0.0, quiet=False)
    ranks.admit(wanted, 0.0)
    if sum(counts) <= wanted:
        assert ranks.threshold == inf
        return
    # The obvious model: walk down the slots, take whole ones while they fit, and a part of the next.
    whole = int(ranks.threshold * BUCKETS + 1e-9)
    part = ranks.threshold * BUCKETS - whole
    let_through = sum(counts[:whole]) + (counts[whole] * part if whole < len(counts) else 0)
    if sum(counts[:BUCKETS]) == 0:
        # The most critical calls fit (there are none), so the threshold never cuts into them.
        assert ranks.threshold >= 1
    assert let_through == pytest.approx(wanted, abs=1e-6)
