"""What a supervisor tells about itself: events as they happen, and the state of this moment."""

import msgspec

from holdfast.core.event import Event


class WorkerStarted(Event, frozen=True):
    """A worker became ready and has its slot."""

    slot: int
    pid: int
    generation: int
    seconds: float
    reason: str


class WorkerEnded(Event, frozen=True):
    """A worker's process is over. ``expected`` when it had been told to end."""

    slot: int
    pid: int
    generation: int
    ending: str
    expected: bool
    unfinished: tuple[str, ...] = ()


class WorkerHung(Event, frozen=True):
    """A worker's event loop was blocked past the limit; ``stacks`` is what it was doing."""

    slot: int
    pid: int
    seconds: float
    stacks: str


class BootRefused(Event, frozen=True):
    """A worker did not become ready."""

    slot: int
    generation: int
    reason: str
    detail: str


class GenerationReplaced(Event, frozen=True):
    """All workers of a new generation serve; the old ones drain."""

    generation: int
    workers: int
    seconds: float


class GenerationRefused(Event, frozen=True):
    """A new generation did not come up; the old one serves on."""

    generation: int
    reason: str
    detail: str


class SupervisorUpgraded(Event, frozen=True):
    """The supervisor runs new code in the same process."""

    version: str


class ServiceStopping(Event, frozen=True):
    """The end has begun."""

    reason: str


AnyEvent = (
    WorkerStarted
    | WorkerEnded
    | WorkerHung
    | BootRefused
    | GenerationReplaced
    | GenerationRefused
    | SupervisorUpgraded
    | ServiceStopping
)


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker. Times are seconds, memory bytes."""

    slot: int
    pid: int
    generation: int
    state: str
    phase: str
    uptime: float
    requests: int
    in_flight: int
    connections: int
    migrated: int
    failed: int
    memory: int
    lag: float
    silent: float
    health: str
    checks: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True):
    """How the last reload went. ``at`` is unix time."""

    ok: bool
    generation: int
    seconds: float
    at: float
    reason: str = ""
    detail: str = ""


class Status(msgspec.Struct, frozen=True):
    """The whole supervisor. ``state`` is starting, serving, draining or stopping."""

    name: str
    version: str
    python: str
    pid: int
    state: str
    generation: int
    uptime: float
    upgrades: int
    addresses: tuple[str, ...]
    admin: tuple[str, ...]
    workers: tuple[WorkerStatus, ...]
    wanted: int
    crashes: int
    hangs: int
    restarting: tuple[str, ...] = ()
    last_reload: Outcome | None = None

    @property
    def ready(self) -> bool:
        """Whether the service should get traffic."""
        return self.state == "serving" and any(
            worker.state == "ready" and worker.health != "fail" for worker in self.workers
        )
