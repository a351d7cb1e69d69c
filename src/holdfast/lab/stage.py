"""What a step of the demo works with, and what it leaves behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from holdfast.lab.scene import Scene
from holdfast.lab.shop import Shop
from holdfast.lab.tally import Count, Tally, plain
from holdfast.lab.traffic import TrafficProcess


class Stage(NamedTuple):
    """The shop, who comes to it, and where it is told. ``sleep`` waits for so many seconds."""

    shop: Shop
    traffic: TrafficProcess
    scene: Scene
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Account(msgspec.Struct, frozen=True):
    """What a step says of itself, once all is counted: ``note`` in a few words, ``sentence`` in full.

    ``detail`` is for scripts. ``complain`` says why what was counted is not what the step is there to show, or nothing;
    what it may cost is not its business.
    """

    note: Callable[[Tally], str]
    sentence: Callable[[Tally], str]
    detail: dict[str, object] = {}
    complain: Callable[[Tally], str] = lambda tally: ""


class Second(msgspec.Struct, frozen=True):
    """About a second of the traffic."""

    lasted: float
    orders: Count
    browsing: Count

    def __str__(self) -> str:
        orders, browsing = self.orders, self.browsing
        lost = orders.failed + browsing.failed
        return (
            f"orders {orders.ok / self.lasted:.0f}/s, p99 {orders.latency.quantile(0.99) * 1e3:.0f} ms; "
            f"browsing {browsing.ok / self.lasted:.0f}/s answered, {browsing.refused / self.lasted:.0f}/s refused"
            + (f"; {lost} lost" if lost else "")
        )

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {"seconds": round(self.lasted, 3), "orders": plain(self.orders), "browsing": plain(self.browsing)}


async def tell(stage: Stage, seconds: int) -> list[Second]:
    """Tell each second as it ends, and return them. A cancellation gets out at once."""
    scene = stage.scene
    told: list[Second] = []
    at = scene.since(0.0).at
    for _ in range(seconds):
        await stage.sleep(1.0)
        frame = scene.since(at)
        if frame.at > at:  # else the traffic's process has not had its turn
            second = Second(frame.at - at, frame.of("orders"), frame.of("browsing"))
            scene.say(str(second))
            told.append(second)
            at = frame.at
    return told
