"""The demo's traffic: several loads in one process of their own, watched from another.

The parent writes orders to the child's standard input, one JSON line each; the child answers each with one line
and sends a frame every FRAME_SECONDS in between. End of input ends the traffic: it never outlives its owner.
"""

import asyncio
import contextlib
import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from holdfast.lab.load import Check, Load, LoadRun
from holdfast.lab.process import run_on_best_loop
from holdfast.lab.tally import MAX_SAMPLES, REFUSALS, Frame, Kind, Tally

FRAME_SECONDS = 0.5
MAX_LINE = 64 * 1024 * 1024
"""Of one line between the two, in bytes: the receipts of many minutes."""
MAX_RECEIPTS = 500_000
"""Kept at most between two times that they are asked for."""
MAX_ADDED = 16
"""Loads that are added at the same time."""
ANSWER_LIMIT = 30.0
"""Seconds in which the child answers an order; longer than any request under way may take."""
END_LIMIT = 5.0
"""Seconds that the child has to end after its last answer."""


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """What a client that got a 201 holds: the order's id, and the client's own reference."""

    id: str
    reference: str


class Part(msgspec.Struct, frozen=True):
    """One load of the traffic. With ``receipts`` its good answers are orders, and are kept."""

    load: Load
    kind: Kind = "browsing"
    receipts: bool = False


class _Order(msgspec.Struct, frozen=True):
    do: Literal["step", "add", "ease", "receipts", "stop"]
    name: str = ""
    parts: list[Part] = []


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    frame: Frame | None = None
    tally: Tally | None = None
    receipts: list[Receipt] | None = None
    added: bool = False


class TrafficProcess:
    """The traffic in another process. Use on one event loop; RuntimeError when the child is gone.

    ``on_frame`` is called with each frame, on the loop.
    """

    def __init__(self, process: asyncio.subprocess.Process, on_frame: Callable[[Frame], None]) -> None:
        self._process = process
        self._on_frame = on_frame
        self._asked: deque[asyncio.Future[_Line]] = deque()
        self._reader = asyncio.create_task(self._read(), name="traffic")

    @classmethod
    async def start(cls, parts: list[Part], on_frame: Callable[[Frame], None]) -> "TrafficProcess":
        """Start the child; it returns when the traffic has begun."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _CHILD,
            *sys.path,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
            start_new_session=True,  # Ctrl-C is for the parent, which ends everything in order
        )
        traffic = cls(process, on_frame)
        try:
            # Waits for the answer: what is written before it could get lost in a buffer of the child's.
            await traffic._ask(parts)
        except BaseException:
            await traffic.close()
            raise
        return traffic

    async def step(self, name: str) -> Tally:
        """Begin the next step; what ended in the one before."""
        line = await self._ask(_Order("step", name))
        assert line.tally is not None
        return line.tally

    async def add(self, parts: list[Part]) -> None:
        """Have more traffic from now on, until its loads end by themselves. RuntimeError past MAX_ADDED."""
        if not (await self._ask(_Order("add", parts=parts))).added:
            raise RuntimeError(f"at most {MAX_ADDED} loads can be added at the same time")

    async def ease(self) -> None:
        """End what was added; its requests under way end first."""
        await self._ask(_Order("ease"))

    async def receipts(self) -> list[Receipt]:
        """The receipts since they were last asked for."""
        return (await self._ask(_Order("receipts"))).receipts or []

    async def stop(self) -> Tally:
        """Send no more, let the requests under way end; what ended in the last step. Receipts can still be asked."""
        line = await self._ask(_Order("stop"))
        assert line.tally is not None
        return line.tally

    async def close(self) -> None:
        """End the child, gently when it listens. Harmless when repeated."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def _ask(self, order: _Order | list[Part]) -> _Line:
        if self._reader.done():
            raise RuntimeError(f"the traffic process {self._process.pid} is gone; see its standard error")
        assert self._process.stdin is not None
        answer: asyncio.Future[_Line] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        async with asyncio.timeout(ANSWER_LIMIT):
            return await answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while raw := await self._process.stdout.readline():
                line = msgspec.json.decode(raw, type=_Line)
                if line.frame is not None:
                    self._on_frame(line.frame)
                elif self._asked and not (answer := self._asked.popleft()).done():
                    answer.set_result(line)
        finally:
            for answer in self._asked:
                if not answer.done():
                    answer.set_exception(RuntimeError(f"the traffic process {self._process.pid} is gone"))


_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from holdfast.lab.traffic import serve; sys.exit(serve())"


