"""What workers say is added up, with workers whose other end the test holds."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.supervisor import census
from holdfast.supervisor.census import ANSWER_LIMIT, quantile, take_census
from holdfast.supervisor.channel import Counted, Message, frame
from holdfast.supervisor.counts import GateNow, PressureNow, QueueNow, RouteNow, WorkerCounts
from holdfast.telemetry.requests import BOUNDS, CLASSES, RequestCounters, RouteCounts
from supervisor.test_agreement import Talking, run

QUEUE = QueueNow(3, 2, None, "found out", 9, 1, True, 0.001, 0.005)


class Counting(Talking):
    """A worker that answers each question with these counts, or not at all."""

    def __init__(self, slot: int, counts: WorkerCounts | None = None, *, deaf: bool = False) -> None:
        super().__init__(slot)
        self.counts = counts
        self.deaf = deaf

    def heard(self) -> list[dict[str, object]]:
        found = super().heard()
        for message in found:
            if message["type"] == "Count" and not self.deaf:
                self.socket.sendall(frame(Counted(int(str(message["ticket"])), self.counts)))
        return found


def counts(*requests: tuple[str, int, float], refused: tuple[tuple[str, str], ...] = ()) -> dict[str, RouteCounts]:
    counters = RequestCounters()
    for route, status, seconds in requests:
        counters.count(route, status, seconds)
    for route, reason in refused:
        counters.refuse(route, reason)
    return counters.snapshot().routes


def rows(found: dict[str, RouteCounts], in_flight: int = 0, waiting: int = 0, *gates: GateNow) -> tuple[RouteNow, ...]:
    return tuple(RouteNow(name, one, in_flight, waiting, gates) for name, one in found.items())


def test_the_figures_of_all_workers_are_added_up() -> None:
    async def scene() -> None:
        first = rows(counts(("/a", 200, 0.004), ("/a", 500, 0.004), ("/b", 200, 3.0), refused=(("/a", "queue"),)), 2, 1)
        second = rows(counts(("/c", 200, 0.1), ("/a", 200, 0.2), refused=(("/a", "queue"), ("/a", "memory"))), 1, 0)
        pressure = PressureNow(memory=0.5)
        peers = [
            Counting(1, WorkerCounts(second, pressure=pressure, left_out=4)),
            Counting(0, WorkerCounts(first, queue=QUEUE)),
        ]
        found = await take_census("shop", [peer.worker for peer in peers])
        assert (found.name, found.left_out) == ("shop", 4)
        assert [route.name for route in found.routes] == ["/a", "/b", "/c"]
        a = found.routes[0]
        assert (a.requests, a.in_flight, a.waiting) == (3, 3, 1)
        assert a.classes == dict.fromkeys(CLASSES, 0) | {"2xx": 2, "5xx": 1}
        assert a.refused == {"queue": 2, "memory": 1}
        assert a.mean == pytest.approx(0.208 / 3)
        assert (a.p50, a.p99) == (quantile(a.buckets, 0.5), quantile(a.buckets, 0.99))
        assert [(one.slot, one.state, one.missing) for one in found.workers] == [(0, "ready", ""), (1, "ready", "")]
        assert [one.queue for one in found.workers] == [QUEUE, None]
        assert found.workers[1].pressure == pressure
        for peer in peers:
            await peer.close()
            assert peer.told == ["Count"]

    run(scene)


def test_gates_of_one_kind_and_name_are_one() -> None:
    async def scene() -> None:
        plain = counts(("/a", 200, 0.004))
        told: list[tuple[GateNow, ...]] = [
            (
                GateNow("bulkhead", "bulkhead", 3, 20.0),
                GateNow("breaker", "bank", states={"closed": 1}),
                GateNow("throttle", "throttle", share=0.1),
                GateNow("rate_limit", "rate_limit"),
            ),
            (
                GateNow("bulkhead", "bulkhead", 4, 20.0),
                GateNow("bulkhead", "few", 1, 2.0),
                GateNow("breaker", "bank", states={"open": 1}),
                GateNow("throttle", "throttle", share=0.4),
            ),
            (GateNow("bulkhead", "bulkhead", 0), GateNow("breaker", "bank", states={"closed": 2})),
        ]
        peers = [Counting(slot, WorkerCounts(rows(plain, 0, 0, *gates), gates[:1])) for slot, gates in enumerate(told)]
        found = await take_census("shop", [peer.worker for peer in peers])
        assert found.routes[0].gates == (
            GateNow("bulkhead", "bulkhead", 7, 40.0),
            GateNow("breaker", "bank", states={"closed": 3, "open": 1}),
            GateNow("throttle", "throttle", share=0.4),
            GateNow("rate_limit", "rate_limit"),
            GateNow("bulkhead", "few", 1, 2.0),
        )
        assert found.gates == (GateNow("bulkhead", "bulkhead", 7, 40.0),)
        for peer in peers:
            await peer.close()

    run(scene)


def test_who_cannot_answer_is_named_and_who_hangs_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "ANSWER_LIMIT", 0.05)

    async def scene() -> None:
        answers = WorkerCounts(rows(counts(("/a", 200, 0.004))))
        peers = [Counting(0, answers), *(Counting(slot, deaf=True) for slot in range(1, 4)), Counting(4), Counting(5)]
        peers[2].worker.hung = True
        peers[3].worker.state = "booting"
        peers[5].worker.state = "draining"
        peers[5].counts = answers
        found = await take_census("shop", [peer.worker for peer in peers])
        assert found.routes[0].requests == 2
        assert [(one.slot, one.state, one.missing) for one in found.workers] == [
            (0, "ready", ""),
            (1, "ready", "no answer within 0.05 s"),
            (2, "hung", "its event loop is blocked"),
            (3, "booting", "it is booting"),
            (4, "ready", "it does not serve yet"),
            (5, "draining", ""),
        ]
        for peer in peers:
            await peer.close()
        assert [peer.told for peer in peers] == [["Count"], ["Count"], [], [], ["Count"], ["Count"]]

    run(scene)


def test_one_that_goes_meanwhile_is_not_waited_for() -> None:
    async def scene() -> None:
        class Dying(Counting):
            def heard(self) -> list[dict[str, object]]:
                found = super().heard()
                if found:
                    self.worker.reaped(0)
                return found

        peers = [Dying(0, deaf=True), Counting(1, WorkerCounts())]
        found = await take_census("shop", [peer.worker for peer in peers])
        assert [(one.state, one.missing) for one in found.workers] == [("gone", "it is gone"), ("ready", "")]
        for peer in peers:
            await peer.close()

    run(scene)


def test_without_workers_there_is_nothing() -> None:
    async def scene() -> None:
        found = await take_census("shop", [])
        assert (found.routes, found.gates, found.workers) == ((), (), ())

    run(scene)
    assert ANSWER_LIMIT < 5.0  # which is how long the command waits


def at(seconds: float, number: int = 1) -> tuple[int, ...]:
    counters = RequestCounters()
    for _ in range(number):
        counters.count("/", 200, seconds)
    return counters.snapshot().routes["/"].buckets


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        (at(0.001), 1.0, 0.001),
        (at(0.004, 4), 0.5, 0.00375),
        (at(0.0001, 2), 0.5, 0.0005),
        (at(60.0), 0.5, 10.0),
        ((0,) * (len(BOUNDS) + 1), 0.5, None),
        ((50, 0, 0, 50, *(0,) * 13), 0.5, 0.001),
        ((50, 0, 0, 50, *(0,) * 13), 0.75, 0.0075),
        ((50, 0, 0, 50, *(0,) * 13), 0.99, 0.0099),
    ],
)
def test_a_percentile_lies_on_a_line_inside_of_its_bucket(
    buckets: tuple[int, ...], share: float, seconds: float | None
) -> None:
    assert quantile(buckets, share) == (None if seconds is None else pytest.approx(seconds))


@settings(max_examples=100)
@given(st.lists(st.floats(1e-5, 20.0), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_percentile_is_in_the_bucket_of_the_true_one(durations: list[float], share: float) -> None:
    counters = RequestCounters()
    for seconds in durations:
        counters.count("/", 200, seconds)
    found = quantile(counters.snapshot().routes["/"].buckets, share)
    rank = share * len(durations)
    true = next(seconds for number, seconds in enumerate(sorted(durations), 1) if number >= rank - 1e-9)
    above = next((bound for bound in BOUNDS if bound >= true), BOUNDS[-1])
    below = max([bound for bound in BOUNDS if bound < true], default=0.0)
    assert found is not None
    assert below - 1e-9 <= found <= above + 1e-9


def test_messages_cross_the_socket_as_they_are() -> None:
    sent: list[Any] = []

    async def scene() -> None:
        told = WorkerCounts(
            rows(counts(("/a", 200, 0.004)), 1, 2, GateNow("bulkhead", "few", 1, 2.0)), queue=QUEUE, left_out=1
        )
        peer = Counting(0, deaf=True)
        worker = peer.worker
        hear: Callable[[Message], Any] = worker._answered  # type: ignore[assignment]
        worker._answered = lambda message: (sent.append(message), hear(message))[1]  # type: ignore[method-assign,func-returns-value]
        await peer.say(Counted(7, told))
        assert sent == [Counted(7, told)]
        await peer.close()

    run(scene)
