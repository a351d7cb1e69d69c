import asyncio
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.drain import Drain, current_drain, use_drain
from holdfast.core.errors import ConfigError
from holdfast.service.background import Background, BackgroundTasks, Every
from holdfast.service.declaration import Needs
from holdfast.service.report import TaskReport

NONE = Needs((), ())


def run(*declared: Background | Every, seconds: float, within: float = 5.0) -> TaskReport:
    """Start ``declared``, let ``seconds`` pass, begin the drain and stop."""
    clock = VirtualClock(0.0)

    async def main() -> TaskReport:
        drain = Drain()
        work = BackgroundTasks(drain, clock, random.Random(1))
        with use_drain(drain):
            work.start(list(declared), {"db": "the database"})
        await asyncio.sleep(seconds)
        drain.begin("test")
        return await work.stop(within)

    return clock.run(main())


def recorded(times: list[float], after: Callable[[int], Any]) -> Callable[[], Any]:
    async def loop() -> None:
        times.append(asyncio.get_running_loop().time())
        result = after(len(times))
        if result is not None:
            await result

    return loop


def raiser(error: BaseException) -> Callable[[int], Any]:
    def fail(_: int) -> None:
        raise error

    return fail


def test_a_failing_loop_is_restarted_with_growing_delays_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []
    report = run(Background("poll", recorded(times, raiser(ValueError("bad"))), NONE), seconds=300)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for number, gap in enumerate(gaps):
        full = min(30.0, 0.1 * 2**number)
        assert full / 2 <= gap <= full + 1e-9
    assert len(gaps) > 10
    assert max(gaps) > 15
    assert "background poll failed" in caplog.text
    assert "ValueError: bad" in caplog.text
    assert report.cancelled == ("poll",)


def test_a_stable_run_starts_the_delays_afresh() -> None:
    times: list[float] = []

    def after(count: int) -> Any:
        if count == 6:
            return long_then_fail()
        raise ValueError("bad")

    async def long_then_fail() -> None:
        await asyncio.sleep(61)
        raise ValueError("bad")

    run(Background("poll", recorded(times, after), NONE), seconds=100)
    assert times[6] - times[5] - 61 <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("restart", "error", "starts_again"),
    [
        ("always", None, True),
        ("always", ValueError("bad"), True),
        ("on-failure", None, False),
        ("on-failure", ValueError("bad"), True),
        ("on-failure", SystemExit(1), True),
        ("on-failure", asyncio.CancelledError(), True),
        ("never", None, False),
        ("never", ValueError("bad"), False),
    ],
)
def test_the_restart_policy_decides(restart: Any, error: BaseException | None, starts_again: bool) -> None:
    times: list[float] = []
    after = (lambda _: None) if error is None else raiser(error)
    run(Background("poll", recorded(times, after), NONE, restart), seconds=5)
    assert (len(times) > 1) is starts_again


def test_a_loop_that_watches_the_drain_ends_by_itself() -> None:
    async def loop() -> None:
        await current_drain().wait()

    clock = VirtualClock()

    async def main() -> TaskReport:
        drain = Drain()
        work = BackgroundTasks(drain, clock)
        with use_drain(drain):
            work.start([Background("loop", loop, NONE)], {})
        await asyncio.sleep(1)
        drain.begin("test")
        await asyncio.sleep(1)
        return await work.stop(5)

    assert clock.run(main()).finished == ("loop",)


def test_a_loop_that_ignores_its_cancellation_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def deaf() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:  # what this test is about
                continue

    assert run(Background("deaf", deaf, NONE), seconds=1).stuck == ("deaf",)
    assert "background deaf is stuck at" in caplog.text


def test_resources_are_injected_by_name() -> None:
    got: list[str] = []

    async def loop(db: str) -> None:
        got.append(db)

    run(Background("loop", loop, Needs(("db",), ()), "never"), seconds=1)
    assert got == ["the database"]


def test_scheduled_runs_keep_to_the_schedule_without_drift() -> None:
    times: list[float] = []
    run(Every("tick", recorded(times, lambda _: asyncio.sleep(3)), NONE, 10.0), seconds=45)
    assert times == pytest.approx([10, 20, 30, 40])


def test_missed_ticks_become_one_run_and_runs_never_overlap() -> None:
    times: list[float] = []
    slow = {1: 35.0}
    run(Every("tick", recorded(times, lambda count: asyncio.sleep(slow.get(count, 1.0))), NONE, 10.0), seconds=65)
    assert times == pytest.approx([10, 45, 50, 60])


def test_a_failing_run_is_logged_and_the_next_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []
    run(Every("tick", recorded(times, raiser(ValueError("bad"))), NONE, 10.0), seconds=35)
    assert times == pytest.approx([10, 20, 30])
    assert caplog.text.count("background tick failed") == 3
    assert "ValueError: bad" in caplog.text


def test_a_run_is_cut_short_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []
    run(Every("tick", recorded(times, lambda _: asyncio.sleep(100)), NONE, 10.0, timeout=2.0), seconds=25)
    assert times == pytest.approx([10, 20])
    assert "background tick was cut short after 2 s" in caplog.text


def test_jitter_puts_a_run_off_but_moves_no_tick() -> None:
    times: list[float] = []
    run(Every("tick", recorded(times, lambda _: None), NONE, 10.0, jitter=4.0), seconds=100)
    offsets = [time - 10 * (number + 1) for number, time in enumerate(times)]
    assert all(-1e-9 <= offset <= 4 for offset in offsets)
    assert len({round(offset, 3) for offset in offsets}) > 5


def test_a_run_under_way_may_finish_at_shutdown_and_no_other_begins() -> None:
    times: list[float] = []
    report = run(Every("tick", recorded(times, lambda _: asyncio.sleep(4)), NONE, 10.0), seconds=11, within=5)
    assert report.finished == ("tick",)
    assert times == pytest.approx([10])
    report = run(Every("tick", recorded([], lambda _: asyncio.sleep(40)), NONE, 10.0), seconds=11, within=5)
    assert report.cancelled == ("tick",)


@given(st.floats(0.01, 100), st.integers(1, 1000), st.floats(0, 1e5))
def test_the_next_tick_is_later_and_never_more_than_one_run_behind(interval: float, tick: int, late: float) -> None:
    elapsed = tick * interval + late
    following = Every("tick", recorded([], raiser(ValueError())), NONE, interval).next_tick(tick, elapsed)
    assert following > tick
    assert following == tick + 1 or elapsed - interval <= following * interval <= elapsed + interval * 1e-6


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_delay_stays_within_its_bounds(failures: int, roll: float) -> None:
    delay = Background("poll", recorded([], raiser(ValueError())), NONE).delay(failures, roll)
    assert 0.05 <= delay <= 30.0


def test_wrong_settings_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="background 'poll' restart: got 'sometimes'"):
        Background("poll", recorded([], raiser(ValueError())), NONE, "sometimes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_backoff"):
        Background("poll", recorded([], raiser(ValueError())), NONE, backoff=2, max_backoff=1)
    with pytest.raises(ConfigError, match="jitter"):
        Every("tick", recorded([], raiser(ValueError())), NONE, 1.0, jitter=2.0)
