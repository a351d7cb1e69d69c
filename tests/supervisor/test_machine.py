"""CPU and memory limits from fake /proc and /sys trees of every layout, and the real machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.supervisor import machine
from holdfast.supervisor.machine import WORKER_MEMORY, cpu_count, memory_limit, worker_count

MIB = 1 << 20
TOTAL = 64 << 30
SIXTEEN = range(16)
V1_UNLIMITED = 9223372036854771712  # LONG_MAX rounded down to a page
V2_MOUNT = "30 23 0:26 {root} {point} ro,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "{number} 31 0:30 {root} {point} rw,nosuid shared:9 - cgroup cgroup rw,{controllers}"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + V2_MOUNT.format(root=root, point=point) + "\n"


def v1(controllers: str, root: str = "/", point: str = "") -> str:
    return (
        V1_MOUNT.format(number=40, root=root, point=point or f"/sys/fs/cgroup/{controllers}", controllers=controllers)
        + "\n"
    )


def test_a_machine_without_cgroups_counts_its_cpus_and_memory(tmp_path: Path) -> None:
    assert cpu_count(tmp_path, SIXTEEN) == 16
    assert memory_limit(tmp_path, TOTAL) == TOTAL


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("200001 100000", 2),
        ("9900000 100000", 16),
        ("", 16),
        ("nonsense", 16),
        ("100000 0", 16),
    ],
)
def test_a_v2_quota_is_rounded_up_and_bounded_by_the_cpus(tmp_path: Path, quota: str, expected: int) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/cpu.max": f"{quota}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == expected


def test_the_tightest_v2_ancestor_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/shop.slice/orders.service\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/system.slice/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/system.slice/shop.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/system.slice/shop.slice/orders.service/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/memory.max": f"{512 * MIB}\n",
            "sys/fs/cgroup/system.slice/shop.slice/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/shop.slice/orders.service/memory.max": f"{1024 * MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 3
    assert memory_limit(tmp_path, TOTAL) == 512 * MIB


def test_a_limit_of_a_neighbour_does_not_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/a/cpu.max": "max 100000\n",
            "sys/fs/cgroup/b/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/b/memory.max": f"{MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 16
    assert memory_limit(tmp_path, TOTAL) == TOTAL


def test_a_v2_container_with_a_cgroup_namespace(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/memory.max": f"{256 * MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 2
    assert memory_limit(tmp_path, TOTAL) == 256 * MIB


def test_a_v2_container_that_sees_the_hosts_paths_but_only_its_own_part_of_the_tree(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/docker/abc/inner\n",
            "proc/self/mountinfo": v2(root="/docker/abc"),
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/inner/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/memory.max": f"{256 * MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 1
    assert memory_limit(tmp_path, TOTAL) == 256 * MIB


@pytest.mark.parametrize("own", ["/../sibling", "/elsewhere/pod", "/docker/abcdef"])
def test_a_cgroup_outside_of_what_is_mounted_falls_back_to_the_mount(tmp_path: Path, own: str) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{own}\n",
            "proc/self/mountinfo": v2(root="/docker/abc"),
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/def/cpu.max": "100000 100000\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 3


def test_a_path_above_the_cgroup_namespace_leads_nowhere_outside_the_mount(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../sibling\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
            "sys/fs/sibling/cpu.max": "100000 100000\n",
            "sys/fs/cpu.max": "100000 100000\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 3


def test_v1_limits_with_their_own_hierarchies(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/m/inner\n4:cpu,cpuacct:/c\n1:name=systemd:/c\n",
            "proc/self/mountinfo": v1("cpu,cpuacct") + v1("memory"),
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/m/inner/memory.limit_in_bytes": f"{V1_UNLIMITED}\n",
            "sys/fs/cgroup/memory/m/memory.limit_in_bytes": f"{300 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{V1_UNLIMITED}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 3
    assert memory_limit(tmp_path, TOTAL) == 300 * MIB


def test_v1_without_limits_leaves_the_machine(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu:/\n",
            "proc/self/mountinfo": v1("cpu") + v1("memory"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{V1_UNLIMITED}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 16
    assert memory_limit(tmp_path, TOTAL) == TOTAL
    assert memory_limit(tmp_path, None) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_v1_container_whose_mount_begins_at_its_own_cgroup(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n",
            "proc/self/mountinfo": v1("cpu,cpuacct", root="/docker/abc") + v1("memory", root="/docker/abc"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "120000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{128 * MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 2
    assert memory_limit(tmp_path, TOTAL) == 128 * MIB


def test_a_hybrid_tree_is_read_on_both_sides(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/old\n3:memory:/old\n0::/new\n",
            "proc/self/mountinfo": v1("cpu") + v1("memory") + v2(point="/sys/fs/cgroup/unified"),
            "sys/fs/cgroup/cpu/old/cpu.cfs_quota_us": "600000\n",
            "sys/fs/cgroup/cpu/old/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/new/cpu.max": "500000 100000\n",
            "sys/fs/cgroup/memory/old/memory.limit_in_bytes": f"{200 * MIB}\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 5
    assert memory_limit(tmp_path, TOTAL) == 200 * MIB


def test_a_mount_point_with_a_space_is_understood(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": v2(point="/my\\040groups"),
            "my groups/cpu.max": "200000 100000\n",
        },
    )
    assert cpu_count(tmp_path, SIXTEEN) == 2


def test_the_scheduler_s_cpus_bound_a_larger_quota(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/cpu.max": "800000 100000",
        },
    )
    assert cpu_count(tmp_path, {3, 5}) == 2
    assert cpu_count(tmp_path) <= len(os.sched_getaffinity(0))


def test_a_limit_above_the_machine_s_memory_is_the_machine_s_memory(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/memory.max": f"{TOTAL * 2}\n",
        },
    )
    assert memory_limit(tmp_path, TOTAL) == TOTAL


@given(st.text(), st.text(), st.text())
def test_kernel_files_that_make_no_sense_change_nothing(cgroup: str, mountinfo: str, limit: str) -> None:
    assert list(machine._mounts(mountinfo)) == [] or " - " in mountinfo
    assert isinstance(machine._own_cgroups(cgroup), dict)
    assert isinstance(machine._beneath(cgroup, limit), tuple)


def test_the_real_machine_has_a_cpu_and_memory() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
    limit = memory_limit()
    assert limit is not None
    assert 16 * MIB < limit <= psutil.virtual_memory().total
    assert 1 <= worker_count() <= cpu_count()


@pytest.mark.parametrize(
    ("cpus", "memory", "expected"),
    [
        (8, 64 << 30, 8),
        (8, 4 * WORKER_MEMORY, 4),
        (8, 4 * WORKER_MEMORY - 1, 3),
        (8, MIB, 1),
        (1, 64 << 30, 1),
    ],
)
def test_auto_is_a_worker_a_cpu_as_far_as_the_memory_goes(cpus: int, memory: int, expected: int) -> None:
    assert worker_count(cpus, memory) == expected


def test_slots_go_round_the_cpus() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for slot in range(len(allowed) * 2 + 1):
            assert machine.pin(child.pid, slot)
            assert os.sched_getaffinity(child.pid) == {allowed[slot % len(allowed)]}
        assert machine.pin(child.pid, 5, [allowed[0]])
        assert os.sched_getaffinity(child.pid) == {allowed[0]}
        assert not machine.pin(child.pid, 0, [])
        assert not machine.pin(child.pid, 0, [1_000_000])
        assert not machine.pin(child.pid, 0, [-1])
        child.communicate(b"\n")
    assert not machine.pin(child.pid, 0), "the process has ended"
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_resident_memory_is_what_others_measure() -> None:
    block = bytearray(os.urandom(1)) * (32 * MIB)
    found = machine.memory()
    assert found == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert found > len(block)
