import asyncio
import contextlib
from pathlib import Path

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.server.admission.pressure import (
    BEAT,
    DEPTH_LIMIT,
    FILE_LIMIT,
    RECENT,
    SMOOTHING,
    Cgroup,
    LoopLag,
    Reading,
    read_file,
)

FS = "/sys/fs/cgroup"


def test_before_the_first_beat_nothing_is_known() -> None:
    lag = LoopLag()
    assert lag.mean is None
    assert lag.worst is None
    assert lag.at_least(100.0) is None
    lag.beat(5.0)
    assert lag.mean is None


def test_a_beat_that_comes_late_moves_the_mean() -> None:
    lag = LoopLag(1.0)
    lag.begin(0.0)
    lag.beat(1.5)
    assert lag.mean == 0.5
    lag.beat(2.5)
    assert lag.mean == pytest.approx(0.5 * (1 - SMOOTHING))
    lag.beat(3.0)  # early, as a timer may be: not late
    assert lag.mean == pytest.approx(0.5 * (1 - SMOOTHING) ** 2)
    assert lag.worst == 0.5


def test_the_worst_is_that_of_the_last_beats() -> None:
    lag = LoopLag(1.0)
    lag.begin(0.0)
    lag.beat(3.0)
    now = 3.0
    for _ in range(RECENT - 1):
        now += 1.0
        lag.beat(now)
    assert lag.worst == 2.0
    lag.beat(now + 1.25)
    assert lag.worst == 0.25


def test_a_loop_that_stands_still_is_known_to_be_late() -> None:
    lag = LoopLag(1.0)
    lag.begin(0.0)
    assert lag.at_least(0.5) is None
    assert lag.at_least(4.0) == 3.0
    lag.beat(1.2)
    assert lag.at_least(1.3) == pytest.approx(0.2)
    assert lag.at_least(9.2) == pytest.approx(7.0)


def test_a_loop_is_measured_by_a_task_of_its_own() -> None:
    clock = VirtualClock()
    lag = LoopLag()

    async def measure() -> None:
        task = asyncio.ensure_future(lag.watch(clock))
        await clock.sleep(BEAT * 3.5)
        assert lag.mean == pytest.approx(0.0, abs=1e-6)
        clock.advance(2.0)
        await clock.sleep(BEAT)
        assert lag.worst == pytest.approx(2.0 - BEAT / 2, abs=BEAT)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    clock.run(measure())


def cgroup(files: dict[str, str], own: str = "0::/app\n") -> Cgroup:
    return Cgroup({"/proc/self/cgroup": own, **files}.get)


def stat(periods: int, throttled: int) -> str:
    return f"usage_usec 5\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 7\n"


def test_without_files_all_is_unknown() -> None:
    assert Cgroup(lambda path: None).read() == Reading(None, None)
    assert cgroup({}).read() == Reading(None, None)
    assert cgroup({}, own="garbage").read() == Reading(None, None)


def test_the_share_of_throttled_periods_is_that_since_the_reading_before() -> None:
    files = {"/proc/self/cgroup": "0::/app\n", f"{FS}/app/cpu.stat": stat(100, 50)}
    group = Cgroup(files.get)
    assert group.read().throttled is None
    files[f"{FS}/app/cpu.stat"] = stat(110, 53)
    assert group.read().throttled == pytest.approx(0.3)
    assert group.read().throttled == 0.0
    files[f"{FS}/app/cpu.stat"] = stat(10, 1)  # the group was made anew
    assert group.read().throttled == 0.0
    files[f"{FS}/app/cpu.stat"] = stat(20, 9)
    assert group.read().throttled == pytest.approx(0.8)
    files[f"{FS}/app/cpu.stat"] = stat(21, 19)
    assert group.read().throttled == 1.0
    files[f"{FS}/app/cpu.stat"] = stat(30, 0)
    assert group.read().throttled == 0.0


def test_a_cpu_that_has_no_quota_is_unknown() -> None:
    for text in ("usage_usec 5\nuser_usec 3\n", "nr_periods 5\n", "nr_throttled 5\n"):
        group = cgroup({f"{FS}/app/cpu.stat": text})
        group.read()
        assert group.read().throttled is None


