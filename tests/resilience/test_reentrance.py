"""A finalizer or a signal handler runs in the middle of other work, in the same thread, and must not wait for it."""

import pytest

from holdfast.core.event import Event, Listeners
from holdfast.resilience.circuit import announcer
from holdfast.resilience.circuit.announcer import Announcer
from holdfast.resilience.retrying import budget
from holdfast.resilience.retrying.budget import RetryBudget
from resilience.interruption import ends_although_interrupted


@pytest.mark.parametrize("interruption", ["begin", "try_spend"])
def test_a_budget_does_not_wait_for_itself_and_gives_no_retry_twice(interruption: str) -> None:
    spent = RetryBudget(ratio=0, floor=1)
    granted = []

    def take() -> None:
        granted.append(spent.try_spend(0.0))

    def work() -> None:
        spent.begin(0.0)
        take()

    assert ends_although_interrupted(budget, work, take if interruption == "try_spend" else lambda: spent.begin(0.0))
    for _ in range(20):
        take()
    assert (granted.count(True), spent.spent) == (10, 10)


@pytest.mark.parametrize("line", range(1, 15))
def test_an_announcer_does_not_wait_for_itself_and_loses_no_event(line: int) -> None:
    listeners = Listeners()
    heard: list[Event] = []
    listeners.subscribe(heard.append)
    announced = Announcer(listeners)

    def tell() -> None:
        announced.note(Event(1.0))
        announced.tell()

    assert ends_although_interrupted(announcer, tell, tell, only=line)
    tell()
    assert 2 <= len(heard) <= 3
    assert not announced._waiting
