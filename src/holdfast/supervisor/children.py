"""The ends of child processes, all of them: a supervisor may be process 1 of a container and inherit strangers."""

import asyncio
import os
import signal
from collections.abc import Callable


class Children:
    """Reaps. Belongs to the loop and the thread in which SIGCHLD is handled."""

    def __init__(self) -> None:
        self._expected: dict[int, asyncio.Future[int]] = {}

    def reap(self, tell: Callable[[int, int], None]) -> None:
        """``tell`` the process id and wait status of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            tell(pid, status)
            ended = self._expected.pop(pid, None)
            if ended is not None and not ended.done():
                ended.set_result(status)

    def expect(self, pid: int) -> "asyncio.Future[int]":
        """The wait status of a child that is not a worker, once it has ended."""
        return self._expected.setdefault(pid, asyncio.get_running_loop().create_future())

    def kill(self, pid: int) -> None:
        """End such a child, unless it has ended."""
        if pid in self._expected:
            os.kill(pid, signal.SIGKILL)
