"""The supervisor: owns the sockets, commands the workers, and never runs a line of the application."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import holdfast
from holdfast.core.errors import BootError, ConfigError
from holdfast.core.event import Event, Listeners
from holdfast.supervisor import machine
from holdfast.supervisor.admin import Admin
from holdfast.supervisor.beginning import Beginning, Source
from holdfast.supervisor.children import Children
from holdfast.supervisor.configurator import Configurator
from holdfast.supervisor.control import ControlServer
from holdfast.supervisor.front import Front
from holdfast.supervisor.parcel import Parcel
from holdfast.supervisor.pool import WorkerPool
from holdfast.supervisor.process import directory_by_name
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.signals import Signals
from holdfast.supervisor.snapshot import take_snapshot
from holdfast.supervisor.status import (
    GenerationRefused,
    Outcome,
    ServiceStopping,
    Status,
    SupervisorUpgraded,
    count,
    describe,
)
from holdfast.supervisor.systemd import Notifier, scrub
from holdfast.supervisor.tasks import Tasks
from holdfast.supervisor.upgrade import Resumed, go_on, hand_over, hold_still, try_out
from holdfast.supervisor.watcher import block_signals
from holdfast.telemetry.logs import configure

logger = logging.getLogger("holdfast.supervisor")

EXAMINE_INTERVAL = 0.25
"""Seconds between two looks at the workers."""
HANDSHAKE_GRACE = 0.25
"""Seconds for handshakes under way, once no new ones begin: several round trips on any network near by."""
EXTENSION = 30.0
"""Seconds by which the service manager is asked for patience while the first workers boot."""
HISTORY = 200
"""Events kept for those who ask later."""
MAX_THREADS = 4
"""Threads that read files."""
MAX_SCALE = 1024
"""Workers at most; more is a typing error."""

EXIT_BOOT = 3
"""Exit status of a service that could not start."""


class Supervisor:
    """One service: its sockets, its workers, and what people and systems tell it to do.

    ``beginning`` is what holds at first, ``source`` where it is read anew. ``run`` is the whole life. Everything
    belongs to one asyncio event loop in the main thread.
    """

    def __init__(
        self,
        source: Source,
        beginning: Beginning,
        *,
        control: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        resumed: Resumed | None = None,
    ) -> None:
        self.settings: Settings = beginning.live.current.run
        self.configuration = Configurator(self, source, beginning)
        self.arguments = tuple(arguments)
        self.environment = dict(os.environ if environment is None else environment)
        self.events = Listeners()
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.state = "starting"
        self.front = Front()
        self.upgrades = resumed.upgrades if resumed else 0
        self.scaled = resumed.scaled if resumed else None
        """The number of workers that a command asked for."""
        self.last_reload: Outcome | None = resumed.last_reload if resumed else None
        self.pool: WorkerPool
        self.control = ControlServer(self, control)
        self.admin = Admin(self)
        self._notifier = Notifier(self.environment)
        self._resumed = resumed
        self._operation = asyncio.Lock()
        self._ended: asyncio.Future[int] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self.began = resumed.began if resumed else time.monotonic()
        self._examined = 0.0
        self.children = Children()
        self.signals = Signals(self)

    # -- life

    async def run(self) -> int:
        """Start, serve until told to stop, and return the exit status."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(MAX_THREADS, "holdfast", block_signals))
        self._ended = loop.create_future()
        self.events.subscribe(self._record)
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        self.signals.listen()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a predecessor blocked them while it handed over
        self.reap()
        watch = self.own(self._examine())
        try:
            if self._resumed is None:
                await self._first_generation()
            else:
                self._go_on(self._resumed)
            return await self._ended
        finally:
            watch.cancel()
            await self._close()

    async def _open(self) -> None:
        settings, resumed = self.settings, self._resumed
        if resumed is None:
            await self.front.open(settings, self.environment)
        else:
            resumed.adopt_front(self.front)
        self.pool = WorkerPool(
            settings,
            sockets=self.front.sockets(),
            intake=self.front.intake_fds(),
            directory=directory_by_name(self.environment),
            environment=scrub(self.environment),
            events=self.events,
        )
        if resumed is not None:
            resumed.adopt_workers(self.pool)
        await self.control.open(resumed.control_fd if resumed else None)
        try:
            await self.admin.open(resumed.admin_fds if resumed else ())
        except ConfigError:
            if resumed is None:
                raise
            logger.exception("the admin address is lost, the service goes on")

    async def _first_generation(self) -> None:
        wanted = self._count(self.settings)
        try:
            async with self._operation:
                await self.pool.replace(self.settings, wanted, "start", self.configuration.packed())
                await self.pool.settle()
        except (BootError, ConfigError) as exc:
            if self._stopping is not None:
                return  # that is why
            logger.error("%s cannot start: %s", self.settings.service_name, exc)
            # Workers that were ready have taken connections: these are not dropped.
            await self.pool.stop(self.settings.stop_timeout, "the service cannot start", idle_grace=0.0)
            self._finish(EXIT_BOOT)
            return
        if self._stopping is not None:
            return
        self.configuration.follow(noted=True)
        self._serving()
        urls = ", ".join(self.front.urls(bool(self.settings.tls_certificate)))
        logger.info("%s serves %s with %s", self.settings.service_name, urls, count(wanted))

    def _go_on(self, resumed: Resumed) -> None:
        """After a re-exec: the workers have not noticed."""
        self._serving()
        self.events.emit(lambda: SupervisorUpgraded(time.time(), holdfast.__version__))
        self.pool.parcel = self.configuration.packed()
        self.configuration.follow(noted=False)
        self.pool.fill_empty("it died during the upgrade")
        self.control.resume(resumed, self.own(self._after_upgrade(resumed)))

    async def _after_upgrade(self, resumed: Resumed) -> Outcome | None:
        return await self.reload("upgrade") if resumed.reload else None

    def _serving(self) -> None:
        if self.state == "starting":
            self.state = "draining" if self.pool.lame else "serving"
            self._notifier.main_pid(os.getpid())
            self._notifier.ready(self._summary())

    async def _close(self) -> None:
        await self.configuration.close()
        await self.admin.close()
        await self.control.close()
        await self._tasks.end()
        self.front.close()
        self._notifier.close()

    # -- what it can be told

    async def reload(self, reason: str) -> Outcome:
        """Replace the generation. The outcome says whether the new one serves, or why it was refused."""
        async with self._operation:
            self._not_stopping()
            began = time.monotonic()
            number = self.pool.generation + 1
            try:
                await self.configuration.reload(reason)
            except (BootError, ConfigError) as exc:
                return self._refused(exc, number, began)
            self.last_reload = Outcome(True, number, time.monotonic() - began, time.time())
            return self.last_reload

    async def renew(self, settings: Settings, parcel: Parcel, reason: str) -> None:
        """Replace the generation; whoever calls has the turn, and settles the pool. BootError as the pool's."""
        self._notifier.reloading(time.monotonic_ns() // 1000)
        try:
            await self.pool.replace(settings, self._count(settings), reason, parcel)
        except BootError:
            self.pool.refused_code = True
            raise
        finally:
            self._notifier.ready(self._summary())
        if settings.workers != self.settings.workers:
            self.scaled = None
        self.settings = settings
        self.pool.refused_code = False

    def take(self, settings: Settings, parcel: Parcel) -> None:
        """These hold now: for workers that boot, and as far as they are the supervisor's own."""
        before, self.settings = self.settings, settings
        self.pool.settings, self.pool.parcel = settings, parcel
        if (before.log_format, before.log_level) != (settings.log_format, settings.log_level):
            configure(format=settings.log_format, level=settings.log_level, labels={"service": settings.service_name})

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The turn of a command. BootError when the service stops."""
        async with self._operation:
            self._not_stopping()
            yield

    def _refused(self, exc: BootError | ConfigError, number: int, began: float) -> Outcome:
        if self._stopping is not None:
            exc = BootError("the service is stopping")
        why, detail = (exc.reason, exc.detail) if isinstance(exc, BootError) else (str(exc), "")
        self.events.emit(lambda: GenerationRefused(time.time(), number, why, detail))
        self.last_reload = Outcome(False, number, time.monotonic() - began, time.time(), why, detail)
        return self.last_reload

    async def upgrade(self, reason: str, *, reload: bool = True, reply_to: int | None = None) -> None:
        """Re-execute this process with the code and the interpreter that are installed now. Does not return when it
        succeeds; raises BootError when the trial of the new code fails, and then nothing has changed."""
        async with self._operation:
            self._not_stopping()
            logger.info("upgrading (%s): trying the new code out first", reason)
            await try_out(self, reload=reload, reply_to=reply_to)
            self._not_stopping()
            await self.configuration.flush()
            self._notifier.reloading(time.monotonic_ns() // 1000)
            try:
                await hold_still(self)
                self._not_stopping()
                hand_over(self, reload=reload, reply_to=reply_to)
            finally:  # still here: the old code goes on
                await go_on(self)
                self._notifier.ready(self._summary())
                self.pool.fill_empty("its boot was called off for an upgrade that failed")

    async def scale(self, wanted: int) -> None:
        """Have so many workers, through reloads too. BootError when one fails, ConfigError for a wrong number."""
        async with self._operation:
            await self._scale(wanted)

    async def scale_by(self, change: int) -> None:
        """The same, counted from those there are when its turn has come."""
        async with self._operation:
            await self._scale(len(self.pool.slots) + change)

    async def _scale(self, wanted: int) -> None:
        if not 1 <= wanted <= MAX_SCALE:
            raise ConfigError("workers", wanted, f"a number from 1 to {MAX_SCALE}")
        self._not_stopping()
        await self.pool.scale(wanted)
        self.scaled = wanted

    def drain(self, on: bool = True) -> None:
        """Leave the balancer: readiness fails and clients are told to connect elsewhere. The service answers on."""
        if self.state in ("serving", "draining"):
            self.state = "draining" if on else "serving"
            self.pool.lame_duck(on)
            self._notifier.status(self._summary())

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping is not None

    def begin_stop(self, reason: str, *, hurry: bool = False) -> None:
        """Stop without losing a request; once begun it goes on by itself."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(reason, hurry), name="stop")
            self._stopping.add_done_callback(self._stopped)

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("the orderly stop failed", exc_info=exc)
            self.stop_at_once()

    def stop_at_once(self) -> None:
        """Kill the workers and end."""
        logger.warning("stopping at once: requests in flight are lost")
        self.pool.kill()
        self._finish(0)

    async def _stop(self, reason: str, hurry: bool) -> None:
        settings = self.settings
        self.state = "stopping"
        self._notifier.stopping(f"stopping: {reason}")
        self.events.emit(lambda: ServiceStopping(time.time(), reason))
        self.pool.prepare_stop(settings.stop_timeout, reason)
        self.pool.lame_duck()
        if not hurry:
            await asyncio.sleep(settings.prestop_delay)
        draining = any(worker.state == "draining" for worker in self.pool.workers.values())
        if self.front.hold_back() or draining:  # what these have handed over must be taken before the last look
            await asyncio.sleep(HANDSHAKE_GRACE)
        stopped = self.pool.stop(settings.stop_timeout, reason, idle_grace=0.0 if hurry else settings.idle_grace)
        self.front.close()
        await stopped
        self._finish(0)

    def _finish(self, status: int) -> None:
        assert self._ended is not None
        if not self._ended.done():
            self._ended.set_result(status)

    # -- what it watches

    def reap(self) -> None:
        """Take note of the children that have ended."""
        self.children.reap(self.pool.reaped)

    async def _examine(self) -> None:
        loop = asyncio.get_running_loop()
        interval = self._notifier.watchdog_interval
        watchdog_due = extend_due = 0.0
        self._examined = loop.time()
        while True:
            await asyncio.sleep(EXAMINE_INTERVAL)
            now = loop.time()
            if now - self._examined > 4 * EXAMINE_INTERVAL:
                for worker in self.pool.workers.values():  # it was this process that did not run
                    worker.beat_at = max(worker.beat_at, now)
            self._examined = now
            self.pool.examine(now)
            if self.state == "starting" and now >= extend_due:
                extend_due = now + EXTENSION / 2
                self._notifier.extend_timeout(EXTENSION)  # many workers that boot are progress
            if interval is not None and now >= watchdog_due:
                watchdog_due = now + interval
                self._notifier.watchdog()

    def _record(self, event: Event) -> None:
        self.history.append(event)
        level, text = describe(event)
        logger.log(level, "%s", text)
        self.control.publish(event)

    # -- what it tells

    def status(self) -> Status:
        """The state of this moment."""
        return take_snapshot(self)

    def _summary(self) -> str:
        return f"{self.state}: generation {self.pool.generation}, {count(len(self.pool.slots))}"

    def _count(self, settings: Settings) -> int:
        if self.scaled is not None and settings.workers == self.settings.workers:
            return self.scaled  # a command's word stands until the setting itself changes
        wanted = machine.worker_count() if settings.workers == "auto" else settings.workers
        if not 1 <= wanted <= MAX_SCALE:
            raise ConfigError("workers", wanted, f"a number from 1 to {MAX_SCALE}, or auto")
        return wanted

    def _not_stopping(self) -> None:
        if self._stopping is not None:
            raise BootError("the service is stopping")

    def own(self, work: Coroutine[Any, Any, object]) -> "asyncio.Task[object]":
        """Run ``work`` in a task of the supervisor's; a failure is logged."""
        return self._tasks.own(work, "a command")
