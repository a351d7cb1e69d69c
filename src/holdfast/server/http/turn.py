"""Requests of this engine in their turn."""

import asyncio
import sys
from typing import Final

from holdfast.core.context import Criticality
from holdfast.server.admission.starter import Starter
from holdfast.server.http.cycle import Cycle
from holdfast.server.http.state import EngineState

RANK: Final = Criticality.CRITICAL.value
"""Of requests of which nothing is known."""


def take_turns(state: EngineState, loop: asyncio.AbstractEventLoop) -> None:
    """From now on requests wait for their turn: then the app is called, or 503 answered in its place."""

    def start(cycle: Cycle) -> None:
        began = loop.time()
        cycle.protocol.begin(cycle).add_done_callback(lambda _: starter.done(loop.time() - began))

    starter: Starter[Cycle] = Starter(
        loop,
        classes=len(Criticality),
        start=start,
        refuse=Cycle.turn_away,
        wanted=lambda cycle: not cycle.disconnected,
        limit=sys.maxsize,
    )
    state.starter = starter
    state.submit = lambda cycle: starter.submit(cycle, rank=RANK)
