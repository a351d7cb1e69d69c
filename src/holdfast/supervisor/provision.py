"""What a process has put off loading, it loads soon after it has begun to serve.

Put off, since a boot is to be short. Not for long, since a deploy replaces the files of an installed package beneath a
process that runs: what is loaded after that is missing, or is of another release than what it stands on.
"""

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

logger = logging.getLogger("holdfast.supervisor")

DELAY: Final = 10.0
"""Seconds after which it begins: a reload has passed by then, and the first requests have been answered."""
WORKER: Final = (
    "holdfast.server.http.websocket",
    "holdfast.config.diff",
    "holdfast.config.layers",
    "holdfast.config.typed",
    "holdfast.supervisor.tally",
    "holdfast.telemetry.access",
    "holdfast.server.admission.chosen",
    "holdfast.resilience.catalog",
    "holdfast.service.pipelines",
    "holdfast.service.routes",
)
"""Modules that a worker may come to need, by a request, a change of the configuration or a question. The first are
those that clients can ask for."""
SUPERVISOR: Final = ("holdfast.config.typed", "holdfast.resilience.catalog", "holdfast.service.routes")
"""The same for the supervisor, which may outlive many deploys."""


def provide(modules: Sequence[str], delay: float = DELAY) -> asyncio.TimerHandle:
    """Load them after ``delay`` seconds, in a thread, so that a slow disk does not hold up the loop.

    Belongs on the loop. Cancel the handle to load nothing; a thread that has begun goes on, and keeps nobody from
    ending.
    """
    thread = threading.Thread(target=load, args=(modules,), name="provision", daemon=True)
    return asyncio.get_running_loop().call_later(delay, thread.start)


def load(modules: Sequence[str]) -> None:
    """Load what can be loaded. What cannot be is told, and tried again by whoever needs it."""
    began = time.monotonic()
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # files that are just being replaced may raise anything
            logger.warning("%s cannot be loaded ahead: %s: %s", name, type(error).__name__, error)
    logger.debug("what had been put off was loaded in %.3f s", time.monotonic() - began)
