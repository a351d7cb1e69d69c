"""The control socket: how commands reach a running supervisor.

A unix socket that only its owner may open. A request is one line of JSON, ``{"op": "reload"}``; the answer is any
number of ``{"event": ...}`` lines and at last one ``{"result": ...}`` or ``{"error": ...}``.

The commands for the configuration, with the types of their results in ``supervisor/configured.py``:

- ``{"op": "config"}``: what holds now, ``ConfigStatus``;
- ``{"op": "config-history"}``: what was proposed, ``ConfigHistory``;
- ``{"op": "config-apply", "who": "ann", "why": "more traffic"}``: reads all layers now, ``ConfigApplied``;
- ``{"op": "config-rollback", "version": 12, "who": "ann", "why": "..."}``: an earlier version again, ``ConfigApplied``.

``{"op": "routes"}`` asks all workers what they have counted: ``ServiceCounts`` of ``supervisor/counts.py``.

An error of ``config-apply`` and ``config-rollback`` has a line in ``reason``; when there are several mistakes,
``detail`` has one to a line.
"""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.config.mistakes import ConfigErrors
from holdfast.core.errors import BootError, ConfigError, HoldfastError
from holdfast.core.event import Event
from holdfast.supervisor.address import Address
from holdfast.supervisor.census import take_census
from holdfast.supervisor.sockets import BACKLOG, Listener, adopt, open_listener
from holdfast.supervisor.status import Outcome

if TYPE_CHECKING:
    from holdfast.supervisor.master import Supervisor
    from holdfast.supervisor.upgrade import Resumed

logger = logging.getLogger("holdfast.control")

MAX_LINE = 64 * 1024
"""Bytes of one request."""
MAX_CLIENTS = 256
"""Connections at the same time."""
REQUEST_LIMIT = 10.0
"""Seconds within which a client must say what it wants."""
MAX_BEHIND = 1000
"""Events a follower may be late by; beyond it the connection ends."""
ACCEPT_TURNS = 6
"""Turns of the loop after which a connection that had come is known, and a command with it carried out."""
SILENCE = 0.1
"""Seconds that a re-exec waits for clients that are connected and have not said yet what they want."""


COMMAND: Final = "command"
"""Who asks when nobody says who."""
OPERATIONS: Final = (
    "status, reload, upgrade, drain, scale, stop, kill, events, routes, "
    "config, config-history, config-apply or config-rollback"
)


class Request(msgspec.Struct, frozen=True):
    """What a command asks for."""

    op: str
    count: int = 0
    on: bool = True
    reload: bool = True
    version: int = 0
    who: str = ""
    why: str = ""


