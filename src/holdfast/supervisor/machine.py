"""What this machine, or the container it pretends to be, gives to the service.

CPU and memory limits come from the process's own cgroup and its ancestors, version 1, version 2 and hybrid,
with or without a cgroup namespace; then from the machine. Sources: cgroups(7),
Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5). On macOS and Windows there are no cgroups:
the answer is the machine's.

The `root` argument is where /proc and /sys are looked for. Everything here reads a few small kernel files
and returns at once; functions that cannot do their job on this system return "unknown" as documented, they
do not raise.
"""

import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

if sys.platform != "win32":
    import resource  # at once: later the app's directory comes first, and may have a module of that name

__all__ = [
    "MAX_CGROUP_DEPTH",
    "NICE_STEP",
    "WORKER_MEMORY",
    "Priority",
    "cpu_count",
    "lower_priority",
    "memory_limit",
    "pin",
    "restore_priority",
    "memory",
    "worker_count",
]

WORKER_MEMORY = 128 << 20
"""Bytes that a worker is assumed to need: an interpreter with a framework and its libraries takes 60 to
120 MiB.
"""

MAX_CGROUP_DEPTH = 64
"""Levels of nested cgroups that are looked at."""

NICE_STEP = 10
"""How much nicer a booting worker is: about a tenth of the CPU of one that serves (sched(7): 10 % a step)."""

_UNLIMITED = 1 << 60
"""Version 1 says "no limit" as the largest page-aligned number; no machine has an exbibyte."""

_MAX_RESTORE_PASSES = 8


class _Mount(NamedTuple):
    root: str  # the cgroup that is seen at `point`
    point: str
    version: int
    controllers: frozenset[str]


class Priority(NamedTuple):
    """What `lower_priority` changed, for `restore_priority`."""

    batch: bool
    nice: int | None  # the former value; None when it was left alone


