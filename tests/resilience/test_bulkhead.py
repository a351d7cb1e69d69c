import asyncio
from typing import Any

import pytest

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull, ConfigError, Rejected
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import CallRefused
from holdfast.resilience.bulkhead import Bulkhead
from resilience.room import Room, settle


def test_calls_above_the_limit_are_refused_and_one_that_ends_makes_room() -> None:
    bulkhead = Bulkhead(2)
    first, second = bare_call(), bare_call()
    tokens = [bulkhead.enter(first), bulkhead.enter(second)]
    with pytest.raises(BulkheadFull) as caught:
        bulkhead.enter(bare_call())
    assert str(caught.value) == "bulkhead: 2 calls are under way"
    assert caught.value.snapshot == {"in_flight": 2, "limit": 2, "queued": 0}
    bulkhead.exit(first, tokens[0])
    bulkhead.exit(bare_call(), bulkhead.enter(bare_call()))
    assert (bulkhead.in_flight, bulkhead.refused) == (1, 1)


def test_a_call_that_fails_gives_its_permit_back() -> None:
    bulkhead = Bulkhead(1)

    @bulkhead
    def fail() -> None:
        assert bulkhead.in_flight == 1
        raise OSError

    for _ in range(3):
        with pytest.raises(OSError):  # noqa: PT011 - any OSError
            fail()
    assert bulkhead.in_flight == 0


def test_the_default_is_25_calls_and_no_queue() -> None:
    bulkhead = Bulkhead()
    assert (bulkhead.settings.limit, bulkhead.settings.queue, bulkhead.waits) == (25, 0, False)


def test_one_that_only_observes_counts_those_above_the_limit_and_holds_nothing_for_them() -> None:
    bulkhead = Bulkhead(1, observe=True)
    tokens = [bulkhead.enter(bare_call()) for _ in range(3)]
    assert tokens == [True, None, None]
    for token in tokens:
        bulkhead.exit(bare_call(), token)
    assert (bulkhead.in_flight, bulkhead.observed, bulkhead.refused) == (0, 2, 0)


def test_one_that_only_observes_lets_nobody_wait() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, observe=True)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number) for number in range(3)]
        await settle()
        assert room.inside == [0, 1, 2]
        for number in range(3):
            room.finish(number)
        await asyncio.gather(*calls)

    clock.run(main())
    assert (bulkhead.observed, bulkhead.waited, bulkhead.in_flight) == (2, 0, 0)


def test_a_refusal_is_told_to_listeners() -> None:
    bulkhead = Bulkhead(1)
    heard: list[Event] = []
    bulkhead.listeners.subscribe(heard.append)
    bulkhead.enter(bare_call())
    with pytest.raises(BulkheadFull):
        bulkhead.enter(bare_call("stock"))
    (event,) = heard
    assert isinstance(event, CallRefused)
    assert (event.operation, event.reason, event.observed) == ("stock", "1 call is under way", False)


def test_the_snapshot_tells_of_permits_and_waits() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=0.3, partitions={"paid": 1.0})
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number, key="paid") for number in range(2)]
        await asyncio.gather(*calls[1:], return_exceptions=True)
        room.finish(0)
        await calls[0]

    clock.run(main())
    assert bulkhead.snapshot() == {
        "refused": 1,
        "observed": 0,
        "in_flight": 0,
        "limit": 1,
        "queued": 0,
        "waited": 1,
        "timeouts": 1,
        "pushed_out": 0,
        "longest_wait": pytest.approx(0.3),
        "partitions": {"paid": {"in_flight": 0, "limit": 1, "queued": 0}},
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "Bulkhead limit: got 0, expected a whole number, at least 1"),
        ({"queue": -1}, "Bulkhead queue: got -1, expected a whole number, at least 0, at most 100000"),
        ({"max_wait": 0}, "Bulkhead max_wait: got 0, expected a duration such as 500ms or 1m30s, more than 0"),
        ({"order": "random"}, 'Bulkhead order: got \'random\', expected "fifo" or "lifo"'),
        ({"partitions": {"paid": 0.0}}, "Bulkhead partitions: got {'paid': 0.0}, expected for 'paid' a share such as"),
        ({"partitions": 5}, "Bulkhead partitions: got 5, expected a table of partitions"),
        ({"partition_by": len}, "Bulkhead partition_by: got <built-in function len>, expected partitions to go with"),
    ],
)
def test_wrong_settings_are_refused_with_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Bulkhead(**settings)
    assert message in str(caught.value)


def test_settings_that_do_not_fit_change_nothing_in_a_live_bulkhead() -> None:
    bulkhead = Bulkhead(1)
    bulkhead.enter(bare_call())
    with pytest.raises(ConfigError):
        bulkhead.update(limit=0)
    with pytest.raises(Rejected):
        bulkhead.enter(bare_call())
