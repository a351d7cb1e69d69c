import asyncio
from contextvars import ContextVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.call import FAILED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.retry import point_of_no_return
from holdfast.resilience.timeout import Timeout
from resilience.scripted import NEVER, Dependency, Seen, ask


def test_a_quick_answer_begins_no_second_attempt() -> None:
    dependency, hedge = Dependency((0.05, "first")), Hedge(0.1)
    assert ask(dependency, hedge) == ("first", pytest.approx(0.05))
    assert (hedge.hedges, hedge.won) == (0, 0)


def test_a_slow_call_is_made_a_second_time_and_the_first_answer_counts() -> None:
    dependency, hedge = Dependency((NEVER, "first"), (0.03, "second")), Hedge(0.1)
    assert ask(dependency, hedge) == ("second", pytest.approx(0.13))
    assert dependency.begun == pytest.approx([0, 0.1])
    assert dependency.cancelled == [0]
    assert (hedge.hedges, hedge.won, hedge.suppressed) == (1, 1, 0)


def test_the_first_attempt_may_still_win_and_the_hedge_is_cancelled() -> None:
    dependency, hedge = Dependency((0.15, "first"), (NEVER, "second")), Hedge(0.1)
    assert ask(dependency, hedge) == ("first", pytest.approx(0.15))
    assert dependency.cancelled == [1]
    assert (hedge.hedges, hedge.won) == (1, 0)


def test_there_are_at_most_so_many_attempts_each_a_delay_after_the_one_before() -> None:
    dependency = Dependency((NEVER, 0), (NEVER, 1), (NEVER, 2), (0.5, 3))
    hedge = Hedge(0.1, attempts=4)
    assert ask(dependency, hedge) == (3, pytest.approx(0.8))
    assert dependency.begun == pytest.approx([0, 0.1, 0.2, 0.3])
    assert sorted(dependency.cancelled) == [0, 1, 2]
    two = Dependency((1.0, 0), (NEVER, 1))
    assert ask(two, Hedge(0.1)) == (0, pytest.approx(1.0))
    assert len(two.begun) == 2


def test_a_call_that_is_not_idempotent_is_never_hedged() -> None:
    dependency, hedge = Dependency((1.0, "first")), Hedge(0.1)
    assert ask(dependency, hedge, idempotent=False) == ("first", pytest.approx(1.0))
    assert hedge.hedges == 0


def test_the_first_attempt_runs_in_the_callers_task_and_a_hedge_in_its_own() -> None:
    dependency, hedge = Dependency((0.2, "first"), (NEVER, "second")), Hedge(0.1)
    clock = VirtualClock()

    async def main() -> None:
        await Pipeline("x", hedge, clock=clock).acall(dependency)
        assert dependency.tasks[0] is asyncio.current_task()
        assert dependency.tasks[1] is not asyncio.current_task()

    clock.run(main())


def test_a_hedge_begins_in_the_context_of_the_call_and_not_in_that_of_the_first_attempt() -> None:
    user: ContextVar[str] = ContextVar("user")
    seen: list[str] = []
    clock = VirtualClock()

    async def fn() -> None:
        seen.append(user.get())
        user.set("somebody else")
        await asyncio.sleep(NEVER if len(seen) == 1 else 0)

    async def main() -> None:
        user.set("alice")
        await Pipeline("x", Hedge(0.1), clock=clock).acall(fn)

    clock.run(main())
    assert seen == ["alice", "alice"]


def test_attempts_do_not_see_what_the_others_have_changed_in_their_context() -> None:
    user: ContextVar[str] = ContextVar("user")
    seen: list[str] = []
    clock = VirtualClock()

    async def fn() -> None:
        seen.append(user.get())
        user.set(f"attempt {len(seen)}")
        await asyncio.sleep(NEVER if len(seen) < 3 else 0)

    async def main() -> None:
        user.set("alice")
        await Pipeline("x", Hedge(0.1, attempts=3), clock=clock).acall(fn)

    clock.run(main())
    assert seen == ["alice"] * 3


