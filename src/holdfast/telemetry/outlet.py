"""Writing to a descriptor without waiting for whoever reads it, though its mode stays as it is: others share it."""

import contextlib
import errno
import io
import os
import select
import stat
import sys
from typing import Final, TextIO

PIECE: Final = select.PIPE_BUF
"""Bytes that a pipe takes whole or not at all (POSIX), so that pieces of several processes do not mix."""


def descriptor(stream: TextIO) -> int | None:
    """Where a plain text file writes to; None for anything else, which may do more with a text than write it."""
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(ValueError, OSError):  # closed, or in memory
            return stream.fileno()
    return None


def reopened(terminal: int) -> int | None:
    """The same terminal, opened so that it never blocks: it says that it has room when there is some, not how much.

    The caller closes it. None when it cannot be opened: it is another user's, or another container's.
    """
    try:
        return os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def is_file(descriptor: int) -> bool:
    """Whether it is a regular file: those have no reader who could be behind."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def writable(descriptor: int, seconds: float = 0.0) -> bool:
    """Whether something can be written within ``seconds``, or an error is to be had; regular files always can."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def put(descriptor: int, data: memoryview) -> int:
    """Write without waiting where the system can promise it; returns how many bytes were taken.

    Where it cannot, a pipe with room takes ``PIECE`` bytes at once, unless another process is faster. Raises
    BlockingIOError when there is no room, any other ``OSError`` as the system has it. Safe from any thread.
    """
    if sys.platform == "linux":
        try:
            return os.pwritev(descriptor, [data], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            # Some file systems say so when they have to look for space. The log is not lost for that.
            if not is_file(descriptor):
                raise
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE):
                raise
    if not writable(descriptor):
        raise BlockingIOError(errno.EAGAIN, "nobody reads")
    return os.write(descriptor, data)
