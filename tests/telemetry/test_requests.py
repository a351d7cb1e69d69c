import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.telemetry.requests import (
    BOUNDS,
    NAME_LIMIT,
    OTHERS,
    REASONS_LIMIT,
    RequestCounters,
    RequestCounts,
    RouteCounts,
    added,
)

OUTCOMES = st.tuples(
    st.sampled_from(["", "orders", "items", "x" * NAME_LIMIT, "x" * (NAME_LIMIT + 1), OTHERS]),
    st.integers(-200, 700),
    # Powers of two, so that sums are the same in any order.
    st.sampled_from([0.0, 2.0**-12, 2.0**-9, 0.25, 0.5, 1.0, 2.0, 8.0, 16.0]),
    st.sampled_from(["", "", "", "rate", "the queue is full"]),
)


def counted(*requests: tuple[str, int, float, str], routes: int = 100) -> RequestCounts:
    counters = RequestCounters(routes=routes)
    for route, status, seconds, reason in requests:
        if reason:
            counters.refuse(route, reason)
        else:
            counters.count(route, status, seconds)
    return counters.snapshot()


def only(counts: RequestCounts) -> RouteCounts:
    (one,) = counts.routes.values()
    return one


def test_requests_are_counted_by_the_class_of_their_status() -> None:
    statuses = (0, 99, 600, -1, -200, 101, 200, 204, 302, 404, 429, 500, 503, 599)
    found = only(counted(*(("orders", status, 0.1, "") for status in statuses)))
    assert found.classes == {"none": 5, "1xx": 1, "2xx": 2, "3xx": 1, "4xx": 2, "5xx": 3}


def test_a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    for place, bound in enumerate(BOUNDS):
        found = only(counted(("orders", 200, bound, ""), ("orders", 200, math.nextafter(bound, 100), "")))
        assert [index for index, number in enumerate(found.buckets) if number] == [place, place + 1]
    assert sum(only(counted(("orders", 200, 1e8, ""))).buckets[:-1]) == 0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, -math.inf])
def test_a_duration_that_is_none_does_not_spoil_the_sum(seconds: float) -> None:
    found = only(counted(("orders", 200, 0.5, ""), ("orders", 200, seconds, "")))
    assert found.seconds == 0.5
    assert sum(found.buckets) == 2


def test_a_refusal_is_counted_by_its_reason_and_nowhere_else() -> None:
    found = only(counted(("orders", 503, 0.1, "queue"), ("orders", 503, 0.1, "queue"), ("orders", 429, 0.1, "rate")))
    assert found.refused == {"queue": 2, "rate": 1}
    assert sum(found.buckets) == sum(found.classes.values()) == found.seconds == 0


def test_routes_beyond_the_bound_are_counted_together_and_told() -> None:
    requests = [(f"route {number}", 200, 0.5, "") for number in range(10)]
    counts = counted(*requests, ("route 9", 200, 0.5, "rate"), ("route 0", 404, 0.5, ""), routes=3)
    assert list(counts.routes) == ["route 0", "route 1", "route 2", OTHERS]
    assert counts.routes[OTHERS].classes["2xx"] == 7
    assert counts.routes[OTHERS].refused == {"rate": 1}
    assert counts.folded == 8
    assert counts.routes["route 0"].classes == {"none": 0, "1xx": 0, "2xx": 1, "3xx": 0, "4xx": 1, "5xx": 0}


def test_reasons_beyond_the_bound_are_counted_together() -> None:
    found = only(counted(*(("orders", 503, 0.1, f"reason {number}") for number in range(REASONS_LIMIT + 20))))
    assert len(found.refused) == REASONS_LIMIT + 1
    assert found.refused[OTHERS] == 20


def test_a_long_name_is_cut() -> None:
    counts = counted(("r" * 5000, 200, 0.1, ""), ("r" * 5001, 200, 0.1, ""), ("r" * 5000, 503, 0.1, "why" * 5000))
    assert {len(name) for name in counts.routes} == {NAME_LIMIT}
    assert only(counts).classes["2xx"] == 2
    assert {len(reason) for reason in only(counts).refused} == {NAME_LIMIT}


def test_a_snapshot_does_not_change_any_more() -> None:
    counters = RequestCounters()
    counters.refuse("orders", "rate")
    before = counters.snapshot()
    counters.refuse("orders", "rate")
    counters.count("orders", 200, 0.1)
    assert only(before).refused == {"rate": 1}
    assert sum(only(before).buckets) == 0


def test_counts_survive_being_sent() -> None:
    counts = counted(("orders", 200, 0.1, ""), ("items", 503, 0.1, "rate"))
    assert msgspec.json.decode(msgspec.json.encode(counts), type=RequestCounts) == counts


def test_counts_with_other_bounds_are_not_added() -> None:
    other = msgspec.structs.replace(counted(("orders", 200, 0.1, "")), bounds=(1.0, 2.0))
    with pytest.raises(ValueError, match="other bounds"):
        added([counted(), other])


def test_the_sum_of_many_workers_stays_bounded() -> None:
    workers = [counted((f"route {number}", 200, 0.1, ""), (f"route {number}", 503, 0.1, "x")) for number in range(10)]
    reasons = [counted(("route 0", 503, 0.1, f"reason {number}")) for number in range(REASONS_LIMIT + 20)]
    total = added(workers + reasons, routes=3)
    assert list(total.routes) == ["route 0", "route 1", "route 2", OTHERS]
    assert total.folded == 14
    assert len(total.routes["route 0"].refused) == REASONS_LIMIT + 1


@given(st.lists(st.lists(OUTCOMES, max_size=20), max_size=4))
def test_the_sum_over_workers_is_what_one_worker_would_have_counted(
    shares: list[list[tuple[str, int, float, str]]],
) -> None:
    total = added(counted(*share) for share in shares)
    whole = counted(*(request for share in shares for request in share))
    assert total == whole
    # And both are what a list of all requests says.
    requests = [(name[:NAME_LIMIT], code, took, why) for share in shares for name, code, took, why in share]
    for name, found in whole.routes.items():
        mine = [request for request in requests if request[0] == name]
        served = [request for request in mine if not request[3]]
        assert found.refused == Counter(request[3] for request in mine if request[3])
        assert found.seconds == sum(request[2] for request in served)
        for place, bound in enumerate(BOUNDS):
            assert sum(found.buckets[: place + 1]) == sum(request[2] <= bound for request in served)
        for digit in range(1, 6):
            assert found.classes[f"{digit}xx"] == sum(request[1] // 100 == digit for request in served)
        assert sum(found.classes.values()) == sum(found.buckets) == len(served)
    assert {name for name, *_ in requests} == set(whole.routes)
