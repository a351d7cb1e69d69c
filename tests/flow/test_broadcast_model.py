"""A broadcast beside plain lists: what was published, and what waits for each subscriber."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from effort import examples
from flow.loops import others, turns
from holdfast.flow import Broadcast, FellBehind
from holdfast.flow.broadcast import Slow, Subscription

END = object()
STEPS = 25
"""Steps of one run, and so items that may have to be handed over in one of them, each in a turn of its own."""


class Box:
    """The model of one subscriber."""

    def __init__(self, slow: str, size: int) -> None:
        self.slow = slow
        self.size = size
        self.items: list[int] = []
        self.dropped = 0
        self.behind = False

    @property
    def blocks(self) -> bool:
        return self.slow == "wait" and len(self.items) == self.size


class BroadcastMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.published: asyncio.Queue[Any] = asyncio.Queue()
        self.hub = Broadcast(self.source(), buffer=1)
        self.subscriptions: dict[int, Subscription[int]] = {}
        self.read = 0
        self.next_item = 0
        self.next_subscriber = 0
        # The model.
        self.pending: list[int] = []
        self.boxes: dict[int, Box] = {}
        self.handed_over = 0
        self.end: str = ""
        self.told = False
        self.loop.run_until_complete(self.hub.start())

    async def source(self) -> AsyncGenerator[int, None]:
        while True:
            item = await self.published.get()
            if item is END:
                return
            if isinstance(item, Exception):
                raise item
            self.read += 1
            yield item

    def turn(self) -> None:
        self.loop.run_until_complete(turns(STEPS + 12))

    def advance(self) -> None:
        """Hand over what is pending while somebody listens and nobody holds it up."""
        listening = [box for box in self.boxes.values() if not box.behind]
        while self.pending and listening and not any(box.blocks for box in listening):
            item = self.pending.pop(0)
            self.handed_over += 1
            for box in listening:
                if len(box.items) == box.size and box.slow == "raise":
                    box.behind = True
                    continue
                if len(box.items) == box.size:
                    box.items.pop(0)
                    box.dropped += 1
                box.items.append(item)
            listening = [box for box in listening if not box.behind]

    @precondition(lambda self: not self.end)
    @rule()
    def publish(self) -> None:
        self.published.put_nowait(self.next_item)
        self.pending.append(self.next_item)
        self.next_item += 1
        self.advance()
        self.turn()

    @precondition(lambda self: not self.end and not self.pending)
    @rule(well=st.booleans())
    def come_to_the_end(self, well: bool) -> None:
        self.published.put_nowait(END if well else OSError("gone"))
        self.end = "StopAsyncIteration" if well else "OSError"
        self.turn()

    @rule(slow=st.sampled_from(["wait", "drop", "raise"]), size=st.integers(1, 3))
    def subscribe(self, slow: Slow, size: int) -> None:
        self.subscriptions[self.next_subscriber] = self.hub.subscribe(slow=slow, buffer=size)
        self.boxes[self.next_subscriber] = Box(slow, size)
        self.next_subscriber += 1
        self.advance()
        self.turn()

    @precondition(lambda self: self.boxes)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        which = data.draw(st.sampled_from(sorted(self.boxes)))
        box = self.boxes[which]
        task = self.loop.create_task(self.ask(which))
        self.turn()
        if box.items:
            assert task.result() == box.items.pop(0)
            self.advance()
        elif box.behind or self.end:
            assert task.result() == ("FellBehind" if box.behind else self.end)
            self.told = self.told or (self.end == "OSError" and not box.behind)
            del self.boxes[which]
            again = self.loop.create_task(self.ask(which))
            self.turn()
            assert again.result() == "StopAsyncIteration"
            del self.subscriptions[which]
        else:
            assert not task.done()
            task.cancel()
        self.turn()
        del task  # its traceback holds this frame, this frame would hold it, and both the subscription

    async def ask(self, which: int) -> int | str:
        try:
            return await anext(self.subscriptions[which])
        except (StopAsyncIteration, OSError, FellBehind) as error:
            return type(error).__name__

    @precondition(lambda self: self.boxes)
    @rule(data=st.data(), closing=st.booleans())
    def leave(self, data: st.DataObject, closing: bool) -> None:
        which = data.draw(st.sampled_from(sorted(self.boxes)))
        subscription = self.subscriptions.pop(which)
        if closing:
            self.loop.run_until_complete(subscription.aclose())
        del self.boxes[which], subscription
        self.advance()
        self.turn()

    @invariant()
    def it_is_as_the_model_has_it(self) -> None:
        assert self.read == self.handed_over + min(1, len(self.pending))
        for which, box in self.boxes.items():
            assert self.subscriptions[which].dropped == box.dropped

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return

        async def stop() -> str:
            try:
                await self.hub.stop()
            except OSError as error:
                return type(error).__name__
            finally:
                assert not others()
            return ""

        unheard = self.loop.run_until_complete(stop())
        assert unheard == ("OSError" if self.end == "OSError" and not self.told else "")
        self.subscriptions.clear()
        self.turn()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


TestBroadcast = BroadcastMachine.TestCase
TestBroadcast.settings = settings(max_examples=examples(60), stateful_step_count=STEPS, deadline=None)
