"""A pool beside three plain lists: what runs, what is queued, who waits for room."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flow.loops import Calls, others, turns
from holdfast.core.errors import BulkheadFull, Draining
from holdfast.flow import WorkerPool


class PoolMachine(RuleBasedStateMachine):
    @initialize(workers=st.integers(1, 3), queue=st.integers(0, 3))
    def start(self, workers: int, queue: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.calls: Calls[int] = Calls()
        self.pool = WorkerPool(self.calls, workers=workers, queue=queue)
        self.workers, self.size = workers, queue
        self.futures: dict[int, asyncio.Future[Any]] = {}
        self.submitters: dict[int, asyncio.Task[Any]] = {}
        self.next = 0
        # The model.
        self.running: list[int] = []
        self.queued: list[int] = []
        self.waiting: list[int] = []
        self.begun: list[int] = []
        self.results: dict[int, str] = {}
        self.loop.run_until_complete(self.pool.start())

    def turn(self) -> None:
        self.loop.run_until_complete(turns(12))
        for item, submitter in list(self.submitters.items()):
            if submitter.done():
                del self.submitters[item]
                if not submitter.cancelled() and submitter.exception() is None:
                    self.futures[item] = submitter.result()

    def advance(self) -> None:
        while True:
            if self.queued and len(self.running) < self.workers:
                self.running.append(self.queued.pop(0))
                self.begun.append(self.running[-1])
            elif self.waiting and (len(self.running) < self.workers or len(self.queued) < self.size):
                self.queued.append(self.waiting.pop(0))
            else:
                return

    @rule()
    def try_submit(self) -> None:
        item = self.next
        self.next += 1

        async def submit() -> None:
            try:
                self.futures[item] = self.pool.try_submit(item)
            except BulkheadFull:
                self.results[item] = "refused"

        self.loop.run_until_complete(submit())
        if self.waiting or not (len(self.running) < self.workers or len(self.queued) < self.size):
            assert self.results[item] == "refused"
        else:
            assert item in self.futures
            self.queued.append(item)
            self.advance()
        self.turn()

    @rule()
    def submit(self) -> None:
        self.submitters[self.next] = self.loop.create_task(self.pool.submit(self.next))
        self.waiting.append(self.next)
        self.next += 1
        self.advance()
        self.turn()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), well=st.booleans())
    def finish(self, data: st.DataObject, well: bool) -> None:
        item = data.draw(st.sampled_from(self.running))
        self.calls.finish(item, f"result {item}" if well else ValueError(item))
        self.running.remove(item)
        self.results[item] = f"result {item}" if well else "ValueError"
        self.advance()
        self.turn()

    @precondition(lambda self: self.running or self.queued)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.running + self.queued))
        self.futures[item].cancel()
        (self.running if item in self.running else self.queued).remove(item)
        self.results[item] = "CancelledError"
        self.advance()
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_submitter(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.submitters[item].cancel()
        self.waiting.remove(item)
        self.turn()

    @invariant()
    def it_is_as_the_model_has_it(self) -> None:
        assert self.pool.running == len(self.running) <= self.workers
        assert self.pool.queued == len(self.queued) <= self.size
        assert self.calls.begun == self.begun
        assert sorted(self.calls.running) == sorted(self.running)
        assert sorted(self.submitters) == self.waiting
        for item, future in self.futures.items():
            assert future.done() == (item in self.results)
            if future.cancelled():
                assert self.results[item] == "CancelledError"
            elif future.done():
                error = future.exception()
                assert self.results[item] == (future.result() if error is None else type(error).__name__)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        lost = self.loop.run_until_complete(self.pool.drain(0))
        assert lost == len(self.running) + len(self.queued)
        self.turn()
        assert self.submitters == {}
        for item in self.running + self.queued:
            assert isinstance(self.futures[item].exception(), Draining)
        assert sorted(self.calls.ended) == sorted(self.begun)

        async def nothing_is_left() -> None:
            assert not others()

        self.loop.run_until_complete(nothing_is_left())
        self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
