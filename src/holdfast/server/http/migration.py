"""Handing open connections from a worker that drains to one that serves.

The supervisor makes one unix stream socketpair, the *intake* (`holdfast.supervisor.sockets.open_intake`).
Every worker inherits both ends. A worker that drains writes records to the send end; workers that serve
read them from the receive end, exactly as they accept from a listener. A record is one byte, the listener's
id, with one descriptor as `SCM_RIGHTS` control data. The kernel never merges two records that carry
descriptors and serialises concurrent readers of a stream socket, so each record goes to exactly one reader.
It lies in a queue that the supervisor keeps open, so it survives the death of its sender and of any reader
that has not read it yet.

Both functions take one system call's time, never block, and are safe to call from several threads and
processes on the same socket.
"""

import array
import errno
import os
import socket

__all__ = ["MAX_LISTENER_ID", "MAX_MALFORMED", "receive_connection", "send_connection"]

MAX_LISTENER_ID = 254
"""The listener's id is one byte; 255 is kept free."""

MAX_MALFORMED = 16
"""So many malformed records are thrown away in one call before it gives control back to the event loop."""

# Absent on macOS, where the flag is set by a second call.
_CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)
_FD_SIZE = array.array("i").itemsize

# The queue is full (EAGAIN, ENOBUFS, ENOMEM), too many descriptors of this user are in flight
# (ETOOMANYREFS), or no reader is left (EPIPE, ECONNRESET, ENOTCONN). The caller still owns the connection
# and decides what becomes of it.
_REFUSED = frozenset(
    {
        errno.EAGAIN,
        errno.EWOULDBLOCK,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ENOTCONN,
        getattr(errno, "ETOOMANYREFS", errno.ENOBUFS),
    }
)


def send_connection(intake_send: socket.socket, listener_id: int, fd: int) -> bool:
    """Queue the connection `fd`, which came in through listener `listener_id` (0 to 254), for any worker
    that serves.

    True: the queue holds its own reference. Close `fd` now, without a shutdown, or the peer sees a FIN.
    False: nothing was sent, the queue is full or has no reader, and `fd` is as it was. A record is one
    byte, so it is never sent in part. Raises ValueError for an id out of range and OSError for a descriptor
    that is not open.
    """
    if not 0 <= listener_id <= MAX_LISTENER_ID:
        raise ValueError(f"listener id {listener_id} does not fit a record: expected 0 to {MAX_LISTENER_ID}")
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (fd,)))]
    try:
        sent = intake_send.sendmsg([bytes((listener_id,))], control, _DONT_WAIT | _NO_SIGNAL)
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return sent == 1


def receive_connection(intake_recv: socket.socket) -> tuple[int, socket.socket] | None:
    """Take one connection from the intake: the listener's id, and a non-blocking, close-on-exec socket.

    None: nothing is waiting (or only malformed records were, `MAX_MALFORMED` at a time, which are thrown
    away with whatever descriptors they carried). Raises EOFError when every send end is closed, and OSError
    (EMFILE) when this process has no free descriptor: the record then stays in the queue for another
    worker.
    """
    for _ in range(MAX_MALFORMED):
        # With the descriptor table full the kernel would consume the record and throw the connection away.
        # A reader that cannot hold one descriptor more must find that out first, as accept() does.
        os.close(os.dup(intake_recv.fileno()))
        try:
            data, control, flags, _ = intake_recv.recvmsg(1, socket.CMSG_SPACE(_FD_SIZE), _DONT_WAIT | _CLOSE_ON_EXEC)
        except (BlockingIOError, InterruptedError):
            return None
        descriptors = _descriptors(control)
        if not data:
            _close_all(descriptors)
            raise EOFError("the intake is closed: no process holds its send end any more")
        truncated = bool(flags & socket.MSG_CTRUNC)
        if truncated or len(descriptors) != 1 or data[0] > MAX_LISTENER_ID:
            _close_all(descriptors)
            continue
        connection = _as_connection(descriptors[0])
        if connection is not None:
            return data[0], connection
    return None


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            # Truncated control data may end inside a descriptor; such a tail was never installed.
            found.frombytes(data[: len(data) - len(data) % _FD_SIZE])
    return found.tolist()


def _as_connection(fd: int) -> socket.socket | None:
    """A stream socket around `fd`, or None after closing what is not one."""
    try:
        connection = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    if connection.type != socket.SOCK_STREAM:
        connection.close()
        return None
    if not _CLOSE_ON_EXEC:
        connection.set_inheritable(False)
    connection.setblocking(False)
    return connection


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
