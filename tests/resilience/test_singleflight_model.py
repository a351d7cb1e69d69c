"""Shared executions against an obvious model: who runs, who waits for whom, who is told what."""

import asyncio
import contextlib
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.pipeline import Pipeline
from holdfast.resilience.singleflight import SingleFlight
from resilience.witness import turns
from resilience.work import Work, start

KEYS = "ab"


class Model:
    """Executions by number: their key, who waits, and whether anybody may still join."""

    def __init__(self) -> None:
        self.executions: list[dict[str, Any]] = []
        self.joinable: dict[str, int] = {}
        self.told: dict[int, Any] = {}
        self.cancelled: list[int] = []

    def call(self, caller: int, key: str) -> None:
        if key not in self.joinable:
            self.joinable[key] = len(self.executions)
            self.executions.append({"key": key, "waiters": set(), "running": True})
        self.executions[self.joinable[key]]["waiters"].add(caller)

    def cancel(self, caller: int) -> None:
        for number, execution in enumerate(self.executions):
            if caller in execution["waiters"]:
                execution["waiters"].remove(caller)
                self.told[caller] = "cancelled"
                if not execution["waiters"]:
                    self.cancelled.append(number)
                    self.end(number)

    def finish(self, number: int) -> None:
        for caller in self.executions[number]["waiters"]:
            self.told[caller] = number
        self.end(number)

    def forget(self, key: str) -> bool:
        return self.joinable.pop(key, None) is not None

    def end(self, number: int) -> None:
        execution = self.executions[number]
        execution["running"] = False
        execution["waiters"] = set()
        if self.joinable.get(execution["key"]) == number:
            del self.joinable[execution["key"]]

    def running(self) -> list[int]:
        return [number for number, execution in enumerate(self.executions) if execution["running"]]


class Run:
    def __init__(self) -> None:
        self.work = Work()
        self.policy = SingleFlight(key=lambda call: call.args[0])
        self.call = Pipeline("x", self.policy)(self.work)
        self.callers: list[asyncio.Task[Any]] = []
        self.model = Model()

    async def step(self, name: str, choice: int) -> None:
        model = self.model
        if name == "call":
            key = KEYS[choice % len(KEYS)]
            model.call(len(self.callers), key)
            self.callers.append(start(self.call, key))
        elif name == "cancel" and self.callers:
            caller = choice % len(self.callers)
            model.cancel(caller)
            self.callers[caller].cancel()
        elif name in ("finish", "fail") and model.running():
            number = model.running()[choice % len(model.running())]
            model.finish(number)
            self.work.finish(number, number if name == "finish" else ValueError(number))
        elif name == "forget":
            key = KEYS[choice % len(KEYS)]
            assert self.policy.forget(key) is model.forget(key)
        await turns(6)

    def check(self) -> None:
        assert self.work.begun == [execution["key"] for execution in self.model.executions]
        assert self.work.cancelled == len(self.model.cancelled)
        assert self.policy.snapshot()["under_way"] == len(self.model.running())
        told = {number: self.told(caller) for number, caller in enumerate(self.callers) if caller.done()}
        assert told == self.model.told

    def told(self, caller: "asyncio.Task[Any]") -> Any:
        if caller.cancelled():
            return "cancelled"
        error = caller.exception()
        return caller.result() if error is None else error.args[0]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["call", "call", "call", "cancel", "finish", "fail", "forget"]), st.integers(0, 50)),
        max_size=40,
    )
)
def test_callers_share_leave_and_are_told_as_in_the_model(steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        run = Run()
        for name, choice in steps:
            await run.step(name, choice)
            run.check()
        for number in run.model.running():
            run.model.finish(number)
            run.work.finish(number, number)
        await turns(6)
        run.check()
        assert run.policy.snapshot()["under_way"] == 0

    asyncio.run(main())


def test_callers_that_come_and_go_in_any_order_of_turns_leave_nothing() -> None:
    seed = 5
    chance = random.Random(seed)
    policy = SingleFlight()
    running: dict[int, int] = {}

    @policy
    async def work(key: int) -> int:
        running[key] = running.get(key, 0) + 1
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        running[key] -= 1
        if chance.random() < 0.3:
            raise ValueError(key)
        return key

    async def one(number: int) -> None:
        await turns(chance.randrange(120))
        with contextlib.suppress(ValueError):
            assert await work(number % 3) == number % 3

    async def main() -> None:
        callers = [asyncio.ensure_future(one(number)) for number in range(300)]
        for caller in callers[::2]:
            await turns(chance.randrange(2))
            caller.cancel()
        for caller in callers:
            await asyncio.wait({caller})
            assert caller.cancelled() or caller.exception() is None
        await turns()

    asyncio.run(main())
    snapshot = policy.snapshot()
    assert snapshot["under_way"] == 0
    assert snapshot["shared"] > 20, f"seed {seed}"
    assert snapshot["abandoned"] > 0, f"seed {seed}"
