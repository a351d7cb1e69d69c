"""A server is driven in windows by the obvious model: up to ``parallel`` calls at once, each of ``latency`` seconds."""

import random
from collections.abc import Iterator

import pytest

from holdfast.resilience.limits.algorithms import QueueDelay, Sample
from holdfast.resilience.limits.queue_delay import PROBE_INTERVAL, SMALL, TARGET

WINDOW = 0.1


class Server:
    """Answers a window of load: the throughput saturates at ``parallel / latency``, then only the latency grows.

    Calls that end in a window began in the one before, so a new limit shows in the latency one window late.
    """

    def __init__(self, latency: float, parallel: int, noise: float = 0.0) -> None:
        self.latency = latency
        self.parallel = parallel
        self.noise = noise
        self.now = 0.0
        self.before = 0.0
        self.rng = random.Random(7)

    @property
    def capacity(self) -> float:
        return self.parallel / self.latency

    def window(self, limit: QueueDelay, load: float) -> Sample:
        """One window in which ``load`` calls a second arrive, and at most the floor and half the rest are let in."""
        self.now += WINDOW
        allowed = limit.floor if limit.probing else limit.floor + 0.6 * (limit.limit - limit.floor)
        wanted = load * self.latency
        full = load > self.capacity or wanted > allowed
        in_flight = allowed if full else wanted
        throughput = min(in_flight / self.latency, self.capacity)
        held, self.before = self.before or in_flight, in_flight
        rtt = max(self.latency, held / self.capacity)
        rtt *= 1 + self.noise * self.rng.uniform(-1, 1)
        sample = Sample(
            now=self.now,
            rtt=rtt,
            in_flight=int(in_flight),
            completed=round(throughput * WINDOW),
            refused=round(max(0.0, load - throughput) * WINDOW),
            seconds=WINDOW,
        )
        limit.update(sample)
        return sample


def run(server: Server, limit: QueueDelay, seconds: float, load: float) -> Iterator[Sample]:
    for _ in range(round(seconds / WINDOW)):
        yield server.window(limit, load)


def drive(server: Server, limit: QueueDelay, seconds: float, load: float) -> list[Sample]:
    return list(run(server, limit, seconds, load))


def test_it_rests_while_the_limit_is_not_reached() -> None:
    limit, server = QueueDelay(initial=20), Server(0.002, 1)
    drive(server, limit, 30, 0.7 * server.capacity)
    assert limit.limit == 20


def test_a_single_server_gets_a_queue_of_the_target() -> None:
    limit, server = QueueDelay(initial=20), Server(0.002, 1)
    drive(server, limit, 2, 0.7 * server.capacity)
    drive(server, limit, 3, 2 * server.capacity)
    assert limit.capacity == pytest.approx(500)
    assert limit.limit == pytest.approx(500 * (0.002 * 1.6 + TARGET), rel=0.05)


def test_a_parallel_server_gets_all_its_places_and_the_queue() -> None:
    limit, server = QueueDelay(initial=20), Server(0.1, 50)
    drive(server, limit, 2, 10)
    drive(server, limit, 5, 2 * server.capacity)
    assert limit.floor > 50
    assert limit.limit == pytest.approx(500 * (0.1 * 1.6 + TARGET), rel=0.1)


def test_a_start_in_an_overload_does_not_take_the_queue_for_the_latency() -> None:
    limit, server = QueueDelay(initial=20), Server(0.002, 1)
    first, highest = [], 0.0
    while not limit.probing:
        first.append(server.window(limit, 5 * server.capacity))
        highest = max(highest, limit.limit)
    assert first[0].rtt > 5 * server.latency
    assert highest == 20
    drive(server, limit, 20, 5 * server.capacity)
    assert limit.latency <= SMALL * TARGET
    assert limit.limit < 40


