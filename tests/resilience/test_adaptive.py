import dis
import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.core.call import FAILED, IGNORED, OK, Call, Verdict, bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import Context, Criticality, use_context
from holdfast.core.errors import ConfigError, Overloaded
from holdfast.core.errortable import ErrorTable
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import CallRefused
from holdfast.resilience.adaptive import (
    LONGEST_WINDOW,
    REFUSED_BY_LIMIT,
    REFUSED_BY_RANK,
    REFUSED_FOR_WAITING,
    SAMPLES,
    AdaptiveLimit,
    OverloadBegan,
    OverloadEnded,
)
from holdfast.resilience.limits.algorithms import LIMITS
from holdfast.resilience.limits.ranks import CALM_WINDOWS


def enter(gate: AdaptiveLimit, now: float = 0.0, **fields: Any) -> tuple[Call, float]:
    call = bare_call("x", now=now, **fields)
    return call, gate.enter(call)


def leave(gate: AdaptiveLimit, entered: tuple[Call, float], now: float, verdict: Verdict = OK) -> None:
    call, token = entered
    call.now = now
    call.verdict = verdict
    gate.exit(call, token)


def fill(gate: AdaptiveLimit, now: float = 0.0, **fields: Any) -> list[tuple[Call, float]]:
    """Calls until one is refused."""
    held: list[tuple[Call, float]] = []
    while len(held) < 10_000:
        try:
            held.append(enter(gate, now, **fields))
        except Overloaded:
            return held
    raise AssertionError("nothing was refused")


def work(gate: AdaptiveLimit, begin: float, seconds: float, took: float, load: float, **fields: Any) -> int:
    """A single server that takes ``took`` seconds a call, at ``load`` calls a second; how many were refused."""
    refused = 0
    free = begin
    queue: list[tuple[float, tuple[Call, float]]] = []
    for number in range(int(seconds * load)):
        now = begin + number / load
        while queue and queue[0][0] <= now:
            ended, held = queue.pop(0)
            leave(gate, held, ended)
        try:
            held = enter(gate, now, **fields)
        except Overloaded:
            refused += 1
        else:
            free = max(free, now) + took
            queue.append((free, held))
    for ended, held in queue:
        leave(gate, held, ended)
    return refused


def test_at_most_the_limit_is_under_way() -> None:
    gate = AdaptiveLimit(initial=10)
    held = fill(gate, criticality=Criticality.CRITICAL_PLUS)
    assert len(held) == gate.in_flight == 10
    leave(gate, held.pop(), 0.01)
    held.append(enter(gate, 0.01, criticality=Criticality.CRITICAL_PLUS))
    for entered in held:
        leave(gate, entered, 0.02)
    assert gate.in_flight == 0


def test_a_refusal_says_why_and_what_it_went_by() -> None:
    gate = AdaptiveLimit(name="front", initial=1, priorities=False)
    enter(gate)
    with pytest.raises(Overloaded) as caught:
        enter(gate)
    assert str(caught.value) == f"x: front: {REFUSED_BY_LIMIT}"
    assert caught.value.snapshot == {"limit": 1, "in_flight": 1}
    assert ErrorTable().failure_of(caught.value).status == 503


def test_the_less_critical_a_call_the_earlier_it_is_refused() -> None:
    admitted = {}
    for criticality in Criticality:
        admitted[criticality] = len(fill(AdaptiveLimit(initial=40), criticality=criticality))
    assert list(admitted.values()) == [23, 26, 32, 40]


def test_without_priorities_all_calls_are_alike() -> None:
    for criticality in Criticality:
        assert len(fill(AdaptiveLimit(initial=40, priorities=False), criticality=criticality)) == 40


def test_the_criticality_of_the_context_counts_when_the_call_has_none() -> None:
    gate = AdaptiveLimit(initial=40)
    with use_context(Context(criticality=Criticality.SHEDDABLE)):
        assert len(fill(gate)) == 23
    with use_context(Context(criticality=Criticality.CRITICAL_PLUS)):
        assert len(fill(gate)) == 40 - 23


@pytest.mark.parametrize("verdict", [OK, FAILED, IGNORED])
def test_every_end_gives_the_place_back(verdict: Verdict) -> None:
    gate = AdaptiveLimit(initial=2, priorities=False)
    for number in range(10):
        leave(gate, enter(gate, number), number + 0.5, verdict)
    assert gate.in_flight == 0


