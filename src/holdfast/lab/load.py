"""The load: what to send, where, how often, and the run that does it.

The client never retries and hides nothing. Each of its connections is one user, who sends one request at a
time; whatever ends a request without a whole and valid answer is a failure. It is an instrument for your own
machine: only loopback addresses and unix sockets are accepted.
"""

import asyncio
import ipaddress
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from holdfast.lab.report import MAX_SAMPLES, START, Failure, Report, Second, Segment, assemble
from holdfast.lab.response import Heads
from holdfast.lab.user import User

MAX_DURATION = 86_400.0
MAX_CONNECTIONS = 10_000
MAX_BODY = 64 * 1024 * 1024
MAX_MARKS = 10_000
SWEEP = 0.02
"""How often, in seconds, the requests under way are looked through: a timeout comes at most this late."""

PACE_STEP = 0.001
"""The finest timer of a paced load, in seconds: uvloop's timers count whole milliseconds. A request may start
this much after it was due, and its latency includes that."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[!-~]*")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")

Check = Callable[[int, bytes], bool]
"""Is this status with this body what was wanted? Called once for each whole answer; it must not block."""


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to send. Durations are seconds. Raises ValueError when a value makes no sense.

    - ``addresses``: ``HOST:PORT`` on the loopback, ``[::1]:PORT``, ``unix:/path``. A user keeps to one of them.
    - ``mode``: ``keepalive`` sends the next request as soon as the answer is there; ``think`` waits ``think``
      seconds first; ``connect`` opens a connection for each request.
    - ``say_close``: in mode ``connect``, send ``Connection: close``. Else the client closes after the answer.
    - ``rate``: requests a second, all users together, on a fixed timetable; latency then counts from the time
      a request was due: a server that stalls cannot make the client ask less (coordinated omission).
    - ``duration`` and ``count``: the run ends at whichever comes first; requests under way may still finish.
    - ``timeout``: from the start of a request, connecting included, to the end of its answer.
    - ``path`` and the values of ``headers`` may hold ``{n}``, which becomes the number of the request.
    - ``expect_body``: the exact body of a good answer.
    - ``open_ended``: accept a body that ends with the connection, although a cut one looks the same.
    - ``failure_pause``: how long a user waits after a failure, lest a dead server be asked in a tight loop.
    """

    addresses: tuple[str, ...]
    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    connections: int = 50
    mode: Literal["keepalive", "think", "connect"] = "keepalive"
    think: float = 0.020
    say_close: bool = False
    rate: float | None = None
    duration: float = 10.0
    count: int | None = None
    timeout: float = 5.0
    failure_pause: float = 0.010
    expect_body: bytes | None = None
    open_ended: bool = False

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: name at least one, as in '127.0.0.1:8000'")
        for address in self.addresses:
            parse_address(address)
        _demand(
            1 <= self.connections <= MAX_CONNECTIONS,
            "connections",
            self.connections,
            f"1 to {MAX_CONNECTIONS}",
        )
        _demand(
            0 < self.duration <= MAX_DURATION,
            "duration",
            self.duration,
            f"above 0, at most {MAX_DURATION:.0f} s",
        )
        _demand(self.count is None or self.count > 0, "count", self.count, "above 0")
        _demand(0 < self.timeout <= 3600, "timeout", self.timeout, "above 0, at most 3600 s")
        _demand(0 <= self.think <= 3600, "think", self.think, "0 to 3600 s")
        _demand(0 <= self.failure_pause <= 60, "failure_pause", self.failure_pause, "0 to 60 s")
        _demand(self.rate is None or 0 < self.rate <= 1e6, "rate", self.rate, "above 0, at most 1000000")
        _demand(not (self.rate and self.mode == "think"), "rate", self.rate, "left out in mode 'think'")
        _demand(not self.say_close or self.mode == "connect", "say_close", True, "False but in mode 'connect'")
        _demand(_TOKEN.fullmatch(self.method) is not None, "method", self.method, "an HTTP method")
        _demand(_PATH.fullmatch(self.path) is not None, "path", self.path, "a '/' and visible ASCII, encoded")
        _demand(self.body is None or len(self.body) <= MAX_BODY, "body", "...", f"at most {MAX_BODY} bytes")
        for name, value in self.headers:
            _demand(_TOKEN.fullmatch(name) is not None, "headers", name, "a header name")
            _demand(_VALUE.fullmatch(value) is not None, f"headers[{name}]", value, "one line of Latin-1")


