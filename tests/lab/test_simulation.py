"""The simulation is held against what queueing theory and plain arithmetic say about the same server."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from holdfast.core.context import Criticality
from holdfast.lab.outcome import GOOD, LATE, REFUSED, Result, ceiling
from holdfast.lab.simulation import (
    Clients,
    Draw,
    OpenDoor,
    Request,
    Server,
    Simulation,
    bimodal,
    exponential,
    fixed,
)
from holdfast.resilience.retry import RetrySettings
from holdfast.resilience.retrying.budget import RetryBudgetSettings

MEAN = 0.002


class AtMost:
    """The plainest gate: so many at once."""

    expires = False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.highest = 0

    def admit(self, request: Request, now: float, parsed: float) -> bool:
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        self.highest = max(self.highest, self.in_flight)
        return True

    def finish(self, request: Request, now: float, late: bool) -> None:
        self.in_flight -= 1


class Recorded(OpenDoor):
    """Lets everybody in, and writes down who was seen when."""

    def __init__(self) -> None:
        super().__init__()
        self.parsed: list[tuple[float, float]] = []
        self.finished: list[tuple[float, float]] = []

    def admit(self, request: Request, now: float, parsed: float) -> bool:
        self.parsed.append((request.arrived, now))
        return True

    def finish(self, request: Request, now: float, late: bool) -> None:
        self.finished.append((request.arrived, now))


class Shut(OpenDoor):
    """Lets nobody in, and writes down who tried for which time."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[int] = []

    def admit(self, request: Request, now: float, parsed: float) -> bool:
        self.attempts.append(request.attempt)
        return False


def recovered(result: Result, since: float) -> float:
    """Seconds from ``since`` until a half second in which all calls got their answer begins."""
    return next(step / 2 for step in range(40) if result.success(since + step / 2, since + step / 2 + 0.5) > 0.99)


