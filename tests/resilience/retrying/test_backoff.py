import heapq
import random
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Refused
from holdfast.resilience.retrying.backoff import (
    BACKOFF,
    CHANCE,
    DELAY_LIMIT,
    Backoff,
    Constant,
    Exponential,
    Jitter,
    Linear,
    Listed,
    next_delay,
)

SEED = 20240607
JITTERS: list[Jitter] = ["full", "equal", "decorrelated", "none"]


def delays(backoff: Backoff, count: int = 5) -> list[float]:
    return [next_delay(attempt, backoff, "none") for attempt in range(1, count + 1)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (Exponential(0.002, 2, 10), [0.002, 0.004, 0.008, 0.016, 0.032]),
        (Exponential(0.002, 2, 0.015), [0.002, 0.004, 0.008, 0.015, 0.015]),
        (Linear(0.007, 0.010), [0.007, 0.017, 0.027, 0.037, 0.047]),
        (Linear(0.009, 0.030, 0.099), [0.009, 0.039, 0.069, 0.099, 0.099]),
        (Constant(0.007), [0.007] * 5),
        (Listed((1, 2, 5)), [1, 2, 5, 5, 5]),
        (lambda attempt: attempt * attempt, [1, 4, 9, 16, 25]),
    ],
    ids=["exponential", "exponential capped", "linear", "linear capped", "constant", "list", "function"],
)
def test_each_backoff_has_its_curve(backoff: Backoff, expected: list[float]) -> None:
    # The first five are the numbers of Finagle's BackoffTest.
    assert delays(backoff) == pytest.approx(expected)


@pytest.mark.parametrize("attempt", [1000, 10**6, 10**400])
@pytest.mark.parametrize("backoff", [Exponential(), Exponential(factor=1e300), Linear(), Constant(0.1), Listed((0.1,))])
@pytest.mark.parametrize("jitter", ["full", "equal", "none"])
def test_no_attempt_is_so_late_that_its_delay_overflows(attempt: int, backoff: Backoff, jitter: Jitter) -> None:
    assert 0 <= next_delay(attempt, backoff, jitter, lambda: 0.999) <= 10


def test_a_first_delay_of_nothing_stays_nothing_at_any_attempt() -> None:
    assert delays(Exponential(0, 1e300), 3) == [0, 0, 0]
    assert next_delay(10**6, Exponential(0, 1e300), "none") == 0


@pytest.mark.parametrize(
    ("said", "delay"), [(-1.0, 0.0), (nan, 0.0), (-inf, 0.0), (inf, DELAY_LIMIT), (1e9, DELAY_LIMIT), (3, 3)]
)
def test_whatever_a_function_says_the_delay_is_one_that_can_be_slept(said: float, delay: float) -> None:
    assert next_delay(1, lambda _: said, "none") == delay


@pytest.mark.parametrize(
    ("jitter", "least", "middle", "most"), [("full", 0.0, 2.0, 4.0), ("equal", 2.0, 3.0, 4.0), ("none", 4.0, 4.0, 4.0)]
)
def test_each_jitter_spreads_over_its_part_of_the_delay(
    jitter: Jitter, least: float, middle: float, most: float
) -> None:
    found = [next_delay(3, Exponential(1, 2, 60), jitter, lambda value=value: value) for value in (0.0, 0.5, 1.0)]  # type: ignore[misc]
    assert found == [least, middle, most]


def test_decorrelated_jitter_goes_by_the_delay_before() -> None:
    backoff = Exponential(1, 2, 60)
    assert [next_delay(1, backoff, "decorrelated", lambda value=value: value) for value in (0.0, 1.0)] == [1, 3]  # type: ignore[misc]
    assert next_delay(2, backoff, "decorrelated", lambda: 1.0, 5) == 15
    assert next_delay(2, backoff, "decorrelated", lambda: 0.5, 5) == 8
    assert next_delay(9, backoff, "decorrelated", lambda: 1.0, 50) == 60
    assert next_delay(2, backoff, "decorrelated", lambda: 1.0, 0.0) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2000),
    st.floats(0, 100),
    st.floats(1, 1e6),
    st.floats(0, 1000),
    st.sampled_from(JITTERS),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1000),
)
def test_a_delay_is_never_negative_and_never_above_the_cap(
    attempt: int, initial: float, factor: float, more: float, jitter: Jitter, chance: float, previous: float | None
) -> None:
    backoff = Exponential(initial, factor, initial + more)
    assert 0 <= next_delay(attempt, backoff, jitter, lambda: chance, previous) <= backoff.cap