def cpu_count(root: str | os.PathLike[str] = "/", affinity: Collection[int] | None = None) -> int:
    """CPUs that this process can use at once: the smaller of its CPU set and the tightest quota above it;
    at least 1.

    `affinity` replaces the set of CPUs that the scheduler allows. A quota of 1.5 counts as 2: rounded down,
    a third of what was paid for could never be used, while two workers that share 1.5 CPUs are merely
    throttled when both are busy. A quota of 0.5 counts as 1.
    """
    if affinity is not None:
        available = len(affinity)
    elif hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    quotas = [quota for quota in _cpu_quotas(Path(root)) if quota > 0]
    if quotas:
        # 2.0000001 from rounded periods is not a third CPU.
        available = min(available, -int(-(min(quotas) - 1e-3) // 1))
    return max(1, available)


def memory_limit(root: str | os.PathLike[str] = "/", total: int | None = None) -> int | None:
    """Bytes that this process and its children may use: the tightest cgroup limit, at most the machine's
    memory.

    `total` replaces the machine's memory. None when neither is known (Windows).
    """
    if total is None:
        total = _machine_memory()
    limits = [limit for limit in _memory_limits(Path(root)) if 0 < limit < _UNLIMITED]
    if total is not None:
        limits.append(total)
    return min(limits, default=None)


def worker_count(cpus: int | None = None, memory: int | None = None, each: int = WORKER_MEMORY) -> int:
    """What `workers = "auto"` means: one a CPU, but no more than the memory holds at `each` bytes a worker;
    at least 1.

    None means: ask `cpu_count()` and `memory_limit()`.
    """
    count = cpu_count() if cpus is None else cpus
    limit = memory_limit() if memory is None else memory
    if limit is not None:
        count = min(count, limit // each)
    return max(1, count)


def pin(pid: int, slot: int, cpus: Sequence[int] | None = None) -> bool:
    """Bind process `pid` to one CPU of `cpus`, chosen by `slot`; more slots than CPUs go round. None
    means the CPUs of the calling process. False when it cannot be done: no such call on macOS and
    Windows, no such process, not permitted. Threads that the process has already started keep their own
    CPUs, so pin before it runs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    allowed = sorted(os.sched_getaffinity(0)) if cpus is None else list(cpus)
    if not allowed:
        return False
    try:
        os.sched_setaffinity(pid, {allowed[slot % len(allowed)]})
    except (OSError, ValueError):
        return False
    return True


def memory() -> int:
    """Resident memory of this process in bytes, 0 when unknown. Returns at once.

    Where there is no /proc it is the largest it has been so far, which is what getrusage(2) tells.
    """
    fields = _read(Path("/proc/self/statm")).split()
    if len(fields) > 1:
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def lower_priority() -> Priority | None:
    """Make the calling thread, and every thread and process it starts, yield the CPU to workers that serve.

    For a worker while it boots. SCHED_BATCH is always reversible; niceness only for those who may lower it
    again (CAP_SYS_NICE or RLIMIT_NICE), so it is changed only when a trial shows that it comes back. None
    when nothing was changed: not Linux, or the operator has chosen a scheduling policy already. Give the
    result to `restore_priority`.
    """
    if sys.platform != "linux":
        return None
    batch = False
    try:
        # Exactly SCHED_OTHER: leaving SCHED_IDLE, or SCHED_RESET_ON_FORK, would need a privilege to return.
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            batch = True
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        raised = batch and _niceness_comes_back() and _renice(0, nice, min(19, nice + NICE_STEP))
    except OSError:  # a sandbox may refuse any of these calls
        return Priority(batch=True, nice=None) if batch else None
    return Priority(batch=batch, nice=nice if raised else None) if batch else None


def restore_priority(saved: Priority | None) -> bool:
    """Undo `lower_priority` exactly, for every thread of this process: those started in between have
    inherited it.

    A thread that has since chosen a priority of its own keeps it. Processes started in between stay as they
    are. True when no thread is left behind.
    """
    if sys.platform != "linux" or saved is None:
        return True
    # A thread not restored yet may start another one behind our back, so look again until nothing was found.
    for _ in range(_MAX_RESTORE_PASSES):
        changed = [_restore_thread(int(task.name), saved) for task in Path("/proc/self/task").iterdir()]
        if not any(changed):
            return True
    return False


def _restore_thread(thread: int, saved: Priority) -> bool:
    """Whether the thread needed it. Niceness first: it is what costs the most."""
    changed = False
    try:
        if saved.nice is not None and os.getpriority(os.PRIO_PROCESS, thread) == min(19, saved.nice + NICE_STEP):
            changed = _renice(thread, min(19, saved.nice + NICE_STEP), saved.nice)
        if saved.batch and os.sched_getscheduler(thread) == os.SCHED_BATCH:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            changed = True
    except OSError:  # the thread has ended
        return changed
    return changed


def _renice(thread: int, before: int, after: int) -> bool:
    os.setpriority(os.PRIO_PROCESS, thread, after)
    return before != after


def _niceness_comes_back() -> bool:
    """Whether this process may lower its niceness again.

    CapEff and RLIMIT_NICE do not tell inside a user namespace, where the capability shows but does not
    count. On Linux niceness belongs to a thread: one that ends right after can try it, and takes a failure
    with it.
    """
    outcome = [False]

    def trial() -> None:
        try:
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, nice + 1)
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            outcome[0] = os.getpriority(os.PRIO_PROCESS, 0) == nice < 19
        except OSError:
            outcome[0] = False

    thread = threading.Thread(target=trial, name="holdfast-nice-trial")
    thread.start()
    thread.join()
    return outcome[0]


def _cpu_quotas(root: Path) -> Iterator[float]:
    for mount, directory in _cgroups(root, "cpu"):
        if mount.version == 2:
            quota, _, period = _read(directory / "cpu.max").strip().partition(" ")
        else:
            quota = _read(directory / "cpu.cfs_quota_us").strip()
            period = _read(directory / "cpu.cfs_period_us").strip()
        # "max" and -1 mean no limit.
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    for mount, directory in _cgroups(root, "memory"):
        name = "memory.max" if mount.version == 2 else "memory.limit_in_bytes"
        limit = _read(directory / name).strip()
        if limit.isdigit():
            yield int(limit)


def _cgroups(root: Path, controller: str) -> Iterator[tuple[_Mount, Path]]:
    """Every directory, from this process's cgroup up to the mount, that may hold a limit of `controller`.

    A limit on an ancestor binds too, and a container without a cgroup namespace sees only a part of the tree.
    """
    paths = _own_cgroups(_read(root / "proc/self/cgroup"))
    for mount in _mounts(_read(root / "proc/self/mountinfo")):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        own = paths.get(controller if mount.version == 1 else "")
        if own is None:
            continue
        top = root / mount.point.lstrip("/")
        parts = _beneath(own, mount.root)
        for length in range(min(len(parts), MAX_CGROUP_DEPTH), -1, -1):
            yield mount, top.joinpath(*parts[:length])


def _own_cgroups(text: str) -> dict[str, str]:
    """Controller -> path in its hierarchy; the empty name is version 2. Lines are `id:controllers:path`."""
    paths = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                paths[controller] = fields[2]
    return paths


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 5 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if right[0] == "cgroup2" else 1
        yield _Mount(_unescape(left[3]), _unescape(left[4]), version, frozenset(right[2].split(",")))


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _beneath(own: str, mounted: str) -> tuple[str, ...]:
    """The parts of `own` below the cgroup that is mounted. Where it lies outside of what is visible, the
    mount itself is the nearest ancestor that can be seen.
    """
    path, base = PurePosixPath(own), PurePosixPath(mounted)
    if ".." in path.parts or not path.is_relative_to(base):
        return ()
    return path.relative_to(base).parts


def _machine_memory() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    return pages * size if pages > 0 and size > 0 else None


def _read(path: Path) -> str:
    """The file's text; empty when it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
