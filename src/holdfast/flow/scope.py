"""Tasks that belong together: when one fails the others are cancelled, and none is left behind."""

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any, Final, Generic, TypeVar

from holdfast.core.errors import CallCancelled

Tag = TypeVar("Tag")

NAMED_LIMIT: Final = 5
"""How many of the errors that came second a note names."""
NAME_LENGTH: Final = 200
"""Characters of each of them."""
MEANWHILE: Final = "Before the flow had ended"
"""How that note begins."""

_at_work: Final[set["Crew[Any]"]] = set()
"""Every crew with a task that has not ended. A loop holds what it will wake, and a reader that waits for room is woken
by its consumer: should both become garbage, in a cycle, the collector would close the reader's coroutine, and the
source in the middle of its own closing, before the loop could end them in order."""


class Signal:
    """Wakes the one task that waits for a change. Whoever wakes looks again whether it was the change it wanted.

    Nothing is lost between the look and the wait as long as nothing is awaited there.
    """

    __slots__ = ("_loop", "_waiter")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter; without one it does nothing."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return after the next ``set``. ``RuntimeError`` when another task waits already, or in another loop."""
        if self._waiter is not None:
            raise RuntimeError("two tasks wait for the same item; give each an iterator of its own")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this belongs to another event loop, which alone can wake its tasks")
        waiter = self._waiter = loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None


class Crew(Generic[Tag]):
    """The tasks of one flow. Belongs to one event loop.

    ``ended(tag, task, error)`` is called for each task that ends while the crew works. A task that was cancelled
    by somebody else counts as failed with ``CallCancelled``, so that its item is not lost in silence.
    """

    __slots__ = ("_cancelled", "_context", "_ended", "_left", "_loop", "_tasks", "errors")

    def __init__(self, ended: Callable[[Tag, "asyncio.Task[Any]", BaseException | None], None]) -> None:
        self._ended = ended
        self._tasks: dict[asyncio.Task[Any], Tag] = {}
        self._context: contextvars.Context | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelled = False
        self._left = False
        self.errors: list[BaseException] = []
        """What failed, in the order in which it was noticed."""

    @property
    def stopping(self) -> bool:
        """Whether the tasks have been cancelled: nothing may be started any more."""
        return self._cancelled

    def start(self, coro: Coroutine[Any, Any, Any], tag: Tag) -> None:
        """Run ``coro`` as a task. Each has a copy of its own of the context in which the first was started.

        So nothing that a call or the source sets reaches another call, and the deadline is the consumer's.
        """
        loop = asyncio.get_running_loop()
        create = loop.create_task
        if self._context is None:
            self._loop = loop
            # Not run in the copy: an eager reader starts its first calls in there, and a context is entered once.
            self._context = contextvars.copy_context()
            task = create(coro)
        else:
            # Not the argument ``context``: a task factory of before Python 3.11 does not take it.
            task = self._context.run(create, coro)
        if not self._tasks:
            _at_work.add(self)
        self._tasks[task] = tag
        # Also for a task that an eager factory has run to its end: callbacks always come a turn later.
        task.add_done_callback(self._done)

    def fail(self, error: BaseException) -> None:
        """Cancel every task because of ``error``, which ``settle`` will raise."""
        self.errors.append(error)
        self._cancel()

    async def settle(self) -> None:
        """Wait until every task has ended, after cancelling those that have not; then raise what failed.

        The first error is raised as it is, for it ended the flow; a note on it names those that came before all had
        ended. Only ``SystemExit`` and the like go before it. A cancellation meanwhile is passed on to the tasks, and
        gets out as soon as they have ended.
        """
        try:
            await self._join(inf)
        except asyncio.CancelledError:
            self._report()
            raise
        errors, self.errors = self.errors, []
        try:
            if errors:
                raise _first(errors)
        finally:
            del errors  # or the error would hold itself, through its traceback and this frame

    async def abandon(self, within: float = inf) -> int:
        """Cancel every task and wait until all have ended. Nobody is there to raise to.

        ``within`` seconds later those that have not ended are left to themselves; returns how many they are.

        Errors go to the loop's exception handler, as those of any task that nobody awaits. A cancellation
        meanwhile is passed on to the tasks, and gets out as soon as they have ended. One of the tasks that does
        this itself waits for the others only, and is then cancelled too.
        """
        try:
            return await self._join(within)
        finally:
            self._left = True
            self._report()

    def _cancel(self) -> None:
        # Once only: a second cancellation would interrupt the cleaning up that the first one began.
        if not self._cancelled:
            self._cancelled = True
            itself = asyncio.current_task()
            for task in self._tasks:
                if task is not itself:
                    task.cancel()

    async def _join(self, within: float) -> int:
        loop, here = self._loop, asyncio.get_running_loop()
        if self._tasks and loop is not None and loop is not here:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._cancel)
            raise RuntimeError("a flow was closed in another event loop than its own, which alone can end its tasks")
        self._cancel()
        interrupted: asyncio.CancelledError | None = None
        end = here.time() + within
        itself = asyncio.current_task()  # perhaps a call that closes its own flow
        while others := [task for task in self._tasks if task is not itself]:
            try:
                # Its callbacks come after ours, so that these have taken them out.
                _, running = await asyncio.wait(others, timeout=None if end == inf else max(0.0, end - here.time()))
                if running:
                    others = list(running)
                    break
            except asyncio.CancelledError as exc:
                # Like a plain ``await`` of one call: it ends when the call does, and the call is told each time.
                interrupted = exc
                for task in others:
                    task.cancel()
        if itself is not None and itself in self._tasks:
            itself.cancel()
        if interrupted is not None:
            raise interrupted
        return len(others)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        tag = self._tasks.pop(task)
        if not self._tasks:
            _at_work.discard(self)
        if not self._cancelled:
            self._ended(tag, task, _failure(task))
        elif not task.cancelled():
            error = task.exception()
            if error is not None:
                self.errors.append(error)
                if self._left:
                    self._report()

    def _report(self) -> None:
        loop = asyncio.get_running_loop()
        errors, self.errors = self.errors, []
        for error in errors:
            message = f"{type(error).__name__} in a flow that its consumer left"
            loop.call_exception_handler({"message": message, "exception": error})


def _first(errors: Sequence[BaseException]) -> BaseException:
    """The one to raise, with a note of the others."""
    first = next((error for error in errors if not isinstance(error, Exception)), errors[0])
    others = [error for error in errors if error is not first]
    # One note: an exception that is raised time and again, by many flows, is not to grow.
    if others and not any(note.startswith(MEANWHILE) for note in getattr(first, "__notes__", ())):
        names = [traceback.format_exception_only(error)[0].strip()[:NAME_LENGTH] for error in others[:NAMED_LIMIT]]
        more = "" if len(others) <= NAMED_LIMIT else f"; and {len(others) - NAMED_LIMIT} more"
        first.add_note(f"{MEANWHILE}, {len(others)} more failed: {'; '.join(names)}{more}")
    return first


def _failure(task: "asyncio.Task[Any]") -> BaseException | None:
    if task.cancelled():
        return CallCancelled("a task of the flow was cancelled, though neither the flow nor its consumer was")
    return task.exception()