def test_the_same_seed_gives_the_same_outcomes() -> None:
    runs = [Simulation([(2, 1.4)], seed=seed).run(AtMost(10)).outcomes for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_every_call_has_one_outcome() -> None:
    clients = Clients(retry=RetrySettings())
    door = AtMost(10)
    result = Simulation([(3, 2.0)], clients=clients, seed=3).run(door)
    assert len({one.born for one in result.outcomes}) == len(result.outcomes)
    assert {one.kind for one in result.outcomes} <= {GOOD, REFUSED, LATE}
    assert len(result.outcomes) == pytest.approx(3 * 2 * 500, rel=0.1)
    assert door.in_flight == 0


def test_calls_are_parsed_and_served_in_the_order_of_arrival() -> None:
    door = Recorded()
    Simulation([(3, 0.9)]).run(door)
    assert door.parsed == sorted(door.parsed)
    assert door.finished == sorted(door.finished)
    assert all(before[1] + MEAN <= after[1] + 1e-9 for before, after in pairwise(door.finished))


def test_what_arrives_during_a_turn_waits_until_it_is_over() -> None:
    door = Recorded()
    Simulation([(3, 0.9)]).run(door)
    waits = [seen - arrived for arrived, seen in door.parsed]
    assert max(waits) > 2 * MEAN
    assert all(wait >= 0 for wait in waits)


def test_the_wait_of_a_light_load_is_that_of_the_pollaczek_khinchine_formula() -> None:
    # M/D/1 at 0.7: the mean wait is rho * s / (2 * (1 - rho)) = 2.33 ms.
    result = Simulation([(200, 0.7)], seed=5).run(OpenDoor())
    wait = sum(took for _, took in result.served) / len(result.served) - MEAN
    assert wait == pytest.approx(0.7 * MEAN / (2 * 0.3), rel=0.06)


@pytest.mark.parametrize(("draw", "square"), [(exponential, 2.0), (bimodal, 0.9 / 4 + 0.1 * 5.5**2)])
def test_the_wait_for_calls_of_varied_length_is_that_of_the_formula_too(
    draw: Callable[[float], Draw], square: float
) -> None:
    # M/G/1 at 0.7: lambda * E[S^2] / (2 * (1 - rho)).
    waits = []
    for seed in (1, 2, 3):
        result = Simulation([(100, 0.7)], Server(cpu=draw(MEAN)), seed=seed).run(OpenDoor())
        waits.append(sum(took for _, took in result.served) / len(result.served) - MEAN)
    assert sum(waits) / 3 == pytest.approx(0.7 * MEAN * square / (2 * 0.3), rel=0.06)


def test_a_backend_that_refuses_beyond_a_limit_does_so_as_often_as_theory_says() -> None:
    # M/M/20/30, its loss from the birth and death equations.
    servers, limit, load = 20, 30, 1.5
    offered = load * servers
    shares = [1.0]
    for number in range(1, limit + 1):
        shares.append(shares[-1] * offered / min(number, servers))
    server = Server(1000.0, fixed(1e-7), 0.0, exponential(0.02), servers)
    result = Simulation([(30, load)], server, Clients(deadline=10.0)).run(AtMost(limit))
    assert 1 - result.success(1, 30) == pytest.approx(shares[-1] / sum(shares), rel=0.03)


@pytest.mark.parametrize(("draw", "square"), [(fixed, 1.0), (exponential, 2.0), (bimodal, 0.9 / 4 + 0.1 * 5.5**2)])
def test_service_times_have_their_mean_and_spread(draw: Callable[[float], Draw], square: float) -> None:
    rng = random.Random(11)
    times = [draw(MEAN)(rng) / MEAN for _ in range(40_000)]
    assert sum(times) / len(times) == pytest.approx(1, rel=0.03)
    assert sum(time * time for time in times) / len(times) == pytest.approx(square, rel=0.06)


def test_without_a_gate_an_overload_leaves_nothing() -> None:
    for load in (1.4, 2.0, 5.0):
        assert Simulation([(6, load)]).run(OpenDoor()).goodput(2, 6) == 0


def test_dropping_what_is_past_its_deadline_saves_a_part() -> None:
    # Served just in time to begin is served just too late to be of use.
    even = Simulation([(6, 2.0)]).run(OpenDoor(expires=True)).goodput(2, 6)
    varied = Simulation([(6, 2.0)], Server(cpu=exponential(MEAN))).run(OpenDoor(expires=True)).goodput(2, 6)
    assert 0.1 < even < varied < 0.6


@pytest.mark.parametrize("load", [1.4, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("refusal", [0.00005, 0.0001])
def test_a_short_queue_reaches_the_ceiling_and_nothing_exceeds_it(load: float, refusal: float) -> None:
    result = Simulation([(12, load)], Server(refusal=refusal)).run(AtMost(12))
    assert result.goodput(2, 12) == pytest.approx(ceiling(load, refusal / MEAN), rel=0.006)


def test_the_ceiling_is_where_answers_and_refusals_fill_the_time() -> None:
    for load in (1.0, 2.0, 5.0, 12.0):
        good = ceiling(load, 0.05)
        assert good + (load - good) * 0.05 == pytest.approx(1.0)
    assert ceiling(0.7) == 0.7
    assert ceiling(25.0) == 0.0
    assert (round(ceiling(2), 3), round(ceiling(5), 3)) == (0.947, 0.789)


def test_too_long_a_queue_answers_too_late() -> None:
    # A turn of 64 calls at five times the load lasts 64 * 1.9 / 0.75 = 162 ms, and a client sees two of them.
    assert Simulation([(6, 5.0)]).run(AtMost(64)).goodput(2, 6) < 0.2


def test_a_backend_is_quick_up_to_its_knee() -> None:
    server = Server(capacity=1000, cpu=fixed(0.0001), wait=fixed(0.02), parallel=20)
    light = Simulation([(5, 0.5)], server).run(OpenDoor())
    assert light.latency(1, 5, 0.5) == pytest.approx(0.02, abs=0.002)
    heavy = Simulation([(5, 3.0)], server).run(AtMost(60))
    assert heavy.goodput(1, 5) == pytest.approx(1.0, abs=0.02)
    assert heavy.latency(1, 5, 0.5) == pytest.approx(0.06, rel=0.1)


def test_retries_keep_to_their_budget() -> None:
    budget = RetryBudgetSettings()
    door = Shut()
    result = Simulation([(10, 1.0)], clients=Clients(retry=RetrySettings(budget=budget))).run(door)
    retries = sum(attempt > 1 for attempt in door.attempts)
    first = len(door.attempts) - retries
    assert result.success(0, 10) == 0
    assert retries == pytest.approx(budget.ratio * first + budget.floor * budget.window, rel=0.02)


def test_retries_turn_a_short_overload_into_a_long_one() -> None:
    # Two seconds at 1.3 leave 300 calls more than can be served; without a gate these alone take 0.6 s.
    phases = [(2.0, 0.7), (2.0, 1.3), (20.0, 0.7)]
    without = Simulation(phases).run(OpenDoor())
    clients = Clients(retry=RetrySettings(budget=RetryBudgetSettings(ratio=0.2)))
    with_retries = Simulation(phases, clients=clients).run(OpenDoor())

    assert recovered(with_retries, 4.0) > recovered(without, 4.0) + 1


def test_a_gate_in_the_handler_sees_how_long_calls_have_waited() -> None:
    seen: list[float] = []

    class Late(OpenDoor):
        def admit(self, request: Request, now: float, parsed: float) -> bool:
            seen.append(now - parsed)
            return now - parsed < 0.02

    result = Simulation([(4, 2.0)], Server(gate_in_handler=True)).run(Late())
    assert max(seen) > 0.02
    assert result.goodput(1, 4) > 0.9


def test_users_and_criticalities_are_drawn_as_told() -> None:
    mix = {Criticality.CRITICAL_PLUS: 0.2, Criticality.SHEDDABLE: 0.8}
    result = Simulation([(10, 0.5)], clients=Clients(mix=mix, users=10)).run(OpenDoor())
    top = [one for one in result.outcomes if one.criticality is Criticality.CRITICAL_PLUS]
    assert len(top) / len(result.outcomes) == pytest.approx(0.2, abs=0.03)
    assert {one.user for one in result.outcomes} == set(range(10))
    whole = result.goodput(0, 10)
    assert whole == pytest.approx(sum(result.goodput(0, 10, criticality) for criticality in mix))


def test_a_simulation_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.lab.simulation.REQUESTS_LIMIT", 1000)
    with pytest.raises(RuntimeError, match="1000 requests"):
        Simulation([(10, 1.0)]).run(OpenDoor())


def test_the_time_that_the_loop_worked_is_known() -> None:
    simulation = Simulation([(10, 0.5)])
    simulation.run(OpenDoor())
    assert simulation.busy == pytest.approx(5, rel=0.05)
