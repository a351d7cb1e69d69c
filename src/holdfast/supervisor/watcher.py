"""Notices that files and directories of the configuration have changed, without ever holding up the event loop."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from holdfast.config.signature import Signature, signature_of

logger = logging.getLogger("holdfast.supervisor")

LOOK_INTERVAL: Final = 0.25
"""Seconds between two looks."""
SETTLE: Final = 0.1
"""Seconds that nothing may change before it is told: an editor may be in the midst of writing."""
SETTLE_LIMIT: Final = 20
"""Looks after which a change is told all the same: something that is written all the time."""


class Watcher:
    """Looks at ``paths`` from a thread of its own, so that a file system that hangs holds up nobody.

    ``changed`` is set, on the loop that called ``start``, when they are not what they were when ``seen`` was taken.
    """

    def __init__(self, paths: Sequence[Path], seen: Signature = ()) -> None:
        self.paths = tuple(paths)
        self.seen = seen
        """How they were when somebody last read them. Whoever reads sets it, from any thread."""
        self.told: Signature = seen
        """How they were when ``changed`` was last set."""
        self.changed = asyncio.Event()
        self._end = threading.Event()

    def look(self) -> Signature:
        """How they are now. May block."""
        return signature_of(self.paths)

    def start(self) -> None:
        """Begin to look."""
        loop = asyncio.get_running_loop()
        # A daemon: a look that never returns must not keep the process from its end.
        threading.Thread(target=self._run, args=(loop,), name="config watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        block_signals()
        while not self._end.wait(LOOK_INTERVAL):
            now = self.look()
            if now in (self.seen, self.told):
                continue
            for _ in range(SETTLE_LIMIT):
                if self._end.wait(SETTLE):
                    return
                before, now = now, self.look()
                if now == before:
                    break
            self.told = now
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self.changed.set)


def block_signals() -> None:
    """Leave all signals to the main thread: one that another thread takes during a re-exec is lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
