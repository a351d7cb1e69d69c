"""A booting worker yields to those that serve, and comes back exactly."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from holdfast.supervisor import machine

PRIORITIES = """
import json, os, sys, threading
from holdfast.supervisor.machine import lower_priority, restore_priority

def all_threads():
    return sorted({(os.sched_getscheduler(int(t)), os.getpriority(os.PRIO_PROCESS, int(t)))
                   for t in os.listdir("/proc/self/task")})

before = all_threads()
saved = lower_priority()
stop = threading.Event()
ready = threading.Barrier(4)
def work():
    ready.wait()
    stop.wait()
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
ready.wait()
during = all_threads()
again = lower_priority()
whole = restore_priority(saved)
after = all_threads()
stop.set()
for t in threads: t.join()
json.dump([before, during, after, saved, again, whole], sys.stdout)
"""


def run_priorities(prefix: str = "") -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", prefix + PRIORITIES],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(machine.__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    found: list[Any] = json.loads(done.stdout)
    return found


def niceness_comes_back() -> bool:
    """Tried by a process that ends right after."""
    attempt = "import os; n = os.nice(0); os.nice(1); os.setpriority(os.PRIO_PROCESS, 0, n)"
    return subprocess.run([sys.executable, "-c", attempt], capture_output=True, check=False).returncode == 0


def test_a_booting_process_yields_and_gets_everything_back_in_all_its_threads() -> None:
    before, during, after, _, again, whole = run_priorities()
    assert [policy for policy, _ in before] == [os.SCHED_OTHER]
    assert {policy for policy, _ in during} == {os.SCHED_BATCH}
    raised = min(19, before[0][1] + machine.NICE_STEP) if niceness_comes_back() else before[0][1]
    assert {nice for _, nice in during} == {raised}
    assert after == before
    assert again is None, "nothing is lowered twice"
    assert whole


# Python has no name for RLIMIT_NICE; it is 13 on Linux (asm-generic/resource.h).
WITHOUT_THE_RIGHT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Limit(ctypes.Structure):
    _fields_ = [("soft", ctypes.c_ulong), ("hard", ctypes.c_ulong)]
assert libc.setrlimit(13, ctypes.byref(Limit(0, 0))) == 0
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
data = (ctypes.c_uint32 * 6)()
assert libc.capset(ctypes.byref(Header(0x20080522, 0)), ctypes.byref(data)) == 0
"""


def test_without_the_right_to_come_back_niceness_is_left_alone() -> None:
    before, during, after, saved, _, whole = run_priorities(WITHOUT_THE_RIGHT)
    assert saved == [True, None]
    assert during == [[os.SCHED_BATCH, before[0][1]]]
    assert after == before
    assert whole


def test_a_policy_that_the_operator_chose_is_left_alone() -> None:
    chosen = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    before, during, after, saved, _, whole = run_priorities(chosen)
    assert saved is None
    assert before == during == after == [[os.SCHED_IDLE, before[0][1]]]
    assert whole


def test_a_thread_that_chose_its_own_policy_keeps_it() -> None:
    policies: list[int] = []
    chosen, stop = threading.Event(), threading.Event()

    def choose() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        chosen.set()
        stop.wait()
        policies.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=choose)
    saved = machine.lower_priority()
    try:
        thread.start()
        chosen.wait()
    finally:
        assert machine.restore_priority(saved)
        stop.set()
        thread.join()
    assert policies == [os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_nothing_lowered_is_nothing_to_restore() -> None:
    assert machine.restore_priority(None)
