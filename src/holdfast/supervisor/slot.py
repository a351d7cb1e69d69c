"""A place for one worker, and when the worker in it is to be replaced or revived."""

import asyncio

from holdfast.supervisor.process import Worker
from holdfast.supervisor.settings import Settings

STABLE = 10.0
"""Seconds after which a worker's death is no longer counted towards a crash loop."""
FIRST_PAUSE = 0.25
"""The pause before the third start in a crash loop; it doubles from there. The first restart has none."""
MAX_DOUBLINGS = 30
"""Past it a float would grow without use: the longest pause is reached long before."""


class Slot:
    """A place for one worker. ``filling`` is the task that boots the next one, when there is one."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.worker: Worker | None = None
        self.filling: asyncio.Task[None] | None = None
        self.crashes = 0
        self.trouble = ""
        self.jitter = 0.0

    def give_up_filling(self) -> None:
        """End a boot under way. The slot is free for another at once: a task that is cancelled before its first
        step never runs its own clean-up."""
        if self.filling is not None:
            self.filling.cancel()
            self.filling = None

    def crashed(self, after: float, ending: str) -> None:
        """The worker has died, ``after`` seconds since it was ready."""
        self.worker = None
        self.crashes = self.crashes + 1 if after < STABLE else 0
        self.trouble = f"the worker {ending}"


def restart_pause(crashes: int, longest: float, share: float) -> float:
    """Seconds to wait before a worker is started after so many ``crashes`` in a row: none at first, then doubling
    up to ``longest``. ``share``, 0.5 to 1, spreads the workers of one service, lest they all start together."""
    if crashes < 2:
        return 0.0
    pause: float = min(longest, FIRST_PAUSE * 2.0 ** min(crashes - 2, MAX_DOUBLINGS))
    return pause * share


def reason_to_recycle(slot: Slot, settings: Settings) -> str:
    """Why the slot's worker should be replaced, though it serves; empty when it may stay."""
    worker = slot.worker
    if worker is None or worker.state != "ready":
        return ""
    share = 1 + slot.jitter
    if worker.leaving:
        return worker.leaving
    if settings.max_requests and worker.beat.requests >= settings.max_requests * share:
        return f"it served {worker.beat.requests} requests"
    if settings.max_memory and worker.beat.memory >= settings.max_memory * share:
        return f"it holds {worker.beat.memory >> 20} MiB of memory"
    return ""
