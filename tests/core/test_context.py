import asyncio
import threading
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.context import (
    BAGGAGE_BYTES,
    BAGGAGE_ENTRIES,
    Cancellation,
    Context,
    Criticality,
    baggage,
    cancellation_scope,
    check,
    colour,
    criticality,
    current,
    current_deadline,
    deadline_within,
    remaining,
    use_context,
)
from holdfast.core.errors import CallCancelled, DeadlineExceeded


def test_without_a_context_there_is_no_deadline_and_nothing_to_check() -> None:
    assert current() == Context()
    assert remaining() == inf
    check()


@given(st.lists(st.floats(min_value=0, max_value=1000), max_size=6))
def test_a_nested_deadline_is_never_looser_than_the_outer_one(nested: list[float]) -> None:
    def descend(rest: list[float], tightest: float) -> None:
        assert remaining(100.0) == pytest.approx(tightest)
        if rest:
            outer = current_deadline()
            with deadline_within(rest[0], now=100.0) as inner:
                assert inner <= outer
                descend(rest[1:], min(tightest, rest[0]))
            assert current_deadline() == outer

    descend(nested, inf)


def test_a_deadline_that_has_come_is_an_error_and_leaves_no_time() -> None:
    with deadline_within(5, now=100.0):
        check(now=104.9)
        assert remaining(now=104.0) == 1.0
        with pytest.raises(DeadlineExceeded):
            check(now=105.0)
        assert remaining(now=200.0) == 0.0
    check(now=105.0)


def test_the_systems_time_counts_when_none_is_given() -> None:
    with deadline_within(1000):
        assert 900 < remaining() <= 1000
        check()
    with deadline_within(0), pytest.raises(DeadlineExceeded):
        check()


@pytest.mark.parametrize("seconds", [-1, nan])
def test_a_deadline_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="makes no sense"), deadline_within(seconds):
        pass


def test_no_limit_is_no_deadline() -> None:
    with deadline_within(inf):
        assert remaining() == inf


def test_a_cancelled_call_says_why_and_keeps_the_first_reason() -> None:
    with cancellation_scope() as token:
        check()
        assert (token.cancelled, token.reason) == (False, "")
        token.cancel("client left")
        token.cancel("too late")
        assert token.cancelled
        assert token.reason == "client left"
        with pytest.raises(CallCancelled, match="client left"):
            check()
    check()


def test_an_inner_call_is_cancelled_with_the_outer_one_but_not_the_other_way_round() -> None:
    with cancellation_scope() as outer, cancellation_scope() as inner:
        inner.cancel("inner")
        assert not outer.cancelled
    with cancellation_scope() as outer, cancellation_scope() as inner:
        outer.cancel("outer")
        assert inner.reason == "outer"
        with pytest.raises(CallCancelled, match="outer"):
            check()


def test_one_reason_wins_among_threads() -> None:
    token = Cancellation()
    start = threading.Barrier(8)
    seen: list[str] = []

    def cancel(name: str) -> None:
        start.wait(10)
        token.cancel(name)
        seen.append(token.reason)

    threads = [threading.Thread(target=cancel, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [token.reason] * 8


def test_baggage_adds_up_and_goes_back() -> None:
    with baggage(tenant="a", colour="blue"):
        with baggage({"user-id": "7"}, colour="green"):
            assert dict(current().baggage) == {"tenant": "a", "colour": "green", "user-id": "7"}
        assert dict(current().baggage) == {"tenant": "a", "colour": "blue"}
    assert dict(current().baggage) == {}


def test_baggage_cannot_be_changed_in_place() -> None:
    mine = {"tenant": "a"}
    with baggage(mine):
        mine["tenant"] = "b"
        assert current().baggage["tenant"] == "a"
        with pytest.raises(TypeError):
            current().baggage["tenant"] = "c"  # type: ignore[index]


def test_baggage_is_bounded_and_text() -> None:
    with pytest.raises(ValueError, match="entries"), baggage({str(n): "" for n in range(BAGGAGE_ENTRIES + 1)}):
        pass
    with pytest.raises(ValueError, match="bytes"), baggage(big="x" * BAGGAGE_BYTES):
        pass
    with pytest.raises(TypeError, match="text"), baggage(number=5):  # type: ignore[arg-type]
        pass


def test_deadline_cancellation_and_baggage_do_not_lose_each_other() -> None:
    with deadline_within(5, now=0.0), cancellation_scope() as token, baggage(a="b"), deadline_within(9, now=0.0):
        assert current_deadline() == 5.0
        assert current().cancellation is token
        assert dict(current().baggage) == {"a": "b"}


def test_a_thread_started_by_to_thread_sees_the_callers_context() -> None:
    async def main() -> None:
        with deadline_within(5, now=100.0), cancellation_scope() as token, baggage(tenant="a"):
            seen = await asyncio.to_thread(current)
            assert seen is current()
            token.cancel("stop")
            with pytest.raises(CallCancelled, match="stop"):
                await asyncio.to_thread(check)

    VirtualClock().run(main())


def test_tasks_do_not_see_each_others_context() -> None:
    async def call(seconds: float) -> float:
        with deadline_within(seconds, now=0.0):
            await asyncio.sleep(1)
            return current_deadline()

    async def main() -> list[float]:
        return list(await asyncio.gather(call(1), call(2), call(3)))

    assert VirtualClock().run(main()) == [1.0, 2.0, 3.0]


def test_a_context_from_elsewhere_replaces_the_current_one() -> None:
    with deadline_within(1, now=0.0):
        with use_context(Context(colour="load"), deadline=50.0):
            assert remaining(now=0.0) == 50.0
            assert current().colour == "load"
        with use_context(Context()):
            assert remaining(now=0.0) == inf
        assert remaining(now=0.0) == 1.0


def test_criticality_and_colour_hold_inside_their_block() -> None:
    assert current().criticality is Criticality.CRITICAL
    with criticality(Criticality.SHEDDABLE), colour("load"), deadline_within(5, now=0.0), baggage(a="b"):
        assert (current().criticality, current().colour) == (Criticality.SHEDDABLE, "load")
        assert current_deadline() == 5.0
    assert (current().criticality, current().colour) == (Criticality.CRITICAL, "")