def test_only_what_was_answered_teaches_something() -> None:
    gate = AdaptiveLimit()
    leave(gate, enter(gate, 0.0), 1.0, IGNORED)
    leave(gate, enter(gate, 0.0), 1.0, FAILED)
    assert (gate.snapshot()["completed"], gate.snapshot()["late"]) == (0, 0)
    leave(gate, enter(gate, 0.0), 1.0, OK)
    leave(gate, enter(gate, 0.0, deadline=0.9), 1.0, FAILED)
    assert (gate.snapshot()["completed"], gate.snapshot()["late"]) == (2, 1)


def test_a_server_that_is_faster_gets_more_calls() -> None:
    slow, quick = AdaptiveLimit(), AdaptiveLimit()
    for gate, took in ((slow, 0.020), (quick, 0.001)):
        work(gate, 0.0, 20.0, took, 0.5 / took)
        work(gate, 20.0, 6.0, took, 2.0 / took)
    assert slow.limit < 6
    assert 40 < quick.limit < 100


def test_a_light_load_is_never_refused() -> None:
    gate = AdaptiveLimit()
    assert work(gate, 0.0, 10.0, 0.002, 400) == 0
    assert gate.snapshot()["overloaded"] is False


def test_while_observing_nothing_is_refused_and_all_is_counted() -> None:
    gate = AdaptiveLimit(initial=5, observe=True)
    held = [enter(gate) for _ in range(12)]
    assert gate.in_flight == 12
    assert (gate.refused, gate.observed) == (0, 12 - 4)  # four are within the share of critical calls
    for entered in held:
        leave(gate, entered, 0.1)
    assert gate.in_flight == 0


def test_observing_it_learns_the_same_limit() -> None:
    gate = AdaptiveLimit(observe=True)
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 600)
    assert gate.refused == 0
    assert gate.observed > 0
    assert gate.limit == pytest.approx(500 * 0.055, rel=0.15)


def test_users_of_low_rank_are_refused_before_the_limit_is_met() -> None:
    gate = AdaptiveLimit()
    work(gate, 0.0, 2.0, 0.002, 350)
    refused: dict[str, int] = dict.fromkeys("abcdefghij", 0)
    free = 2.0
    queue: list[tuple[float, tuple[Call, float]]] = []
    for number in range(5000):  # 5 s at twice the capacity
        now = 2.0 + number / 1000
        while queue and queue[0][0] <= now:
            ended, held = queue.pop(0)
            leave(gate, held, ended)
        key = "abcdefghij"[number % 10]
        try:
            held = enter(gate, now, key=key)
        except Overloaded as error:
            refused[key] += error.reason == REFUSED_BY_RANK
        else:
            free = max(free, now) + 0.002
            queue.append((free, held))
    shares = sorted(count / 500 for count in refused.values())
    assert shares[0] < 0.05
    assert shares[-1] > 0.8


def test_a_call_that_has_waited_too_long_is_refused() -> None:
    gate = AdaptiveLimit(target=0.05)
    enter(gate, 10.0, arrived=9.96)
    with pytest.raises(Overloaded, match=REFUSED_FOR_WAITING):
        enter(gate, 10.0, arrived=9.95 - 1e-9)
    assert gate.refused_for_waiting == 1
    enter(gate, 10.0)  # nobody knows how long this one has waited


def test_the_time_before_the_gate_counts_as_time_that_the_call_took() -> None:
    gate = AdaptiveLimit()
    entered = enter(gate, 10.0, arrived=9.99)
    assert entered[1] == 9.99


def test_an_overload_begins_and_ends_once() -> None:
    gate = AdaptiveLimit()
    events: list[Event] = []
    gate.listeners.subscribe(lambda event: events.append(event) if not isinstance(event, CallRefused) else None)
    work(gate, 0.0, 2.0, 0.002, 350)
    assert events == []
    work(gate, 2.0, 2.0, 0.002, 1000)
    work(gate, 4.0, 3.0, 0.002, 350)
    assert [type(event) for event in events] == [OverloadBegan, OverloadEnded]
    assert [event.policy for event in events if isinstance(event, OverloadBegan | OverloadEnded)] == [
        "adaptive_limit"
    ] * 2
    assert gate.snapshot()["threshold"] is None


def test_listeners_are_not_called_under_the_lock() -> None:
    gate = AdaptiveLimit()
    locked: list[bool] = []
    gate.listeners.subscribe(lambda _: locked.append(gate.lock.locked()))
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 1000)
    work(gate, 4.0, 3.0, 0.002, 350)
    assert locked
    assert not any(locked)


