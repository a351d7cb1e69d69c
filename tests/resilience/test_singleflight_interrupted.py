"""Threads that are interrupted where it hurts most, and processes that fork meanwhile: nobody waits for ever."""

import _thread
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import Criticality
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache
from holdfast.resilience.sharing import threadflights
from holdfast.resilience.singleflight import SingleFlight
from resilience.witness import wait_for

PATIENCE = 30.0


class Interrupting(dict[Any, Any]):
    """A table in whose ``method`` a signal comes, once, after it has done its work."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def _called(self, method: str) -> None:
        if self.method == method:
            self.method = ""
            raise KeyboardInterrupt

    def setdefault(self, *args: Any) -> Any:
        found = super().setdefault(*args)
        self._called("setdefault")
        return found

    def pop(self, *args: Any) -> Any:
        if self.method == "pop":  # before: the worst case
            self._called("pop")
        return super().pop(*args)

    def __setitem__(self, *args: Any) -> None:
        self._called("__setitem__")
        super().__setitem__(*args)


def interrupted(policy: SingleFlight | Cache, method: str) -> None:
    table = Interrupting(method)
    policy._thread_flights._flights = table
    policy._thread_flights.find = table.get


def in_thread(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "it waits for ever"
    return results[0]


@pytest.mark.parametrize("method", ["setdefault", "pop"])
@pytest.mark.parametrize("make", [SingleFlight, Cache])
def test_a_leader_that_is_interrupted_on_its_way_in_or_out_leaves_nobody_waiting(make: Any, method: str) -> None:
    policy = make(key=lambda call: "same")
    interrupted(policy, method)
    call = policy(lambda: "answer")
    with pytest.raises(KeyboardInterrupt):
        call()
    if isinstance(policy, Cache):
        policy.clear()
    assert in_thread(call) == "answer"
    assert call() == "answer"
    assert not policy._thread_flights._flights


def test_a_refresh_that_was_interrupted_on_its_way_out_is_not_the_last_one() -> None:
    clock, cache = VirtualClock(), Cache(10, stale=1000, jitter=0, pause=0)
    call = Pipeline("x", cache, clock=clock)(lambda: "answer")
    call()
    interrupted(cache, "pop")
    clock.advance(11)
    with pytest.raises(KeyboardInterrupt):
        call()
    clock.advance(11)
    assert [call(), call()] == ["answer"] * 2  # the first finds what was left behind, the second refreshes
    assert cache.snapshot()["refreshes"] == 2
    assert cache.snapshot()["refreshing"] == 0
    assert not cache._thread_flights._flights


def test_a_leader_that_is_interrupted_as_it_takes_the_place_of_another_leaves_it_free() -> None:
    policy = SingleFlight(key=lambda call: "same")
    interrupted(policy, "__setitem__")
    begun, may_end = threading.Event(), threading.Event()

    @policy
    def work() -> str:
        if not begun.is_set():
            begun.set()
            assert may_end.wait(PATIENCE)
        return "answer"

    leader = threading.Thread(target=work, daemon=True)
    leader.start()
    assert begun.wait(PATIENCE)
    policy.forget("same")
    with pytest.raises(KeyboardInterrupt):
        work()
    assert in_thread(work) == "answer"
    may_end.set()
    leader.join(PATIENCE)
    assert not policy._thread_flights._flights
    assert policy.snapshot()["executions"] == 2


def test_a_follower_looks_for_itself_whether_the_execution_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threadflights, "SLICE", 0.001)
    policy = SingleFlight(key=lambda call: "same")
    may_end = threading.Event()
    # An execution of a thread that lives, which is interrupted before it can tell anybody of its end.
    other = threading.Thread(target=may_end.wait, args=(PATIENCE,), daemon=True)
    other.start()
    assert other.ident is not None
    flight = threadflights.ThreadFlight(Criticality.CRITICAL, float("inf"), other.ident)
    policy._thread_flights._flights["same"] = flight

    def end() -> None:
        wait_for(lambda: flight.followers)
        flight.result = "answer"
        flight.ended = True

    ender = threading.Thread(target=end, daemon=True)
    ender.start()
    assert in_thread(policy(lambda: "another")) == "answer"
    may_end.set()
    for thread in (other, ender):
        thread.join(PATIENCE)


def test_a_thread_that_only_the_interpreter_knows_of_may_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threadflights, "SLICE", 0.001)
    policy = SingleFlight(key=lambda call: "same")
    begun: list[int] = []
    may_end = threading.Event()

    @policy
    def work() -> str:
        begun.append(1)
        assert may_end.wait(PATIENCE)
        return "answer"

    _thread.start_new_thread(work, ())
    wait_for(lambda: begun)
    results: list[str] = []
    follower = threading.Thread(target=lambda: results.append(work()), daemon=True)
    follower.start()
    wait_for(lambda: policy.snapshot()["shared"] == 1)
    follower.join(0.05)  # many slices; it must not give the leader up
    may_end.set()
    follower.join(PATIENCE)
    assert (results, begun) == (["answer"], [1])


def test_an_execution_whose_thread_is_gone_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threadflights, "SLICE", 0.001)
    policy = SingleFlight(key=lambda call: "x")
    # What a fork leaves behind: an execution under way, and no thread that is at it.
    gone = threadflights.ThreadFlight(Criticality.CRITICAL, float("inf"), -1)
    policy._thread_flights._flights["x"] = gone
    assert Pipeline("x", policy)(lambda: "answer")() == "answer"
    assert policy.snapshot() == {"executions": 1, "shared": 1, "abandoned": 0, "under_way": 0}


def test_a_forked_process_waits_for_nothing_that_was_left_behind() -> None:
    policy = SingleFlight(key=lambda call: call.args[0])
    begun: list[int] = []
    may_end = threading.Event()

    def work(key: int) -> str:
        begun.append(key)
        if len(begun) == 1:
            assert may_end.wait(PATIENCE)
        return "answer"

    call = Pipeline("x", policy)(work)
    leader = threading.Thread(target=call, args=(1,), daemon=True)
    leader.start()
    wait_for(lambda: begun)
    flights = policy._thread_flights
    assert flights.under_way == 1
    flights._process = -1  # what a child finds
    # Whether a thread with the leader's identity lives on says nothing there: identities are used again.
    assert call(1) == "answer"
    assert begun == [1, 1]
    assert flights.under_way == 0
    assert flights._process == os.getpid()
    flights.under_way += 1
    may_end.set()
    leader.join(PATIENCE)
    assert policy.snapshot()["under_way"] == 0


def test_the_thread_that_forks_goes_on_with_what_it_has_begun() -> None:
    policy = SingleFlight(key=lambda call: "same")
    begun: list[int] = []

    @policy
    def work() -> dict[str, Any]:
        begun.append(1)
        if len(begun) == 1:
            policy._thread_flights._process = -1  # what a child finds
            return work()
        return policy.snapshot()

    assert work() == {"executions": 1, "shared": 0, "abandoned": 0, "under_way": 1}
    assert policy.snapshot()["under_way"] == 0


def test_two_never_take_the_same_place_also_when_keys_let_other_threads_run() -> None:
    policy = SingleFlight(key=lambda call: call.args[0])
    begun: list[int] = []
    may_end = threading.Event()

    @policy
    def work(key: object) -> str:
        begun.append(1)
        if len(begun) == 1:
            assert may_end.wait(PATIENCE)
        return "answer"

    class Key:
        """Lets somebody else ask for the same just as one is about to take the place of what was forgotten."""

        def __hash__(self) -> int:
            if flights and flights[0].replaced:
                flights.clear()
                assert in_thread(lambda: work(self)) == "answer"
            return 1

    flights: list[threadflights.ThreadFlight] = []
    key = Key()
    leader = threading.Thread(target=work, args=(key,), daemon=True)
    leader.start()
    wait_for(lambda: begun)
    policy.forget(key)
    flights += policy._thread_flights._flights.values()
    assert work(key) == "answer"
    # The one in between could not wait for the end of that, and ran unshared.
    assert policy.snapshot()["executions"] == 2
    assert len(begun) == 3
    may_end.set()
    leader.join(PATIENCE)
    assert not policy._thread_flights._flights
