"""Which outcome a hedged call has, when its attempts end in different ways."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import cancellation_scope
from holdfast.core.errors import BulkheadFull
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing.tasks import Outcome, defeat
from holdfast.resilience.retry import Retry
from resilience.scripted import NEVER, Dependency, Seen, ask, others


class Exit(BaseException):
    """No ``Exception``: what a test runner or a framework raises to get out."""


class Later(OSError):
    """An error that says when to come back."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = seconds


class Odd(OSError):
    """An error of which nobody can tell whether it is final."""

    @property
    def retryable(self) -> bool:
        raise LookupError("nobody knows")


def test_a_refused_hedge_does_not_hide_the_failure_of_the_first_attempt() -> None:
    outside = Seen()
    outcome, at = ask(Dependency((0.3, OSError("down"))), Hedge(0.1), Bulkhead(1), outside=(outside,))
    assert str(outcome) == "down"
    assert outcome.__notes__ == ["hedge: none of 2 attempts was answered; the others: BulkheadFull"]
    assert at == pytest.approx(0.3)
    assert outside.calls == [(1, FAILED, pytest.approx(0.3))]


def test_a_hedge_that_cancels_itself_cancels_nobody_else() -> None:
    outcome, at = ask(Dependency((0.3, OSError("down")), (0.01, asyncio.CancelledError())), Hedge(0.1))
    assert (str(outcome), at) == ("down", pytest.approx(0.3))
    outcome, at = ask(Dependency((0.3, "first"), (0.01, asyncio.CancelledError())), Hedge(0.1))
    assert (outcome, at) == ("first", pytest.approx(0.3))


def test_the_outcome_of_a_call_that_fails_is_the_one_that_says_most() -> None:
    cancelled = Outcome(IGNORED, 1.0, None, asyncio.CancelledError())
    refused = Outcome(IGNORED, 2.0, None, BulkheadFull("x", "full"))
    bad = Outcome(FAILED, 3.0, 503)
    down = Outcome(FAILED, 4.0, None, OSError("down"))
    assert defeat([cancelled, refused, bad, down], 4, "hedge") is bad
    assert defeat([cancelled, refused, down, bad], 4, "hedge") is down
    assert defeat([cancelled, refused], 2, "hedge") is refused
    assert defeat([cancelled], 1, "hedge") is cancelled
    assert down.error is not None
    assert down.error.__notes__ == [
        "hedge: none of 4 attempts was answered; the others: CancelledError, BulkheadFull, a bad result"
    ]


@pytest.mark.parametrize("first", ["slow", "failed"])
def test_an_exit_in_a_hedge_ends_the_call_as_one_in_the_first_attempt_does(first: str) -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(0.1)
    slow = first == "slow"
    dependency = Dependency((NEVER if slow else 0.0, OSError("down")), (0.01, Exit()))

    async def main() -> None:
        with pytest.raises(Exit):
            await Pipeline("x", hedge, clock=clock).acall(dependency)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    clock.run(main())
    assert clock.now() == pytest.approx(0.11 if slow else 0.01)
    assert dependency.cancelled == ([0] if slow else [])
    assert hedge.won == 0


def test_an_attempt_that_is_asked_to_come_back_later_begins_no_other() -> None:
    later = Later(5.0)
    dependency, hedge = Dependency((0.02, later)), Hedge(0.1)
    assert ask(dependency, hedge) == (later, pytest.approx(0.02))
    assert len(dependency.begun) == 1
    # Nor does the timer begin one, while those that are under way go on.
    dependency = Dependency((0.5, "first"), (0.02, later))
    assert ask(dependency, Hedge(0.1, attempts=3)) == ("first", pytest.approx(0.5))
    assert len(dependency.begun) == 2
    # "At once" is no reason to wait.
    dependency = Dependency((0.02, Later(0.0)), (0.0, "second"))
    assert ask(dependency, Hedge(0.1))[0] == "second"


def test_a_result_that_asks_to_come_back_later_begins_no_other_attempt_either() -> None:
    class Busy:
        def __init__(self) -> None:
            self.headers = {"Retry-After": "5"}

    busy = Busy()
    dependency = Dependency((0.02, busy))
    classify = Classifier(failed=lambda result: result is busy)
    assert ask(dependency, Hedge(0.1), classify=classify) == (busy, pytest.approx(0.02))
    assert len(dependency.begun) == 1