class ControlServer:
    """Answers commands for one supervisor, on its event loop."""

    def __init__(self, supervisor: "Supervisor", path: Path) -> None:
        self.path = path
        self.listener: Listener | None = None
        self._supervisor = supervisor
        self._server: asyncio.Server | None = None
        self._followers: dict[asyncio.Task[Any], asyncio.Queue[Event | None]] = {}
        self._clients: set[asyncio.Task[Any]] = set()
        self._door: socket.socket | None = None
        self._silent: set[asyncio.StreamWriter] = set()
        self._all_heard = asyncio.Event()
        self._all_heard.set()
        self._waiting: set[asyncio.StreamWriter] = set()

    async def open(self, fd: int | None = None) -> None:
        """Listen. ``fd`` is the socket of before a re-exec. Raises ConfigError when another supervisor is running."""
        if fd is None:
            make_private(self.path.parent)
            try:
                self.listener = await open_listener(Address("unix", path=str(self.path)), 0, unix_mode=0o600)
            except ConfigError as exc:
                raise ConfigError(
                    "control", str(self.path), "a free path", hint=f"{exc.hint}; give this service another --name"
                ) from exc
        else:
            found = self.path.lstat() if self.path.exists() else None
            inode = (found.st_dev, found.st_ino) if found else None
            self.listener = adopt(fd, 0, Address("unix", path=str(self.path)), inode)
        await self.resume_listening()

    async def resume_listening(self) -> None:
        """Take connections, again, unless this has been closed meanwhile."""
        if self.listener is None or self.listener.fileno() < 0:
            return
        if self._server is not None:
            self._server.close()
        # A server closes its socket, and since Python 3.13 it would remove the path as well.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._door = self.listener.socket.dup()
        self._server = await asyncio.start_unix_server(
            self._accept, sock=self._door, limit=MAX_LINE, backlog=BACKLOG, **options
        )

    async def pause_listening(self) -> None:
        """Before a re-exec: who connects from now on waits in the kernel's queue, for the successor or until listening
        is resumed. Commands that have come are carried out, or wait for their turn."""
        if self._door is not None and self._door.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._door)  # a server that is closed drops what it has just taken
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                await self._all_heard.wait()

    async def close(self) -> None:
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        if self.listener is not None:
            self.listener.close()

    def publish(self, event: Event) -> None:
        """Tell those who follow."""
        for task, queue in list(self._followers.items()):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                task.cancel()

    def resume(self, resumed: "Resumed", outcome: "asyncio.Task[Any]") -> None:
        """Answer the command that asked for the upgrade, on the connection that it still waits on."""
        if resumed.reply_fd is not None:
            os.set_inheritable(resumed.reply_fd, False)  # before the first worker of the new generation is started
            task = asyncio.get_running_loop().create_task(self._answer_resumed(resumed.reply_fd, outcome))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _answer_resumed(self, fd: int, outcome: "asyncio.Task[Any]") -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        _, writer = await asyncio.open_unix_connection(sock=sock)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await self._conclude(writer, self._upgraded(outcome))

    async def _upgraded(self, outcome: "asyncio.Task[Any]") -> Any:
        reloaded = await asyncio.shield(outcome)
        return _result(reloaded) if reloaded is not None else self._supervisor.status()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: the task is this server's own, and Python 3.11 logs one of its own that is cancelled.
        if not _is_ours(writer.get_extra_info("socket")):
            writer.close()
            return
        if len(self._clients) >= MAX_CLIENTS:
            reason = f"{MAX_CLIENTS} commands are connected already; try again"
            writer.write(msgspec.json.encode({"error": {"reason": reason, "detail": ""}}) + b"\n")
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="control")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._silent.add(writer)
        self._all_heard.clear()
        try:
            async with asyncio.timeout(REQUEST_LIMIT):
                line = await reader.readline()
            self._heard(writer)
            if line:
                request = msgspec.json.decode(line, type=Request)
                if request.op == "events":
                    await self._follow(task, reader, writer)
                else:
                    self._waiting.add(writer)
                    await self._conclude(writer, self._do(request, writer))
        except (TimeoutError, ValueError, msgspec.DecodeError) as exc:
            with contextlib.suppress(ConnectionError):
                await _write(writer, {"error": {"reason": f"not a request: {exc}", "detail": ""}})
        except ConnectionError:
            pass  # the command has gone; what it asked for goes on or is done
        except asyncio.CancelledError:
            writer.transport.abort()  # a client that does not read must not keep the connection
            raise
        finally:
            self._followers.pop(task, None)
            self._heard(writer)
            self._waiting.discard(writer)
            writer.close()

    def _heard(self, writer: asyncio.StreamWriter) -> None:
        self._silent.discard(writer)
        if not self._silent:
            self._all_heard.set()

    def dismiss(self, kept: int | None) -> None:
        """Before a re-exec: who waits for its turn, or has not said anything, is told that it does not come."""
        reason = "the supervisor was upgraded before this command had its turn; give it again"
        for writer in (*self._waiting, *self._silent):
            if writer.get_extra_info("socket").fileno() != kept:
                writer.write(msgspec.json.encode({"error": {"reason": reason, "detail": ""}}) + b"\n")

    async def _conclude(self, writer: asyncio.StreamWriter, work: Any) -> None:
        try:
            result = await work
        except HoldfastError as exc:
            reason, detail = _told(exc)
            await _write(writer, {"error": {"reason": reason, "detail": detail}})
        except Exception as exc:  # a fault of the supervisor's own: it is told and logged, and the service goes on
            logger.exception("a command failed")
            await _write(writer, {"error": {"reason": f"{type(exc).__name__}: {exc}", "detail": ""}})
        else:
            await _write(writer, {"result": result})

    async def _follow(
        self, task: "asyncio.Task[Any]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        queue: asyncio.Queue[Event | None] = asyncio.Queue(MAX_BEHIND)
        past = list(self._supervisor.history)
        self._followers[task] = queue
        left = asyncio.get_running_loop().create_task(reader.read(), name="control: follower's end")

        def end(_: object) -> None:
            with contextlib.suppress(asyncio.QueueFull, asyncio.CancelledError):
                left.exception()  # a reset is an end like any other
                queue.put_nowait(None)

        left.add_done_callback(end)
        try:
            for event in past:
                await _write(writer, {"event": event, "past": True})
            while (news := await queue.get()) is not None:
                await _write(writer, {"event": news})
        finally:
            left.cancel()

    async def _do(self, request: Request, writer: asyncio.StreamWriter) -> Any:
        supervisor = self._supervisor
        match request.op:
            case "status":
                return supervisor.status()
            case "reload":
                return _result(await supervisor.reload("command"))
            case "routes":
                return await take_census(supervisor.settings.service_name, supervisor.pool.workers.values())
            case "config":
                return supervisor.configuration.status()
            case "config-history":
                return supervisor.configuration.history()
            case "config-apply":
                return await supervisor.configuration.apply(request.who or COMMAND, request.why)
            case "config-rollback":
                return await supervisor.configuration.rollback(request.version, request.who or COMMAND, request.why)
            case "upgrade":
                sock = writer.get_extra_info("socket")
                await supervisor.upgrade("command", reload=request.reload, reply_to=sock.fileno())
            case "drain":
                supervisor.drain(request.on)
            case "scale":
                await supervisor.scale(request.count)
            case "stop":
                supervisor.begin_stop("command")
            case "kill":
                supervisor.stop_at_once()
            case op:
                raise ConfigError("op", op, OPERATIONS)
        return supervisor.status()


def _told(error: HoldfastError) -> tuple[str, str]:
    """One line, and what there is to be said besides."""
    if isinstance(error, BootError):
        return error.reason, error.detail
    if isinstance(error, ConfigErrors) and error.total > 1:
        return f"{error.errors[0]} (and {error.total - 1} more)", str(error)
    cause = error.__cause__
    return str(error), cause.detail if isinstance(cause, BootError) else ""


def _result(outcome: Outcome) -> Outcome:
    if not outcome.ok:
        raise BootError(outcome.reason, outcome.detail)
    return outcome


async def _write(writer: asyncio.StreamWriter, message: Any) -> None:
    writer.write(msgspec.json.encode(message) + b"\n")
    await writer.drain()


def _is_ours(sock: Any) -> bool:
    """The file's permissions keep others out; where the kernel tells who it is, it is asked besides."""
    if sys.platform != "linux":
        return True
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.getuid())


def runtime_directory() -> Path:
    """Where control sockets are: $HOLDFAST_RUNTIME, or the user's runtime directory, or one in the temporary one."""
    given = os.environ.get("HOLDFAST_RUNTIME") or os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if xdg := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg) / "holdfast"
    return Path(tempfile.gettempdir()) / f"holdfast-{os.getuid()}"


def control_path(name: str) -> Path:
    """The control socket of the service ``name``."""
    return runtime_directory() / f"{name}.sock"


def make_private(directory: Path) -> None:
    """Make the directory, for its owner only. Raises ConfigError when it belongs to somebody else."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as exc:
        raise ConfigError("control", str(directory), "a directory that can be made", hint=str(exc)) from exc
    owner = found.st_uid
    writable = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(found.st_mode) or writable:
        raise ConfigError(
            "control", str(directory), "a directory, no link, that nobody else can write", hint="set --control"
        )
    if owner not in (0, os.getuid()):
        raise ConfigError(
            "control", str(directory), "a directory of this user", hint=f"it belongs to user {owner}; set --control"
        )
