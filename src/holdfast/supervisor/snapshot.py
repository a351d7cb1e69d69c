"""The state of a supervisor at this moment, for the command line, the admin address and probes."""

import asyncio
import os
import platform
import time
from typing import TYPE_CHECKING

import holdfast
from holdfast.supervisor.process import Worker
from holdfast.supervisor.status import Status, WorkerStatus

if TYPE_CHECKING:
    from holdfast.supervisor.master import Supervisor


def take_snapshot(supervisor: "Supervisor") -> Status:
    """Look, without asking the workers: their counters are at most a heartbeat old."""
    pool = supervisor.pool
    now = asyncio.get_running_loop().time()
    workers = sorted(pool.workers.values(), key=lambda worker: (worker.slot, worker.serial))
    return Status(
        name=supervisor.settings.service_name,
        version=holdfast.__version__,
        python=platform.python_version(),
        pid=os.getpid(),
        state=supervisor.state,
        generation=pool.generation,
        uptime=time.monotonic() - supervisor.began,
        upgrades=supervisor.upgrades,
        addresses=supervisor.front.urls(bool(supervisor.settings.tls_certificate)),
        admin=supervisor.admin.addresses,
        workers=tuple(_look(worker, now) for worker in workers),
        wanted=len(pool.slots),
        crashes=pool.crashes,
        hangs=pool.hangs,
        restarting=tuple(f"slot {one.index}: {one.trouble}" for one in pool.slots if one.trouble),
        last_reload=supervisor.last_reload,
        configuration=supervisor.configuration.live.current.version,
        digest=supervisor.configuration.live.current.digest,
        refused=supervisor.configuration.refused,
    )


def _look(worker: Worker, now: float) -> WorkerStatus:
    beat = worker.beat
    return WorkerStatus(
        slot=worker.slot,
        pid=worker.pid,
        generation=worker.generation,
        state="hung" if worker.hung else worker.state,
        phase=worker.phase if worker.state == "booting" else "",
        uptime=now - worker.spawned_at,
        requests=beat.requests,
        in_flight=beat.in_flight,
        connections=beat.connections,
        migrated=beat.migrated,
        failed=beat.failed,
        memory=beat.memory,
        lag=beat.lag,
        silent=now - worker.beat_at,
        health=beat.health,
        checks=beat.checks,
        configuration=worker.version,
        digest=worker.digest,
    )