def test_a_start_in_an_overload_finds_the_places_of_a_parallel_server() -> None:
    limit, server = QueueDelay(initial=20), Server(0.1, 60)
    drive(server, limit, 20, 2 * server.capacity)
    assert limit.latency == pytest.approx(0.1, rel=0.2)
    assert limit.floor > 60


def test_an_hour_of_overload_does_not_carry_it_away() -> None:
    limit, server = QueueDelay(initial=20), Server(0.02, 4, noise=0.2)
    drive(server, limit, 2, 0.5 * server.capacity)
    drive(server, limit, 60, 2 * server.capacity)
    after_a_minute = limit.limit
    drive(server, limit, 3600, 2 * server.capacity)
    assert limit.limit < 1.5 * after_a_minute


def test_a_server_that_becomes_slower_is_not_taken_for_a_queue() -> None:
    limit, server = QueueDelay(initial=20), Server(0.02, 20)
    drive(server, limit, 2, 0.5 * server.capacity)
    drive(server, limit, 5, 2 * server.capacity)
    server.latency = 0.2
    drive(server, limit, 3 * PROBE_INTERVAL, 2 * server.capacity)
    assert limit.floor > server.parallel
    assert limit.latency == pytest.approx(0.2, rel=0.3)


def test_a_server_that_loses_capacity_gets_a_shorter_queue() -> None:
    limit, server = QueueDelay(initial=20), Server(0.01, 20)
    drive(server, limit, 2, 0.5 * server.capacity)
    drive(server, limit, 5, 2 * server.capacity)
    before = limit.limit
    server.parallel = 5
    drive(server, limit, 5, 8 * server.capacity)
    assert limit.limit == pytest.approx(before / 4, rel=0.2)


def test_no_window_changes_it_by_more_than_a_factor_of_two() -> None:
    limit, server = QueueDelay(initial=20), Server(0.1, 500)
    drive(server, limit, 2, 10)
    before = limit.limit
    for _ in run(server, limit, 5, 2 * server.capacity):
        assert 0.49 * before <= limit.limit <= 2.01 * before
        before = limit.limit
    assert limit.limit > 500


def test_a_probe_is_short_and_rare() -> None:
    limit, server = QueueDelay(initial=20), Server(0.1, 20)
    drive(server, limit, 2, 10)
    probed = 0
    for _ in run(server, limit, 100, 2 * server.capacity):
        probed += limit.probing
    assert 0 < probed * WINDOW < 8


def test_a_probe_waits_for_the_calls_from_before_it_and_leaves_the_capacity_alone() -> None:
    limit, server = QueueDelay(initial=20), Server(0.1, 20)
    drive(server, limit, 2, 10)
    drive(server, limit, 5, 2 * server.capacity)
    assert limit.latency == pytest.approx(0.1, rel=0.05)
    probed = 0
    for _ in run(server, limit, 30, 2 * server.capacity):
        probed += limit.probing
        assert limit.capacity == pytest.approx(server.capacity, rel=0.05)
    assert probed > 0
    assert limit.latency == pytest.approx(0.1, rel=0.05)


def test_quick_calls_are_not_probed_for() -> None:
    limit, server = QueueDelay(initial=20), Server(0.002, 1)
    drive(server, limit, 2, 0.7 * server.capacity)
    for _ in run(server, limit, 60, 2 * server.capacity):
        assert not limit.probing


def test_new_bounds_hold_at_once() -> None:
    limit = QueueDelay(initial=20)
    limit.bound(1, 8)
    assert (limit.limit, limit.floor) == (8, 8)
    limit.bound(12, 30)
    assert (limit.limit, limit.floor) == (12, 12)


def test_a_sample_that_is_no_window_teaches_nothing() -> None:
    limit = QueueDelay(initial=20)
    limit.update(Sample(now=1.0, rtt=0.1, in_flight=5))
    limit.update(Sample(now=2.0, rtt=0.0, in_flight=5, completed=0, seconds=1.0, refused=9))
    assert (limit.limit, limit.latency, limit.capacity) == (20, 0.0, 0.0)