def serve() -> int:
    """The child's side: the parts on the first line of standard input, then orders. The exit status."""
    line = sys.stdin.buffer.readline(MAX_LINE)
    if not line:
        return 1
    parts = msgspec.json.decode(line, type=list[Part])
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)  # a full collection would show as latency
    return run_on_best_loop(lambda: Traffic(parts).run())


class _WatchedRun(LoadRun):
    """A run that tells its traffic about each request as it ends."""

    def __init__(self, part: Part, check: Check | None, traffic: "Traffic") -> None:
        self._traffic = traffic
        self._kind = part.kind
        super().__init__(part.load, check, time.perf_counter)

    def succeed(self, now: float, latency: float, announced: bool) -> None:
        self._traffic.succeeded(self._kind, latency)
        super().succeed(now, latency, announced)

    def fail(self, now: float, kind: str, detail: str, waited: float, served: int) -> None:
        self._traffic.failed(self._kind, kind, detail, waited)
        super().fail(now, kind, detail, waited, served)


class Traffic:
    """The runs side by side, and one tally for all of them."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._runs: list[_WatchedRun] = []
        self._added: list[_WatchedRun] = []
        self._began = time.perf_counter()
        self._frame = Frame()
        self._tally = Tally("start")
        self._receipts: deque[Receipt] = deque(maxlen=MAX_RECEIPTS)

    async def run(self) -> int:
        """Until the orders end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._began = time.perf_counter()
        self._runs = [self._start(part) for part in self._parts]
        _write(_Line())
        frames = asyncio.create_task(self._send_frames(), name="frames")
        try:
            while raw := await reader.readline():
                _write(await self._obey(msgspec.json.decode(raw, type=_Order)))
        finally:
            for run in (*self._runs, *self._added):
                run.abort()
            frames.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await frames
            transport.close()
        return 0

    def succeeded(self, kind: Kind, latency: float) -> None:
        """A request of this kind got its answer after ``latency`` seconds."""
        for into in (self._frame, self._tally):
            into.ok += 1
            into.latency.record(latency)
            into.worst = max(into.worst, latency)
            count = into.of(kind)
            count.ok += 1
            count.latency.record(latency)

    def failed(self, kind: Kind, failure: str, detail: str, waited: float) -> None:
        """A request was refused, or got no answer or a wrong one, after ``waited`` seconds."""
        for into in (self._frame, self._tally):
            into.worst = max(into.worst, waited)
            if failure in REFUSALS:
                into.refused += 1
                into.of(kind).refused += 1
            else:
                into.of(kind).failed += 1
        if failure in REFUSALS:
            return
        self._frame.failed += 1
        tally = self._tally
        tally.failures[failure] = tally.failures.get(failure, 0) + 1
        if len(tally.samples) < MAX_SAMPLES:
            tally.samples.append(f"{failure} after {waited * 1e3:.0f} ms: {detail}")

    def _start(self, part: Part) -> _WatchedRun:
        return _WatchedRun(part, self._keep if part.receipts else None, self)

    def _add(self, parts: list[Part]) -> bool:
        self._added = [run for run in self._added if run.running]
        if len(self._added) + len(parts) > MAX_ADDED:
            return False
        self._added += [self._start(part) for part in parts]
        return True

    def _keep(self, status: int, body: bytes) -> bool:
        try:
            receipt = msgspec.json.decode(body, type=_Made)
        except msgspec.DecodeError:
            return False
        self._receipts.append(Receipt(receipt.id, receipt.reference))
        return status == 201

    async def _obey(self, order: _Order) -> _Line:
        if order.do == "receipts":
            kept = list(self._receipts)
            self._receipts.clear()
            return _Line(receipts=kept)
        if order.do == "add":
            return _Line(added=self._add(order.parts))
        if order.do == "ease":
            await asyncio.gather(*(run.stop() for run in self._added))
            return _Line()
        if order.do == "stop":
            await asyncio.gather(*(run.stop() for run in (*self._runs, *self._added)))
        now = time.perf_counter() - self._began
        done, self._tally = self._tally, Tally(order.name, began=now)
        done.ended = now
        return _Line(tally=done)

    async def _send_frames(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += FRAME_SECONDS
            await asyncio.sleep(due - loop.time())
            frame, self._frame = self._frame, Frame()
            frame.at = time.perf_counter() - self._began
            _write(_Line(frame=frame))


class _Made(msgspec.Struct):
    """The part of an order's answer that is its receipt."""

    id: str
    reference: str


def _write(line: _Line) -> None:
    # Blocking: the parent reads at once, and a parent that is gone ends this process.
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()
