"""What a supervisor tells about itself: events as they happen, and the state of this moment."""

import logging

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


class ConfigurationChanged(Event, frozen=True):
    """All workers have another configuration. ``changes`` are the first of ``total``, without secrets."""

    version: int
    digest: str
    who: str
    why: str
    changes: tuple[str, ...]
    total: int


class ConfigurationRefused(Event, frozen=True):
    """A configuration was refused, and ``version`` stays. ``mistakes`` are the first of ``total``."""

    version: int
    who: str
    why: str
    mistakes: tuple[str, ...]
    total: int


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
    | ConfigurationChanged
    | ConfigurationRefused
    | SupervisorUpgraded
    | ServiceStopping
)


def describe(event: Event) -> tuple[int, str]:
    """The event as a log level and a line; stacks and an app's own error follow on further lines."""
    match event:
        case WorkerStarted():
            line = f"worker {event.slot} (pid {event.pid}, generation {event.generation}) is ready"
            return logging.INFO, f"{line} after {event.seconds:.2f} s: {event.reason}"
        case WorkerEnded():
            line = f"worker {event.slot} (pid {event.pid}, generation {event.generation}) {event.ending}"
            left = f"; not finished: {', '.join(event.unfinished)}" if event.unfinished else ""
            level = logging.ERROR if not event.expected else logging.WARNING if left else logging.INFO
            return level, line + left
        case WorkerHung():
            stacks = event.stacks or "(no stacks came: the process is stopped or waits in the kernel)"
            line = f"the event loop of worker {event.slot} (pid {event.pid}) has been blocked for {event.seconds:.1f} s"
            return logging.ERROR, f"{line}; it is replaced. It was at:\n{stacks}"
        case BootRefused():
            detail = f"\n{event.detail}" if event.detail else ""
            return logging.ERROR, f"worker {event.slot} of generation {event.generation}: {event.reason}{detail}"
        case GenerationReplaced():
            return logging.INFO, (
                f"generation {event.generation} serves with {count(event.workers)} after {event.seconds:.2f} s"
            )
        case GenerationRefused():
            detail = f"\n{event.detail}" if event.detail else ""
            return logging.ERROR, (
                f"generation {event.generation} is refused, the one before serves on: {event.reason}{detail}"
            )
        case ConfigurationChanged():
            return logging.INFO, f"configuration {event.version} holds ({_by(event)}):{_listed(event.changes, event)}"
        case ConfigurationRefused():
            return logging.ERROR, (
                f"a configuration is refused ({_by(event)}), {event.version} stays:{_listed(event.mistakes, event)}"
            )
        case SupervisorUpgraded():
            return logging.INFO, f"the supervisor was upgraded to holdfast {event.version} in place"
        case ServiceStopping():
            return logging.INFO, f"stopping ({event.reason})"
        case _:
            return logging.INFO, str(event)


def _by(event: ConfigurationChanged | ConfigurationRefused) -> str:
    return f"{event.who}: {event.why}" if event.why else event.who


def _listed(texts: tuple[str, ...], event: ConfigurationChanged | ConfigurationRefused) -> str:
    more = event.total - len(texts)
    shown = [*texts, *([f"and {more} more"] if more else [])]
    return f" {shown[0]}" if len(shown) == 1 else "".join(f"\n  {text}" for text in shown)


def count(workers: int) -> str:
    """``1 worker``, ``2 workers``."""
    return "1 worker" if workers == 1 else f"{workers} workers"


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
    configuration: int = 0
    """The version that it has; 0 when it has not said yet. ``digest`` goes with it."""
    digest: str = ""


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
    configuration: int = 0
    """The version that holds, with its ``digest``."""
    digest: str = ""
    refused: tuple[str, ...] = ()
    """What is wrong with the settings as they stand in the files; they are not what holds."""

    @property
    def trouble(self) -> str:
        """Why the service should get no traffic, in a line; empty when it should."""
        if self.ready:
            return ""
        if self.state != "serving":
            return self.state
        failing = [check for worker in self.workers for check in worker.checks]
        return "; ".join(dict.fromkeys(failing)) or "no worker is ready"

    @property
    def ready(self) -> bool:
        """Whether the service should get traffic."""
        return self.state == "serving" and any(
            worker.state == "ready" and worker.health != "fail" for worker in self.workers
        )
