"""A worker as the supervisor sees it, and how one is started."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import structs

from holdfast.config.mistakes import Place
from holdfast.core.errors import BootError, ConfigError
from holdfast.supervisor.channel import (
    DUMP_SIGNAL,
    Agreed,
    Answer,
    AnyMessage,
    Beat,
    Booting,
    Channel,
    Configured,
    Counted,
    Disagreed,
    Draining,
    Failed,
    Leave,
    Message,
    Ready,
    Retired,
    Start,
)

State = Literal["booting", "ready", "draining", "gone"]

DUMP_LIMIT = 1.0
"""Seconds to wait for the stacks."""
DUMP_POLL = 0.02
MAX_DUMP = 64 * 1024
EXIT_LIMIT = 5.0
"""What a worker that has drained, or failed to boot, has to end by itself: the app may have left threads behind."""


class Worker:
    """One process: its state, its last words, and the ways to speak to it. Belongs to the supervisor's loop."""

    def __init__(self, serial: int, slot: int, generation: int, pid: int, dump: int, now: float) -> None:
        self.serial = serial
        self.slot = slot
        self.generation = generation
        self.pid = pid
        self.dump = dump
        self.state: State = "booting"
        self.phase = "starting"
        self.spawned_at = now
        self.ready_at = 0.0
        self.beat_at = now
        self.beat = Beat()
        self.failure: Failed | None = None
        self.retired: Retired | None = None
        self.leaving = ""
        self.exit_status: int | None = None
        self.kill_at = float("inf")
        self.version = 0
        """Of its configuration, with ``digest``; 0 until it is known."""
        self.digest = ""
        self.refusal = ""
        """Why it does not have the current one; empty when it has."""
        self.secrets: tuple[Place, ...] = ()
        self._awaited: dict[int, asyncio.Future[Answer | None]] = {}
        self.hung = False
        self.killed = False
        self.settled = asyncio.Event()
        """Set when the worker is ready, has failed, or is gone."""
        self.withdrawn = asyncio.Event()
        """Set when the worker has begun to drain, or is gone: it takes no more connections."""
        self.gone = asyncio.Event()
        self.channel: Channel

    def connect(self, sock: socket.socket, unread: bytes = b"") -> None:
        self.channel = Channel(sock, self._hear, lambda: None, unread)

    def send(self, message: Message) -> bool:
        return self.channel.send(message)

    async def answer(self, ticket: int, message: Message, within: float) -> "Answer | None":
        """Send ``message``, and wait for the answer with this ticket. None when the worker is gone, or deaf to it.

        ``TimeoutError`` when it has not answered ``within`` seconds.
        """
        if self.exit_status is not None or not self.send(message):
            return None
        awaited: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._awaited[ticket] = awaited
        try:
            async with asyncio.timeout(within):
                return await awaited
        finally:
            self._awaited.pop(ticket, None)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the process is known to be gone: its number may be another's by then."""
        if self.exit_status is None:
            self.killed = self.killed or number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reaped(self, status: int) -> None:
        """The kernel has reported the end of the process."""
        self.channel.finish()
        self.exit_status = status
        self.state = "gone"
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_result(None)
        os.close(self.dump)
        self.settled.set()
        self.withdrawn.set()
        self.gone.set()

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        status = self.exit_status
        if status is None:
            return "is running"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            try:
                name = signal.Signals(number).name
            except ValueError:
                name = f"signal {number}"
            if number == signal.SIGKILL:
                name += ", sent by the supervisor" if self.killed else " (perhaps by the kernel, out of memory)"
            return f"was ended by {name}"
        return f"exited with status {os.waitstatus_to_exitcode(status)}"

    def boot_error(self, waited: float) -> BootError:
        """Why this worker did not become ready."""
        if self.failure is not None:
            return BootError(self.failure.reason, self.failure.detail)
        if self.exit_status is not None:
            return BootError(f"the worker {self.ending} before it was ready, while {self.phase}")
        return BootError(
            f"the worker was not ready within {waited:g} s: it was still {self.phase}", "\n".join(self.beat.checks)
        )

    def clear_dump(self) -> None:
        os.ftruncate(self.dump, 0)
        os.lseek(self.dump, 0, os.SEEK_SET)

    async def stacks(self) -> str:
        """Ask for the stacks of all threads, even of a blocked loop, and wait for them within DUMP_LIMIT.

        Empty when none came: the process is stopped, or in an uninterruptible wait.
        """
        if self.gone.is_set():  # its file is closed, the number may be another's
            return ""
        self.clear_dump()
        self.kill(DUMP_SIGNAL)
        seen = -1
        for _ in range(int(DUMP_LIMIT / DUMP_POLL)):
            await asyncio.sleep(DUMP_POLL)
            if self.exit_status is not None:
                return ""
            size = os.fstat(self.dump).st_size
            if size and size == seen:  # it has stopped growing
                break
            seen = size
        return os.pread(self.dump, MAX_DUMP, 0).decode(errors="replace")

    def _hear(self, message: AnyMessage) -> None:
        self.beat_at = asyncio.get_running_loop().time()
        match message:
            case Beat():
                self.beat = message
            case Booting(phase):
                self.phase = phase
            case Agreed() | Disagreed() | Configured() | Counted():
                self._answered(message)
            case Ready(secrets):
                self.secrets = secrets
                if self.state == "booting":
                    self.state = "ready"
                    self.ready_at = self.beat_at
                self.settled.set()
            case Failed():
                self.failure = message
                self.settled.set()
            case Leave(reason):
                self.leaving = reason
            case Draining():
                self.withdrawn.set()
            case Retired():
                self.retired = message
                self.kill_at = min(self.kill_at, self.beat_at + EXIT_LIMIT)
            case _:
                pass  # what only a supervisor says

    def _answered(self, message: Answer) -> None:
        match message:
            case Agreed(_, secrets):
                self.secrets = secrets
            case Configured(_, version, digest):
                self.version, self.digest, self.refusal = version, digest, ""
        awaited = self._awaited.get(message.ticket)
        if awaited is not None and not awaited.done():
            awaited.set_result(message)


