"""Runs something again and again, each time interrupted at another line, as finalizers and signal handlers do."""

import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Protocol

LINES_LIMIT = 2000
PATIENCE = 30.0
"""Real seconds after which a thread counts as waiting for itself."""


def ends_although_interrupted(
    module: Any, work: Callable[[], object], interruption: Callable[[], object], only: int | None = None
) -> bool:
    """Whether ``work`` comes to its end with ``interruption`` at each line of ``module`` that it runs, or at one."""
    interrupted = False
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal interrupted, lines
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and not interrupted:
            lines += 1
            if only in (None, lines):
                interrupted = True
                interruption()
                interrupted = False
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


class Interrupted(Protocol):
    """Work, and what comes into the middle of it."""

    interrupted: bool

    def work(self) -> None: ...

    def interrupt(self) -> None: ...

    def check(self) -> None: ...


def interrupted_everywhere(module: ModuleType, make: Callable[[], Interrupted]) -> int:
    """Do the work once for each line of ``module`` that it runs, interrupted there. How many lines there are."""
    for line in range(1, LINES_LIMIT):
        probe = make()
        assert ends_although_interrupted(module, probe.work, probe.interrupt, only=line), line
        probe.check()
        if not probe.interrupted:
            return line - 1
    raise AssertionError("too much work")
