"""A load, or a proxy, in a process of its own: it shares no event loop and no lock with what it measures.

The parent writes commands to the child's standard input, one JSON line each, and reads one line for each from its
standard output. End of input ends the load: a child never outlives its owner.
"""

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec

from holdfast.lab.load import Load, LoadRun, start_load
from holdfast.lab.proxy import Proxy
from holdfast.lab.report import Report

MAX_LINE = 256 * 1024 * 1024
"""The longest line between the two, in bytes: a report of a day with thousands of marks."""


T = TypeVar("T")


class _Order(msgspec.Struct, frozen=True):
    do: Literal["mark", "snapshot", "wait", "stop"]
    name: str = ""


class _Reply(msgspec.Struct, frozen=True):
    report: Report | None = None
    error: str | None = None
    address: str | None = None


class _Tunnel(msgspec.Struct, frozen=True):
    target: str
    rtt: float


class _Child:
    """A child that answers one line for each line. As a context manager it is killed at the end, if still there."""

    def __init__(self, serve: str, first: bytes) -> None:
        # -c rather than -m: the parent may run from a source tree that the child would not find.
        script = (
            f"import sys; sys.path[:] = sys.argv[1:]; from holdfast.lab.process import {serve}; sys.exit({serve}())"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", script, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the parent; the child notices its end.
            start_new_session=True,
        )
        try:
            self.first = self._ask(first)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        """End the child at once. Harmless when repeated."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            # Closing flushes what the dead child will never read.
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _ask(self, line: bytes) -> "_Reply":
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(line + b"\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline(MAX_LINE)
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            code = self._child.poll()
            raise RuntimeError(f"the child process {self.pid} is gone (exit code {code}); see its standard error")
        reply = msgspec.json.decode(answer, type=_Reply)
        if reply.error is not None:
            raise ValueError(reply.error)
        return reply


class LoadProcess(_Child):
    """A load in another process. Its methods block: from an event loop, call them through ``asyncio.to_thread``.

    The load starts at once; construction returns when it has. One caller at a time. Raises RuntimeError when the
    child died.
    """

    def __init__(self, load: Load) -> None:
        super().__init__("serve_load", msgspec.json.encode(load))

    def mark(self, name: str) -> None:
        """Begin a new segment; returns when the child has done so. Raises ValueError as ``LoadRun.mark`` does."""
        self._ask(msgspec.json.encode(_Order("mark", name)))

    def snapshot(self) -> Report:
        """The report so far."""
        return self._report("snapshot")

    def wait(self) -> Report:
        """Wait until duration or count ends the load; its report. The child is gone then."""
        return self._end("wait")

    def stop(self) -> Report:
        """Send no more, let the requests under way end, and report. The child is gone then."""
        return self._end("stop")

    def _end(self, do: Literal["wait", "stop"]) -> Report:
        report = self._report(do)
        self.kill()
        return report

    def _report(self, do: Literal["snapshot", "wait", "stop"]) -> Report:
        report = self._ask(msgspec.json.encode(_Order(do))).report
        if report is None:
            raise RuntimeError(f"the load process {self.pid} answered {do!r} without a report")
        return report


class ProxyProcess(_Child):
    """A ``Proxy`` in another process: ``address`` is where it listens."""

    def __init__(self, target: str, *, rtt: float) -> None:
        super().__init__("serve_proxy", msgspec.json.encode(_Tunnel(target, rtt)))
        assert self.first.address is not None
        self.address = self.first.address


def serve_load() -> int:
    """The child of a LoadProcess: settings on the first line of standard input, then orders. The exit code."""
    try:
        load = msgspec.json.decode(sys.stdin.buffer.readline(MAX_LINE), type=Load)
    except msgspec.DecodeError as error:
        _answer(_Reply(error=str(error)))
        return 2
    # A full collection walks every object and would show as latency; little that is made from here on is a cycle.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    return run_on_best_loop(lambda: _obey(load))


def serve_proxy() -> int:
    """The child of a ProxyProcess. The exit code."""
    try:
        tunnel = msgspec.json.decode(sys.stdin.buffer.readline(MAX_LINE), type=_Tunnel)
        proxy = Proxy(tunnel.target, rtt=tunnel.rtt)
    except (msgspec.DecodeError, ValueError) as error:
        _answer(_Reply(error=str(error)))
        return 2
    return run_on_best_loop(lambda: _forward(proxy))


async def _forward(proxy: Proxy) -> int:
    orders = await _orders()
    async with proxy:
        _answer(_Reply(address=proxy.address))
        await orders.read()
    return 0


async def _orders() -> asyncio.StreamReader:
    # The parent waits for the answer to its first line, so nothing is left in the buffer of sys.stdin.
    reader = asyncio.StreamReader(limit=MAX_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _obey(load: Load) -> int:
    orders = await _orders()
    run = start_load(load)
    _answer(_Reply())
    try:
        while line := await orders.readline():
            order = msgspec.json.decode(line, type=_Order)
            if order.do == "mark":
                _answer(_mark(run, order.name))
            elif order.do == "snapshot":
                _answer(_Reply(run.snapshot()))
            else:
                # While it waits for the report the parent says nothing: only its end can be heard.
                gone = asyncio.ensure_future(orders.read(1))
                report = asyncio.ensure_future(run.stop() if order.do == "stop" else run.wait())
                await asyncio.wait((gone, report), return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                if report.done():
                    _answer(_Reply(report.result()))
                report.cancel()
                return 0
        return 1
    finally:
        run.abort()


def _mark(run: LoadRun, name: str) -> _Reply:
    try:
        run.mark(name)
    except ValueError as error:
        return _Reply(error=str(error))
    return _Reply()


def _answer(reply: _Reply) -> None:
    # Blocking: the parent waits for this line and reads it at once.
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    sys.stdout.buffer.flush()


def run_on_best_loop(main: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine on uvloop where that is installed, three times the speed here, otherwise on asyncio's loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())