def test_the_call_of_each_attempt_has_the_deadline_from_around_the_hedge() -> None:
    inside = Seen()
    ask(Dependency((NEVER, "first"), (0.0, "second")), Hedge(0.1), inside, Timeout(0.5), outside=(Timeout(2.0),))
    assert inside.deadlines == pytest.approx([2.0, 2.0])


def test_each_attempt_gets_the_whole_time_of_an_inner_timeout_and_the_deadline_from_outside() -> None:
    dependency = Dependency((0.4, "first"), (0.35, "second"))
    hedge = Hedge(0.1)
    outcome, at = ask(dependency, hedge, Timeout(0.38), outside=(Timeout(2.0),))
    assert (outcome, at) == ("second", pytest.approx(0.45))
    assert dependency.deadlines == pytest.approx([0.38, 0.48])
    dependency = Dependency((NEVER, "first"), (NEVER, "second"))
    outcome, at = ask(dependency, Hedge(0.1), outside=(Timeout(0.3),))
    assert isinstance(outcome, DeadlineExceeded)
    assert at == pytest.approx(0.3)
    assert sorted(dependency.cancelled) == [0, 1]


def test_no_hedge_begins_when_the_deadline_has_passed() -> None:
    dependency = Dependency((0.5, "first"))
    clock = VirtualClock(start=0.0)

    async def main() -> str:
        with deadline_within(0.05, now=clock.now()):
            return str(await Pipeline("x", Hedge(0.1), clock=clock).acall(dependency))

    assert clock.run(main()) == "first"
    assert len(dependency.begun) == 1


def test_each_attempt_has_a_call_of_its_own_and_the_winner_stamps_the_callers() -> None:
    inside, outside = Seen(), Seen()
    inside.timed = True
    dependency = Dependency((NEVER, "first"), (0.03, "second"))
    ask(dependency, Hedge(0.1), inside, outside=(outside,))
    assert sorted(inside.calls) == [(1, 0, pytest.approx(0.13)), (2, OK, pytest.approx(0.13))]
    assert outside.calls == [(1, OK, pytest.approx(0.13))]


def test_a_failure_begins_the_next_attempt_at_once() -> None:
    dependency, hedge = Dependency((0.02, OSError("down")), (0.03, "second")), Hedge(0.1)
    assert ask(dependency, hedge) == ("second", pytest.approx(0.05))
    assert (hedge.hedges, hedge.won) == (1, 1)


def test_a_failure_is_not_the_end_while_another_attempt_is_under_way() -> None:
    dependency, hedge = Dependency((0.15, OSError("down")), (0.1, "second")), Hedge(0.1)
    assert ask(dependency, hedge) == ("second", pytest.approx(0.2))
    dependency, hedge = Dependency((0.3, "first"), (0.1, OSError("down"))), Hedge(0.1)
    assert ask(dependency, hedge) == ("first", pytest.approx(0.3))
    assert hedge.won == 0


def test_a_failure_of_a_hedge_begins_the_next_one_at_once() -> None:
    dependency = Dependency((NEVER, "first"), (0.02, OSError("down")), (0.01, "third"))
    assert ask(dependency, Hedge(0.1, attempts=3)) == ("third", pytest.approx(0.13))
    assert dependency.begun == pytest.approx([0, 0.1, 0.12])


def test_when_all_fail_the_first_error_is_raised_with_a_note_of_the_others() -> None:
    first, second = OSError("first"), TimeoutError("second")
    outcome, at = ask(Dependency((0.15, first), (0.1, second)), Hedge(0.1))
    assert outcome is first
    assert at == pytest.approx(0.2)
    assert first.__notes__ == ["hedge: none of 2 attempts was answered; the others: TimeoutError"]
    outcome, _ = ask(Dependency((0.3, second), (0.1, OSError("hedge"))), Hedge(0.1))
    assert str(outcome) == "hedge"


def test_an_error_that_is_raised_by_many_calls_keeps_one_note() -> None:
    error = OSError("always the same")
    for _ in range(3):
        ask(Dependency((0.0, error), (0.0, error)), Hedge(0.1))
    assert len(error.__notes__) == 1