def test_sync_attempts_that_are_asked_to_come_back_later_begin_no_other() -> None:
    hedge = Hedge(60.0)
    begun: list[int] = []

    def fn() -> None:
        begun.append(1)
        raise Later(5.0)

    with pytest.raises(Later):
        Pipeline("x", hedge).call(fn)
    hedge.close()
    assert (len(begun), hedge.hedges) == (1, 0)


def test_work_that_was_called_off_is_not_hedged() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(0.1)
    dependency = Dependency((0.3, "first"), (0.0, "second"))

    async def main() -> Any:
        with cancellation_scope() as cancellation:
            cancellation.cancel()
            return await Pipeline("x", hedge, clock=clock).acall(dependency)

    assert clock.run(main()) == "first"
    assert (hedge.hedges, hedge.suppressed, len(dependency.begun)) == (0, 0, 1)


def test_sync_work_that_was_called_off_is_not_hedged() -> None:
    hedge = Hedge(60.0)
    begun: list[int] = []

    def fn() -> None:
        begun.append(1)
        raise OSError("down")

    with cancellation_scope() as cancellation:
        cancellation.cancel()
        with pytest.raises(OSError, match="down"):
            Pipeline("x", hedge).call(fn)
    hedge.close()
    assert (len(begun), hedge.hedges) == (1, 0)


@pytest.mark.parametrize("script", [[(0.0, Odd())], [(0.0, OSError("down")), (0.01, Odd())]])
def test_an_error_that_cannot_be_asked_leaves_nobody_waiting(script: list[tuple[float, Any]]) -> None:
    clock = VirtualClock(start=0.0)
    reports: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["exception"]))
        with pytest.raises((LookupError, OSError)):
            await Pipeline("x", Hedge(1.0), clock=clock).acall(Dependency(*script))

    clock.run(main())
    assert clock.now() <= 0.01
    assert all(isinstance(report, LookupError) for report in reports)


@pytest.mark.parametrize("notes", [None, 5])
def test_an_error_whose_notes_are_its_own_affair_is_raised_without_one(notes: Any) -> None:
    error = OSError("down")
    error.__notes__ = notes
    assert ask(Dependency((0.0, error), (0.0, OSError("too"))), Hedge(0.1))[0] is error
    assert error.__notes__ is notes


def test_attempts_count_on_from_that_of_a_retry_outside() -> None:
    inside = Seen()
    dependency = Dependency((0.0, OSError("1")), (0.0, OSError("2")), (0.0, OSError("3")), (0.0, "fourth"))
    outside = Retry(2, backoff=0.0, jitter="none")
    assert ask(dependency, Hedge(60.0), inside, outside=(outside,))[0] == "fourth"
    assert [attempt for attempt, _, _ in inside.calls] == [1, 2, 2, 3]


def test_a_hedge_in_a_hedge_ends_with_the_first_answer_of_all() -> None:
    dependency = Dependency((NEVER, 0), (NEVER, 1), (NEVER, 2), (0.01, 3))
    outer, inner = Hedge(0.15, name="outer"), Hedge(0.1, name="inner")
    clock = VirtualClock(start=0.0)

    async def main() -> None:
        assert await Pipeline("x", outer, inner, clock=clock).acall(dependency) == 3
        assert clock.now() == pytest.approx(0.26)
        await asyncio.sleep(0)  # for the inner hedge, the win of the outer one is a cancellation from outside
        assert others() == set()

    clock.run(main())
    assert dependency.begun == pytest.approx([0.0, 0.1, 0.15, 0.25])
    assert sorted(dependency.cancelled) == [0, 1, 2]
    assert (outer.won, inner.won) == (1, 1)


def test_both_of_two_nested_hedges_may_win_in_the_same_moment() -> None:
    clock = VirtualClock(start=0.0)
    gate = asyncio.Event()
    begun: list[int] = []

    async def fn() -> int:
        begun.append(1)
        number = len(begun)
        if number == 1:
            await asyncio.sleep(NEVER)
        await gate.wait()
        return number

    async def main() -> int:
        asyncio.get_running_loop().call_later(0.5, gate.set)
        outer, inner = Hedge(0.15, name="outer"), Hedge(0.1, name="inner")
        answer = await Pipeline("x", outer, inner, clock=clock).acall(fn)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        return answer

    assert clock.run(main()) in {2, 3, 4}
    assert len(begun) == 4


