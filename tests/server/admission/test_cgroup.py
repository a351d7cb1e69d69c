"""Control groups as files of a directory."""

from pathlib import Path

import pytest

from holdfast.server.admission.cgroup import DEPTH_LIMIT, FILE_LIMIT, Cgroup, Memory, read_file

FS = "/sys/fs/cgroup"
PSI = "some avg10=40.00 avg60=2.00 avg300=1.00 total=9\nfull avg10={} avg60=50.00 avg300=60.00 total=9\n"


def cgroup(files: dict[str, str], own: str = "0::/app\n") -> Cgroup:
    return Cgroup({"/proc/self/cgroup": own, **files}.get)


def stat(periods: int, throttled: int) -> str:
    return f"usage_usec 5\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 7\n"


def test_without_files_all_is_unknown() -> None:
    for group in (Cgroup(lambda path: None), cgroup({}), cgroup({}, own="garbage")):
        assert group.memory() is None
        assert group.throttled() is None
        assert group.throttled() is None


def test_the_share_of_throttled_periods_is_that_since_it_was_asked_before() -> None:
    files = {"/proc/self/cgroup": "0::/app\n", f"{FS}/app/cpu.stat": stat(100, 50)}
    group = Cgroup(files.get)
    assert group.throttled() is None
    files[f"{FS}/app/cpu.stat"] = stat(110, 53)
    assert group.throttled() == pytest.approx(0.3)
    assert group.throttled() == 0.0
    files[f"{FS}/app/cpu.stat"] = stat(10, 1)  # the group was made anew
    assert group.throttled() == 0.0
    files[f"{FS}/app/cpu.stat"] = stat(20, 9)
    assert group.throttled() == pytest.approx(0.8)
    files[f"{FS}/app/cpu.stat"] = stat(21, 19)
    assert group.throttled() == 1.0
    files[f"{FS}/app/cpu.stat"] = stat(30, 0)
    assert group.throttled() == 0.0


def test_a_cpu_that_has_no_quota_is_unknown() -> None:
    for text in ("usage_usec 5\nuser_usec 3\n", "nr_periods 5\n", "nr_throttled 5\n"):
        group = cgroup({f"{FS}/app/cpu.stat": text})
        group.throttled()
        assert group.throttled() is None


def test_memory_is_what_is_used_without_the_cache_that_can_go() -> None:
    files = {
        f"{FS}/app/memory.max": "1000\n",
        f"{FS}/app/memory.current": "700\n",
        f"{FS}/app/memory.stat": "anon 5\ninactive_file 200\n",
    }
    assert cgroup(files).memory() == Memory(0.5)
    del files[f"{FS}/app/memory.stat"]
    assert cgroup(files).memory() == Memory(0.7)
    files[f"{FS}/app/memory.stat"] = "inactive_file 900\n"
    assert cgroup(files).memory() == Memory(0.0)


def test_far_from_the_limit_only_what_is_cheap_is_read() -> None:
    asked: list[str] = []
    files = {
        "/proc/self/cgroup": "0::/app\n",
        f"{FS}/app/memory.max": "1000\n",
        f"{FS}/app/memory.current": "899\n",
        f"{FS}/app/memory.stat": "inactive_file 100\n",
        f"{FS}/app/memory.pressure": PSI.format("12.50"),
    }

    def read(path: str) -> str | None:
        asked.append(path.rpartition("/")[2])
        return files.get(path)

    group = Cgroup(read)
    assert group.memory(0.9) == Memory(0.899)
    assert {"memory.stat", "memory.pressure"}.isdisjoint(asked)
    files[f"{FS}/app/memory.current"] = "900\n"
    assert group.memory(0.9) == Memory(0.8, 0.125)


@pytest.mark.parametrize(
    ("text", "stalled"),
    [
        (PSI.format("12.50"), 0.125),
        (PSI.format("0.00"), 0.0),
        (PSI.format("700"), 1.0),
        (PSI.format("-3"), 0.0),
        (PSI.format("x"), None),
        ("some avg10=40.00 avg60=2.00\n", None),
        ("full total=3\n", None),
        ("", None),
    ],
)
def test_a_stall_is_that_of_all_tasks_in_the_last_ten_seconds(text: str, stalled: float | None) -> None:
    files = {
        f"{FS}/app/memory.max": "10",
        f"{FS}/app/memory.current": "5",
        f"{FS}/app/memory.pressure": text,
    }
    assert cgroup(files).memory() == Memory(0.5, stalled)


