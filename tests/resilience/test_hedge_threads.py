"""Hedged sync calls: their attempts run in threads of the policy."""

import signal
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from holdfast.core.call import FAILED, OK, Call, bare_call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import check, current, current_deadline, deadline_within
from holdfast.core.errors import CallCancelled, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing.quantile import BATCH
from holdfast.resilience.racing.tasks import Outcome
from holdfast.resilience.racing.threads import GIVEN_UP, SUPERSEDED, Inbox, Threads, Worker
from holdfast.resilience.retrying.budget import RetryBudget
from resilience.scripted import Seen

PATIENCE = 20.0
SOON = 0.002


class Attempts:
    """Each attempt waits until it is told what to do; ``outcomes`` says it beforehand for some."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.threads: list[threading.Thread] = []
        self.ended: list[Any] = []
        self.release = threading.Event()
        self.all_ended = threading.Semaphore(0)

    def __call__(self) -> Any:
        number = len(self.threads)
        self.threads.append(threading.current_thread())
        outcome = self.outcomes[number]
        try:
            if outcome == "slow":
                if not self.release.wait(PATIENCE):
                    pytest.fail("nobody let it go")  # no Exception: another attempt must not make up for it
                check()
            if isinstance(outcome, BaseException):
                raise outcome
            return f"{outcome} {number}"
        except BaseException as error:
            self.ended.append(error)
            raise
        finally:
            self.all_ended.release()

    def let_go(self, count: int = 1) -> None:
        """Let the slow ones go on, and wait until so many attempts have ended."""
        self.release.set()
        for _ in range(count):
            assert self.all_ended.acquire(timeout=PATIENCE)


@pytest.fixture
def closing() -> Any:
    """Makes policies whose threads end with the test."""
    made: list[Hedge] = []

    def hedge(*args: Any, **kwargs: Any) -> Hedge:
        made.append(Hedge(*args, **kwargs))
        return made[-1]

    yield hedge
    for policy in made:
        policy.close()


def test_a_slow_call_is_made_a_second_time_in_another_thread_and_the_first_answer_counts(
    closing: Callable[..., Hedge],
) -> None:
    attempts, hedge, seen = Attempts("slow", "quick"), closing(SOON), Seen()
    assert Pipeline("x", seen, hedge).call(attempts) == "quick 1"
    assert threading.current_thread() not in attempts.threads
    assert attempts.threads[0] is not attempts.threads[1]
    assert (hedge.hedges, hedge.won) == (1, 1)
    assert [call[:2] for call in seen.calls] == [(1, OK)]
    attempts.let_go(2)


def test_a_quick_answer_begins_no_second_attempt_and_the_thread_is_used_again(closing: Callable[..., Hedge]) -> None:
    hedge = closing(10.0)
    attempts = Attempts(*["quick"] * 50)
    pipeline = Pipeline("x", hedge)
    for number in range(50):
        assert pipeline.call(attempts) == f"quick {number}"
    assert len(set(attempts.threads)) == 1
    assert (hedge.hedges, hedge.threads.started) == (0, 1)


def test_the_loser_is_told_through_its_cancellation_and_its_permits_come_back(closing: Callable[..., Hedge]) -> None:
    attempts, bulkhead = Attempts("slow", "quick"), Bulkhead(2)
    Pipeline("x", closing(SOON), bulkhead).call(attempts)
    assert bulkhead.in_flight == 1
    attempts.let_go(2)
    (error,) = attempts.ended
    assert isinstance(error, CallCancelled)
    assert error.reason == SUPERSEDED
    until(lambda: bulkhead.in_flight == 0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0)


def test_a_failure_begins_the_next_attempt_at_once_and_all_failing_raises_the_first(
    closing: Callable[..., Hedge],
) -> None:
    first = OSError("first")
    assert Pipeline("x", closing(60.0)).call(Attempts(first, "second")) == "second 1"
    with pytest.raises(OSError, match="first") as caught:
        Pipeline("x", closing(60.0)).call(Attempts(first, TimeoutError()))
    assert caught.value is first
    assert first.__notes__ == ["hedge: none of 2 attempts was answered; the others: TimeoutError"]


def test_an_error_that_is_an_answer_ends_the_call_at_once(closing: Callable[..., Hedge]) -> None:
    attempts = Attempts("slow", KeyError("no such book"))
    with pytest.raises(KeyError):
        Pipeline("x", closing(SOON), classify=Classifier(record=(OSError,))).call(attempts)
    attempts.let_go(2)


def test_attempts_see_the_context_and_the_deadline_of_the_caller(closing: Callable[..., Hedge]) -> None:
    user: ContextVar[str] = ContextVar("user")
    user.set("alice")

    def fn() -> tuple[str, float, bool]:
        cancellation = current().cancellation
        assert cancellation is not None
        return user.get(), current_deadline(), cancellation.cancelled

    with deadline_within(50.0) as deadline:
        assert Pipeline("x", closing(60.0)).call(fn) == ("alice", deadline, False)
        seen = current().cancellation
    assert seen is None


def test_at_the_deadline_the_caller_goes_on_and_the_attempts_are_called_off(closing: Callable[..., Hedge]) -> None:
    attempts, seen = Attempts("slow", "slow"), Seen()
    hedge = closing(SOON)
    with deadline_within(0.02), pytest.raises(DeadlineExceeded, match="hedge: the deadline passed while attempts"):
        Pipeline("x", seen, hedge).call(attempts)
    assert [call[:2] for call in seen.calls] == [(1, FAILED)]
    attempts.let_go(len(attempts.threads))
    assert {getattr(error, "reason", error) for error in attempts.ended} == {GIVEN_UP}


def test_an_exit_in_an_attempt_ends_the_call_and_calls_the_others_off(closing: Callable[..., Hedge]) -> None:
    attempts = Attempts("slow", SystemExit(3))
    with pytest.raises(SystemExit):
        Pipeline("x", closing(SOON)).call(attempts)
    attempts.let_go(2)
    assert isinstance(attempts.ended[1], CallCancelled)


def test_when_no_thread_is_free_the_call_runs_in_the_callers_without_a_hedge(closing: Callable[..., Hedge]) -> None:
    hedge = closing(SOON, threads=1)
    pipeline = Pipeline("x", hedge)
    attempts = Attempts("slow", "quick")
    holder = threading.Thread(target=lambda: pipeline.call(attempts))
    holder.start()
    until(lambda: len(attempts.threads) == 1 and hedge.without_thread == 1)  # its hedge found no thread either
    assert pipeline.call(threading.current_thread) is threading.current_thread()
    assert (hedge.without_thread, hedge.hedges) == (2, 0)
    attempts.let_go(1)
    holder.join(PATIENCE)
    hedge.update(threads=2)
    other = Attempts("slow", "quick")
    assert pipeline.call(other) == "quick 1"
    assert (hedge.without_thread, hedge.hedges) == (2, 1)
    other.let_go(2)


def test_calls_that_find_no_thread_are_learned_from_too(closing: Callable[..., Hedge]) -> None:
    clock = VirtualClock()
    hedge = closing(quantile=0.5, samples=BATCH, threads=1)
    pipeline = Pipeline("x", hedge, clock=clock)
    for _ in range(BATCH):
        pipeline.call(clock.advance, 0.1)
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(PATIENCE)

    holder = threading.Thread(target=pipeline.call, args=(hold,))
    holder.start()
    assert held.wait(PATIENCE)
    for _ in range(2 * BATCH):
        pipeline.call(clock.advance, 0.2)
    assert hedge.without_thread >= 2 * BATCH
    assert hedge.delay == pytest.approx(0.2)
    release.set()
    holder.join(PATIENCE)


def test_a_closed_policy_ends_its_threads_and_hedges_no_sync_call(closing: Callable[..., Hedge]) -> None:
    hedge = closing(SOON)
    attempts = Attempts("slow", "quick")
    pipeline = Pipeline("x", hedge)
    assert pipeline.call(attempts) == "quick 1"
    hedge.close()
    assert pipeline.call(threading.current_thread) is threading.current_thread()
    attempts.let_go(2)
    until(lambda: not any(thread.is_alive() for thread in attempts.threads))
    assert hedge.threads.started == 0


def test_calls_that_are_not_idempotent_and_those_without_a_known_delay_stay_in_the_callers_thread(
    closing: Callable[..., Hedge],
) -> None:
    here = threading.current_thread()
    assert Pipeline("x", closing(SOON)).bind(idempotent=False).call(threading.current_thread) is here
    hedge = closing(quantile=0.5, samples=BATCH)
    pipeline = Pipeline("x", hedge)
    for _ in range(BATCH):
        assert pipeline.call(threading.current_thread) is here
    assert pipeline.call(threading.current_thread) is not here
    assert hedge.delay < 1.0


def test_the_delay_follows_the_latency_of_sync_calls(closing: Callable[..., Hedge]) -> None:
    clock = VirtualClock()
    hedge = closing(quantile=0.5, samples=BATCH, window=3600.0, budget=RetryBudget(ratio=0.0, floor=0.0))
    pipeline = Pipeline("x", hedge, clock=clock)
    for _ in range(BATCH):
        pipeline.call(clock.advance, 0.1)
    assert hedge.delay == pytest.approx(0.1)
    for _ in range(2 * BATCH):
        pipeline.call(clock.advance, 0.2)
    assert hedge.delay == pytest.approx(0.2)


def test_without_room_in_the_budget_the_first_attempt_goes_on_alone(closing: Callable[..., Hedge]) -> None:
    hedge = closing(SOON, budget=RetryBudget(ratio=0.0, floor=0.0))
    attempts = Attempts("slow")

    def let_go() -> None:
        until(lambda: hedge.suppressed > 0)
        attempts.release.set()

    threading.Thread(target=let_go).start()
    assert Pipeline("x", hedge).call(attempts) == "slow 0"
    assert (hedge.hedges, hedge.suppressed) == (0, 1)


def test_threads_that_have_nothing_to_do_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Their time is over again and again while work comes. With queue.SimpleQueue one in ten rounds got stuck.
    monkeypatch.setattr("holdfast.resilience.racing.threads.IDLE_SECONDS", 0.001)
    for _ in range(30):
        threads = Threads(4)
        ran: list[int] = []
        for _ in range(100):
            while not threads.run(lambda ran=ran: ran.append(1)):  # type: ignore[misc]
                time.sleep(0)
        until(lambda threads=threads: threads.started == 0)  # type: ignore[misc]
        assert (len(ran), threads._idle) == (100, [])


class LateBell:
    """A worker's bell. When it is waited for the first time, work comes in the moment in which the time is over."""

    def __init__(self, threads: Threads, work: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._threads = threads
        self._work: Callable[[], None] | None = work

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._work is not None and timeout > 0:
            work, self._work = self._work, None
            assert self._threads.run(work)
            return False
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()


def test_work_that_comes_as_a_threads_time_is_over_is_done_and_the_thread_serves_on() -> None:
    threads = Threads(1)
    ran: list[int] = []
    worker = Worker(lambda: ran.append(1))
    worker.bell = LateBell(threads, lambda: ran.append(2))  # type: ignore[assignment]
    threads.started = 1
    thread = threading.Thread(target=threads._serve, args=(worker,))
    thread.start()
    until(lambda: ran == [1, 2] and threads._idle == [worker])
    assert threads.run(lambda: ran.append(3))
    until(lambda: ran == [1, 2, 3])
    threads.close()
    thread.join(PATIENCE)
    assert (thread.is_alive(), threads.started) == (False, 0)


def test_a_wait_for_an_outcome_ends_in_time_although_the_bell_was_rung_for_an_earlier_one() -> None:
    inbox = Inbox()
    outcome = Outcome(OK, 0.0)
    for _ in range(2):
        inbox.put(bare_call(), outcome)
    for _ in range(2):
        found = inbox.get(PATIENCE)
        assert found is not None
        assert found[1] is outcome
    began = time.monotonic()
    assert inbox.get(0.01) is None
    assert 0.01 <= time.monotonic() - began < PATIENCE / 2
    assert inbox.get(-1.0) is None


def test_an_interrupted_wait_calls_the_attempts_off(closing: Callable[..., Hedge]) -> None:
    attempts = Attempts("slow")

    def fn() -> Any:
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGINT)
        return attempts()

    # A process that a shell has put into the background ignores this signal, unless somebody asks for it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Pipeline("x", closing(60.0)).call(fn)
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: len(attempts.threads) == 1)
    attempts.let_go(1)
    (error,) = attempts.ended
    assert isinstance(error, CallCancelled)
    assert error.reason == GIVEN_UP


