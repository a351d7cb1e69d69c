"""What the tests of policies that are no gates need: a gate that writes down verdicts, and waiting without sleeping."""

import asyncio
import time
from collections.abc import Callable

from holdfast.core.call import Call, Verdict
from holdfast.core.errors import CircuitOpen
from holdfast.core.policy import Gate
from holdfast.core.settings import GateSettings

TURNS = 200
"""Turns of a loop in which what is under way must come to rest."""
PATIENCE = 10.0
"""Real seconds for which a thread may keep a test waiting."""


class Witness(Gate[GateSettings]):
    """Writes down the verdict of each call, and what it looked like; refuses while told to."""

    kind = "witness"

    def __init__(self, name: str = "witness") -> None:
        self.verdicts: list[Verdict] = []
        self.calls: list[Call] = []
        self.refuses = False
        super().__init__(GateSettings(name=name))

    def enter(self, call: Call) -> bool:
        if self.refuses:
            raise CircuitOpen(self.name, "told to")
        return True

    def exit(self, call: Call, token: bool) -> None:
        self.verdicts.append(call.verdict)
        self.calls.append(call.copy())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Turn the loop until ``condition`` holds."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{TURNS} turns of the loop passed, and it is still not true")


def wait_for(condition: Callable[[], object]) -> None:
    """Let other threads run until ``condition`` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{PATIENCE} seconds passed, and it is still not true"
        time.sleep(0)
