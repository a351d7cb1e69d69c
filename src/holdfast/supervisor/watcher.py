"""Notices that files and directories of the configuration have changed, without ever holding up the event loop."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Collection, Iterable, Sequence
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
SECRETS_LIMIT: Final = 1000
"""Files of secrets that are looked at."""


class Watcher:
    """Looks at ``paths`` and at files of secrets, from a thread of its own: a file system that hangs holds up nobody.

    ``changed`` is set, on the loop that called ``start``, when they are not what they were when ``seen`` was taken.
    """

    def __init__(self, paths: Sequence[Path], seen: Signature = ()) -> None:
        self.paths = tuple(paths)
        self.secrets: tuple[Path, ...] = ()
        """The files that secrets come from. ``follow`` says which."""
        self.seen = seen
        """How they were when somebody last read them. Whoever reads sets it, from any thread."""
        self.told: Signature = seen
        """How they were when ``changed`` was last set."""
        self.changed = asyncio.Event()
        self._end = threading.Event()

    def look(self) -> Signature:
        """How they are now, first the ``paths``. May block."""
        return signature_of((*self.paths, *self.secrets))

    def follow(self, secrets: Iterable[Path], layers: Signature | None = None) -> None:
        """Go by these files of secrets, the first ``SECRETS_LIMIT``, which are about to be read. May block.

        ``layers`` is how the ``paths`` were when they were read; without it they have not been read again. Whoever
        reads calls it, from any thread.
        """
        found = tuple(dict.fromkeys(secrets))
        if len(found) > SECRETS_LIMIT >= len(self.secrets):
            logger.warning("%d files hold secrets: changes are noticed in the first %d", len(found), SECRETS_LIMIT)
        self.secrets = found[:SECRETS_LIMIT]
        self.seen = (self.seen if layers is None else layers)[: len(self.paths)] + signature_of(self.secrets)

    def narrow(self, secrets: Collection[Path]) -> None:
        """Of the files of secrets go by these alone. Those that stay were seen when they were seen."""
        keep = [number for number, path in enumerate(self.secrets) if path in secrets]
        count = len(self.paths)
        layers, inside = self.seen[:count], self.seen[count:]
        self.secrets = tuple(self.secrets[number] for number in keep)
        if inside:
            self.seen = layers + tuple(inside[number] for number in keep)

    def changed_among(self, secrets: Iterable[Path]) -> frozenset[Path]:
        """Which of these files of secrets are not what they were when they were last read. May block."""
        seen = {entry[0]: entry for entry in self.seen[len(self.paths) :]}
        paths = list(secrets)
        return frozenset(
            path for path, entry in zip(paths, signature_of(paths), strict=True) if seen.get(entry[0], entry) != entry
        )

    @property
    def saved(self) -> bool:
        """Whether the ``paths`` are not what they were when somebody last read them, by the last look."""
        count = len(self.paths)
        return self.told[:count] != self.seen[:count]

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
