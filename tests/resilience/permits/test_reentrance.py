"""A finalizer or a signal handler that uses the bulkhead in whose middle it runs waits for nothing for ever."""

import threading
from collections.abc import Hashable
from types import ModuleType
from typing import Any

import pytest

from holdfast.core.call import bare_call
from holdfast.core.clock import SYSTEM, VirtualClock
from holdfast.core.errors import BulkheadFull
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience import bulkhead
from holdfast.resilience.bulkhead import IN_THE_MIDDLE, Bulkhead, QueueCleared, QueueStanding
from holdfast.resilience.permits import permits, waiters
from holdfast.resilience.permits.partitions import Partition
from holdfast.resilience.permits.permits import NEWS_LIMIT, STANDING, Permits
from holdfast.resilience.permits.waiters import Waiter
from resilience.interruption import interrupted_everywhere

SHORT = 1e-4
"""Real seconds: nobody else is there who could end such a wait."""
KEEPS: dict[str, dict[str, Any]] = {
    "queue": {"queue": 2},
    "lifo": {"queue": 1, "order": "lifo"},
    "partitions": {"queue": 2, "partitions": {"a": 1, "*": 1}},
    "observe": {"partitions": {"a": 1, "*": 1}, "observe": True},
}


class Probe:
    """Calls through a bulkhead of one, and what comes into the middle of them."""

    def __init__(self, **options: Any) -> None:
        self.bulkhead = Bulkhead(1, max_wait=SHORT, **options)
        self.interrupted = False
        self.ended = 0

    def call(self, key: str, *inside: str) -> None:
        call = bare_call(key=key)
        try:
            token = self.bulkhead.admit(call)
        except BulkheadFull:
            return
        for other in inside:
            self.call(other)
        self.bulkhead.exit(call, token)
        self.ended += 1

    def work(self) -> None:
        self.call("a", "a", "b")
        self.call("c")
        self.bulkhead.snapshot()
        self.bulkhead._configure(self.bulkhead._plan)
        self.bulkhead._refresh()

    def interrupt(self) -> None:
        self.interrupted = True
        self.call("a")
        self.call("d", "b")
        self.bulkhead.snapshot()

    def check(self) -> None:
        gate = self.bulkhead
        assert not gate._turns.mine
        assert (gate.in_flight, gate.queued, len(gate._returned), len(gate._crowded)) == (0, 0, 0, 0)
        assert not any(part.in_flight or part.queued or len(part.line) for part in gate.partitions)
        ended = self.ended
        self.call("a")
        self.call("e")
        assert self.ended == ended + 2


@pytest.mark.parametrize("module", [permits, bulkhead, waiters], ids=["permits", "bulkhead", "waiters"])
@pytest.mark.parametrize("options", KEEPS.values(), ids=KEEPS)
def test_a_bulkhead_does_not_wait_for_a_thread_that_it_interrupted(module: ModuleType, options: dict[str, Any]) -> None:
    lines = interrupted_everywhere(module, lambda: Probe(**options))
    assert lines > (1 if module is waiters else 30)


@pytest.mark.parametrize("key", ["known", "unknown"])
def test_in_the_middle_of_a_job_a_call_is_refused_at_once_or_passes_observed(key: str) -> None:
    for observe in (False, True):
        gate = Bulkhead(1, queue=5, max_wait=1e6, partitions={"known": 1, "*": 1}, observe=observe)
        gate.guard(key="known").__enter__()

        def inside(gate: Bulkhead = gate, observe: bool = observe) -> None:
            call = bare_call(key=key)
            if observe:
                assert gate.admit(call) is None
            else:
                with pytest.raises(BulkheadFull, match=IN_THE_MIDDLE):
                    gate.admit(call)

        gate._turns.run(inside)
        seen = gate.snapshot()
        assert (seen["refused"], seen["observed"], seen["in_flight"]) == ((0, 1, 1) if observe else (1, 0, 1))
        assert list(seen["partitions"]) == ["known"]