@pytest.mark.parametrize("limit", ["max\n", "", "x", "0", "-5", "9" * 25])
def test_without_a_limit_memory_is_unknown(limit: str) -> None:
    assert cgroup({f"{FS}/app/memory.max": limit, f"{FS}/app/memory.current": "7"}).memory() is None
    assert cgroup({f"{FS}/app/memory.max": "10", f"{FS}/app/memory.current": "max"}).memory() is None


def test_the_tightest_of_the_groups_around_counts() -> None:
    files = {
        "/proc/self/cgroup": "0::/pod/app\n",
        f"{FS}/pod/memory.max": "1000",
        f"{FS}/pod/memory.current": "900",
        f"{FS}/pod/memory.pressure": PSI.format("3.00"),
        f"{FS}/pod/app/memory.max": "1000",
        f"{FS}/pod/app/memory.current": "100",
        f"{FS}/pod/app/memory.pressure": PSI.format("70.00"),
        f"{FS}/pod/cpu.stat": stat(10, 0),
        f"{FS}/pod/app/cpu.stat": stat(10, 0),
    }
    group = Cgroup(files.get)
    group.throttled()
    files[f"{FS}/pod/cpu.stat"] = stat(20, 4)
    files[f"{FS}/pod/app/cpu.stat"] = stat(20, 1)
    assert group.memory() == Memory(0.9, 0.03)
    assert group.throttled() == pytest.approx(0.4)


def test_in_a_container_the_root_is_the_group_that_is_seen() -> None:
    files = {f"{FS}/memory.max": "1000", f"{FS}/memory.current": "250"}
    assert cgroup(files, own="0::/docker/abc\n").memory() == Memory(0.25)
    assert cgroup(files, own="0::/../..\n").memory() == Memory(0.25)


def test_version_1_has_a_group_for_each_controller() -> None:
    files = {
        "/proc/self/cgroup": "12:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/a\n0::/system.slice\n",
        f"{FS}/system.slice/memory.max": "10",
        f"{FS}/system.slice/memory.current": "10",
        f"{FS}/memory/docker/a/memory.limit_in_bytes": "1000",
        f"{FS}/memory/docker/a/memory.usage_in_bytes": "600",
        f"{FS}/memory/docker/a/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
        f"{FS}/memory/memory.limit_in_bytes": "9223372036854771712",
        f"{FS}/memory/memory.usage_in_bytes": "600",
        f"{FS}/cpu/docker/a/cpu.stat": "nr_periods 10\nnr_throttled 5\nthrottled_time 1\n",
        f"{FS}/memory/docker/a/memory.pressure": PSI.format("50"),
    }
    group = Cgroup(files.get)
    assert group.memory() == Memory(0.5)
    assert group.throttled() is None
    files[f"{FS}/cpu/docker/a/cpu.stat"] = "nr_periods 20\nnr_throttled 10\nthrottled_time 1\n"
    assert group.throttled() == 0.5


def test_a_path_of_any_depth_is_looked_at_up_to_a_limit() -> None:
    asked: list[str] = []

    def read(path: str) -> str | None:
        asked.append(path)
        return "0::" + "/a" * 1000 if path == "/proc/self/cgroup" else None

    assert Cgroup(read).memory() is None
    assert len([path for path in asked if path.endswith("memory.max")]) == DEPTH_LIMIT + 1


def test_files_are_read_up_to_a_limit_and_missing_ones_are_none(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xff" + b"a" * (FILE_LIMIT * 2))
    text = read_file(str(file))
    assert text is not None
    assert len(text) == FILE_LIMIT
    assert read_file(str(tmp_path / "no")) is None
    assert read_file(str(tmp_path)) is None


def test_a_directory_can_stand_for_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("420\n")
    own = tmp_path / "own"
    own.write_text("0::/\n")
    group = Cgroup(lambda path: read_file(str(own) if path == "/proc/self/cgroup" else path), root=str(tmp_path))
    assert group.memory() == Memory(0.42)


def test_this_machine_has_something_or_nothing_to_tell() -> None:
    memory = Cgroup().memory()
    assert memory is None or 0 <= memory.share < 10
    assert Cgroup().throttled() is None
