"""A load in a process of its own, so that it does not share an event loop, or a lock, with what it measures.

The parent writes commands to the child's standard input, one JSON line each, and reads one line for each from its
standard output. End of input ends the load: a child never outlives its owner.
"""

import argparse
import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from holdfast.lab.load import Load, LoadRun, start_load
from holdfast.lab.report import Report

MAX_LINE = 256 * 1024 * 1024
"""The longest line between the two, in bytes: a report of a day with thousands of marks."""
KILL_AFTER = 10.0
"""Seconds, beyond the requests' own time limit, that a child has to end after it was told to."""


class _Order(msgspec.Struct, frozen=True):
    do: Literal["mark", "snapshot", "wait", "stop"]
    name: str = ""


class _Reply(msgspec.Struct, frozen=True):
    report: Report | None = None
    error: str | None = None


class LoadProcess:
    """A load in another process. Its methods block: from an event loop, call them through ``asyncio.to_thread``.

    The load starts at once; construction returns when it has. As a context manager it kills the child at the end
    if that is still there. One caller at a time. Raises ValueError for settings that are refused, RuntimeError when
    the child died.
    """

    def __init__(self, load: Load) -> None:
        self._patience = load.timeout + KILL_AFTER
        # -c rather than -m: the parent may run from a source tree that the child would not find.
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._ask(msgspec.json.encode(load))
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def mark(self, name: str) -> None:
        """Begin a new segment; returns when the child has done so. Raises ValueError as ``LoadRun.mark`` does."""
        self._ask(msgspec.json.encode(_Order("mark", name)))

    def snapshot(self) -> Report:
        """The report so far."""
        return self._report("snapshot")

    def wait(self) -> Report:
        """Wait until duration or count ends the load; its report."""
        return self._end("wait")

    def stop(self) -> Report:
        """Send no more, let the requests under way end, and report."""
        return self._end("stop")

    def kill(self) -> None:
        """End the child without a report. Harmless when repeated."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                # Closing flushes what the dead child will never read.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _end(self, do: Literal["wait", "stop"]) -> Report:
        report = self._report(do)
        try:
            self._child.wait(KILL_AFTER)
        finally:
            self.kill()
        return report

    def _report(self, do: Literal["snapshot", "wait", "stop"]) -> Report:
        report = self._ask(msgspec.json.encode(_Order(do)))
        if report is None:
            raise RuntimeError(f"the load process {self.pid} answered {do!r} without a report")
        return report

    def _ask(self, line: bytes) -> Report | None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(line + b"\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline(MAX_LINE)
        except (BrokenPipeError, ValueError):
            answer = b""
        if not answer.endswith(b"\n"):
            code = self._child.poll()
            raise RuntimeError(f"the load process {self.pid} is gone (exit code {code}); see its standard error")
        reply = msgspec.json.decode(answer, type=_Reply)
        if reply.error is not None:
            raise ValueError(reply.error)
        return reply.report


_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from holdfast.lab.process import serve; sys.exit(serve())"


def serve() -> int:
    """The child's side: settings on the first line of standard input, then orders. The exit code."""
    line = sys.stdin.buffer.readline(MAX_LINE)
    if not line:
        return 1
    try:
        load = msgspec.json.decode(line, type=Load)
    except (msgspec.DecodeError, ValueError) as error:
        _answer(_Reply(error=str(error)))
        return 2
    # A full collection walks every object and would show as latency; nothing made from here on holds a cycle
    # for long.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    return run_on_best_loop(lambda: _obey(load))


async def _obey(load: Load) -> int:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE)
    # Lines that the parent wrote early may wait in the buffer of sys.stdin only if it did not wait for the
    # answer to its first; it does.
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    run = start_load(load)
    _answer(_Reply())
    try:
        while line := await reader.readline():
            order = msgspec.json.decode(line, type=_Order)
            if await _do(run, order):
                return 0
        return 1
    finally:
        run.abort()
        transport.close()


async def _do(run: LoadRun, order: _Order) -> bool:
    """Do one order; True when it was the last."""
    if order.do == "mark":
        try:
            run.mark(order.name)
        except ValueError as error:
            _answer(_Reply(error=str(error)))
        else:
            _answer(_Reply())
        return False
    if order.do == "snapshot":
        _answer(_Reply(run.snapshot()))
        return False
    _answer(_Reply(await (run.stop() if order.do == "stop" else run.wait())))
    return True


def _answer(reply: _Reply) -> None:
    # Blocking: the parent waits for this line and reads it at once.
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    sys.stdout.buffer.flush()


def run_on_best_loop[T](main: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine on uvloop where that is installed, three times the speed here, otherwise on asyncio's loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())
