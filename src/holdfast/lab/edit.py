"""The edit: a limit in the gateway's file is changed while requests come, then misspelt, then put back."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Final

from holdfast.lab.link import ServiceView
from holdfast.lab.mix import looking
from holdfast.lab.shop import PAGES_PER_SECOND, DemoError, Shop
from holdfast.lab.stage import Account, Second, Stage, tell

LOOKING: Final = PAGES_PER_SECOND / 4
"""Pages a second that are asked for meanwhile: well within what the gateway can do."""
LIMIT: Final = 50
"""What the new limit allows a second, all workers together: those who browse ask for several times that."""
BEFORE_SECONDS: Final = 2
AFTER_SECONDS: Final = 3
"""The first of them is not counted: a limit begins with what it allows at once."""
MEANWHILE_SECONDS: Final = 1
BACK_SECONDS: Final = 2
LONGEST: Final = 60.0
"""Seconds after which the additional traffic ends in any case."""
HOLD_LIMIT: Final = 10.0
"""Seconds within which a supervisor has to take or refuse a change. It takes well below one."""
POLL: Final = 0.02
NAME: Final = "rate_limit"
MISSPELT: Final = "rate_limti"

_LIMIT: Final = re.compile(rf'^{NAME} = "(?P<rate>[^"]*)"$', re.MULTILINE)


async def edit(stage: Stage) -> Account:
    """Change, misspell and put back. DemoError when one of them does not come out as it must."""
    await stage.traffic.add([looking(stage.shop["gateway"].address, LOOKING, LONGEST)])
    try:
        account = await _change(stage)
    except DemoError:
        await stage.traffic.ease()
        raise
    await stage.traffic.ease()
    return account


async def _change(stage: Stage) -> Account:
    shop, scene = stage.shop, stage.scene
    path = shop["gateway"].config
    text = await asyncio.to_thread(path.read_text)
    old, new = find_limit(text), f"{max(1, LIMIT // shop.workers)}/s"
    scene.say(f"{LOOKING:.0f} pages/s are asked for; the {NAME} of browsing is {old} in each worker", "do")
    before = await tell(stage, BEFORE_SECONDS)

    scene.say(f"sed -i 's|{old}|{new}|' {path.name}", "command")
    taken = await _save(shop, path, with_limit(text, new))
    scene.say(f"{new} holds in {_all(shop)} {taken:.2f} s after it was saved", "good")
    after = await tell(stage, AFTER_SECONDS)

    scene.say(f"sed -i 's|{NAME}|{MISSPELT}|' {path.name}", "command")
    refusal = await _misspell(shop, path, misspelt(text))
    scene.say(f"it is refused, and {new} holds on: {refusal}", "good")
    meanwhile = await tell(stage, MEANWHILE_SECONDS)

    scene.say(f"git restore {path.name}", "command")
    again = await _save(shop, path, text)
    scene.say(f"{old} holds in {_all(shop)} {again:.2f} s after it was saved", "good")
    back = await tell(stage, BACK_SECONDS)

    answered = [answered_per_second(seconds) for seconds in (before, after[1:], meanwhile, back)]
    if not answered[1] < answered[0] or not answered[2] < answered[3]:
        raise DemoError(f"the limit of {new} in each worker had no effect: {answered} answers a second")
    note = f"{new} after {taken:.2f} s: {answered[0]:.0f} -> {answered[1]:.0f} answers/s"
    sentence = (
        f"the limit of {new} in {_all(shop)} held {taken:.2f} s after it was saved, and put back "
        f"{again:.2f} s after that: browsing was answered {answered[0]:.0f}, {answered[1]:.0f} and {answered[3]:.0f} "
        f"times a second; a misspelt one changed nothing"
    )
    detail: dict[str, object] = {
        "limits": [old, new],
        "workers": shop.workers,
        "held_seconds": [round(taken, 3), round(again, 3)],
        "answered_per_second": [round(rate, 1) for rate in answered],
        "refusal": refusal,
    }
    return Account(lambda tally: note, lambda tally: f"{sentence}; {tally.failed} lost", detail)


async def _save(shop: Shop, path: Path, text: str) -> float:
    """Save it, and wait until all workers have it; the seconds that took. DemoError when it does not hold in time."""
    version = (await shop.steady("gateway")).configuration
    view = None
    began = time.monotonic()
    await asyncio.to_thread(write, path, text)
    while time.monotonic() < began + HOLD_LIMIT:
        view = await shop.look("gateway")
        if view is not None and view.configuration > version and holds(view):
            return time.monotonic() - began
        await asyncio.sleep(POLL)
    why = "".join(view.refused[:1]) if view is not None else ""
    raise DemoError(f"a saved change did not hold in all workers within {HOLD_LIMIT:g} s{why and ': '}{why}")


async def _misspell(shop: Shop, path: Path, text: str) -> str:
    """Save what is wrong, and wait for its refusal; what that says. DemoError when none comes, or anything changes."""
    version = (await shop.steady("gateway")).configuration
    began = time.monotonic()
    await asyncio.to_thread(write, path, text)
    while time.monotonic() < began + HOLD_LIMIT:
        view = await shop.look("gateway")
        if view is not None and view.refused:
            if view.configuration != version or not holds(view):
                raise DemoError("a change that was refused has changed something")
            return view.refused[0].replace(f"{path.parent}{os.sep}", "")
        await asyncio.sleep(POLL)
    raise DemoError(f"a misspelt setting was not refused within {HOLD_LIMIT:g} s")


def holds(view: ServiceView) -> bool:
    """Whether every worker has the configuration that the supervisor has."""
    return bool(view.workers) and all(worker.configuration == view.configuration for worker in view.workers)


def find_limit(text: str) -> str:
    """The limit in the file. DemoError when there is none, or more than one."""
    found = _LIMIT.findall(text)
    if len(found) != 1:
        raise DemoError(f"the gateway's file has {len(found)} lines with a {NAME}; there must be one")
    return str(found[0])


def with_limit(text: str, rate: str) -> str:
    """The file with another limit."""
    return _LIMIT.sub(f'{NAME} = "{rate}"', text)


def misspelt(text: str) -> str:
    """The file with a typing error in the name of the limit."""
    return _LIMIT.sub(lambda found: found[0].replace(NAME, MISSPELT), text)


def write(path: Path, text: str) -> None:
    """As a careful editor saves: nobody ever reads half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def answered_per_second(seconds: list[Second]) -> float:
    """How many who browse were answered in a second, as a mean. 0.0 of none."""
    lasted = sum(second.lasted for second in seconds)
    return sum(second.browsing.ok for second in seconds) / lasted if lasted else 0.0


def _all(shop: Shop) -> str:
    return "the one worker" if shop.workers == 1 else f"all {shop.workers} workers"
