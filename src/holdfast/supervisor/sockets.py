"""The sockets that the supervisor owns: listeners, the intake of migrated connections, and the last word on
handshakes.

The supervisor binds and listens, never accepts, and keeps every listener to the end, so that no worker's
death resets the clients in an accept queue. All workers accept from the same socket; SO_REUSEPORT would
give each a queue of its own and lose it with the worker.

TCP_NODELAY is set on the listener, from which the kernel copies it to what is accepted: asyncio sets it
only on a socket object that knows its protocol, and one that was made from a descriptor may not.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError
from holdfast.supervisor.address import Address, parse_bind
from holdfast.supervisor.handshakes import allow_handshakes, drop_new_handshakes
from holdfast.supervisor.holder import holders

__all__ = [
    "BACKLOG",
    "BIND_RETRY_INTERVAL",
    "INTAKE_BUFFER",
    "MAX_LISTENERS",
    "Address",
    "Inherited",
    "Listener",
    "adopt",
    "allow_handshakes",
    "drop_new_handshakes",
    "inherited_fds",
    "open_intake",
    "open_listener",
    "parse_bind",
]

MAX_LISTENERS = 255
"""A listener's id, 0 to 254, is one byte of a migrated connection's record."""

BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel cuts it down to net.core.somaxconn."""

BIND_RETRY_INTERVAL = 0.05
"""Seconds between two attempts to bind an address that is still held."""

CLOCK_RESOLUTION = 1e-6
"""Seconds of a wait that count as none."""

INTAKE_BUFFER = 4 << 20
"""Bytes asked for the intake's queue. A waiting connection takes about 800 of the double of it."""

_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START

_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; the socket module does not name it


Target = tuple[str | int, ...] | str


class Inherited(NamedTuple):
    """A listening socket that the service manager passed."""

    fd: int
    name: str  # FileDescriptorName= of the socket unit; "unknown" when there is none


class Listener:
    """A listening socket with an id that stays the same for the life of the supervisor, through a re-exec
    too.

    `requested` is the address as configured, `address` the text of what is really bound (port 0 is
    resolved), `inode` the device and inode of a unix path that this listener made: give it to `adopt` after
    a re-exec. The socket is non-blocking and close-on-exec. Belongs to one thread.
    """

    __slots__ = ("address", "family", "id", "inode", "requested", "socket")

    def __init__(
        self, listener_id: int, requested: Address, sock: socket.socket, inode: tuple[int, int] | None = None
    ) -> None:
        if not 0 <= listener_id < MAX_LISTENERS:
            raise ValueError(f"listener id {listener_id}: expected 0 to {MAX_LISTENERS - 1}")
        self.id = listener_id
        self.requested = requested
        self.socket = sock
        self.family = sock.family
        self.address = _bound_text(sock)
        self.inode = inode

    def __repr__(self) -> str:
        return f"<Listener {self.id} {self.address}>"

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self.socket.fileno()

    def url(self, tls: bool = False) -> str:
        """For people: `http://127.0.0.1:8000`, or `unix:/run/x.sock`, which has no URL that all clients
        know.
        """
        if self.address.startswith("unix:"):
            return self.address
        return f"{'https' if tls else 'http'}://{self.address}"

    def close(self, *, unlink: bool = True) -> None:
        """Close this process's copy, never with a shutdown: the socket is shared. Removes a unix path,
        but only one that this listener made and that nobody has replaced since. A worker gives
        `unlink=False`.
        """
        self.socket.close()
        if not unlink or self.inode is None:
            return
        _unlink_own(Path(self.address.removeprefix("unix:")), self.inode)
        self.inode = None


async def open_listener(
    address: Address,
    listener_id: int,
    *,
    backlog: int = BACKLOG,
    unix_mode: int = 0o660,
    wait: float = 0.0,
    clock: Clock = SYSTEM,
) -> Listener:
    """Bind and listen. A host name is resolved once, to an IPv4 address when it has one.

    An address in use is tried again until `wait` seconds have passed: the workers of a supervisor that was
    killed may hold it for a moment. A stale unix socket is removed; one that answers, or a file that is no
    socket, never is. `unix_mode` is the permission of a unix path. Raises ConfigError. A cancellation
    leaves nothing behind.
    """
    if address.kind == "fd":
        return adopt(address.fd, listener_id, address)
    family, target = await _resolve(address)
    deadline = clock.now() + wait
    while True:
        remaining = deadline - clock.now()
        try:
            sock, inode = _bind(family, target, backlog, unix_mode)
        except OSError as error:
            # Below a loop's own resolution time does not pass while one sleeps.
            if error.errno != errno.EADDRINUSE or remaining <= CLOCK_RESOLUTION:
                raise _refusal(address, target, error) from error
        else:
            return Listener(listener_id, address, sock, inode)
        await clock.sleep(min(BIND_RETRY_INTERVAL, remaining))


def adopt(fd: int, listener_id: int, requested: Address, inode: tuple[int, int] | None = None) -> Listener:
    """The listener around a descriptor that was inherited or kept through a re-exec. Takes the
    descriptor over; raises ConfigError, and leaves it open, when it is not a listening stream socket.
    Without `inode` a unix path is not removed at the end: it belongs to somebody else.
    """
    return Listener(listener_id, requested, _listening_socket(fd, "bind", str(requested)), inode)