def test_the_processor_is_read_outside_the_lock_and_only_when_needed() -> None:
    locked: list[bool] = []

    def read() -> float:
        locked.append(gate.lock.locked())
        return 0.0

    gate = AdaptiveLimit(cpu=read)
    work(gate, 0.0, 1.0, 0.002, 350)
    assert locked == []
    gate = AdaptiveLimit("bbr", cpu=read)
    work(gate, 0.0, 1.0, 0.002, 350)
    assert locked
    assert not any(locked)


def test_after_a_silence_nobody_is_refused_for_what_was_before() -> None:
    gate = AdaptiveLimit()
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 2500)
    assert gate.snapshot()["threshold"] is not None
    later = 10.0 + 3 * LONGEST_WINDOW
    leave(gate, enter(gate, later), later + 0.002)
    assert (gate.snapshot()["overloaded"], gate.snapshot()["threshold"]) == (False, None)


def test_a_window_with_few_calls_goes_on() -> None:
    gate = AdaptiveLimit()
    for number in range(SAMPLES - 1):
        leave(gate, enter(gate, number * 0.01), number * 0.01 + 0.001)
    assert gate.snapshot()["capacity"] == 0
    for number in range(SAMPLES - 1, 3 * SAMPLES):
        leave(gate, enter(gate, number * 0.01), number * 0.01 + 0.001)
    assert gate.snapshot()["capacity"] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("algorithm", list(LIMITS))
def test_each_algorithm_keeps_an_overloaded_server_answering(algorithm: Any) -> None:
    gate = AdaptiveLimit(algorithm, maximum=100, cpu=lambda: 0.0)
    work(gate, 0.0, 2.0, 0.002, 350)
    refused = work(gate, 2.0, 3.0, 0.002, 1500)
    assert gate.snapshot()["algorithm"] == algorithm
    assert refused == pytest.approx(3 * 1000, rel=0.1)
    assert gate.in_flight == 0
    assert 1 <= gate.limit <= 100


def test_new_settings_hold_at_once_and_keep_what_was_learned() -> None:
    gate = AdaptiveLimit()
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 1000)
    learned = gate.snapshot()
    gate.update(maximum=8)
    assert gate.limit == 8
    assert gate.snapshot()["capacity"] == learned["capacity"]
    gate.update(maximum=1000, target=0.2)
    work(gate, 4.0, 3.0, 0.002, 1000)
    assert gate.limit == pytest.approx(500 * 0.2, rel=0.2)
    gate.update(priorities=False)
    assert gate.snapshot()["overloaded"] is False
    assert len(fill(gate, 7.0, criticality=Criticality.SHEDDABLE)) == int(gate.limit) + 1


def test_another_algorithm_begins_where_the_last_one_was() -> None:
    gate = AdaptiveLimit(initial=20)
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 1000)
    found = gate.limit
    gate.update(algorithm="gradient2")
    assert gate.limit == found
    gate.update(algorithm="bbr")
    assert gate.limit == 1000
    gate.update(algorithm="queue_delay")
    assert gate.limit == 20  # bbr set no limit, which is nothing to begin with


def test_a_live_change_holds_nobody_up() -> None:
    gate = AdaptiveLimit()
    held = [enter(gate) for _ in range(5)]
    gate.update(algorithm="vegas", initial=30)
    for entered in held:
        leave(gate, entered, 0.01)
    assert gate.in_flight == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "magic"},
        {"target": 0},
        {"initial": 0},
        {"minimum": 10, "maximum": 5},
        {"window": -1},
        {"cpu": 3},
    ],
)
def test_settings_that_make_no_sense_change_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="AdaptiveLimit"):
        AdaptiveLimit(**wrong)
    gate = AdaptiveLimit()
    before = gate.snapshot()
    with pytest.raises(ConfigError):
        gate.update(**wrong)
    assert gate.snapshot() == before


def test_it_guards_a_function_in_a_pipeline() -> None:
    clock = VirtualClock(start=0.0)
    gate = AdaptiveLimit(initial=1, priorities=False)
    pipeline = Pipeline("orders", gate, clock=clock)

    def nested() -> str:
        with pytest.raises(Overloaded):
            pipeline.call(str, 1)
        return "outer"

    assert pipeline.call(nested) == "outer"
    assert gate.in_flight == 0
    assert gate.snapshot()["refused"] == 1


