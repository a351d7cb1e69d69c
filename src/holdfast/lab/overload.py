"""The overload: more people look at the catalogue than the gateway can draw pages for, while orders go on."""

from typing import Final

from holdfast.lab.mix import looking
from holdfast.lab.scene import ORDERS_SHARE
from holdfast.lab.shop import PAGES_PER_SECOND
from holdfast.lab.stage import Account, Stage, tell
from holdfast.lab.tally import Tally

BUSY: Final = 0.25
"""Times what the gateway can do, to begin with ..."""
BUSY_SECONDS: Final = 2
TIMES: Final = 2.5
"""... and then."""
SECONDS: Final = 6
RUSH: Final = TIMES * PAGES_PER_SECOND
EXPECTED: Final = f"expected: 0 lost, at least {ORDERS_SHARE * 100:g} % of the orders answered"


async def overload(stage: Stage) -> Account:
    """Let the traffic rise and end. The account is of all that ends in the step."""
    scene, address = stage.scene, stage.shop["gateway"].address
    scene.say(f"{BUSY * PAGES_PER_SECOND:.0f} pages/s are asked for: {BUSY:g} times what it can draw", "do")
    await stage.traffic.add([looking(address, BUSY * PAGES_PER_SECOND, BUSY_SECONDS)])
    seconds = await tell(stage, BUSY_SECONDS)
    scene.say(f"{RUSH:,.0f} pages/s are asked for: {TIMES:g} times what it can draw, for {SECONDS} s", "do")
    await stage.traffic.add([looking(address, RUSH, SECONDS)])
    seconds += await tell(stage, SECONDS)
    detail: dict[str, object] = {
        "capacity": PAGES_PER_SECOND,
        "asked": RUSH,
        "by_second": [second.as_json() for second in seconds],
    }
    return Account(_note, _sentence, detail, _complain)


def _complain(tally: Tally) -> str:
    browsing = tally.of("browsing")
    if not browsing.refused:
        return f"nobody was refused at {TIMES:g} times the load: that was no overload"
    return "" if browsing.ok else "nobody who browses was answered: that was no service"


def _note(tally: Tally) -> str:
    orders, browsing = tally.of("orders"), tally.of("browsing")
    return (
        f"orders {_percent(orders.share)}, p99 {orders.latency.quantile(0.99) * 1e3:.0f} ms; "
        f"browsing {_percent(browsing.share)}"
    )


def _sentence(tally: Tally) -> str:
    orders, browsing = tally.of("orders"), tally.of("browsing")
    return (
        f"asked for {TIMES:g} times what it can draw, the gateway answered {orders.ok:,} of {orders.requests:,} "
        f"orders ({_percent(orders.share)}, p99 {orders.latency.quantile(0.99) * 1e3:.0f} ms) and {browsing.ok:,} who "
        f"browse, told {browsing.refused:,} to come again, and lost {tally.failed}; {EXPECTED}"
    )


def _percent(share: float) -> str:
    """Rounded down: what is not all is not 100 %."""
    return f"{int(share * 1000) / 10:g} %"
