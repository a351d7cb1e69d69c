"""Functions of the app that are asked before a configuration takes hold, or told when it has."""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import ConfigError

logger = logging.getLogger(__name__)

CHECK_TIMEOUT: Final = 10.0
"""Seconds that a check may take unless told otherwise."""
CHANGE_TIMEOUT: Final = 10.0
"""Seconds that a hook may take unless told otherwise that is told of a change."""
HOOKS_LIMIT: Final = 1000
"""Hooks of one kind."""
WORDS_LIMIT: Final = 500
"""Characters of a reason."""

Check: TypeAlias = Callable[[Snapshot], Any]


class Hook:
    """One function, and the sections that it is for; with none it is for all."""

    def __init__(self, call: Check, sections: tuple[str, ...], timeout: float) -> None:
        self.call = call
        self.sections = frozenset(sections)
        self.timeout = timeout
        self.name = getattr(call, "__qualname__", None) or type(call).__name__
        self._running: list[asyncio.Future[Any]] = []

    def concerns(self, sections: frozenset[str]) -> bool:
        """Whether it has to be called when ``sections`` have changed."""
        return not self.sections or bool(self.sections & sections)

    async def asked(self, snapshot: Snapshot) -> ConfigError | None:
        """Its refusal, None when it agrees. What it raises, and more time than it has, are refusals.

        It refuses by raising, or by returning a reason or False. A plain function runs in a thread. One that has not
        ended in time goes on by itself, and everything is refused until it has: no two run at a time.
        """
        place = ".".join(sorted(self.sections)) if len(self.sections) == 1 else ""
        try:
            result = await self._call(self._in_thread(snapshot))
        except ConfigError as error:
            return error
        except TimeoutError as error:
            return ConfigError(place, None, f"an answer of {self.name}", hint=str(error))
        except Exception as error:  # whatever a check raises is its refusal
            words = " ".join(str(error).split())[:WORDS_LIMIT]
            return ConfigError(place, None, f"what {self.name} agrees to", hint=f"{type(error).__name__}: {words}")
        if result is False or (isinstance(result, str) and result):
            hint = " ".join(result.split())[:WORDS_LIMIT] if isinstance(result, str) else ""
            return ConfigError(place, None, f"what {self.name} agrees to", hint=hint)
        return None

    async def told(self, snapshot: Snapshot) -> bool:
        """Tell it; whether it took it. Never raises an ``Exception``. A plain function runs here and must not block."""
        try:
            await self._call(self._here(snapshot))
        except TimeoutError as error:
            logger.error("%s was told of configuration %d: %s", self.name, snapshot.version, error)
            return False
        except Exception:  # the configuration holds already: one hook's fault is not the others'
            logger.exception("%s failed on configuration %d", self.name, snapshot.version)
            return False
        return True

    async def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._running = [one for one in self._running if not one.done()]
        if self._running:
            work.close()
            raise TimeoutError("an earlier call has not ended yet")
        task = asyncio.ensure_future(work)
        task.add_done_callback(looked_at)
        self._running.append(task)
        try:
            await asyncio.wait({task}, timeout=self.timeout)
        finally:
            task.cancel()
        if not task.done():
            raise TimeoutError(f"it took more than {self.timeout:g} s")
        if task.cancelled():
            raise RuntimeError("it cancelled itself")
        return task.result()

    async def _in_thread(self, snapshot: Snapshot) -> Any:
        if _is_async(self.call):
            return await self.call(snapshot)
        # Shielded: a thread cannot be called off, and as long as it runs no other may start.
        run = contextvars.copy_context().run
        thread = asyncio.get_running_loop().run_in_executor(None, run, self.call, snapshot)
        thread.add_done_callback(looked_at)
        self._running.append(thread)
        result = await asyncio.shield(thread)
        return await result if inspect.isawaitable(result) else result

    async def _here(self, snapshot: Snapshot) -> Any:
        result = self.call(snapshot)
        return await result if inspect.isawaitable(result) else result


def _is_async(call: Check) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def looked_at(task: "asyncio.Future[Any]") -> None:
    """Nobody may be left who looks at its error, which would be logged as forgotten."""
    if not task.cancelled():
        task.exception()
