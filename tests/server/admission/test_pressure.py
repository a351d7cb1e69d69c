import logging
import random
from collections.abc import Iterator
from math import inf, log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.context import Criticality
from holdfast.core.errors import ConfigError, Overloaded
from holdfast.server.admission.admission import Admission, Ticket
from holdfast.server.admission.cgroup import Cgroup, Memory
from holdfast.server.admission.pressure import (
    ABSENT_INTERVAL,
    AHEAD,
    BACK,
    FADES,
    HELPS,
    INTERVAL,
    LONGEST_INTERVAL,
    NEAR,
    SHARE,
    STALLED,
    START,
    STEPS,
    Pressure,
    PressureSettings,
    Shedding,
)
from holdfast.server.admission.settings import read_admission, read_routes
from holdfast.server.http.engine import TICK

FS = "/sys/fs/cgroup/app"


class Group(Cgroup):
    """A cgroup whose memory is what a test says."""

    def __init__(self, share: float | None = 0.5, stalled: float | None = None) -> None:
        super().__init__(lambda path: None)
        self.share = share
        self.stalled = stalled
        self.looks = 0

    def memory(self, closely: float = 0.0) -> Memory | None:
        self.looks += 1
        return None if self.share is None else Memory(self.share, self.stalled)


def judged(shedding: Shedding, *shares: float, began: float = 0.0) -> list[int]:
    """What is refused at these shares, a second apart."""
    return [shedding.judge(Memory(share), began + at) for at, share in enumerate(shares)]


def rarely(shedding: Shedding, *shares: float) -> list[int]:
    """The same, so far apart that nobody can say how fast it grows."""
    return [shedding.judge(Memory(share), at * LONGEST_INTERVAL) for at, share in enumerate(shares)]


def often(shedding: Shedding, *shares: float, began: float = 0.0) -> list[int]:
    """The same, as often as it is looked at."""
    return [shedding.judge(Memory(share), began + at * INTERVAL) for at, share in enumerate(shares)]


def test_one_class_after_the_other_is_refused_and_the_most_critical_never() -> None:
    assert rarely(Shedding(0.9), 0.0, 0.899, 0.901, 0.93, 0.941, 0.97, 0.981, 1.0, 1.2) == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert rarely(Shedding(0.5), 0.49, 0.51, 0.71, 0.91, 1.0) == [0, 1, 2, 3, 3]
    assert len(STEPS) == Criticality.CRITICAL_PLUS


def test_a_class_is_let_in_again_once_the_memory_has_clearly_fallen() -> None:
    assert rarely(Shedding(0.9), 0.945, 0.939, 0.925, 0.919, 0.899, 0.885, 0.879, 0.899) == [2, 2, 2, 1, 1, 1, 0, 0]


def test_memory_that_grows_fast_counts_as_what_it_will_be_in_a_second() -> None:
    shedding = Shedding(0.9)
    growing = [0.51 + 0.05 * at for at in range(9)]  # a quarter of the limit in a second
    assert AHEAD == 1.0
    assert often(shedding, *growing) == [0, 0, 0, 0, 2, 3, 3, 3, 3]
    assert often(Shedding(0.9), *[share - 0.3 for share in growing]) == [0] * 9
    slowly = [0.8 + 0.001 * at for at in range(90)]
    assert 1 not in often(Shedding(0.9), *slowly)


def test_a_growth_that_has_stopped_fades() -> None:
    shedding = Shedding(0.9)
    often(shedding, *[0.6 + 0.05 * at for at in range(5)])
    found = often(shedding, *[0.8] * 20, began=5 * INTERVAL)
    assert found == sorted(found, reverse=True)
    assert found[0] == 3
    assert found.index(0) * INTERVAL == pytest.approx(FADES * log(0.25 / 0.08), abs=2 * INTERVAL)


def test_what_comes_and_goes_is_no_growth() -> None:
    assert set(often(Shedding(0.9), *[0.7, 0.85] * 50)) == {0}


def test_while_everything_waits_for_memory_one_class_more_is_refused() -> None:
    shedding = Shedding(0.9)
    assert shedding.judge(Memory(0.89, 1.0), 0.0) == 0
    assert shedding.judge(Memory(0.91, STALLED - 0.01), 1.0) == 1
    assert shedding.judge(Memory(0.91, STALLED), 2.0) == 2
    assert shedding.judge(Memory(0.91, 0.0), 3.0) == 1
    assert shedding.judge(Memory(0.99, 1.0), 4.0) == 3