def test_memory_is_what_is_used_without_the_cache_that_can_go() -> None:
    files = {
        f"{FS}/app/memory.max": "1000\n",
        f"{FS}/app/memory.current": "700\n",
        f"{FS}/app/memory.stat": "anon 5\ninactive_file 200\n",
    }
    assert cgroup(files).read().memory == 0.5
    del files[f"{FS}/app/memory.stat"]
    assert cgroup(files).read().memory == 0.7
    files[f"{FS}/app/memory.stat"] = "inactive_file 900\n"
    assert cgroup(files).read().memory == 0.0


@pytest.mark.parametrize("limit", ["max\n", "", "x", "0", "-5", "9" * 25])
def test_without_a_limit_memory_is_unknown(limit: str) -> None:
    assert cgroup({f"{FS}/app/memory.max": limit, f"{FS}/app/memory.current": "7"}).read().memory is None
    assert cgroup({f"{FS}/app/memory.max": "10", f"{FS}/app/memory.current": "max"}).read().memory is None


def test_the_tightest_of_the_groups_around_counts() -> None:
    files = {
        "/proc/self/cgroup": "0::/pod/app\n",
        f"{FS}/pod/memory.max": "1000",
        f"{FS}/pod/memory.current": "900",
        f"{FS}/pod/app/memory.max": "1000",
        f"{FS}/pod/app/memory.current": "100",
        f"{FS}/pod/cpu.stat": stat(10, 0),
        f"{FS}/pod/app/cpu.stat": stat(10, 0),
    }
    group = Cgroup(files.get)
    assert group.read() == Reading(None, 0.9)
    files |= {f"{FS}/pod/cpu.stat": stat(20, 4), f"{FS}/pod/app/cpu.stat": stat(20, 1)}
    assert group.read() == Reading(0.4, 0.9)


def test_in_a_container_only_the_root_may_be_there() -> None:
    files = {f"{FS}/memory.max": "10", f"{FS}/memory.current": "4"}
    assert cgroup(files, own="0::/kubepods/pod1/abc\n").read().memory == 0.4
    assert cgroup(files, own="0::/\n").read().memory == 0.4
    assert cgroup(files, own="0::/../../x\n").read().memory == 0.4


def test_version_1_has_a_folder_for_each_controller() -> None:
    own = "12:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/docker/a\n0::/system.slice\n"
    files = {
        "/proc/self/cgroup": own,
        f"{FS}/cpu/docker/a/cpu.stat": "nr_periods 10\nnr_throttled 5\nthrottled_time 1\n",
        f"{FS}/memory/docker/a/memory.limit_in_bytes": "1000",
        f"{FS}/memory/docker/a/memory.usage_in_bytes": "800",
        f"{FS}/memory/docker/a/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
        f"{FS}/memory/memory.limit_in_bytes": "9223372036854771712",
        f"{FS}/memory/memory.usage_in_bytes": "800",
        f"{FS}/system.slice/memory.max": "10",
        f"{FS}/system.slice/memory.current": "10",
    }
    group = Cgroup(files.get)
    assert group.read() == Reading(None, 0.5)
    files[f"{FS}/cpu/docker/a/cpu.stat"] = "nr_periods 20\nnr_throttled 10\nthrottled_time 1\n"
    assert group.read() == Reading(0.5, 0.5)


def test_a_path_of_any_depth_is_looked_at_up_to_a_limit() -> None:
    asked: list[str] = []

    def read(path: str) -> str | None:
        asked.append(path)
        return "0::" + "/a" * 1000 if path == "/proc/self/cgroup" else None

    assert Cgroup(read).read() == Reading()
    assert len([path for path in asked if path.endswith("cpu.stat")]) == DEPTH_LIMIT + 1


def test_files_are_read_up_to_a_limit_and_missing_ones_are_none(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xff" + b"a" * (FILE_LIMIT * 2))
    text = read_file(str(file))
    assert text is not None
    assert len(text) == FILE_LIMIT
    assert read_file(str(tmp_path / "no")) is None
    assert read_file(str(tmp_path)) is None


def test_this_machine_has_something_or_nothing_to_tell() -> None:
    reading = Cgroup().read()
    assert reading.throttled is None
    assert reading.memory is None or 0 <= reading.memory < 10
