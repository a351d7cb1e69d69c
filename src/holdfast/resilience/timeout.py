"""Timeout: a call gets so much time, and everything below it knows how much is left."""

import asyncio
from contextvars import Token
from threading import get_ident
from typing import Annotated, Any

from holdfast.core.call import Call
from holdfast.core.context import current_deadline, reset_deadline, set_deadline
from holdfast.core.duration import rounded
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.fuse import Around, Fragment
from holdfast.core.policy import Fused, accepts
from holdfast.core.settings import PolicySettings, Seconds, about
from holdfast.resilience.expiry import Entry, Lane, Lanes, task_of


class TimeoutSettings(PolicySettings, frozen=True):
    """Settings of ``Timeout``."""

    seconds: Annotated[Seconds, about("How long the call may take.", gt=0)]


class Timeout(Fused[TimeoutSettings]):
    """Gives each call at most ``seconds``, and never more than the deadline around it leaves.

    The deadline is ambient: policies, clients and ``remaining()`` further in see it. An async call is cancelled
    at its deadline and raises ``DeadlineExceeded``; it must run in a task. A call whose deadline has passed
    already is not begun. A sync call cannot be interrupted: what is further in is told the deadline, and a
    result that comes late all the same is returned.

    A cancellation from outside goes through at once, also when it meets the deadline.
    """

    kind = "timeout"

    @accepts(TimeoutSettings)
    def __init__(self, settings: TimeoutSettings) -> None:
        self.expired = 0
        self.refused = 0
        super().__init__(settings)

    def apply(self, settings: TimeoutSettings) -> None:
        self._seconds = float(settings.seconds)
        self._lanes = Lanes(self._seconds)
        self._by_thread = self._lanes.by_thread

    def snapshot(self) -> dict[str, Any]:
        return {"seconds": self._seconds, "expired": self.expired, "refused": self.refused}

    def fragment(self, asynchronous: bool) -> Fragment:
        if asynchronous:
            return Around(self._enter_task, self._exit_task, self._fail_task)
        return Around(self._enter, release=reset_deadline)

    def _enter(self, call: Call) -> Token[float]:
        deadline = call.now + self._seconds
        if deadline >= call.deadline:
            deadline = call.deadline
            if deadline <= call.now:
                raise self._refusal(call)
        call.deadline = deadline
        return set_deadline(deadline)

    def _enter_task(self, call: Call) -> Entry:
        ident = get_ident()
        lane = self._by_thread.get(ident)
        # The private attribute of asyncio's own loops says whether this thread still runs that loop.
        if lane is None or lane.loop._thread_id != ident or lane.clock is not call.clock:  # type: ignore[attr-defined]
            lane = self._lanes.here(call.clock, ident)
        deadline = call.now + lane.seconds  # ours may be newer than the lane
        if deadline >= call.deadline:
            return self._enter_outer(call, lane)
        task = task_of(lane.loop)
        if task is None:
            raise self._outside()
        lane.entries[call] = entry = (deadline, task, task.cancelling(), set_deadline(deadline), lane)
        if lane.timer is None:  # what Lane.add does, without the call
            lane.arm(deadline)
        call.deadline = deadline
        return entry

    def _enter_outer(self, call: Call, lane: Lane) -> Entry:
        """Begin a call whose deadline is not ours but the nearer one around it, which nobody else may enforce."""
        deadline = call.deadline
        if deadline <= call.now:
            raise self._refusal(call)
        lane = lane.of_any_deadline()
        task = task_of(lane.loop)
        if task is None:
            raise self._outside()
        entry = (deadline, task, task.cancelling(), set_deadline(deadline), lane)
        lane.add(call, entry)
        return entry

    def _outside(self) -> RuntimeError:
        return RuntimeError(f"{self.name} interrupts tasks, and this runs in none; await it in a task of the loop")

    def _exit_task(self, call: Call, entry: Entry) -> None:
        reset_deadline(entry[3])
        try:
            del entry[4].entries[call]
        except KeyError:  # it was cancelled, and has come to its end all the same
            self.expired += 1
            entry[1].uncancel()

    def _fail_task(self, call: Call, entry: Entry, error: BaseException) -> DeadlineExceeded | None:
        deadline, task, pending, token, lane = entry
        expired = lane.entries.pop(call, None) is None
        try:
            reset_deadline(token)
        except ValueError:  # a coroutine that nobody awaits any more is closed from outside its task
            return None
        if expired:
            self.expired += 1
            if task.uncancel() <= pending and isinstance(error, asyncio.CancelledError):
                ours = deadline != current_deadline()
                reason = (
                    f"took longer than {rounded(lane.seconds)} s" if ours else "the deadline around the call passed"
                )
                facts = {**self.snapshot(), "seconds": lane.seconds}
                return DeadlineExceeded(self.name, reason, None, facts, call.operation)
        return None

    def _refusal(self, call: Call) -> DeadlineExceeded:
        self.refused += 1
        reason = "the deadline had passed before the call began"
        return DeadlineExceeded(self.name, reason, None, self.snapshot(), call.operation)