def test_the_same_seed_gives_the_same_delays() -> None:
    def drawn(seed: int) -> list[float]:
        chance = CHANCE.read(random.Random(seed))
        return [next_delay(attempt, Exponential(), "full", chance) for attempt in range(1, 6)]

    assert drawn(SEED) == drawn(SEED) != drawn(SEED + 1)


def contended(jitter: Jitter, clients: int, seed: int) -> tuple[int, float]:
    """Calls and milliseconds until all ``clients`` have changed one row once; a write fails when the row has changed
    since it was read. The network takes 10 ms +- 2 one way. The article's model and numbers."""
    source = random.Random(seed)
    # The article's 5 ms, which it doubles before the first delay, but for decorrelated jitter.
    backoff = Exponential(0.005 if jitter == "decorrelated" else 0.010, 2, 2.0)
    version = calls = 0
    queue: list[tuple[float, int, int, int | None, float | None]] = []

    def travel() -> float:
        return abs(source.normalvariate(10, 2))

    for number in range(clients):
        heapq.heappush(queue, (travel(), number, 1, None, None))
    now = 0.0
    while queue:
        now, number, attempt, read, previous = heapq.heappop(queue)
        if read is None:
            heapq.heappush(queue, (now + travel() + travel(), number, attempt, version, previous))
            continue
        calls += 1
        if read == version:
            version += 1
            continue
        delay = next_delay(attempt, backoff, jitter, source.random, previous)
        heapq.heappush(queue, (now + travel() + travel() + delay * 1000, number, attempt + 1, None, delay))
    return calls, now


# Calls and seconds for 100 clients that the article's own simulator prints (aws-arch-backoff-simulator, 100 runs).
PUBLISHED: dict[Jitter, tuple[float, float]] = {
    "full": (796, 4.96),
    "equal": (812, 6.55),
    "decorrelated": (1003, 4.56),
    "none": (1851, 62.98),
}


@pytest.mark.parametrize("jitter", JITTERS)
def test_each_jitter_makes_the_calls_and_takes_the_time_that_aws_found(jitter: Jitter) -> None:
    runs = [contended(jitter, 100, SEED + run) for run in range(20)]
    calls, seconds = PUBLISHED[jitter]
    assert sum(calls for calls, _ in runs) / len(runs) == pytest.approx(calls, rel=0.03)
    assert sum(spent for _, spent in runs) / len(runs) / 1000 == pytest.approx(seconds, rel=0.05)


def pause(attempt: int) -> float:
    return attempt / 10


@pytest.mark.parametrize(
    ("written", "backoff"),
    [
        ("200ms", Constant(0.2)),
        (1.5, Constant(1.5)),
        (0, Constant(0)),
        ("exponential", Exponential()),
        ("linear", Linear()),
        (["100ms", 2], Listed((0.1, 2.0))),
        ({"initial": "50ms", "cap": "1s"}, Exponential(0.05, cap=1)),
        ({"kind": "linear", "step": "1s"}, Linear(step=1)),
        ({"kind": "constant", "seconds": 2}, Constant(2)),
        ({"kind": "list", "delays": [1, 2]}, Listed((1, 2))),
        (pause, pause),
    ],
)
def test_a_backoff_is_read_as_people_write_it(written: Any, backoff: Backoff) -> None:
    assert BACKOFF.read(written) == backoff


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"kind": "cubic"}, "kind: got 'cubic', expected one of exponential, linear, constant, list"),
        ({"factor": 0.5}, "factor: got 0.5, expected a number, at least 1"),
        ({"faktor": 2}, "faktor: expected the name of a setting; did you mean factor?"),
        ({"initial": "20s"}, "cap: got 10s, expected at least initial, which is 20s"),
        ({"kind": "constant"}, "seconds: expected a duration such as 500ms or 1m30s"),
        ({"kind": "constant", "seconds": "2d"}, "seconds: got '2d', expected a duration such as 500ms or 1m30s"),
        ([], "delays: got (), expected"),
        ([1, "2d"], "delays: got (1.0, 172800.0), expected delays of at most 86400 s"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused_at_its_place(written: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BACKOFF.read(written)
    assert message in str(caught.value)


async def awaited(attempt: int) -> float:
    return 1.0


class Awaited:
    async def __call__(self, attempt: int) -> float:
        return 1.0


@pytest.mark.parametrize("written", ["soon", b"1s", None, True, -1, Exponential, object()])
def test_what_is_no_backoff_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        BACKOFF.read(written)


@pytest.mark.parametrize("function", [awaited, Awaited()])
def test_a_coroutine_function_is_refused_since_nobody_would_await_it(function: Callable[[int], Any]) -> None:
    with pytest.raises(Refused, match="a plain function"):
        BACKOFF.read(function)