def test_what_does_not_help_is_given_up() -> None:
    shedding = Shedding(0.9)
    assert judged(shedding, 0.95, *[0.945] * int(HELPS - 1)) == [2] * int(HELPS)
    assert judged(shedding, *[0.945] * 3600, began=HELPS) == [0] * 3600
    assert shedding.given_up


def test_what_helps_is_gone_on_with() -> None:
    shedding = Shedding(0.5)
    falling = [0.68 - 0.002 * at for at in range(100)]
    assert set(judged(shedding, *falling)) == {1}
    assert not shedding.given_up


def test_when_letting_them_in_makes_it_worse_they_are_refused_again() -> None:
    shedding = Shedding(0.9)
    judged(shedding, *[0.915] * 40)
    assert judged(shedding, 0.915, 0.92, 0.926, 0.926, began=40.0) == [0, 0, 1, 1]
    assert judged(shedding, *[0.926] * 40, began=44.0)[-1] == 0


def test_a_step_further_is_a_new_try() -> None:
    shedding = Shedding(0.9)
    assert judged(shedding, *[0.931] * 40)[-1] == 0
    assert judged(shedding, 0.941, began=40.0) == [2]
    assert judged(shedding, *[0.941] * 40, began=41.0)[-1] == 0
    assert judged(shedding, 0.85, 0.901, began=81.0) == [0, 1]


@settings(max_examples=200)
@given(
    st.sampled_from([0.3, 0.5, 0.9, 0.99]),
    st.lists(st.tuples(st.floats(0, 1.1), st.floats(0.5, 40), st.sampled_from([None, 0.0, 0.5])), max_size=60),
)
def test_no_memory_makes_it_refuse_too_much_or_for_too_long(
    start: float, looks: list[tuple[float, float, float | None]]
) -> None:
    shedding = Shedding(start)
    now = 0.0
    for share, later, stalled in looks:
        now += later
        least = shedding.judge(Memory(share, stalled), now)
        room = 1 - start
        assert 0 <= least <= Criticality.CRITICAL_PLUS
        if share < start - room * NEAR - 1e-9:
            assert least == 0
        if later > LONGEST_INTERVAL:  # how fast it grows is not known
            allowed = sum(share >= start + room * (step - BACK) - 1e-9 for step in STEPS)
            assert least <= (min(allowed + (stalled == 0.5), len(STEPS)) if share >= start else allowed)
    # Whatever has been: when nothing changes any more, nobody is refused for longer than that.
    last = Memory(0.97 * start + 0.03)
    shedding.judge(last, now + 1.0)
    shedding.judge(last, now + 1.0 + HELPS)
    assert shedding.judge(last, now + 2.0 + 2 * HELPS) == 0


def simulated(
    start: float | None, *, baseline: float, each: float, rate: float, seed: int
) -> tuple[float, dict[int, int], dict[int, int]]:
    """A service whose requests of 5 s hold ``each`` of the memory: the most it had, who came, who was refused, in
    100 s."""
    chance = random.Random(seed)
    shedding = Shedding(start) if start is not None else None
    ends: list[float] = []
    came: dict[int, int] = dict.fromkeys(range(4), 0)
    refused: dict[int, int] = dict.fromkeys(range(4), 0)
    most = least = 0.0
    for step in range(10_000):
        now = step / 100
        ends = [end for end in ends if end > now]
        used = baseline + len(ends) * each
        most = max(most, used)
        if shedding is not None and step % round(TICK * 100) == 0:
            least = shedding.judge(Memory(used), now)
        if chance.random() < rate / 100:
            rank = chance.choices(range(4), (4, 2, 3, 1))[0]
            came[rank] += 1
            if rank < least:
                refused[rank] += 1
            else:
                ends.append(now + 5.0)
    return most, came, refused


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("baseline", "each", "rate"), [(0.8, 0.001, 60.0), (0.27, 0.0077, 30.0)])
def test_requests_that_hold_memory_are_kept_below_the_limit(
    baseline: float, each: float, rate: float, seed: int
) -> None:
    without, _, _ = simulated(None, baseline=baseline, each=each, rate=rate, seed=seed)
    assert without > 1.0  # the kernel would have ended it
    most, came, refused = simulated(START, baseline=baseline, each=each, rate=rate, seed=seed)
    assert most < 1.0
    assert refused[3] == 0
    shares = [refused[rank] / came[rank] for rank in range(4)]
    assert shares[0] > 0.2
    assert shares == sorted(shares, reverse=True)


def looked(pressure: Pressure, times: Iterator[float] | list[float]) -> list[int]:
    return [pressure.look(now) for now in times]


