"""What is counted on the routes of a running service: as one worker tells it, and as the service does."""

import msgspec

from holdfast.telemetry.requests import BOUNDS, RouteCounts


class GateNow(msgspec.Struct, frozen=True):
    """One gate. ``in_flight`` hold its permits, of ``limit``; None when it has no such limit.

    ``states`` are those of a breaker and how many of its circuits are in each, ``share`` the part of the requests
    that a throttle refuses.
    """

    kind: str
    name: str
    in_flight: int = 0
    limit: float | None = None
    states: dict[str, int] = {}
    share: float = 0.0


class RouteNow(msgspec.Struct, frozen=True):
    """One route of one worker: ``in_flight`` requests have begun and not ended, ``waiting`` ones wait in the queue."""

    name: str
    counts: RouteCounts
    in_flight: int
    waiting: int
    gates: tuple[GateNow, ...] = ()


class QueueNow(msgspec.Struct, frozen=True):
    """The queue before the handlers. ``limit`` is how many may run, None for no limit; ``governor`` what found it:
    ``found out``, an algorithm, or empty. Durations are seconds: ``work`` is what a handler takes of the loop in one
    go, ``target`` what one may wait in an overload."""

    waiting: int
    running: int
    limit: float | None
    governor: str
    started: int
    refused: int
    overloaded: bool
    work: float
    target: float


class PressureNow(msgspec.Struct, frozen=True):
    """The cgroup: shares of its memory in use, of the time that all waited for memory, and of the periods in which
    the CPU was withheld. ``refused_below`` is the class below which requests are refused. None is unknown, or none."""

    memory: float | None = None
    stalled: float | None = None
    refused_below: str | None = None
    throttled: float | None = None


class WorkerCounts(msgspec.Struct, frozen=True):
    """What one worker tells. ``gates`` are those of the process; ``queue`` is None where handlers begin at once.

    ``left_out``: routes for which the message had no room.
    """

    routes: tuple[RouteNow, ...] = ()
    gates: tuple[GateNow, ...] = ()
    queue: QueueNow | None = None
    pressure: PressureNow = PressureNow()
    left_out: int = 0


class AskedWorker(msgspec.Struct, frozen=True):
    """One worker that was asked, or not: ``missing`` says why its figures are not there, and is empty when they are."""

    slot: int
    pid: int
    generation: int
    state: str
    missing: str = ""
    queue: QueueNow | None = None
    pressure: PressureNow = PressureNow()


class RouteSum(msgspec.Struct, frozen=True):
    """One route of all workers. ``requests`` were let in and have ended; those that were refused are in ``refused``
    only, by what refused them. ``p50`` and ``p99`` are seconds, as exact as the buckets are; None without requests."""

    name: str
    requests: int
    in_flight: int
    waiting: int
    p50: float | None
    p99: float | None
    mean: float | None
    classes: dict[str, int]
    refused: dict[str, int]
    buckets: tuple[int, ...]
    gates: tuple[GateNow, ...] = ()


class ServiceCounts(msgspec.Struct, frozen=True):
    """The answer to ``routes`` on the control socket: the sum of all workers that have answered."""

    name: str
    routes: tuple[RouteSum, ...]
    gates: tuple[GateNow, ...]
    workers: tuple[AskedWorker, ...]
    left_out: int = 0
    bounds: tuple[float, ...] = BOUNDS
