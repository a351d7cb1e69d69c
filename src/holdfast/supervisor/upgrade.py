"""Re-executing the supervisor: new code, new interpreter, the same process, sockets and workers."""

import asyncio
import base64
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.config.mistakes import Place
from holdfast.core.errors import BootError
from holdfast.supervisor.parcel import Parcel
from holdfast.supervisor.process import Worker, anonymous_file
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.sockets import adopt, parse_bind
from holdfast.supervisor.status import Outcome

if TYPE_CHECKING:
    from holdfast.supervisor.front import Front
    from holdfast.supervisor.master import Supervisor
    from holdfast.supervisor.pool import WorkerPool

logger = logging.getLogger("holdfast.supervisor")

VARIABLE = "HOLDFAST_RESUME"
"""Names the descriptor of the state, in the environment of the successor."""
FORMAT = 1
"""Of the state. A successor that does not know it refuses in the trial, where nothing is lost."""
TRIAL_LIMIT = 30.0
"""Seconds for the trial of the new code."""
SIGNAL_TURNS = 4
"""Turns of the loop after which a signal that had come has been handled: it passes a pipe and two queues."""
MAX_STATE = 16 << 20
HELD_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)
"""Blocked while one program replaces the other; the kernel keeps them until the new one listens."""


class HeldListener(msgspec.Struct, frozen=True):
    """A listening socket that stays open."""

    id: int
    fd: int
    requested: str
    inode: tuple[int, int] | None


class HeldWorker(msgspec.Struct, frozen=True):
    """A worker that goes on. Times are of the monotonic clock, which a re-exec does not reset."""

    serial: int
    slot: int
    generation: int
    pid: int
    channel: int
    dump: int
    unread: str
    state: str
    current: bool
    spawned_at: float
    ready_at: float
    kill_at: float | None
    leaving: str
    version: int = 0
    digest: str = ""
    secrets: tuple[Place, ...] = ()


class Resumed(msgspec.Struct, frozen=True):
    """Everything a successor needs. Read from a descriptor; adopting takes the descriptors over."""

    format: int
    trial: bool
    listeners: tuple[HeldListener, ...]
    intake: tuple[int, int]
    control_fd: int
    admin_fds: tuple[int, ...]
    workers: tuple[HeldWorker, ...]
    slots: int
    generation: int
    serial: int
    crashes: int
    hangs: int
    upgrades: int
    began: float
    scaled: int | None
    lame: bool
    fixed: dict[str, str]
    settings: dict[str, Any]
    reload: bool
    reply_fd: int | None
    last_reload: Outcome | None
    configuration: Parcel | None = None

    def adopt_front(self, front: "Front") -> None:
        """Give the sockets back to those who face the world."""
        front.listeners = [adopt(held.fd, held.id, parse_bind(held.requested), held.inode) for held in self.listeners]
        receive, send = (socket.socket(fileno=fd) for fd in self.intake)
        for sock in (receive, send):
            sock.set_inheritable(False)
            sock.setblocking(False)
        front.intake = receive, send

    def adopt_workers(self, pool: "WorkerPool") -> None:
        """Put the workers back into their slots. Those that have died meanwhile are found by the next reaping."""
        now = asyncio.get_running_loop().time()
        pool.generation, pool.serial = self.generation, self.serial
        pool.crashes, pool.hangs, pool.lame = self.crashes, self.hangs, self.lame
        pool.set_slots(self.slots)
        for held in self.workers:
            os.set_inheritable(held.dump, False)
            worker = Worker(held.serial, held.slot, held.generation, held.pid, held.dump, held.spawned_at)
            worker.state = "draining" if held.state == "draining" else "ready"
            worker.ready_at, worker.beat_at = held.ready_at, now
            worker.kill_at = float("inf") if held.kill_at is None else held.kill_at
            worker.leaving = held.leaving
            worker.version, worker.digest, worker.secrets = held.version, held.digest, held.secrets
            worker.settled.set()
            sock = socket.socket(fileno=held.channel)
            sock.set_inheritable(False)
            worker.connect(sock, base64.b64decode(held.unread))
            pool.workers[held.pid] = worker
            if held.current:
                pool.slots[held.slot].worker = worker
            elif worker.state == "ready":  # its slot had not been given to it yet
                pool.dismiss(worker, "the supervisor was upgraded")

    def check(self, settings: Settings) -> None:
        """Raise BootError when these settings are not those of the running service, where they have to be."""
        for name, value in settings.fixed().items():
            if value != self.fixed.get(name, value):
                before = self.fixed[name] or "none"
                raise BootError(f"{name} has changed from {before} to {value or 'none'}; stop and start to change it")


def read_state(environment: dict[str, str]) -> Resumed | None:
    """The state a predecessor left, or None. Takes the variable out. Raises BootError when it cannot be read."""
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    try:
        fd = int(text)
        data = os.pread(fd, MAX_STATE, 0)
        os.close(fd)
        state = msgspec.json.decode(data, type=Resumed)
    except (ValueError, OSError, msgspec.DecodeError) as exc:
        raise BootError(f"the state of the supervisor before the upgrade cannot be read: {exc}") from exc
    if state.format != FORMAT:
        raise BootError(f"the state of the supervisor before the upgrade has format {state.format}, not {FORMAT}")
    return state


