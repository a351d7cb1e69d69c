"""The ASGI lifespan conversation with an application, as the ASGI specification 2.0 of it has it.

An application that raises when it is called with a lifespan scope does not take part: it is served all
the same (mode ``auto``), or refused (mode ``on``).
"""

import asyncio
import logging
import traceback
from typing import Any, Final, Literal

from holdfast.core.errors import BootError
from holdfast.service.interface import ASGIApp, Message
from holdfast.service.report import StopStep
from holdfast.service.tasks import CANCEL_SECONDS, TaskExitError, cancel, contained, waiting_at

Mode = Literal["auto", "on", "off"]

LAST_WORDS: Final = 0.1
"""Seconds that an application has to end by itself after it has said that its start-up failed."""

log: Final = logging.getLogger("holdfast.service")


class Lifespan:
    """One application's lifespan, in a task of its own. ``start`` and ``stop`` once each, on one event loop.

    ``state`` is handed to the application as it is, so what it puts there is seen by the owner.
    """

    def __init__(self, app: ASGIApp, state: dict[str, Any], mode: Mode = "auto") -> None:
        self._app = app
        self._state = state
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=2)
        self._started: asyncio.Future[str | None] | None = None
        self._stopped: asyncio.Future[str | None] | None = None
        self._asked = False
        self._stopping = False

    async def start(self, within: float) -> None:
        """Send ``lifespan.startup`` and wait for its answer.

        ``BootError`` when the application says ``startup.failed`` (with its own message), takes longer than
        ``within`` seconds, calls ``sys.exit``, or, in mode ``on``, raises. A cancellation ends its task too.
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._messages.put_nowait({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        task = asyncio.create_task(contained(self._app(scope, self._receive, self._send)), name="lifespan")
        try:
            await _either(task, self._started, within)
        except asyncio.CancelledError:
            await cancel({task})
            raise
        if self._started.done():
            failure = self._started.result()
            if failure is None:
                self._task = task
                task.add_done_callback(self._died)
                return
            await asyncio.wait({task}, timeout=LAST_WORDS)  # many raise the same error once more: let them
            await cancel({task})
            if not task.cancelled():
                task.exception()  # told already, in the application's own words
            raise BootError("the application's start-up failed" + _first_line(failure), failure)
        if not task.done():
            place = waiting_at(task)
            await cancel({task})
            raise BootError(f"the application's start-up took longer than {within:g} s; it waited at {place}")
        self._refused(task)

    def _refused(self, task: "asyncio.Task[None]") -> None:
        """The application ended without an answer: it takes no part, or it is broken."""
        exc = None if task.cancelled() else task.exception()
        if exc is None:
            if self._mode == "on":
                raise BootError("the application ended its lifespan without an answer to lifespan.startup")
            log.debug("the application does not take part in the ASGI lifespan")
            return
        if self._mode == "on" or isinstance(exc, TaskExitError):
            line = f"{type(exc).__name__}: {exc}"
            raise BootError(f"the application's start-up failed: {line}", "".join(traceback.format_exception(exc)))
        # The specification wants such an application served. Once it has asked for the message, though, it
        # did take part, and the error is more likely a broken start-up: show the stack.
        if self._asked:
            log.warning("the application's lifespan failed at start-up; it is served all the same", exc_info=exc)
        else:
            log.debug("the application does not take part in the ASGI lifespan (%s)", type(exc).__name__)

    async def stop(self, within: float) -> StopStep | None:
        """Send ``lifespan.shutdown``, wait for its answer and for the end of the task; None when there is
        none.

        Never raises on the application's account: the step says what went wrong, and so does the log.
        """
        task, stopped = self._task, self._stopped
        if task is None or stopped is None:
            return None
        if task.done():
            return StopStep("lifespan", "failed", 0.0, "it had ended by itself")
        self._stopping = True
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        await _either(task, stopped, within)
        if stopped.done():
            await asyncio.wait({task}, timeout=max(0.0, end - loop.time()))
        if not task.done():
            detail = f"not over within {within:g} s; it waited at {waiting_at(task)}"
            log.error("the application's shutdown was %s", detail)
            await cancel({task}, CANCEL_SECONDS)
            return StopStep("lifespan", "overran" if task.done() else "stuck", 0.0, detail)
        exc = None if task.cancelled() else task.exception()
        failure = stopped.result() if stopped.done() else None
        if exc is None and failure is None:
            return StopStep("lifespan", "done", 0.0)
        log.error("the application's shutdown failed%s", f"\n{failure}" if failure else "", exc_info=exc)
        detail = f"{type(exc).__name__}: {exc}" if exc is not None else _first_line(failure or "").lstrip(": ")
        return StopStep("lifespan", "failed", 0.0, detail)

    def _died(self, task: "asyncio.Task[None]") -> None:
        if self._stopping:
            return
        exc = None if task.cancelled() else task.exception()
        log.error("the application's lifespan ended while it is being served", exc_info=exc)

    async def _receive(self) -> Message:
        self._asked = True
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        started, stopped = self._started, self._stopped
        assert started is not None
        assert stopped is not None
        text = str(message.get("message", "") or "no message")
        if kind in ("lifespan.startup.complete", "lifespan.startup.failed") and not started.done():
            started.set_result(None if kind.endswith("complete") else text)
        elif (
            kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and self._stopping and not stopped.done()
        ):
            stopped.set_result(None if kind.endswith("complete") else text)
        else:
            raise RuntimeError(f"the application sent {kind!r} out of turn in its lifespan")


async def _either(one: "asyncio.Future[Any]", other: "asyncio.Future[Any]", within: float) -> None:
    await asyncio.wait({one, other}, timeout=within, return_when=asyncio.FIRST_COMPLETED)


def _first_line(text: str) -> str:
    """``: `` and the line of ``text`` that says most: the last one of a traceback, else the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return f": {lines[-1] if lines[0].startswith('Traceback') else lines[0]}"