def test_results_that_the_classifier_calls_failures_are_failures() -> None:
    classify = Classifier(failed=lambda status: status >= 500)
    assert ask(Dependency((0.01, 503), (0.01, 200)), Hedge(0.1), classify=classify) == (200, pytest.approx(0.02))
    outside = Seen()
    outcome, _ = ask(Dependency((0.01, 503), (0.01, 502)), Hedge(0.1), classify=classify, outside=(outside,))
    assert outcome == 503
    assert outside.calls == [(1, FAILED, pytest.approx(0.01))]


def test_an_error_that_is_an_answer_ends_the_call_at_once() -> None:
    classify = Classifier(record=(OSError,))
    dependency = Dependency((NEVER, "first"), (0.02, KeyError("no such book")))
    outcome, at = ask(dependency, Hedge(0.1), classify=classify)
    assert isinstance(outcome, KeyError)
    assert at == pytest.approx(0.12)
    assert dependency.cancelled == [0]
    outcome, at = ask(Dependency((0.02, KeyError("no such book"))), Hedge(0.1), classify=classify)
    assert isinstance(outcome, KeyError)
    assert at == pytest.approx(0.02)


def test_an_error_that_says_it_is_final_begins_no_other_attempt() -> None:
    with pytest.raises(OSError) as caught, point_of_no_return():  # noqa: PT011 - any OSError
        raise OSError("half of the stream is out")
    dependency = Dependency((0.02, caught.value))
    assert ask(dependency, Hedge(0.1))[0] is caught.value
    assert len(dependency.begun) == 1


def test_a_refusal_from_further_in_begins_no_other_attempt_and_is_not_fatal_to_one_under_way() -> None:
    full = Bulkhead(1)
    dependency = Dependency((0.3, "first"))
    hedge = Hedge(0.1)
    assert ask(dependency, hedge, full) == ("first", pytest.approx(0.3))
    assert (full.refused, full.in_flight, hedge.hedges) == (1, 0, 1)
    alone = Bulkhead(1)
    alone.enter(None)  # type: ignore[arg-type]  # one permit is gone
    outcome, _ = ask(Dependency(), Hedge(0.1), alone)
    assert isinstance(outcome, BulkheadFull)
    assert alone.refused == 1


def test_losers_give_back_what_they_hold_before_the_call_ends() -> None:
    bulkhead = Bulkhead(2)
    dependency = Dependency((NEVER, "first"), (0.01, "second"))
    ask(dependency, Hedge(0.1), bulkhead)
    assert bulkhead.in_flight == 0
    ask(Dependency((0.2, "first"), (NEVER, "second")), Hedge(0.1), bulkhead)
    assert bulkhead.in_flight == 0


attempts = st.tuples(st.integers(0, 40), st.sampled_from(["answer", "no", "down"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(attempts, min_size=4, max_size=4), st.integers(1, 4))
def test_a_call_ends_as_in_the_slow_model(script: list[tuple[int, str]], most: int) -> None:
    """Times are odd multiples of a prime, so that no two things happen at once."""
    delay = 10.0
    times = [1.0 + seconds + 0.01 * 3**number for number, (seconds, _) in enumerate(script)]
    values = {"answer": "answer", "no": KeyError(), "down": OSError()}
    dependency = Dependency(*((time, values[kind]) for time, (_, kind) in zip(times, script, strict=True)))
    outcome, at = ask(dependency, Hedge(delay, attempts=most, budget=False), classify=Classifier(record=(OSError,)))

    begun = [0.0]
    running = {0: times[0]}
    failed: list[int] = []
    due = delay
    expected: tuple[str, float] | None = None
    while expected is None:
        number = min(running, key=lambda attempt: running[attempt]) if running else -1
        if len(begun) < most and (not running or due < running[number]):
            now = due
        elif not running:
            expected = (script[failed[0]][1], now)
            break
        else:
            now = running.pop(number)
            if script[number][1] != "down":
                expected = (script[number][1], now)
                break
            failed.append(number)
        if len(begun) < most:
            running[len(begun)] = now + times[len(begun)]
            begun.append(now)
            due = now + delay
    assert dependency.begun == pytest.approx(begun)
    assert at == pytest.approx(expected[1], abs=0.002)
    assert outcome == values[expected[0]]
