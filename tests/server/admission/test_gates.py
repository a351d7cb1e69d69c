from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import Criticality
from holdfast.core.errors import ConfigError
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.ratelimit import RateLimit
from holdfast.server.admission.gates import OTHERS, Gates, Lane
from holdfast.server.admission.settings import RouteSettings, read_admission, read_routes


class Room:
    """Gates, and what they are told one after the other."""

    def __init__(self) -> None:
        self.gates = Gates(VirtualClock())

    def made(self, *routes: dict[str, Any], **admission: Any) -> tuple[tuple[Lane, ...], Lane]:
        prepared = self.gates.prepare(read_admission({"queue": False, **admission}), read_routes(routes))
        self.gates.commit(prepared)
        return prepared.lanes, prepared.others


def kinds(lane: Lane) -> list[type]:
    return [type(gate) for gate in lane.gates]


def test_a_lane_has_the_gates_of_the_process_and_its_own() -> None:
    route = {"match": "/a", "rate_limit": "5/s", "bulkhead": 3, "timeout": "2s", "criticality": "sheddable"}
    (lane,), others = Room().made(route, concurrency=True, clients={"rate": "100/s"})
    assert kinds(lane) == [RateLimit, RateLimit, AdaptiveLimit, Bulkhead]
    assert [gate.name for gate in lane.gates] == ["clients", "rate_limit", "adaptive_limit", "bulkhead"]
    assert (lane.name, lane.seconds, lane.criticality) == ("/a", 2.0, Criticality.SHEDDABLE)
    assert kinds(others) == [RateLimit, AdaptiveLimit]
    assert others.gates[0] is lane.gates[0]
    assert others.gates[1] is lane.gates[2]
    assert (others.name, others.seconds) == (OTHERS, None)


def test_without_settings_there_is_no_gate() -> None:
    (lane,), others = Room().made({"match": "/a"})
    assert lane.gates == others.gates == ()


def test_a_list_of_policies_says_where_the_process_limit_is() -> None:
    route = {"match": "/a", "policies": ["bulkhead", "concurrency"]}
    (lane, plain), _ = Room().made(route, {"match": "/b", "policies": ["bulkhead"]}, concurrency=True)
    assert kinds(lane) == [Bulkhead, AdaptiveLimit]
    assert kinds(plain) == [Bulkhead]


def test_a_gate_that_stays_keeps_its_state_and_takes_new_settings() -> None:
    room = Room()
    (old,), _ = room.made({"match": "/a", "bulkhead": 3, "rate_limit": "5/s"}, concurrency=True)
    kept = old.gates[2]
    assert isinstance(kept, Bulkhead)
    kept.in_flight = 2
    (new,), _ = room.made({"match": "/a", "bulkhead": 7, "rate_limit": "6/s"}, concurrency={"maximum": 9})
    assert all(before is after for before, after in zip(old.gates, new.gates, strict=True))
    rate, limit, bulkhead = new.gates
    assert isinstance(bulkhead, Bulkhead)
    assert bulkhead.in_flight == 2
    assert bulkhead.settings.limit == 7
    assert float(rate.settings.rate) == 6
    assert limit.settings.maximum == 9


def test_gates_are_known_by_route_kind_and_name() -> None:
    room = Room()
    policies = [{"bulkhead": {"limit": 1, "name": "x"}}, {"bulkhead": {"limit": 2, "name": "y"}}]
    (old,), _ = room.made({"match": "/a", "name": "r", "policies": policies})
    (new,), _ = room.made({"match": "POST /b", "name": "r", "policies": policies[::-1]})
    assert new.gates == old.gates[::-1]
    (other,), _ = room.made({"match": "POST /b", "name": "s", "policies": policies})
    assert not set(other.gates) & set(old.gates)
    (third,), _ = room.made({"match": "POST /b", "name": "s", "bulkhead": {"limit": 1, "name": "z"}})
    assert third.gates[0] not in other.gates


def test_a_gate_that_is_gone_is_forgotten() -> None:
    room = Room()
    (old,), _ = room.made({"match": "/a", "bulkhead": 3}, concurrency=True, clients={"rate": "1/s"})
    (none,), others = room.made({"match": "/a"})
    assert none.gates == others.gates == ()
    assert list(room.gates.each()) == []
    (new,), _ = room.made({"match": "/a", "bulkhead": 3}, concurrency=True, clients={"rate": "1/s"})
    assert not set(new.gates) & set(old.gates)


def test_nothing_changes_before_it_is_committed() -> None:
    room = Room()
    (old,), _ = room.made({"match": "/a", "bulkhead": 3})
    settings = read_routes([{"match": "/a", "bulkhead": 9}, {"match": "/b", "bulkhead": 1}])
    room.gates.prepare(read_admission(), settings)
    assert old.gates[0].settings.limit == 3
    assert [name for name, _ in room.gates.each()] == ["/a"]


def test_rate_limits_go_by_the_clock_of_the_admission() -> None:
    clock = VirtualClock()
    gates = Gates(clock)
    gates.commit(gates.prepare(read_admission(), read_routes([{"match": "/a", "rate_limit": "1/m"}])))
    ((_, gate),) = gates.each()
    assert isinstance(gate, RateLimit)
    assert [gate.try_acquire(), gate.try_acquire()] == [True, False]
    clock.advance(60.0)
    assert gate.try_acquire()


def test_settings_that_are_the_same_change_nothing() -> None:
    room = Room()
    route = {"match": "/a", "rate_limit": {"rate": "5/s", "key": "header:x"}, "bulkhead": 3}
    room.made(route, concurrency=True, clients={"rate": "5/s"})
    settings = read_admission({"queue": False, "concurrency": True, "clients": {"rate": "5/s"}})
    assert room.gates.prepare(settings, read_routes([route])).changes == ()


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"routes\[1\]\.name"):
        Gates().prepare(read_admission(), [RouteSettings(match="/a", name="x"), RouteSettings(match="/b", name="x")])


def test_each_gate_is_told_with_its_route() -> None:
    room = Room()
    room.made({"match": "/a", "bulkhead": 3}, {"match": "/b", "rate_limit": "1/s"}, concurrency=True)
    told = [(name, gate.kind) for name, gate in room.gates.each()]
    assert told == [("", "adaptive_limit"), ("/a", "bulkhead"), ("/b", "rate_limit")]