async def try_out(supervisor: "Supervisor", *, reload: bool, reply_to: int | None) -> None:
    """Let the new code read the state in a process of its own. Raises BootError with what it printed when it fails."""
    output = anonymous_file()
    state = _write_state(_collect(supervisor, reload=reload, reply_to=reply_to, trial=True))
    try:
        os.set_inheritable(state, True)
        try:
            pid = os.posix_spawn(  # noqa: ASYNC221 - returns at once
                sys.executable,
                _arguments(supervisor),
                _environment(supervisor, state),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigmask=(),
            )
        except OSError as exc:
            raise BootError(f"the new interpreter {sys.executable} cannot be started: {exc}") from exc
        finally:
            os.set_inheritable(state, False)
        ended = supervisor.children.expect(pid)
        try:
            async with asyncio.timeout(TRIAL_LIMIT):
                status = os.waitstatus_to_exitcode(await ended)
        except BaseException as exc:
            supervisor.children.kill(pid)
            if isinstance(exc, TimeoutError):
                raise BootError(f"the trial of the new code did not end within {TRIAL_LIMIT:g} s") from None
            raise
        if status != 0:
            said = os.pread(output, 64 * 1024, 0).decode(errors="replace").strip()
            raise BootError(f"the new code failed its trial with status {status}, the old one stays", said)
    finally:
        os.close(state)
        os.close(output)


async def hold_still(supervisor: "Supervisor") -> None:
    """Leave further signals and commands to the kernel until ``go_on`` or a successor takes them, and let those that
    have come already take effect."""
    await supervisor.control.pause_listening()
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    for _ in range(SIGNAL_TURNS):
        await asyncio.sleep(0)
    for number in supervisor.signals.waiting():
        signal.raise_signal(number)  # blocked: it waits for the successor


async def go_on(supervisor: "Supervisor") -> None:
    """Nothing was handed over: what has come meanwhile takes effect now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    await supervisor.control.resume_listening()


def hand_over(supervisor: "Supervisor", *, reload: bool, reply_to: int | None) -> None:
    """Replace this program. Returns only by raising BootError; the boots under way have then been called off."""
    supervisor.pool.forget_booting()
    kept: list[int] = []
    try:
        resumed = _collect(supervisor, reload=reload, reply_to=reply_to, trial=False)
        state = _write_state(resumed)
        kept = [
            state,
            *(held.fd for held in resumed.listeners),
            *resumed.intake,
            resumed.control_fd,
            *resumed.admin_fds,
            *(fd for held in resumed.workers for fd in (held.channel, held.dump)),
            *(() if reply_to is None else (reply_to,)),
        ]
        for fd in kept:
            os.set_inheritable(fd, True)
        supervisor.control.dismiss(reply_to)
        os.execve(sys.executable, _arguments(supervisor), _environment(supervisor, state))  # noqa: S606 - the point
    except OSError as exc:
        for fd in kept:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
        if kept:
            os.close(kept[0])
        raise BootError(f"{sys.executable} cannot take over: {exc}; the old code stays") from exc


def _collect(supervisor: "Supervisor", *, reload: bool, reply_to: int | None, trial: bool) -> Resumed:
    pool = supervisor.pool
    assert supervisor.control.listener is not None
    return Resumed(
        format=FORMAT,
        trial=trial,
        listeners=tuple(
            HeldListener(one.id, one.fileno(), str(one.requested), one.inode) for one in supervisor.front.listeners
        ),
        intake=supervisor.front.intake_fds(),
        control_fd=supervisor.control.listener.fileno(),
        admin_fds=tuple(one.fileno() for one in supervisor.admin.listeners),
        workers=tuple(
            HeldWorker(
                serial=worker.serial,
                slot=worker.slot,
                generation=worker.generation,
                pid=worker.pid,
                channel=worker.channel.sock.fileno(),
                dump=worker.dump,
                unread=base64.b64encode(worker.channel.unread).decode(),
                state=worker.state,
                current=any(slot.worker is worker for slot in pool.slots),
                spawned_at=worker.spawned_at,
                ready_at=worker.ready_at,
                kill_at=None if worker.kill_at == float("inf") else worker.kill_at,
                leaving=worker.leaving,
                version=worker.version,
                digest=worker.digest,
                secrets=worker.secrets,
            )
            for worker in pool.workers.values()
            # One whose channel is closed takes itself for an orphan and ends; its slot gets another.
            if worker.state in ("ready", "draining") and worker.channel.sock.fileno() >= 0
        ),
        slots=len(pool.slots),
        generation=pool.generation,
        serial=pool.serial,
        crashes=pool.crashes,
        hangs=pool.hangs,
        upgrades=supervisor.upgrades + 1,
        began=supervisor.began,
        scaled=supervisor.scaled,
        lame=pool.lame,
        fixed=supervisor.settings.fixed(),
        settings=supervisor.settings.plain(),
        reload=reload,
        reply_fd=reply_to,
        last_reload=supervisor.last_reload,
        configuration=pool.parcel,
    )


def _write_state(state: Resumed) -> int:
    fd = anonymous_file()
    os.write(fd, msgspec.json.encode(state))
    return fd


def _arguments(supervisor: "Supervisor") -> list[str]:
    return [sys.executable, "-P", "-m", "holdfast", *supervisor.arguments]


def _environment(supervisor: "Supervisor", state: int) -> Mapping[str, str]:
    return {**supervisor.environment, VARIABLE: str(state)}
