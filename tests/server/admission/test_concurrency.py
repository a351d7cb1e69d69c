"""How many handlers may run at a time: found where they wait for something, and no limit where they do not."""

from math import inf

import pytest

from effort import examples
from holdfast.server.admission.concurrency import CALM, KINDS, PROBE_INTERVAL, TOLERANCE, Concurrency
from server.admission.backend import Simulation

SEEDS = range(examples(3))


def learned(seed: int, *, places: int = 20, seconds: float = 0.05) -> tuple[Concurrency, Simulation]:
    """After 5 s of half of what there is room for."""
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=places, seconds=seconds)
    simulation.run(simulation.capacity / 2, 5.0)
    assert governor.limit == inf
    assert not simulation.refused
    return governor, simulation


def slowest(simulation: Simulation, since: float) -> float:
    times = sorted(seconds for at, seconds in simulation.answered if at >= since)
    return times[int(len(times) * 0.99)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [1.5, 2.0, 5.0])
@pytest.mark.parametrize(("places", "seconds"), [(20, 0.05), (4, 0.02), (100, 0.2), (1, 0.005)])
def test_a_backend_with_too_much_to_do_is_kept_busy_and_no_more(
    places: int, seconds: float, load: float, seed: int
) -> None:
    governor, simulation = learned(seed, places=places, seconds=seconds)
    simulation.run(simulation.capacity * load, 2.0)
    since = simulation.now
    goodput = simulation.run(simulation.capacity * load, 8.0)
    assert goodput >= 0.95 * simulation.capacity
    assert governor.limit <= max(3.6, 2.6 * places)
    # Inside the tolerance, and a while in the queue before it.
    assert slowest(simulation, since) <= max(3 * seconds, 2.0 * seconds + 0.15)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_second_is_not_lost(seed: int) -> None:
    governor, simulation = learned(seed)
    assert simulation.run(simulation.capacity * 2, 1.0) >= 0.9 * simulation.capacity
    assert governor.limit <= 2.2 * simulation.places


@pytest.mark.parametrize("seed", SEEDS)
def test_an_app_that_waits_on_purpose_is_not_limited(seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=10**6, seconds=2.0)
    for rate in (1.0, 250.0, 20.0, 1000.0):
        simulation.run(rate, 10.0)
    assert not simulation.refused
    assert governor.imposed == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_more_of_the_slow_ones_is_no_overload(seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=10**6)
    simulation.kinds = [("quick", lambda: 0.01), ("slow", lambda: 2.0)]
    for share in (0.01, 0.5, 0.0, 0.9):
        simulation.run(200.0, 10.0, (1 - share, share))
    assert not simulation.refused
    assert governor.imposed == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rare", [True, False])
def test_a_few_that_take_very_long_are_no_overload(rare: bool, seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=10**6)
    chance = simulation.chance
    takes = (lambda: 5.0 if chance.random() < 0.02 else 0.01) if rare else (lambda: chance.lognormvariate(-4.0, 1.5))
    simulation.kinds = [("all", takes)]
    simulation.run(100.0, 60.0)
    assert not simulation.refused
    assert governor.imposed == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_long_polls_are_no_overload(seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=10**6)
    simulation.kinds = [("poll", lambda: simulation.chance.uniform(0.001, 30.0))]
    simulation.run(100.0, 120.0)
    assert not simulation.refused
    assert governor.imposed == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("times", [3.0, 10.0])
def test_a_backend_that_is_slower_for_good_is_taken_as_it_is_after_some_seconds(times: float, seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed, places=10**6)
    simulation.run(300.0, 5.0)
    simulation.seconds *= times
    simulation.run(300.0, 10.0)
    refused = len(simulation.refused)
    simulation.run(300.0, 20.0)
    assert governor.probes >= 1
    assert len(simulation.refused) == refused


@pytest.mark.parametrize("seed", SEEDS)
def test_the_limit_follows_a_backend_that_has_more_room(seed: int) -> None:
    governor, simulation = learned(seed)
    simulation.run(simulation.capacity * 2, 5.0)
    simulation.places *= 4
    rate = simulation.capacity * 2
    simulation.run(rate, 2.0)
    assert simulation.run(rate, 5.0) >= 0.95 * simulation.capacity
    assert governor.limit >= 0.95 * simulation.places


@pytest.mark.parametrize("seed", SEEDS)
def test_the_limit_is_found_in_a_start_under_overload(seed: int) -> None:
    governor = Concurrency()
    simulation = Simulation(governor, seed)
    simulation.run(simulation.capacity * 2, PROBE_INTERVAL * 3)
    assert governor.probes >= 1
    assert simulation.run(simulation.capacity * 2, 5.0) >= 0.95 * simulation.capacity
    assert simulation.places <= governor.limit <= 2.6 * simulation.places


@pytest.mark.parametrize("seed", SEEDS)
def test_there_is_no_limit_any_more_after_calm(seed: int) -> None:
    governor, simulation = learned(seed)
    simulation.run(simulation.capacity * 2, 3.0)
    assert governor.limit < inf
    refused = len(simulation.refused)
    simulation.run(simulation.capacity / 2, CALM / 2)
    assert governor.limit < inf
    simulation.run(simulation.capacity / 2, CALM)
    assert governor.limit == inf
    last = simulation.run(simulation.capacity / 2, 5.0)
    assert last == pytest.approx(simulation.capacity / 2, rel=0.1)
    assert len(simulation.refused) <= refused + 50


@pytest.mark.parametrize("seed", SEEDS)
def test_an_overload_of_minutes_does_not_become_what_is_usual(seed: int) -> None:
    governor, simulation = learned(seed)
    simulation.run(simulation.capacity * 2, 180.0)
    assert simulation.run(simulation.capacity * 2, 10.0) >= 0.95 * simulation.capacity
    assert simulation.places <= governor.limit <= 2 * TOLERANCE * simulation.places


def test_no_path_makes_the_memory_grow() -> None:
    governor = Concurrency()
    for number in range(10 * KINDS):
        governor.ended(f"/{number}", 0.01, 100.0 + number * 0.01, full=False)
    assert len(governor._kinds) == KINDS


def test_durations_that_are_nothing_are_taken() -> None:
    governor = Concurrency()
    for number in range(100):
        governor.ended("all", 0.0, 100.0 + number * 0.01, full=True)
    assert governor.snapshot() == {"limit": None, "slower": 1.0, "imposed": 0, "probes": 0, "probing": False}
