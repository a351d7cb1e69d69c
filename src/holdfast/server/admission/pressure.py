"""How hard it is for this process to get on: lag of its loop, CPU that its cgroup withholds, memory that is left.

What cannot be read is unknown, None, and not zero: a service without a limit is not one with plenty of room.
"""

from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

import msgspec

from holdfast.core.clock import SYSTEM, Clock

ROOT: Final = "/sys/fs/cgroup"
FILE_LIMIT: Final = 64 * 1024
"""Bytes of a file that are read."""
DEPTH_LIMIT: Final = 16
"""Groups around the process's own that are looked at: any of them may have the limit."""
NO_LIMIT: Final = 2**60
"""Bytes; cgroup v1 writes "no limit" as a number of pages that is about 2**63."""
BEAT: Final = 0.1
"""Seconds between two beats of a loop that is measured."""
SMOOTHING: Final = 0.3
"""What a beat counts for in the mean: after six, what was before counts for an eighth."""
RECENT: Final = 10
"""Beats of which the worst is told."""

Read: TypeAlias = Callable[[str], str | None]


def read_file(path: str) -> str | None:
    """The beginning of a file; None when it cannot be read. Files of the kernel are read without waiting for a disk."""
    try:
        with Path(path).open("rb") as file:
            return file.read(FILE_LIMIT).decode("utf-8", "replace")
    except OSError:
        return None


class LoopLag:
    """How late an event loop is. A beat is due every ``interval`` seconds; it comes late when the loop is busy.

    ``mean`` is an exponentially weighted mean of the lateness, ``worst`` the greatest of the last ``RECENT`` beats,
    in seconds; None before the first one. A loop that stands still has no beats: ``at_least`` tells of that.
    """

    def __init__(self, interval: float = BEAT) -> None:
        self.interval = interval
        self.mean: float | None = None
        self._recent: list[float] = []
        self._due = inf

    @property
    def worst(self) -> float | None:
        """The greatest of the last beats."""
        return max(self._recent, default=None)

    def begin(self, now: float) -> None:
        """The next beat is due ``interval`` seconds from ``now``."""
        self._due = now + self.interval

    def beat(self, now: float) -> None:
        """A beat has come."""
        if self._due < inf:
            late = max(now - self._due, 0.0)
            self.mean = late if self.mean is None else self.mean + SMOOTHING * (late - self.mean)
            self._recent = [*self._recent[-RECENT + 1 :], late]
        self.begin(now)

    def at_least(self, now: float) -> float | None:
        """The mean, or how late the next beat is already, if that is more. Also for another thread."""
        overdue = now - self._due
        if self.mean is None:
            return overdue if overdue > 0 else None
        return max(self.mean, overdue)

    async def watch(self, clock: Clock = SYSTEM) -> None:
        """Beat until it is cancelled: a task of the loop that is measured."""
        self.begin(clock.now())
        while True:
            await clock.sleep(self.interval)
            self.beat(clock.now())


class Reading(msgspec.Struct, frozen=True):
    """What ``Cgroup.read`` has found; None is unknown.

    ``throttled``: the share of scheduling periods since the reading before in which the group was stopped, since it
    had used up its quota. ``memory``: the share of the limit that is in use, without the file cache that the kernel
    can drop at once (as ``kubectl top`` counts).
    """

    throttled: float | None = None
    memory: float | None = None


class Cgroup:
    """Reads the limits of the process's control group, version 1 or 2. Blocks for some microseconds a file."""

    def __init__(self, read: Read = read_file, root: str = ROOT) -> None:
        self._read = read
        self._root = root
        self._cpu: dict[str, tuple[int, int]] = {}

    def read(self) -> Reading:
        """What it is now. The tightest of the groups around counts."""
        groups = self._groups()
        cpu: list[float] = []
        memory: list[float] = []
        if groups is not None:
            before, self._cpu = self._cpu, {}
            v2 = "" in groups
            for folder in self._around(groups, "" if v2 else "cpu"):
                share = self._throttled(folder, before)
                if share is not None:
                    cpu.append(share)
            for folder in self._around(groups, "" if v2 else "memory"):
                used = self._used(folder, v2)
                if used is not None:
                    memory.append(used)
        return Reading(max(cpu, default=None), max(memory, default=None))

    def _groups(self) -> dict[str, str] | None:
        """The path of the process's group by controller; version 2 has one for all, under an empty name."""
        text = self._read("/proc/self/cgroup")
        if text is None:
            return None
        groups: dict[str, str] = {}
        for line in text.splitlines():
            _, _, rest = line.partition(":")
            controllers, colon, path = rest.partition(":")
            if colon:
                for name in controllers.split(","):
                    groups[name] = path
        # Beside the controllers of version 1 there may be an empty hierarchy of version 2.
        if "cpu" in groups or "memory" in groups:
            groups.pop("", None)
        return groups

    def _around(self, groups: dict[str, str], controller: str) -> Iterator[str]:
        """The folders of a group and of those around it, as this process sees them."""
        path = groups.get(controller)
        if path is None:
            return
        mount = f"{self._root}/{controller}" if controller else self._root
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")][:DEPTH_LIMIT]
        # In a container the path may be that of the host, and only the root be there.
        for length in range(len(parts), -1, -1):
            yield "/".join([mount, *parts[:length]])

    def _throttled(self, folder: str, before: dict[str, tuple[int, int]]) -> float | None:
        stat = _table(self._read(f"{folder}/cpu.stat"))
        periods, stopped = stat.get("nr_periods"), stat.get("nr_throttled")
        if periods is None or stopped is None:
            return None
        self._cpu[folder] = periods, stopped
        if folder not in before:
            return None
        passed = periods - before[folder][0]
        # Periods pass only while something runs: none means that nothing was withheld.
        return min(max((stopped - before[folder][1]) / passed, 0.0), 1.0) if passed > 0 else 0.0

    def _used(self, folder: str, v2: bool) -> float | None:
        limit_file, used_file = ("memory.max", "memory.current") if v2 else _V1
        limit = _number(self._read(f"{folder}/{limit_file}"))
        used = _number(self._read(f"{folder}/{used_file}"))
        if limit is None or used is None or not 0 < limit < NO_LIMIT:
            return None
        stat = _table(self._read(f"{folder}/memory.stat"))
        cache = stat.get("inactive_file" if v2 else "total_inactive_file", 0)
        return max(used - cache, 0) / limit


_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _number(text: str | None) -> int | None:
    """A whole number; None for ``max`` and all else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _table(text: str | None) -> dict[str, int]:
    """Lines of a name and a number."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        number = _number(value)
        if number is not None:
            found[name] = number
    return found