def made(group: Cgroup, setting: PressureSettings | bool = True, timer: Any = lambda: 0.0) -> Pressure:
    pressure = Pressure(group, timer)
    pressure.use(setting)
    return pressure


def test_it_looks_at_its_interval_and_in_between_says_the_same() -> None:
    group = Group(0.95)
    pressure = made(group)
    assert looked(pressure, [0.0, 0.1, INTERVAL - 0.01]) == [2, 2, 2]
    assert group.looks == 1
    group.share = 0.5
    assert pressure.look(INTERVAL) == 0
    assert group.looks == 2


@pytest.mark.parametrize(
    ("takes", "interval"),
    [(0.0, INTERVAL), (0.0001, INTERVAL), (0.002, 0.002 / SHARE), (3.0, LONGEST_INTERVAL)],
)
def test_looks_that_take_long_are_rarer(takes: float, interval: float) -> None:
    times = iter([5.0, 5.0 + takes])
    pressure = made(Group(), timer=lambda: next(times))
    pressure.look(10.0)
    assert pressure.due == pytest.approx(10.0 + interval)


def test_without_a_limit_nothing_is_refused_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    group = Group(None)
    pressure = made(group, PressureSettings(memory=0.8))
    assert set(looked(pressure, [at / 4 for at in range(2000)])) == {0}
    assert group.looks == pytest.approx(500 / ABSENT_INTERVAL, abs=1)
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("INFO", "no cgroup limits this process's memory: nothing is refused for want of it")
    ]
    group.share = 0.99  # the container has been given one
    assert pressure.look(1000.0) == 3
    group.share = None
    pressure.look(1001.0)
    assert pressure.look(1001.0 + LONGEST_INTERVAL) == 0


def test_who_has_not_asked_for_it_is_not_told_that_there_is_no_limit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made(Group(None)).look(0.0)
    assert [one.levelname for one in caplog.records] == ["DEBUG"]


