"""Policies that write down what they see, for tests of pipelines and of what stands around them."""

import asyncio
from math import inf
from typing import Any

from holdfast.core.call import AsyncHandler, Call, Handler
from holdfast.core.errors import Rejected
from holdfast.core.fuse import Again, Fragment
from holdfast.core.policy import Fused, Gate, Policy
from holdfast.core.settings import GateSettings, PolicySettings

Log = list[Any]


class Recorder(Gate[GateSettings]):
    """Writes down what it sees; refuses when told to."""

    kind = "recorder"

    def __init__(self, log: Log, name: str = "gate", *, refuses: bool = False, waits: bool = False) -> None:
        self.log = log
        self.refuses = refuses
        self.waits = waits
        super().__init__(GateSettings(name=name))

    def enter(self, call: Call) -> str:
        if self.refuses:
            raise Rejected(self.name, "told to")
        self.log.append(("enter", self.name))
        return self.name

    def admit(self, call: Call) -> str:
        self.log.append(("admit", self.name))
        return self.name

    async def admit_async(self, call: Call) -> str:
        await asyncio.sleep(0)
        return self.admit(call)

    def exit(self, call: Call, token: Any) -> None:
        assert token == self.name
        self.log.append(("exit", self.name, call.verdict, call.now))


class Silent(Gate[GateSettings]):
    """Has no exit."""

    def __init__(self, log: Log, name: str = "silent") -> None:
        self.log = log
        super().__init__(GateSettings(name=name))

    def enter(self, call: Call) -> None:
        self.log.append(("enter", self.name))


class Wrapping(Policy[PolicySettings]):
    """A policy that is no fragment."""

    kind = "wrapping"

    def __init__(self, log: Log, name: str = "wrapping") -> None:
        self.log = log
        super().__init__(PolicySettings(name=name))

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            self.log.append(("enter", self.name))
            try:
                return inner(call)
            finally:
                self.log.append(("exit", self.name, call.verdict, call.now))

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            self.log.append(("enter", self.name))
            try:
                return await inner(call)
            finally:
                self.log.append(("exit", self.name, call.verdict, call.now))

        return run


class Twice(Fused[PolicySettings]):
    """Tries a second time, after a second."""

    kind = "twice"

    def __init__(self) -> None:
        self.edge = inf
        self.count = 0
        self.begun = 0
        super().__init__(PolicySettings())

    def fragment(self, asynchronous: bool) -> Fragment:
        sleep = self._sleep if asynchronous else self._pause
        return Again(self._after, self._after, sleep, tally=self, begin=self._begin)

    def _begin(self, call: Call) -> None:
        self.begun += 1

    def _after(self, call: Call, outcome: Any, *known: object) -> float | None:
        return 1.0 if call.attempt == 1 else None

    def _pause(self, call: Call, seconds: float) -> None:
        call.clock.pause(seconds)

    async def _sleep(self, call: Call, seconds: float) -> None:
        await call.clock.sleep(seconds)