def spawn(start: Start, environment: Mapping[str, str], inherited: Sequence[int], serial: int, now: float) -> Worker:
    """Start a worker in a fresh interpreter and hand it its first word. Must not run beside another thread
    that starts processes: for a moment the descriptors are inheritable. Raises OSError when none can be started.
    """
    dump = anonymous_file()
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        os.close(dump)
        raise
    worker_fds = [*inherited, theirs.fileno(), dump]
    arguments = [sys.executable, "-P", "-m", "holdfast.supervisor.worker", str(theirs.fileno())]
    start = structs.replace(start, dump=dump)
    try:
        with _inheritable(worker_fds):
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                dict(environment),
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE),
            )
    except OSError:
        ours.close()
        os.close(dump)
        raise
    finally:
        theirs.close()
    worker = Worker(serial, start.slot, start.generation, pid, dump, now)
    worker.connect(ours)
    worker.send(start)
    return worker


@contextlib.contextmanager
def _inheritable(descriptors: Sequence[int]) -> Iterator[None]:
    for fd in descriptors:
        os.set_inheritable(fd, True)
    try:
        yield
    finally:
        for fd in descriptors:
            os.set_inheritable(fd, False)


def anonymous_file() -> int:
    """A file without a name: for the stacks of a blocked worker, or for state that crosses a re-exec."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("holdfast")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def directory_by_name(environment: Mapping[str, str]) -> str:
    """The working directory by the name it was entered with, so that a symlink that a deploy swaps is followed."""
    here = Path.cwd()
    named = environment.get("PWD", "")
    if named and Path(named).is_absolute() and Path(named).exists() and Path(named).samefile(here):
        return named
    return str(here)


def first_boot_error(exc: BaseException) -> BootError | None:
    """The first failure in ``exc``, which may be a group; None when it is something else."""
    if isinstance(exc, BootError):
        return exc
    if isinstance(exc, ConfigError):
        return BootError(str(exc))
    if isinstance(exc, BaseExceptionGroup):
        return next(filter(None, (first_boot_error(inner) for inner in exc.exceptions)), None)
    return None
