"""The workers: booting them, replacing them, retiring them, and reviving those that die."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence

from holdfast.core.errors import BootError
from holdfast.core.event import Listeners
from holdfast.supervisor import machine
from holdfast.supervisor.agreement import keep_up
from holdfast.supervisor.channel import LameDuck, Retire, Serve, Socket, Start
from holdfast.supervisor.parcel import Parcel
from holdfast.supervisor.process import EXIT_LIMIT, Worker, first_boot_error, spawn
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.slot import Slot, reason_to_recycle, restart_pause
from holdfast.supervisor.status import BootRefused, GenerationReplaced, WorkerEnded, WorkerHung, WorkerStarted
from holdfast.supervisor.tasks import Tasks

logger = logging.getLogger("holdfast.supervisor")

KILL_MARGIN = 5.0
"""Seconds between the end of a worker's drain limit and SIGKILL."""
WITHDRAW_LIMIT = 1.0
"""Seconds that a reload waits for the old workers to have stopped accepting, so that its end means something."""
MAX_DRAINING = 8
"""Generations that may drain at the same time."""


class WorkerPool:
    """All workers of one service. Belongs to the supervisor's event loop, in the thread that starts processes."""

    def __init__(
        self,
        settings: Settings,
        *,
        sockets: Sequence[Socket],
        intake: tuple[int, int],
        directory: str,
        environment: Mapping[str, str],
        events: Listeners,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.generation = 0
        self.slots: list[Slot] = []
        self.workers: dict[int, Worker] = {}
        self.serial = 0
        self.crashes = 0
        self.hangs = 0
        self.stopping = False
        self.lame = False
        self.parcel: Parcel | None = None
        """The configuration, for workers that boot."""
        self.refused_code = False
        """What is on disk was refused: a replacement would run it, so workers that serve well are left alone."""
        self._sockets = tuple(sockets)
        self._intake = intake
        self._directory = directory
        self._environment = environment
        self._events = events
        self._rng = rng or random.Random()  # noqa: S311 - jitter, guards nothing
        self._tasks = Tasks()
        self._replaced: list[Worker] = []
        self._began = 0.0

    # -- booting

    async def boot(self, slot: int, generation: int, settings: Settings, parcel: Parcel | None) -> Worker:
        """Start a worker and wait until it is ready. Raises BootError with the reason; then the worker is gone.

        It accepts nothing before ``install``. A cancellation ends the worker.
        """
        if self.stopping:
            raise BootError("the service is stopping")
        now = _now()
        place = (self._directory, self._sockets, self._intake)
        start = Start(settings, slot, generation, *place, now, configuration=parcel)
        self.serial += 1
        try:
            worker = spawn(start, self._environment, [*(s.fd for s in self._sockets), *self._intake], self.serial, now)
        except OSError as exc:
            raise BootError(f"no process could be started: {exc}") from exc
        if parcel is not None:
            worker.version, worker.digest = parcel.version, parcel.digest
        self.workers[worker.pid] = worker
        if settings.pin_cpus:
            machine.pin(worker.pid, slot)
        try:
            await _wait(worker.settled, settings.boot_timeout)
            if worker.state == "ready":
                return worker
            error = worker.boot_error(settings.boot_timeout)
            if worker.failure is None and worker.exit_status is None:
                stacks = await worker.stacks()
                error = BootError(error.reason, "\n".join(filter(None, (error.detail, stacks))))
            if worker.failure is not None:
                await _wait(worker.gone, EXIT_LIMIT)
        except BaseException:
            self.dismiss(worker, "its boot was called off")
            raise
        if worker.ready_at and worker.exit_status is None:  # while its stacks were asked for
            return worker
        worker.kill()
        await _wait(worker.gone, EXIT_LIMIT)
        raise error

    def install(self, slot: Slot, worker: Worker, reason: str) -> None:
        """Give the slot to a worker that is ready: it begins to accept, and the one that had it drains."""
        if self.stopping:
            self.dismiss(worker, "the service is stopping")
            return
        old, slot.worker = slot.worker, worker
        worker.send(Serve())
        slot.trouble = ""
        slot.jitter = self._rng.uniform(-1, 1) * self.settings.recycle_jitter
        if self.lame:
            worker.send(LameDuck())
        self._events.emit(
            lambda: WorkerStarted(
                time.time(), slot.index, worker.pid, worker.generation, worker.ready_at - worker.spawned_at, reason
            )
        )
        if old is not None:
            self.retire(old, reason)

    def retire(self, worker: Worker, reason: str) -> None:
        """Let a worker that has a successor drain; one that still does not answer is ended at once."""
        now = _now()
        worker.state = "draining"
        if worker.hung and now - worker.beat_at > self.settings.hang_timeout:
            worker.kill()
            return
        settings = self.settings
        limit, grace = settings.drain_timeout, settings.keep_alive
        if self.stopping:  # what it handed over nobody would take
            limit, grace = settings.stop_timeout, settings.idle_grace
        worker.send(Retire(limit, not self.stopping, min(grace, limit), reason))
        worker.kill_at = now + limit + KILL_MARGIN

    def dismiss(self, worker: Worker, reason: str) -> None:
        """Be rid of a new worker that is not wanted after all. One that is ready ends its app first."""
        if worker.state == "ready":
            self.retire(worker, reason)
        elif worker.state == "booting":
            worker.kill()

    def fill(self, slot: Slot, reason: str) -> None:
        """Boot a worker for the slot in the background, again and again until one is ready."""
        if slot.filling is None and not self.stopping:
            slot.filling = self._tasks.own(self._fill(slot, reason), f"fill slot {slot.index}")

    async def _fill(self, slot: Slot, reason: str) -> None:
        while not self.stopping:
            share = self._rng.uniform(0.5, 1.0)
            await asyncio.sleep(restart_pause(slot.crashes, self.settings.restart_backoff, share))
            try:
                worker = await self._boot_current(slot.index)
            except BootError as exc:
                slot.crashes += 1
                slot.trouble = exc.reason
                self.refused(slot.index, self.generation, exc)
                continue
            slot.filling = None
            self.install(slot, worker, reason)
            return

    async def _boot_current(self, slot: int) -> Worker:
        """One more of this generation. The configuration may change while it boots: then it has to follow."""
        worker = await self.boot(slot, self.generation, self.settings, self.parcel)
        refusal = await keep_up(worker, lambda: self.parcel)
        if refusal:
            self.dismiss(worker, refusal)
            raise BootError(f"the worker cannot have the configuration of now: {refusal}")
        return worker

    def refused(self, slot: int, generation: int, error: BootError) -> None:
        """Tell that a worker did not become ready."""
        self._events.emit(lambda: BootRefused(time.time(), slot, generation, error.reason, error.detail))

    # -- generations

    async def replace(self, settings: Settings, count: int, reason: str, parcel: Parcel | None) -> None:
        """Replace all workers by ``count`` of the next generation: a canary first, then the others, and only when
        all are ready do the old ones drain. ``settle`` waits until these take nothing more.

        Raises BootError with the first failure; then every new worker is gone, or drains if it was ready, and the
        old ones have not noticed. A cancellation does the same. When it returns, the decision has just been made.
        """
        self._began = _now()
        generation = self.generation + 1
        places = range(count)
        booted: dict[int, Worker] = {}
        try:
            booted[0] = await self.boot(0, generation, settings, parcel)
            gate = asyncio.Semaphore(settings.surge)

            async def boot(index: int) -> None:
                async with gate:
                    booted[index] = await self.boot(index, generation, settings, parcel)

            async with asyncio.TaskGroup() as group:
                for index in places[1:]:
                    group.create_task(boot(index))
            for worker in booted.values():
                if worker.state != "ready":
                    raise BootError(f"the worker {worker.ending} as soon as it was ready")
                if worker.hung:
                    raise BootError("the worker's event loop was blocked as soon as it was ready")
        except BaseException as exc:
            for worker in booted.values():
                self.dismiss(worker, "its generation was refused")
            error = first_boot_error(exc)
            if error is None:
                raise
            raise error from None
        self.generation, self.settings, self.parcel = generation, settings, parcel
        self.set_slots(max(count, len(self.slots)))
        self._replaced = [slot.worker for slot in self.slots if slot.worker is not None]
        for slot in self.slots[:count]:
            slot.give_up_filling()
            slot.crashes = 0
            self.install(slot, booted[slot.index], reason)
        self._drop_slots(count, reason)
        self._limit_draining()

    async def settle(self) -> None:
        """After ``replace``: wait, not for long, until the old workers accept nothing more."""
        until = _now() + WITHDRAW_LIMIT
        for worker in self._replaced:
            await _wait(worker.withdrawn, until - _now())
        seconds, generation, count = _now() - self._began, self.generation, len(self.slots)
        self._events.emit(lambda: GenerationReplaced(time.time(), generation, count, seconds))

    def _limit_draining(self) -> None:
        """Long streams and quick reloads must not pile up processes: the oldest have to be done now."""
        draining = sorted((one for one in self.workers.values() if one.state == "draining"), key=lambda one: one.serial)
        for worker in draining[: -MAX_DRAINING * max(1, len(self.slots))]:
            logger.warning("worker %d has drained through %d reloads: it has to end now", worker.pid, MAX_DRAINING)
            worker.send(Retire(KILL_MARGIN, False, KILL_MARGIN, "too many workers drain"))
            worker.kill_at = min(worker.kill_at, _now() + 2 * KILL_MARGIN)

    async def scale(self, count: int) -> None:
        """Have ``count`` workers of the current generation. Raises BootError when a new one does not come up; those
        that did stay."""
        while len(self.slots) < count:
            slot = Slot(len(self.slots))
            worker = await self._boot_current(slot.index)
            self.slots.append(slot)
            self.install(slot, worker, "scale")
        self._drop_slots(count, "scale")

    def set_slots(self, count: int) -> None:
        """Have at least ``count`` slots, the new ones empty."""
        while len(self.slots) < count:
            self.slots.append(Slot(len(self.slots)))

    def forget_booting(self) -> None:
        """Before a re-exec: workers that are not ready are ended; the successor boots others."""
        for slot in self.slots:
            slot.give_up_filling()
        for worker in self.workers.values():
            if worker.state == "booting":
                worker.kill()

    def fill_empty(self, reason: str) -> None:
        """Boot workers for slots that have none, or one that hangs."""
        for slot in self.slots:
            if slot.worker is None or slot.worker.hung:
                self.fill(slot, reason)

    def _drop_slots(self, count: int, reason: str) -> None:
        for slot in self.slots[count:]:
            slot.give_up_filling()
            if slot.worker is not None:
                self.retire(slot.worker, reason)
        del self.slots[count:]

    # -- what happens to workers

    def reaped(self, pid: int, status: int) -> None:
        """The process ``pid`` has ended."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return
        before = worker.state
        worker.reaped(status)
        now = _now()
        slot = next((slot for slot in self.slots if slot.worker is worker), None)
        expected = before in ("draining", "booting") or self.stopping
        unfinished = worker.retired.unfinished if worker.retired else ()
        if before != "booting":
            self._events.emit(
                lambda: WorkerEnded(
                    time.time(), worker.slot, pid, worker.generation, worker.ending, expected, unfinished
                )
            )
        if slot is None:
            return
        if self.stopping:
            slot.worker = None
            return
        self.crashes += not worker.hung
        slot.crashed(now - worker.ready_at, worker.ending)
        self.fill(slot, f"the worker before it {worker.ending}")

    def examine(self, now: float) -> None:
        """Look after every worker: past its limit, silent, too large, or wishing to go. Called a few times a second."""
        for worker in list(self.workers.values()):
            if now > worker.kill_at:
                worker.kill_at = float("inf")
                self._tasks.own(self._end(worker), f"end worker {worker.pid}")
            elif worker.state in ("ready", "draining") and not worker.hung:
                if now - worker.beat_at > self.settings.hang_timeout:
                    worker.hung = True
                    self._tasks.own(self._hung(worker, now - worker.beat_at), f"hung worker {worker.pid}")
            elif worker.hung and now - worker.beat_at < self.settings.hang_timeout:
                worker.hung = False  # it came back; its replacement is under way and lets it drain
        for slot in self.slots:
            reason = reason_to_recycle(slot, self.settings)
            wanted = slot.worker is not None and slot.worker.leaving  # anything else can wait for a good deploy
            if reason and slot.filling is None and (wanted or not self.refused_code):
                self.fill(slot, reason)

    async def _hung(self, worker: Worker, seconds: float) -> None:
        """The stacks first, then a replacement, then the end of what hangs."""
        self.hangs += 1
        stacks = await worker.stacks()
        self._events.emit(lambda: WorkerHung(time.time(), worker.slot, worker.pid, seconds, stacks))
        slot = next((slot for slot in self.slots if slot.worker is worker), None)
        if slot is not None and not self.stopping:
            self.fill(slot, f"the worker before it hung for {seconds:.1f} s")
        if worker.state == "draining" or self.stopping:
            worker.kill()

    async def _end(self, worker: Worker) -> None:
        stacks = await worker.stacks()
        logger.error("worker %d is past its limit and is killed; it was at:\n%s", worker.pid, stacks or "(no stacks)")
        worker.kill()

    # -- the end

    def lame_duck(self, on: bool = True) -> None:
        """All workers that serve answer with ``Connection: close``, and go on."""
        self.lame = on
        for worker in self.workers.values():
            if worker.state == "ready":
                worker.send(LameDuck(on))

    def prepare_stop(self, within: float, reason: str) -> None:
        """No more boots, and nobody hands connections over any more: soon nobody takes them."""
        self.stopping = True
        for slot in self.slots:
            slot.give_up_filling()
        for worker in self.workers.values():
            if worker.state == "booting":
                worker.kill()
            elif worker.state == "draining":
                worker.send(Retire(within, False, min(self.settings.idle_grace, within), reason))

    async def stop(self, within: float, reason: str, *, idle_grace: float) -> None:
        """Drain every worker and wait for the end of all; past ``within`` and a margin they are killed."""
        self.prepare_stop(within, reason)
        now = _now()
        grace = min(idle_grace, within)
        for worker in self.workers.values():
            if worker.state in ("ready", "draining"):
                worker.state = "draining"
                worker.send(Retire(within, False, grace, reason))
                if worker.hung and now - worker.beat_at > self.settings.hang_timeout:
                    worker.kill()
            worker.kill_at = min(worker.kill_at, now + within + KILL_MARGIN)
        last = now + within + 2 * KILL_MARGIN
        for worker in list(self.workers.values()):
            await _wait(worker.gone, last - _now())
        await self._tasks.end()

    def kill(self) -> None:
        """End every worker now."""
        self.stopping = True
        for worker in self.workers.values():
            worker.kill()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _wait(event: asyncio.Event, within: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, within)):
            await event.wait()
    except TimeoutError:
        pass  # the caller looks at the state