def _demand(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


def parse_address(address: str) -> tuple[str, int] | str:
    """The host and port, or the path of a unix socket. Raises ValueError for what is not on this machine."""
    if address.startswith("unix:"):
        if len(address) == len("unix:"):
            raise ValueError(f"address {address!r} has no path; write 'unix:/path/to/socket'")
        return address.removeprefix("unix:")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"address {address!r} has no port; write '127.0.0.1:8000', '[::1]:8000' or 'unix:/path'")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"address {address!r} is not on this machine: the load client only talks to 127.0.0.0/8, ::1 "
            "and unix sockets"
        )
    return host, int(port)


class LoadRun:
    """A load under way; made by ``start_load``. Belongs to the loop that started it; not thread-safe."""

    def __init__(self, load: Load, check: Check | None, clock: Callable[[], float]) -> None:
        self.load = load
        self.clock = clock
        self.heads = Heads()
        self.check = check if check is not None else _exactly(load.expect_body)
        self._loop = asyncio.get_running_loop()
        self._started = time.time()
        self._zero = clock()
        self._last_success = self._zero
        self._issued = 0
        self._active = 0
        self._missed = 0
        self._ending = False
        self._over = asyncio.Event()
        self._free: deque[User] = deque()
        self._series: list[Second] = []
        self._segment = Segment(mark=START, began=0.0, connections=[0] * load.connections)
        self._segments = [self._segment]
        self._final: list[int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        addresses = [parse_address(address) for address in load.addresses]
        self._users = [User(self, addresses[i % len(addresses)]) for i in range(load.connections)]
        self._end_timer = self._loop.call_later(load.duration, self._end)
        self._sweep_timer = self._loop.call_later(SWEEP, self._sweep)
        self._pace_timer: asyncio.TimerHandle | None = None
        for index, user in enumerate(self._users):
            # Thinkers start spread over one think time, or they would all ask at the same moment for ever.
            user.begin_after(load.think * index / load.connections if load.mode == "think" else 0.0)

    # What the owner of the run calls.

    @property
    def running(self) -> bool:
        """False once every request has ended."""
        return not self._over.is_set()

    @property
    def number(self) -> int:
        """The number of the request started last; the first is 1."""
        return self._issued

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._zero

    def mark(self, name: str) -> None:
        """Begin a new segment of the report. Raises ValueError for a name used before or past MAX_MARKS."""
        if any(segment.mark == name for segment in self._segments):
            raise ValueError(f"there is a mark {name!r} already; give each its own name")
        if len(self._segments) >= MAX_MARKS:
            raise ValueError(f"a run holds at most {MAX_MARKS} marks")
        now = self.clock()
        self._segment.ended = now - self._zero
        self._segment.gap = max(self._segment.gap, now - self._last_success)
        serials = [user.serial for user in self._users]
        self._segment = Segment(mark=name, began=now - self._zero, connections=serials)
        self._segments.append(self._segment)

    def snapshot(self) -> Report:
        """The report so far. It is a copy: later requests do not change it."""
        now = self.clock()
        if self._final is None:
            self._segment.ended = now - self._zero
            # The time since the last success is a gap that still grows: for this picture, not for the record.
            gap = max(self._segment.gap, now - self._last_success)
        else:
            gap = self._segment.gap
        segments = [*self._segments[:-1], msgspec.structs.replace(self._segment, gap=gap)]
        report = assemble(
            segments,
            started=self._started,
            final=self._final or [user.serial for user in self._users],
            series=self._series,
            missed=self._missed,
        )
        return msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report)

    async def wait(self) -> Report:
        """Wait until duration or count ends the run. A cancelled wait leaves the run going."""
        await self._over.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)
        return self.snapshot()

    async def stop(self) -> Report:
        """Send no more, let requests under way end (at most the timeout), report. Cancelled, it aborts."""
        self._end()
        try:
            return await self.wait()
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """End at once: close every connection. Requests under way are not counted. Harmless when repeated."""
        self._end()
        for task in self._tasks:
            task.cancel()
        self._finish()

    # What its users call.

    def spawn(self, user: User) -> asyncio.Task[None]:
        """Run a user's connecting as a task that the run owns."""
        task = self._loop.create_task(user.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def claim(self, user: User, now: float) -> None:
        """A user is free: start its next request now, when it is due, or not at all."""
        load = self.load
        if self._ending:
            return
        if load.rate is None:
            if self._take():
                user.begin(now)
            return
        due = self._zero + self._issued / load.rate
        if due <= now:
            if self._take():
                user.begin(due)
            return
        self._free.append(user)
        if self._pace_timer is None:
            self._pace_timer = self._loop.call_later(max(due - now, PACE_STEP), self._pace)

    def started(self) -> None:
        self._active += 1

    def opened(self) -> None:
        self._segment.opened += 1

    def idle_closed(self) -> None:
        self._segment.idle_closed += 1

    def succeed(self, now: float, latency: float, announced: bool) -> None:
        """Count a whole, valid answer."""
        segment = self._segment
        segment.ok += 1
        segment.latency.record(latency)
        gap = now - self._last_success
        if gap > segment.gap:
            segment.gap = gap
        self._last_success = now
        if announced:
            segment.announced += 1
        second = self._second(now)
        second.ok += 1
        if latency > second.worst:
            second.worst = latency
        self._done()

    def fail(self, now: float, kind: str, detail: str, waited: float, served: int) -> None:
        """Count a request that ended in any other way."""
        segment = self._segment
        segment.failures[kind] = segment.failures.get(kind, 0) + 1
        if len(segment.samples) < MAX_SAMPLES:
            segment.samples.append(Failure(now - self._zero, kind, detail, waited, served))
        self._second(now).failed += 1
        self._done()

    # Its own works.

    def _take(self) -> bool:
        if self.load.count is not None and self._issued >= self.load.count:
            self._end()
            return False
        self._issued += 1
        return True

    def _pace(self) -> None:
        self._pace_timer = None
        now = self.clock()
        # ``claim`` puts a user back and sets the timer when nothing more is due.
        while self._free and self._pace_timer is None and not self._ending:
            self.claim(self._free.popleft(), now)

    def _second(self, now: float) -> Second:
        series = self._series
        index = int(now - self._zero)
        while len(series) <= index:
            series.append(Second())
        return series[index]

    def _done(self) -> None:
        self._active -= 1
        if self._ending and not self._active:
            self._finish()

    def _end(self) -> None:
        """Start no more requests."""
        if self._ending:
            return
        self._ending = True
        self._end_timer.cancel()
        if self._pace_timer is not None:
            self._pace_timer.cancel()
        if self.load.rate is not None:
            due = int(min(self.elapsed, self.load.duration) * self.load.rate)
            self._missed = max(0, min(due, self.load.count or due) - self._issued)
        for user in self._users:
            user.rest()
        if not self._active:
            self._finish()

    def _finish(self) -> None:
        if self._final is not None:
            return
        now = self.clock()
        self._segment.ended = now - self._zero
        self._segment.gap = max(self._segment.gap, now - self._last_success)
        self._final = [user.serial for user in self._users]
        self._sweep_timer.cancel()
        for user in self._users:
            user.close()
        self._over.set()

    def _sweep(self) -> None:
        self._sweep_timer = self._loop.call_later(SWEEP, self._sweep)
        now = self.clock()
        for user in self._users:
            if now >= user.deadline:
                user.fail("timeout", user.state())


def _exactly(expected: bytes | None) -> Check | None:
    if expected is None:
        return None
    return lambda status, body: body == expected


def start_load(load: Load, *, check: Check | None = None, clock: Callable[[], float] = time.perf_counter) -> LoadRun:
    """Start a load on the running loop. The caller owns the run: ``wait``, ``stop`` or ``abort`` it."""
    return LoadRun(load, check, clock)


async def run_load(load: Load, *, check: Check | None = None) -> Report:
    """Run a load to its end. A cancellation aborts it."""
    run = start_load(load, check=check)
    try:
        return await run.wait()
    finally:
        run.abort()