def test_switched_off_it_does_not_look(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    group = Group(0.99)
    pressure = made(group)
    assert pressure.look(0.0) == 3
    pressure.use(False)
    assert set(looked(pressure, [0.1, 100.0, 200.0])) == {0}
    assert group.looks == 1
    pressure.use(PressureSettings(memory=0.995))
    assert pressure.look(200.1) == 0
    assert group.looks == 2


def test_settings_that_stay_keep_what_is_known() -> None:
    pressure = made(Group(0.95))
    pressure.look(0.0)
    pressure.look(HELPS + 1)
    assert pressure.look(HELPS + 2) == 0  # given up
    pressure.use(PressureSettings())
    assert pressure.look(HELPS + 3) == 0
    pressure.use(PressureSettings(memory=0.91))
    assert pressure.look(HELPS + 3) == 2


def test_the_log_tells_when_it_begins_ends_and_does_not_help(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    group = Group(0.95)
    pressure = made(group)
    looked(pressure, [at / 4 for at in range(600)])
    group.share = 0.1
    looked(pressure, [200.0, 201.0])
    group.share = 0.91
    looked(pressure, [250.0])
    group.share = 0.5
    looked(pressure, [251.0, 270.0])
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("WARNING", "95% of the memory that the cgroup allows is in use: requests less than critical are refused"),
        (
            "WARNING",
            "95% of the memory that the cgroup allows is in use, and refusing requests for 30 s has freed none: "
            "all are let in again",
        ),
        (
            "WARNING",
            "91% of the memory that the cgroup allows is in use: requests less than sheddable_plus are refused",
        ),
        ("INFO", "50% of the memory that the cgroup allows is in use: all requests are let in again"),
    ]


def test_what_could_not_be_logged_so_soon_is_logged_later_if_it_is_so_still(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    group = Group(0.91)
    pressure = made(group)
    pressure.look(0.0)
    group.share = 0.1
    looked(pressure, [5.0, 9.0])
    assert len(caplog.records) == 1
    looked(pressure, [11.0, 30.0])
    assert [one.levelname for one in caplog.records] == ["WARNING", "INFO"]


def test_a_limit_that_cannot_be_read_once_is_looked_for_again_soon(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    group = Group(0.99)
    pressure = made(group)
    assert pressure.look(0.0) == 3
    group.share = None  # no file can be opened just now, as it is when there are too many connections
    assert looked(pressure, [1.0, 2.0]) == [3, 3]
    group.share = 0.99
    assert pressure.look(1.0 + LONGEST_INTERVAL) == 3
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    group.share = None
    assert looked(pressure, [10.0, 10.0 + LONGEST_INTERVAL]) == [3, 0]  # it has been taken away
    assert pressure.due == 10.0 + LONGEST_INTERVAL + ABSENT_INTERVAL


def test_what_it_knows_can_be_told() -> None:
    files = {
        "/proc/self/cgroup": "0::/app\n",
        f"{FS}/memory.max": "100",
        f"{FS}/memory.current": "95",
        f"{FS}/memory.pressure": "full avg10=5.00 total=1\n",
        f"{FS}/cpu.stat": "nr_periods 0\nnr_throttled 0\n",
    }
    pressure = made(Cgroup(files.get))
    nothing = {"memory": None, "stalled": None, "refused_below": None, "throttled": None}
    assert pressure.snapshot() == nothing
    pressure.look(0.0)
    files[f"{FS}/cpu.stat"] = "nr_periods 10\nnr_throttled 4\n"
    assert pressure.snapshot() == {"memory": 0.95, "stalled": 0.05, "refused_below": "critical", "throttled": 0.4}


class Door:
    """An admission whose memory is what a test says, and requests to it."""

    def __init__(self, *routes: dict[str, Any], **admission: Any) -> None:
        self.clock = VirtualClock()
        admission.setdefault("trusted_proxies", ["10.0.0.0/8"])
        self.group = Group()
        self.admission = Admission(read_admission(admission), read_routes(routes), clock=self.clock)
        self.admission.pressure.cgroup = self.group
        self.peer = self.admission.connect("10.0.0.1")

    def fill(self, share: float) -> None:
        self.group.share = share
        self.clock.advance(LONGEST_INTERVAL)
        self.admission.look(self.clock.now())

    def enter(self, path: str = "/", criticality: str = "") -> Ticket:
        headers = [(b"holdfast-criticality", criticality.encode())] if criticality else []
        return self.admission.enter("GET", path, "x.org", headers, self.peer, self.clock.now())

    def lets_in(self) -> list[str]:
        names = []
        for level in Criticality:
            try:
                self.enter(criticality=level.name.lower()).exit()
            except Overloaded:
                continue
            names.append(level.name.lower())
        return names


def test_the_least_critical_requests_are_refused_first() -> None:
    door = Door()
    everybody = ["sheddable", "sheddable_plus", "critical", "critical_plus"]
    assert door.lets_in() == everybody
    for share, first in ((0.5, 0), (0.91, 1), (0.95, 2), (0.99, 3), (1.0, 3), (0.95, 2), (0.2, 0)):
        door.fill(share)
        assert door.lets_in() == everybody[first:]


def test_a_refusal_says_that_it_is_the_memory_and_holds_nothing() -> None:
    door = Door({"match": "/a", "criticality": "sheddable", "bulkhead": 1, "rate_limit": "1/h"})
    door.fill(0.92)
    for _ in range(3):
        with pytest.raises(Overloaded, match="memory") as caught:
            door.enter("/a")
        assert caught.value.policy == "memory"
        assert caught.value.operation == "/a"
    assert door.admission.refused == 3
    door.fill(0.5)
    door.enter("/a")  # neither its permit nor its one token is gone


def test_a_request_is_what_its_route_says() -> None:
    door = Door({"match": "/pay", "criticality": "critical_plus"}, {"match": "/suggest", "criticality": "sheddable"})
    door.fill(0.985)
    door.enter("/pay")
    for path in ("/suggest", "/other"):
        with pytest.raises(Overloaded):
            door.enter(path)


def test_it_can_be_switched_off_while_it_refuses() -> None:
    door = Door()
    door.fill(0.99)
    assert door.lets_in() == ["critical_plus"]
    door.admission.update(read_admission({"trusted_proxies": ["10.0.0.0/8"], "pressure": False}))
    door.fill(0.99)
    assert len(door.lets_in()) == 4
    door.admission.update(read_admission({"trusted_proxies": ["10.0.0.0/8"], "pressure": {"memory": 0.98}}))
    door.fill(0.985)
    assert len(door.lets_in()) == 3


def test_it_is_on_by_default_and_takes_a_table_or_a_switch() -> None:
    assert read_admission({}).relief is True
    assert read_admission({"pressure": True}).relief is True
    assert read_admission({"pressure": {"memory": 0.8}}).relief == PressureSettings(memory=0.8)
    assert read_admission({"pressure": False}).relief is False


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (0.9, "admission.pressure"),
        ({"memory": 1}, "admission.pressure.memory"),
        ({"memory": 0}, "memory"),
        ({"x": 1}, "x"),
    ],
)
def test_a_wrong_setting_is_named(value: Any, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        read_admission({"pressure": value})


def test_no_look_is_due_before_the_first_one() -> None:
    assert Pressure(Group()).due == -inf
