import gc
import random
import threading
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from holdfast.core.call import FAILED, OK
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import (
    Criticality,
    cancellation_scope,
    criticality,
    current,
    deadline_within,
    remaining,
    use_deadline,
)
from holdfast.core.errors import CallCancelled, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.sharing import threadflights
from holdfast.resilience.singleflight import SingleFlight
from resilience.witness import Witness, wait_for

THREADS = 50


class Work:
    """A function whose calls end when told to: each with its outcome, in the order in which they began."""

    def __init__(self, *outcomes: Any) -> None:
        self.begun = 0
        self.may_end = threading.Event()
        self._outcomes = outcomes

    def __call__(self, *args: Any) -> Any:
        number = self.begun
        self.begun += 1
        assert self.may_end.wait(10)
        outcome = self._outcomes[min(number, len(self._outcomes) - 1)]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Caller:
    """Calls in a thread of its own, and keeps what it is told."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = partial(call, *args)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> Any:
        self._thread.join(10)
        assert self.ended
        return self.result if self.error is None else self.error


@pytest.mark.usefixtures("switching_often")
def test_threads_share_one_execution() -> None:
    answer = object()
    work, policy = Work(answer), SingleFlight()
    call = Pipeline("x", policy)(work)
    callers = [Caller(call, 1) for _ in range(THREADS)]
    wait_for(lambda: policy.snapshot()["shared"] == THREADS - 1)
    work.may_end.set()
    assert all(caller.join() is answer for caller in callers)
    assert work.begun == 1
    assert policy.snapshot() == {"executions": 1, "shared": THREADS - 1, "abandoned": 0, "under_way": 0}
    assert call(1) is answer
    assert work.begun == 2


@pytest.mark.usefixtures("switching_often")
def test_no_two_executions_for_a_key_ever_run_at_the_same_time() -> None:
    policy = SingleFlight()
    lock = threading.Lock()
    running = dict.fromkeys(range(3), 0)
    wrong: list[int] = []

    @policy
    def work(key: int) -> int:
        with lock:
            running[key] += 1
            if running[key] > 1:
                wrong.append(key)
        with lock:
            running[key] -= 1
        if key == 2:
            raise ValueError(key)
        return key

    def many(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            key = chance.randrange(3)
            if key < 2:
                assert work(key) == key
            else:
                with pytest.raises(ValueError, match="2"):
                    work(key)

    callers = [Caller(many, seed) for seed in range(20)]
    assert [caller.join() for caller in callers] == [None] * 20
    assert not wrong
    snapshot = policy.snapshot()
    assert snapshot["executions"] + snapshot["shared"] == 2000
    assert snapshot["under_way"] == 0


@pytest.mark.parametrize("copied", [True, False])
def test_an_error_reaches_everybody_and_its_traceback_does_not_grow(copied: bool) -> None:
    class Wordy(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}")

    failure = ValueError("no") if copied else Wordy(5)
    work, policy, witness = Work(failure), SingleFlight(), Witness()
    call = Pipeline("x", witness, policy)(work)
    depths: list[int] = []

    def ask() -> None:
        try:
            call()
        except Exception as error:
            depths.append(len(traceback.extract_tb(error.__traceback__)))
            raise

    callers = [Caller(ask) for _ in range(10)]
    wait_for(lambda: policy.snapshot()["shared"] == 9)
    work.may_end.set()
    errors = [caller.join() for caller in callers]
    assert {(type(error), error.args) for error in errors} == {(type(failure), failure.args)}
    assert len({id(error) for error in errors}) == (10 if copied else 1)
    assert max(depths) <= min(depths) + 4  # the leader's own way there, and the followers' way to the wait
    assert witness.verdicts == [FAILED] * 10


def test_what_the_classifier_calls_a_failure_is_one_for_everybody() -> None:
    work, policy, witness = Work("bad"), SingleFlight(), Witness()
    call = Pipeline("x", witness, policy, classify=Classifier(failed=lambda result: result == "bad"))(work)
    callers = [Caller(call) for _ in range(3)]
    wait_for(lambda: policy.snapshot()["shared"] == 2)
    work.may_end.set()
    assert [caller.join() for caller in callers] == ["bad"] * 3
    assert witness.verdicts == [FAILED] * 3


def test_a_follower_waits_until_its_own_deadline() -> None:
    work, policy, witness = Work("answer"), SingleFlight(), Witness()
    call = Pipeline("x", witness, policy)(work)
    leader = Caller(call)
    wait_for(lambda: work.begun == 1)
    with deadline_within(0.02), pytest.raises(DeadlineExceeded, match="single_flight: the deadline passed while"):
        call()
    assert witness.verdicts == [FAILED]
    with use_deadline(0.0), pytest.raises(DeadlineExceeded):
        call()
    work.may_end.set()
    assert leader.join() == "answer"
    assert witness.verdicts == [FAILED, FAILED, OK]
    assert policy.snapshot()["under_way"] == 0


def test_the_leader_has_its_own_deadline_and_cancellation() -> None:
    clock = VirtualClock()
    seen: list[Any] = []

    @Pipeline("x", SingleFlight(), clock=clock)
    def look() -> None:
        seen.append((remaining(clock.now()), current().cancellation))

    with use_deadline(clock.now() + 3), cancellation_scope() as token:
        look()
    assert seen == [(3, token)]


@pytest.mark.parametrize(
    "own", [KeyboardInterrupt(), SystemExit(1), CallCancelled()], ids=lambda error: type(error).__name__
)
def test_when_the_leader_is_interrupted_one_of_the_others_begins_again(own: BaseException) -> None:
    work, policy = Work(own, "answer"), SingleFlight()
    call = Pipeline("x", policy)(work)
    leader = Caller(call)
    wait_for(lambda: work.begun == 1)
    others = [Caller(call) for _ in range(5)]
    wait_for(lambda: policy.snapshot()["shared"] == 5)
    work.may_end.set()
    assert leader.join() is own
    assert [other.join() for other in others] == ["answer"] * 5
    assert work.begun <= 6
    assert policy.snapshot()["under_way"] == 0


def test_a_leader_with_little_time_does_not_take_it_from_the_others() -> None:
    clock = VirtualClock()
    work, policy = Work(DeadlineExceeded(), "answer"), SingleFlight()
    call = Pipeline("x", policy, clock=clock)(work)

    def hurried() -> Any:
        with use_deadline(clock.now() + 1):
            return call()

    leader = Caller(hurried)
    wait_for(lambda: work.begun == 1)
    other = Caller(call)
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    clock.advance(2)
    work.may_end.set()
    assert isinstance(leader.join(), DeadlineExceeded)
    assert other.join() == "answer"


def test_a_timeout_that_is_not_the_leaders_own_deadline_is_everybodys() -> None:
    work, policy = Work(DeadlineExceeded(), "answer"), SingleFlight()
    call = Pipeline("x", policy)(work)
    callers = [Caller(call) for _ in range(3)]
    wait_for(lambda: policy.snapshot()["shared"] == 2)
    work.may_end.set()
    assert [type(caller.join()) for caller in callers] == [DeadlineExceeded] * 3
    assert work.begun == 1


def has(running: list[int], number: int) -> bool:
    return running[-1] == number


def has_shared(policy: SingleFlight, number: int) -> bool:
    return bool(policy.snapshot()["shared"] == number)


def test_who_is_let_down_too_often_runs_alone() -> None:
    policy = SingleFlight(key=lambda call: "same")
    ends = [threading.Event() for _ in range(threadflights.ROUNDS + 1)]
    running: list[int] = []

    @Pipeline("x", policy)
    def interrupted(number: int) -> str:
        running.append(number)
        if number < 0:
            return "alone"
        assert ends[number].wait(10)
        raise CallCancelled

    leaders: list[Caller] = [Caller(interrupted, 0)]
    wait_for(lambda: running == [0])
    follower = Caller(interrupted, -1)
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    # Each next one gets in before the follower: it takes the place of the one before, as if that were forgotten.
    for number in range(1, threadflights.ROUNDS):
        policy.forget("same")
        leaders.append(Caller(interrupted, number))
        wait_for(partial(has, running, number))
        ends[number - 1].set()
        wait_for(partial(has_shared, policy, number + 1))
    policy.forget("same")
    leaders.append(Caller(interrupted, threadflights.ROUNDS))
    wait_for(partial(has, running, threadflights.ROUNDS))
    ends[threadflights.ROUNDS - 1].set()
    assert follower.join() == "alone"  # while the last leader is still at it
    ends[-1].set()
    assert all(isinstance(caller.join(), CallCancelled) for caller in leaders)
    assert policy.snapshot()["under_way"] == 0


def test_an_execution_that_ends_just_before_it_is_joined_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    work, policy = Work("old", "new"), SingleFlight()
    call = Pipeline("x", policy)(work)
    leader = Caller(call)
    wait_for(lambda: work.begun == 1)

    class Slow(threading.Event):
        """Takes so long to make that the leader is done."""

        def __init__(self) -> None:
            super().__init__()
            work.may_end.set()
            leader.join()

    monkeypatch.setattr("holdfast.resilience.sharing.threadflights.threading.Event", Slow)
    assert call() == "new"
    assert policy.snapshot() == {"executions": 2, "shared": 0, "abandoned": 0, "under_way": 0}


def test_calls_that_matter_more_do_not_depend_on_those_that_matter_less() -> None:
    work, policy = Work("low", "high"), SingleFlight()
    call = Pipeline("x", policy)(work)

    def ask(level: Criticality) -> Any:
        with criticality(level):
            return call()

    low = Caller(ask, Criticality.SHEDDABLE)
    wait_for(lambda: work.begun == 1)
    high = Caller(ask, Criticality.CRITICAL)
    wait_for(lambda: work.begun == 2)
    late = Caller(ask, Criticality.SHEDDABLE)
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    work.may_end.set()
    assert (low.join(), high.join(), late.join()) == ("low", "high", "high")
    assert policy.snapshot()["under_way"] == 0


def test_what_is_forgotten_begins_anew() -> None:
    work, policy = Work("old", "new"), SingleFlight()
    call = Pipeline("x", policy)(work)
    old = Caller(call, 7)
    wait_for(lambda: work.begun == 1)
    assert policy.forget_call(call, 7)
    assert not policy.forget_call(call, 7)
    assert not policy.forget_call(call, 8)
    new = [Caller(call, 7), Caller(call, 7)]
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    work.may_end.set()
    assert old.join() == "old"
    assert [caller.join() for caller in new] == ["new", "new"]
    assert policy.snapshot()["under_way"] == 0


def test_an_execution_that_asks_for_itself_does_not_wait_for_itself() -> None:
    depth: list[int] = []

    @SingleFlight(key=lambda call: "same")
    def nested(level: int) -> int:
        depth.append(level)
        return level if level == 3 else nested(level + 1)

    assert nested(0) == 3
    assert depth == [0, 1, 2, 3]


@pytest.mark.parametrize("callers", [1, 3])
def test_nothing_is_left_for_the_garbage_collector(callers: int) -> None:
    class Failure(Exception):
        pass

    policy = SingleFlight()

    @policy
    def fail() -> None:
        assert may_end.wait(10)
        raise Failure

    errors: list[Exception] = []

    def ask() -> None:
        try:
            fail()
        except Failure as error:
            errors.append(error)

    gc.collect()
    gc.disable()
    try:
        may_end = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(callers)]
        for thread in threads:
            thread.start()
        wait_for(lambda: policy.snapshot()["shared"] == callers - 1)
        may_end.set()
        for thread in threads:
            thread.join()
        left = [weakref.ref(error) for error in errors]
        assert [type(ref()) for ref in left] == [Failure] * callers
        errors.clear()
        assert [ref() for ref in left] == [None] * callers
    finally:
        gc.enable()


def test_a_key_of_none_is_not_shared_and_a_list_is_no_key() -> None:
    work, policy = Work(1), SingleFlight(key=lambda call: None)
    work.may_end.set()
    assert Pipeline("x", policy)(work)([]) == 1
    assert policy.snapshot()["executions"] == 0
    policy.update(key=None)
    with pytest.raises(TypeError, match="cannot be a key"):
        Pipeline("x", policy)(work)([])
    assert policy.snapshot()["under_way"] == 0