def test_in_the_middle_of_a_job_what_is_free_is_there_for_anybody() -> None:
    gate = Bulkhead(2, queue=5, partitions={"known": 1, "*": 1})

    def inside() -> None:
        call = bare_call(key="known")
        token = gate.admit(call)
        assert gate.in_flight == 1
        gate.exit(call, token)

    gate._turns.run(inside)
    assert (gate.in_flight, gate.refused) == (0, 0)


def test_settings_may_change_in_the_middle_of_a_job() -> None:
    gate = Bulkhead(1, queue=5, max_wait=SHORT)

    def inside() -> None:
        gate.update(limit=3)
        assert gate._limit == 1

    gate._turns.run(inside)
    for _ in range(3):
        gate.guard().__enter__()
    assert gate.in_flight == 3


def test_what_changed_in_the_middle_of_a_job_is_told_once_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Bulkhead(1, partitions={"*": 1})
    gate._standing, gate._queued_since = True, 0.0  # as after a line that everybody has just left
    heard: list[Event] = []

    def hear(event: Event) -> None:
        assert not gate._turns.mine
        heard.append(event)

    gate.listeners.subscribe(hear)
    made = Permits._made

    def made_meanwhile(permits: Permits, key: Hashable) -> Partition:
        gate.update(max_wait=2.0)
        assert heard == []
        return made(permits, key)

    monkeypatch.setattr(Permits, "_made", made_meanwhile)
    Pipeline("x", gate).bind(key="new").call(int)
    assert [type(event) for event in heard] == [QueueCleared]


@pytest.mark.parametrize("job", ["_made", "_note_news"])
def test_a_permit_that_comes_back_in_the_middle_of_a_job_is_passed_on_after_it(
    monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    gate = Bulkhead(1, queue=2, max_wait=30.0, partitions={"*": 1})
    held = bare_call(key="held")
    token = [gate.enter(held)]
    passed = threading.Event()
    waiter = threading.Thread(target=Pipeline("x", gate).bind(key="waits").call, args=(passed.set,))
    waiter.start()
    while not gate.queued:
        assert waiter.is_alive()
    original = getattr(Permits, job)

    def meanwhile(permits: Permits, *args: Any) -> Any:
        if token:
            assert gate._turns.mine
            gate.exit(held, token.pop())
        return original(permits, *args)

    monkeypatch.setattr(Permits, job, meanwhile)
    if job == "_made":
        gate._partition("new")
    else:
        gate._join(Waiter(gate._everybody, 0.0, 0.0), SYSTEM, waits=False)
    waiter.join(30)
    assert passed.is_set()
    assert (gate.in_flight, gate.queued, token) == (0, 0, [])


def test_news_are_told_in_their_order_and_no_more_than_are_kept() -> None:
    gate = Bulkhead(1, queue=1)
    heard: list[tuple[type[Event], float]] = []
    gate.listeners.subscribe(lambda event: heard.append((type(event), getattr(event, "seconds", 0.0))))
    for number in range(NEWS_LIMIT):
        gate._untold.append((False, 0, -1.0))
        gate._untold.append((number % 2 == 0, 1, float(number)))
    gate._spread()
    assert len(heard) == NEWS_LIMIT
    assert heard[-2:] == [(QueueCleared, -1.0), (QueueCleared, NEWS_LIMIT - 1.0)]
    assert (QueueStanding, NEWS_LIMIT - 2.0) in heard
    gate._spread()
    assert len(heard) == NEWS_LIMIT


def test_who_makes_a_line_stand_tells_it_at_once() -> None:
    clock = VirtualClock()
    gate = Bulkhead(1, queue=2)
    heard: list[type[Event]] = []
    gate.listeners.subscribe(lambda event: heard.append(type(event)))
    gate.guard().__enter__()
    for expected in ([], [QueueStanding]):
        gate._join(Waiter(gate._everybody, clock.now(), clock.now() + 9.0), clock)
        assert heard == expected
        clock.advance(2 * STANDING)