def test_retry_inside_gives_each_attempt_its_own_tries() -> None:
    dependency = Dependency((0.05, OSError("1")), (NEVER, "2"), (0.05, OSError("3")), (0.01, "4"))
    retry = Retry(2, backoff=0.0, jitter="none")
    assert ask(dependency, Hedge(0.1), retry) == ("4", pytest.approx(0.16))
    assert (retry.retries, retry.recovered) == (2, 1)


def test_the_answer_of_a_hedged_call_is_that_of_its_own_arguments_when_many_race() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(0.1, budget=False)
    pipeline = Pipeline("x", hedge, clock=clock)
    seen: dict[int, int] = {}

    @pipeline
    async def double(number: int) -> int:
        seen[number] = seen.get(number, 0) + 1
        await asyncio.sleep(NEVER if seen[number] == 1 and number % 3 == 0 else 0.05)
        return 2 * number

    async def main() -> list[int]:
        return await asyncio.gather(*(double(number) for number in range(100)))

    assert clock.run(main()) == [2 * number for number in range(100)]
    assert (hedge.hedges, hedge.won) == (34, 34)


def test_a_decorated_method_is_hedged_with_its_own_object() -> None:
    clock = VirtualClock(start=0.0)

    class Client:
        pipeline = Pipeline("client", Hedge(0.1), clock=clock)

        def __init__(self, name: str) -> None:
            self.name = name
            self.asked = 0

        @pipeline
        async def ask(self, word: str) -> str:
            self.asked += 1
            await asyncio.sleep(NEVER if self.asked == 1 else 0)
            return f"{self.name} {word}"

    client = Client("north")
    assert clock.run(client.ask("book")) == "north book"
    assert client.asked == 2


def test_the_winner_in_a_thread_stamps_the_callers_verdict_and_a_refusal_counts_least() -> None:
    release = threading.Event()
    seen = Seen()
    hedge = Hedge(0.002)
    begun: list[int] = []

    def fn() -> None:
        begun.append(1)
        release.wait(20.0)
        raise OSError("down")

    def let_go(policy: str) -> Callable[[Any], None]:
        return lambda _: release.set()

    bulkhead = Bulkhead(1)
    bulkhead.listeners.subscribe(let_go("refused"))
    with pytest.raises(OSError, match="down"):
        Pipeline("x", seen, hedge, bulkhead).call(fn)
    hedge.close()
    assert [call[:2] for call in seen.calls] == [(1, FAILED)]
    assert len(begun) == 1


def test_what_counts_stamps_the_call_with_its_own_end() -> None:
    outside = Seen()
    outside.timed = True
    ask(Dependency((0.02, OSError("down")), (0.03, "second")), Hedge(60.0), outside=(outside,))
    assert outside.calls == [(1, OK, pytest.approx(0.05))]
    outside.calls.clear()
    ask(Dependency((0.02, OSError("down")), (0.03, OSError("too"))), Hedge(60.0), outside=(outside,))
    assert outside.calls == [(1, FAILED, pytest.approx(0.02))]


@pytest.mark.parametrize("error", [Exit, asyncio.CancelledError])
def test_an_exit_in_a_first_attempt_that_is_hedged_ends_the_call_at_once(error: type[BaseException]) -> None:
    clock = VirtualClock(start=0.0)
    dependency = Dependency((0.2, error()), (NEVER, "second"))

    async def main() -> None:
        with pytest.raises(error):
            await Pipeline("x", Hedge(0.1), clock=clock).acall(dependency)
        assert clock.now() == pytest.approx(0.2)
        await asyncio.sleep(0)
        assert dependency.cancelled == [1]

    clock.run(main())


def test_the_error_of_a_single_attempt_has_no_note() -> None:
    error = OSError("down")
    assert ask(Dependency((0.2, error)), Hedge(0.1, budget={"ratio": 0.0, "floor": 0.0}))[0] is error
    assert not hasattr(error, "__notes__")


def test_an_error_that_lets_nobody_set_its_attributes_gets_its_note_all_the_same() -> None:
    class Locked(OSError):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    error = Locked("down")
    assert ask(Dependency((0.0, error), (0.0, OSError("too"))), Hedge(0.1))[0] is error
    assert error.__notes__ == ["hedge: none of 2 attempts was answered; the others: OSError"]
