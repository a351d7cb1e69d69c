"""What the process's control group may use, and how near it is to that: version 1 or 2.

What cannot be read is unknown, None, and not zero: a service without a limit is not one with plenty of room.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final, TypeAlias

import msgspec

ROOT: Final = "/sys/fs/cgroup"
FILE_LIMIT: Final = 64 * 1024
"""Bytes of a file that are read."""
DEPTH_LIMIT: Final = 16
"""Groups around the process's own that are looked at: any of them may have the limit."""
NO_LIMIT: Final = 2**60
"""Bytes; cgroup v1 writes "no limit" as a number of pages that is about 2**63."""

Read: TypeAlias = Callable[[str], str | None]


def read_file(path: str) -> str | None:
    """The beginning of a file; None when it cannot be read. Files of the kernel are read without waiting for a disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:  # without a file object, which takes four times as long
        return os.read(descriptor, FILE_LIMIT).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


class Memory(msgspec.Struct, frozen=True):
    """``share`` of the limit that is in use, without the file cache that the kernel can drop at once (as ``kubectl
    top`` counts). ``stalled``: the share of the last 10 s in which all tasks of the group waited for memory (PSI,
    ``full avg10``); None where the kernel does not tell."""

    share: float
    stalled: float | None = None


class Cgroup:
    """Reads the limits of the process's control group. Blocks for some microseconds a file."""

    def __init__(self, read: Read = read_file, root: str = ROOT) -> None:
        self._read = read
        self._root = root
        self._cpu: dict[str, tuple[int, int]] = {}

    def memory(self, closely: float = 0.0) -> Memory | None:
        """What is in use now, in the fullest of the groups around; None without a limit.

        Below ``closely`` it is only known that it is no more than that: the cache counts, and stalls are not looked
        for. The kernel has to gather these figures from all its CPUs and groups, which may take it a millisecond.
        """
        groups = self._groups()
        v2 = "" in groups
        found = (self._used(folder, v2, closely) for folder in self._around(groups, "" if v2 else "memory"))
        return max((memory for memory in found if memory is not None), key=lambda memory: memory.share, default=None)

    def throttled(self) -> float | None:
        """The share of scheduling periods since the last time this was asked in which a group around was stopped,
        since it had used up its quota; the worst of them. None without a quota, and the first time."""
        groups = self._groups()
        before, self._cpu = self._cpu, {}
        found = (self._withheld(folder, before) for folder in self._around(groups, "" if "" in groups else "cpu"))
        return max((share for share in found if share is not None), default=None)

    def _groups(self) -> dict[str, str]:
        """The path of the process's group by controller; version 2 has one for all, under an empty name."""
        groups: dict[str, str] = {}
        for line in (self._read("/proc/self/cgroup") or "").splitlines():
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

    def _withheld(self, folder: str, before: dict[str, tuple[int, int]]) -> float | None:
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

    def _used(self, folder: str, v2: bool, closely: float) -> Memory | None:
        limit_file, used_file = ("memory.max", "memory.current") if v2 else _V1
        limit = _number(self._read(f"{folder}/{limit_file}"))
        if limit is None or not 0 < limit < NO_LIMIT:
            return None
        used = _number(self._read(f"{folder}/{used_file}"))
        if used is None:
            return None
        if used / limit < closely:
            return Memory(used / limit)
        stat = _table(self._read(f"{folder}/memory.stat"))
        cache = stat.get("inactive_file" if v2 else "total_inactive_file", 0)
        return Memory(max(used - cache, 0) / limit, _full(self._read(f"{folder}/memory.pressure")) if v2 else None)


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


def _full(text: str | None) -> float | None:
    """The share of the last 10 s in which everything stood still, in a file such as ``memory.pressure``."""
    for line in (text or "").splitlines():
        kind, _, rest = line.partition(" ")
        name, _, percent = rest.partition(" ")[0].partition("=")
        if kind == "full" and name == "avg10":
            try:
                return min(max(float(percent) / 100, 0.0), 1.0)
            except ValueError:
                return None
    return None
