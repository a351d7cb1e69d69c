"""A cheap look at files and directories that tells whether they are what they were. Nothing is read."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from holdfast.config.reading import DATA, ENTRIES_LIMIT

Mark: TypeAlias = tuple[int, ...]
Signature: TypeAlias = tuple[tuple[str, Mark, tuple[tuple[str, Mark], ...]], ...]
"""For each path what it is, and what is in it when it is a directory. Two that are equal mean that nothing changed."""


def signature_of(paths: Iterable[str | Path]) -> Signature:
    """The signature of ``paths`` now; what is absent or cannot be looked at has one too. Never raises ``OSError``.

    Of a Kubernetes mount it is that of the directory behind ``..data``, of which the swap of the symlink makes another
    one. May block as long as the file system does.
    """
    return tuple(_look(str(path)) for path in paths)


def _look(path: str) -> tuple[str, Mark, tuple[tuple[str, Mark], ...]]:
    data = f"{path}/{DATA}"
    inside = data if os.path.isdir(data) else path  # noqa: PTH112  # four times a second: a string costs less
    return path, _mark(path), _listed(inside) if os.path.isdir(inside) else ()  # noqa: PTH112


def _listed(directory: str) -> tuple[tuple[str, Mark], ...]:
    found = [(directory, _mark(directory))]
    try:
        with os.scandir(directory) as entries:
            for number, entry in enumerate(entries):
                if number >= ENTRIES_LIMIT:
                    break  # such a directory is refused when it is read
                found.append((entry.name, _mark(entry.path)))
    except OSError as error:
        found.append(("", (error.errno or 0,)))
    return tuple(sorted(found))


def _mark(path: str) -> Mark:
    try:
        about = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        return (getattr(error, "errno", 0) or 0,)
    # The time of the last change to the file itself: of who may read it, and of a text whose own time was set back.
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