def test_one_attempt_needs_no_thread(closing: Callable[..., Hedge]) -> None:
    here = threading.current_thread()
    assert Pipeline("x", closing(SOON, attempts=1)).call(threading.current_thread) is here


@pytest.mark.usefixtures("switching_often")
def test_20_threads_get_the_right_answers_and_the_pool_keeps_to_its_limit(closing: Callable[..., Hedge]) -> None:
    hedge = closing(0.0005, threads=8, budget=False)
    pipeline = Pipeline("x", hedge)
    wrong: list[Any] = []
    most: list[int] = []

    def work(number: int) -> int:
        most.append(hedge.threads.started)
        if number % 7 == 0:
            time.sleep(0.001)
        return number

    def many(base: int) -> None:
        for number in range(base, base + 50):
            answer = pipeline.call(work, number)
            if answer != number:
                wrong.append((number, answer))

    callers = [threading.Thread(target=many, args=(100 * number,)) for number in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
        assert not caller.is_alive()
    assert wrong == []
    assert max(most) <= 8
    assert hedge.hedges > 0


def test_a_call_that_is_a_copy_is_never_mixed_up_with_the_callers(closing: Callable[..., Hedge]) -> None:
    calls: list[Call] = []

    class Keeping(Seen):
        def enter(self, call: Call) -> Call:
            calls.append(call)
            return super().enter(call)

    outer, inner = Keeping(), Keeping()
    attempts = Attempts("slow", "quick")
    Pipeline("x", outer, closing(SOON), inner).call(attempts)
    attempts.let_go(2)
    assert len({id(call) for call in calls}) == 3
    assert [call.attempt for call in calls] == [1, 1, 2]
