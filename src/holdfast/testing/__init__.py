"""What a user's own tests need: virtual time, faults, recordings of calls, task leaks, every order of turns.

With pytest, the fixture ``virtual_clock`` and the setting ``holdfast_task_leaks`` come by themselves.
"""

from holdfast.core.clock import VirtualClock
from holdfast.testing.clocks import InstantClock, on_clock, without_waiting
from holdfast.testing.faults import failing, slowed
from holdfast.testing.interleave import Explored, OrderFailed, every_order
from holdfast.testing.leaks import TaskLeak, no_task_leaks
from holdfast.testing.recording import Attempt, CallRecord, Recording, recorded
from holdfast.testing.renewal import fresh

__all__ = [
    "VirtualClock",
    "InstantClock",
    "on_clock",
    "without_waiting",
    "recorded",
    "Recording",
    "CallRecord",
    "Attempt",
    "fresh",
    "failing",
    "slowed",
    "no_task_leaks",
    "TaskLeak",
    "every_order",
    "Explored",
    "OrderFailed",
]