def test_nobody_waits_for_the_lock() -> None:
    # A signal handler or a finalizer may run in the thread that holds it.
    gate = AdaptiveLimit(initial=4)
    held = [enter(gate, criticality=Criticality.CRITICAL_PLUS) for _ in range(4)]
    refused: list[Overloaded] = []

    def use() -> None:
        try:
            enter(gate, criticality=Criticality.CRITICAL_PLUS)
        except Overloaded as error:
            refused.append(error)
        leave(gate, held.pop(), 5.0)

    with gate.lock:
        worker = threading.Thread(target=use, daemon=True)
        worker.start()
        worker.join(timeout=5)
        assert not worker.is_alive()
    assert len(refused) == 1
    assert gate.in_flight == 3


def test_taking_a_place_is_one_step() -> None:
    # The rule for enter and exit holds for what enter leaves this to, see docs/adr/0002.
    steps = [instruction.opname for instruction in dis.get_instructions(AdaptiveLimit._take)]
    assert steps.count("STORE_ATTR") == 1
    assert not any("CALL" in step or "BACKWARD" in step or step.startswith("BUILD") for step in steps)


@pytest.mark.usefixtures("switching_often")
def test_threads_never_hold_more_than_the_limit_and_lose_no_place() -> None:
    gate = AdaptiveLimit(initial=7, minimum=7, maximum=7, window=0.001)
    threads, rounds = 8, 3000
    highest = [0] * threads
    refused = [0] * threads
    barrier = threading.Barrier(threads, timeout=10)
    clock = [0.0]

    def run(number: int) -> None:
        barrier.wait()
        for _ in range(rounds):
            clock[0] += 1e-5
            try:
                held = enter(gate, clock[0], criticality=Criticality.CRITICAL_PLUS, key=number)
            except Overloaded:
                refused[number] += 1
                continue
            highest[number] = max(highest[number], gate.in_flight)
            leave(gate, held, clock[0])

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
        assert not worker.is_alive()
    assert gate.in_flight == 0
    assert 1 < max(highest) <= 7
    assert gate.snapshot()["completed"] + sum(refused) == threads * rounds
    assert gate.refused == gate.refused_by_limit + gate.refused_by_rank == sum(refused)


class GateMachine(RuleBasedStateMachine):
    """Against the obvious model: a set of the calls that are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = AdaptiveLimit(initial=6, maximum=12)
        self.now = 0.0
        self.held: list[tuple[Call, float]] = []
        self.refused = 0

    @rule(
        criticality=st.sampled_from(Criticality),
        key=st.sampled_from([None, "anna", "bert", "cleo"]),
        waited=st.sampled_from([0.0, 0.0, 0.01, 0.2]),
    )
    def a_call_comes(self, criticality: Criticality, key: str | None, waited: float) -> None:
        before = self.gate.in_flight
        arrived = self.now - waited if waited and self.now > waited else 0.0
        try:
            self.held.append(enter(self.gate, self.now, criticality=criticality, key=key, arrived=arrived))
        except Overloaded:
            self.refused += 1
            assert not (arrived == 0.0 and before == 0)  # an idle server refuses nobody
        else:
            assert before < self.gate.limit

    @rule(number=st.integers(0, 20), verdict=st.sampled_from(Verdict))
    def a_call_ends(self, number: int, verdict: Verdict) -> None:
        if self.held:
            leave(self.gate, self.held.pop(number % len(self.held)), self.now, verdict)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.5, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(algorithm=st.sampled_from(list(LIMITS)), priorities=st.booleans())
    def settings_change(self, algorithm: str, priorities: bool) -> None:
        self.gate.update(algorithm=algorithm, priorities=priorities)

    @invariant()
    def what_is_under_way_is_counted(self) -> None:
        assert self.gate.in_flight == len(self.held)
        assert self.gate.refused == self.refused
        snapshot = self.gate.snapshot()
        assert 1 <= snapshot["floor"] <= snapshot["limit"] <= 12 or snapshot["floor"] == snapshot["limit"] / 2


GateMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_the_gate_agrees_with_a_set_of_calls = GateMachine.TestCase


@pytest.fixture
def overloaded() -> AdaptiveLimit:
    gate = AdaptiveLimit()
    work(gate, 0.0, 2.0, 0.002, 350)
    work(gate, 2.0, 2.0, 0.002, 1000)
    return gate


def test_calm_windows_end_the_ranking(overloaded: AdaptiveLimit) -> None:
    assert overloaded.snapshot()["overloaded"]
    work(overloaded, 4.0, CALM_WINDOWS * 0.1 + 0.3, 0.002, 350)
    assert not overloaded.snapshot()["overloaded"]
