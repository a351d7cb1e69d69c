"""Reading files that nobody vouches for: bounded, never waiting, and whole even while they are replaced."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from holdfast.config.mistakes import printable
from holdfast.core.errors import ConfigError

FILE_LIMIT: Final = 1024 * 1024
"""Bytes that one file may have."""
ENTRIES_LIMIT: Final = 1000
"""Files that one directory may have."""
TRIES: Final = 5
"""How often something is read that changes meanwhile, before it is refused."""
DATA: Final = "..data"
"""What Kubernetes calls the symlink that it swaps when a mounted ConfigMap or Secret changes."""

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO without a writer would be waited for
_CHUNK: Final = 64 * 1024


class _Changed(Exception):
    """It was not the same at the end as at the beginning."""


def read_file(path: str | Path, *, limit: int = FILE_LIMIT) -> bytes:
    """What is in the file at ``path``. ``ConfigError`` when it is not a regular file of at most ``limit`` bytes.

    A file that is written while it is read is read again, ``TRIES`` times. Never waits: not for a FIFO either.
    """
    for _ in range(TRIES):
        try:
            return _read(str(path), str(path), None, limit)
        except _Changed:
            continue
    raise ConfigError(printable(str(path)), None, "a file that nobody writes to while it is read")


def read_text(path: str | Path, *, limit: int = FILE_LIMIT) -> str:
    """As ``read_file``, in UTF-8."""
    return decoded(read_file(path, limit=limit), str(path))


def decoded(content: bytes, source: str) -> str:
    """The text of ``content``, without a byte order mark. ``ConfigError`` names the line that is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}", None, "text in UTF-8", source=printable(source)) from None


def read_directory(path: str | Path) -> Mapping[str, bytes]:
    """The files in the directory at ``path`` by name, sorted, all of one moment. ``ConfigError`` when that cannot be.

    Names that begin with a dot or end with ~ are left out, and so are directories. Of a Kubernetes mount the directory
    behind ``..data`` is read: when the symlink is swapped meanwhile, everything is read again, ``TRIES`` times. In
    another directory the same happens when a file comes, goes or is written.
    """
    for _ in range(TRIES):
        try:
            return _read_directory(str(path))
        except _Changed:
            continue
    raise ConfigError(printable(str(path)), None, "a directory that does not change all the time while it is read")


def _read_directory(path: str) -> Mapping[str, bytes]:
    with _opened(path, path, None, os.O_DIRECTORY) as mount:
        try:
            swapped = os.stat(DATA, dir_fd=mount)
        except FileNotFoundError:
            return _snapshot(path, mount)
        except OSError as error:
            raise _unreadable(f"{path}/{DATA}", error) from None
        with _opened(DATA, f"{path}/{DATA}", mount, os.O_DIRECTORY) as data:
            found = _snapshot(path, data)
            try:
                now = os.stat(DATA, dir_fd=mount)
            except OSError:
                raise _Changed from None
            read = os.fstat(data)
            if not (os.path.samestat(swapped, read) and os.path.samestat(read, now)):
                raise _Changed
            return found


def _snapshot(path: str, directory: int) -> Mapping[str, bytes]:
    before = _listed(path, directory)
    try:
        found = {name: _read(name, f"{path}/{name}", directory, FILE_LIMIT) for name in sorted(before)}
    except ConfigError:
        if _listed(path, directory) != before:
            raise _Changed from None
        raise
    if _listed(path, directory) != before:
        raise _Changed
    return found


def _listed(path: str, directory: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name in _names(path, directory):
        try:
            about = os.stat(name, dir_fd=directory)
        except FileNotFoundError:
            # Gone since it was listed, or a symlink to nothing: reading it says which.
            found[name] = ()
            continue
        except OSError as error:
            raise _unreadable(f"{path}/{name}", error) from None
        if not stat.S_ISDIR(about.st_mode):
            found[name] = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def _names(path: str, directory: int) -> Iterator[str]:
    count = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                count += 1
                if count > ENTRIES_LIMIT:
                    raise ConfigError(printable(path), None, f"a directory of at most {ENTRIES_LIMIT} files")
                if not entry.name.startswith(".") and not entry.name.endswith("~"):
                    yield entry.name
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(name: str, shown: str, directory: int | None, limit: int) -> bytes:
    with _opened(name, shown, directory, 0) as file:
        try:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                what = "Is a directory" if stat.S_ISDIR(before.st_mode) else "it is a device, a pipe or a socket"
                raise ConfigError(printable(shown), None, "a file that can be read", hint=what)
            parts: list[bytes] = []
            size = 0
            while size <= limit and (part := os.read(file, _CHUNK)):
                parts.append(part)
                size += len(part)
            after = os.fstat(file)
        except OSError as error:
            raise _unreadable(shown, error) from None
    if size > limit:
        raise ConfigError(printable(shown), None, f"a file of at most {limit} bytes")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _Changed
    return b"".join(parts)


@contextmanager
def _opened(name: str, shown: str, directory: int | None, flags: int) -> Iterator[int]:
    try:
        file = os.open(name, _OPEN | flags, dir_fd=directory)
    except OSError as error:
        raise _unreadable(shown, error) from None
    except ValueError:  # NUL, or a lone surrogate, in the name
        raise ConfigError(printable(shown), None, "the name of a file") from None
    try:
        yield file
    finally:
        os.close(file)


def _unreadable(shown: str, error: OSError) -> ConfigError:
    return ConfigError(printable(shown), None, "a file that can be read", hint=error.strerror or "")


def without_newline(text: str) -> str:
    """``text`` without the newline at its end, which editors and shells add."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