def inherited_fds(env: MutableMapping[str, str], pid: int | None = None) -> list[Inherited]:
    """The listening sockets that systemd passed to `pid` (None: this process), descriptors from 3.

    Takes LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES out of `env`, so that no child takes them for its own,
    and sets close-on-exec. Empty when there are none or they are meant for another process. Raises
    ConfigError when one is not a listening stream socket. Source: sd_listen_fds(3).
    """
    count, owner, names = (env.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if not count or owner != str(os.getpid() if pid is None else pid):
        return []
    if not (count.isascii() and count.isdigit()) or int(count) > MAX_LISTENERS:
        raise ConfigError("LISTEN_FDS", count, f"a number from 0 to {MAX_LISTENERS}", "the environment")
    given = names.split(":") if names else []
    found = []
    for index, fd in enumerate(range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))):
        name = given[index] if index < len(given) and given[index] else "unknown"
        _listening_socket(fd, "LISTEN_FDS", f"{fd} ({name})").detach()
        found.append(Inherited(fd, name))
    return found


def open_intake() -> tuple[socket.socket, socket.socket]:
    """The queue of migrated connections: its receive end and its send end, non-blocking and close-on-exec.

    A unix stream socketpair; see `holdfast.server.http.migration` for what goes through it. The queue is as
    long as the system lets this user make it.
    """
    receive, send = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    receive.setblocking(False)
    send.setblocking(False)
    send.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, INTAKE_BUFFER)
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # past net.core.wmem_max, for CAP_NET_ADMIN only
            send.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, INTAKE_BUFFER)
    return receive, send


async def _resolve(address: Address) -> tuple[socket.AddressFamily, Target]:
    if address.kind == "unix":
        return socket.AF_UNIX, os.path.abspath(address.path)  # noqa: ASYNC240, PTH100 - only getcwd(), no disk
    loop = asyncio.get_running_loop()
    try:
        ipaddress.ip_address(address.host)
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except ValueError:
        try:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise ConfigError("bind", str(address), "a host name that resolves", hint=error.strerror or "") from error
    except socket.gaierror as error:  # the zone of a link-local address
        raise ConfigError("bind", str(address), "an address of this host", hint=error.strerror or "") from error
    family, _, _, _, target = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return socket.AddressFamily(family), (str(target[0]), *target[1:])


def _bind(
    family: socket.AddressFamily, target: Target, backlog: int, unix_mode: int
) -> tuple[socket.socket, tuple[int, int] | None]:
    """Raises OSError; EADDRINUSE when the address is held by somebody alive."""
    inode = None
    sock = socket.socket(family, socket.SOCK_STREAM, 0 if isinstance(target, str) else socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        if isinstance(target, str):
            path = Path(target)
            _remove_stale(path)
            sock.bind(target)
            inode = _inode(path)
            # Until listen() nobody can connect, so there is no moment with the umask's permissions.
            path.chmod(unix_mode)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        if inode is not None and isinstance(target, str):
            _unlink_own(Path(target), inode)
        raise
    return sock, inode


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that is gone. OSError(EADDRINUSE) when somebody answers."""
    try:
        before = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(before.st_mode):
        raise FileExistsError(errno.EEXIST, "it exists and is not a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            # Nobody listens. Two that start at once both see this: do not remove what the other has just
            # made.
            if _same(path, before):
                path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise
            # A full backlog (EAGAIN) or another socket type (EPROTOTYPE) is a sign of life.
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _refusal(address: Address, target: Target, error: OSError) -> ConfigError:
    """What the system's refusal means for the person who configured the address."""
    expected, hint = "an address that can be bound", error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        who = holders(target)
        held = f"it is held by {who}" if who else "another process listens there"
        expected, hint = "a free address", f"{held}; stop that one or choose another address"
    elif isinstance(target, str):
        directory = str(Path(target).parent)
        if error.errno == errno.EEXIST:
            expected, hint = "a path that is free or an old socket", f"{target} exists and is not a socket"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            expected, hint = "a path in a directory", f"create the directory {directory} first"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            expected, hint = (
                "a path this user may write",
                f"no permission in {directory} or for what is there",
            )
    elif error.errno == errno.EACCES:
        expected, hint = "a port this user may bind", "permission denied"
        if address.port < 1024:
            hint = "ports under 1024 need CAP_NET_BIND_SERVICE, a systemd socket unit, or a port above"
    elif error.errno == errno.EADDRNOTAVAIL:
        expected = "an address of this host"
        hint = f"no interface has {address.host} (yet)"
    return ConfigError("bind", str(address), expected, hint=hint)


def _listening_socket(fd: int, place: str, value: str) -> socket.socket:
    """The socket behind `fd`, checked, non-blocking and close-on-exec. ConfigError leaves `fd` open and
    as it was.
    """

    def wrong(found: str) -> ConfigError:
        return ConfigError(place, value, "a listening stream socket", hint=f"descriptor {fd} is {found}")

    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise wrong("not open" if error.errno == errno.EBADF else "not a socket") from error
    found = ""
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        found = f"a socket of family {int(sock.family)}"
    elif sock.type != socket.SOCK_STREAM:
        found = f"a {getattr(sock.type, 'name', sock.type)} socket"
    elif not _is_listening(sock):
        found = "a stream socket that does not listen"
    if found:
        sock.detach()
        raise wrong(found)
    sock.set_inheritable(False)
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _is_listening(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # macOS does not tell; the first accept will
        return True


def _bound_text(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, bytes):  # an abstract unix socket, from a service manager
        return "unix:@" + os.fsdecode(name[1:])
    if isinstance(name, str):
        return f"unix:{name}"
    return str(Address("tcp", name[0], name[1]))


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _unlink_own(path: Path, inode: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):  # gone already, or the directory is read-only by now
        if _inode(path) == inode:
            path.unlink()


def _same(path: Path, before: os.stat_result) -> bool:
    """An inode's number may be used again at once, its change time not."""
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino, now.st_ctime_ns) == (before.st_dev, before.st_ino, before.st_ctime_ns)
