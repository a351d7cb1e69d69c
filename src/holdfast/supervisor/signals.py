"""What each signal makes the supervisor do. Nobody waits for an answer: a refusal goes to the log."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.supervisor.master import Supervisor

logger = logging.getLogger("holdfast.supervisor")


class Signals:
    """HUP reloads, USR2 upgrades, TTIN and TTOU scale, TERM stops, INT stops quickly, QUIT at once."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._reloading: asyncio.Task[object] | None = None
        self._again = False
        self._change = 0
        self._interrupted = False

    def listen(self) -> None:
        """Handle them on the running loop, from the main thread."""
        supervisor = self._supervisor
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, supervisor.begin_stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGQUIT, supervisor.stop_at_once)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGUSR2, lambda: supervisor.own(self._try(supervisor.upgrade("SIGUSR2"))))
        loop.add_signal_handler(signal.SIGTTIN, self._scale, +1)
        loop.add_signal_handler(signal.SIGTTOU, self._scale, -1)
        loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)

    def waiting(self) -> list[signal.Signals]:
        """Those whose effect waits for its turn: after a re-exec they have to be heard again."""
        waiting = [signal.SIGHUP] if self._reloading is not None and not self._reloading.done() else []
        if self._change:
            waiting.append(signal.SIGTTIN if self._change > 0 else signal.SIGTTOU)
        return waiting

    def _interrupt(self) -> None:
        if self._interrupted or self._supervisor.stopping:
            self._supervisor.stop_at_once()
        else:
            self._interrupted = True
            self._supervisor.begin_stop("SIGINT", hurry=True)

    def _hang_up(self) -> None:
        """However many come during a reload, one more reload follows it."""
        self._again = True
        if self._reloading is None or self._reloading.done():
            self._reloading = self._supervisor.own(self._reload_while_asked())

    async def _reload_while_asked(self) -> None:
        while self._again:
            self._again = False
            await self._try(self._supervisor.reload("SIGHUP"))

    def _scale(self, change: int) -> None:
        self._change += change
        self._supervisor.own(self._scale_by(change))

    async def _scale_by(self, change: int) -> None:
        try:
            await self._try(self._supervisor.scale_by(change))
        finally:
            self._change -= change

    async def _try(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except HoldfastError as exc:
            logger.error("refused: %s", exc)
