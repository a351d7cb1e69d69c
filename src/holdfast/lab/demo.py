"""The demo's director: what is done to the shop, in which order, and what it cost."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NamedTuple

import msgspec

from holdfast.lab.commentary import narrate
from holdfast.lab.edit import edit
from holdfast.lab.ledger import Ledger
from holdfast.lab.link import follow
from holdfast.lab.mix import steady
from holdfast.lab.overload import overload
from holdfast.lab.scene import Scene, StepResult
from holdfast.lab.shop import SERVICES, CommandResult, DemoError, Shop, open_shop
from holdfast.lab.stage import Account, Stage
from holdfast.lab.tally import Tally
from holdfast.lab.traffic import TrafficProcess

DEFAULT_RATE: Final = 200.0
"""Requests a second at the gateway: enough to show every loss, and far from what two cores can do."""
DEFAULT_WORKERS: Final = 2
WARM_UP: Final = 1.5
"""Seconds until the first step: everybody connects at once in them. They count in the totals."""
BASELINE: Final = 4.0
SETTLE: Final = 2.5
"""Seconds after each step that still belong to it: what it broke may show late."""
WATCH_SECONDS: Final = 0.5
CHANGE_LIMIT: Final = 30.0
"""Seconds within which a supervisor has to notice what was done to a worker."""
POLL: Final = 0.05

BREAKAGES: Final = (
    'raise RuntimeError("SHOP_KEY is not set")',
    "from shop.discounts import apply",
    "answer = undefined_name",
)
"""What a broken version has as its last line, one after the other."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds`` None: until it is told to stop. ``rate`` is requests a second, ``workers`` those of each service."""

    seconds: float | None = None
    rate: float = DEFAULT_RATE
    workers: int = DEFAULT_WORKERS


class Step(NamedTuple):
    """What is done to a service. ``free`` and ``sheds`` as in StepResult; ``only`` the service it can be done to."""

    name: str
    action: Callable[[str], Awaitable[str | Account]]
    free: bool = True
    sheds: bool = False
    only: str = ""


class Director:
    """Runs the demo once. ``run`` may be cancelled; ``stop`` ends it early and in order. One event loop."""

    def __init__(self, settings: Settings, scene: Scene) -> None:
        self.settings: Final = settings
        self.scene: Final = scene
        self._stop = asyncio.Event()
        self._shop: Shop
        self._ledger: Ledger
        self._traffic: TrafficProcess
        self._step_now: tuple[Step, str, int] | None = None
        self._breakages = itertools.cycle(BREAKAGES)
        self._version = 1

    def stop(self) -> None:
        """Go no further: check the orders, end everything, and let ``run`` return."""
        self._stop.set()

    async def run(self) -> None:
        """The whole demo. At its end all processes are gone. Raises DemoError when the shop cannot be run."""
        scene = self.scene
        scene.say(f"starting gateway, orders, inventory and payments, {self.settings.workers} workers each", "do")
        entered = contextlib.AsyncExitStack()
        async with entered:
            opening = asyncio.ensure_future(entered.enter_async_context(open_shop(self.settings.workers)))
            if not await self._until_stopped(opening):
                scene.say("stopped before the shop was up", "bad")
                return
            self._shop = opening.result()
            self._ledger = Ledger(self._shop.orders_file)
            async with self._watching():
                await self._play()
                scene.doing = "ending all processes"
        scene.stopped = True

    async def _play(self) -> None:
        scene = self.scene
        first = await self._shop.order()
        address = self._shop["gateway"].address
        self._traffic = await TrafficProcess.start(steady(address, self.settings.rate, first), scene.frame)
        try:
            scene.begin()
            rounds = asyncio.create_task(self._rounds(), name="rounds")
            finished = await self._until_stopped(rounds)
            last = await self._traffic.stop()
            if finished or self._step_now is None:
                scene.absorb(last)
            else:
                scene.say("stopping", "do")
                self._conclude(last, "interrupted", done=True)
            await self._check_orders(at_end=True)
        finally:
            await self._traffic.close()

    async def _until_stopped(self, task: "asyncio.Future[Any]") -> bool:
        """Wait for the task, or for ``stop``, which cancels it. True when it ended by itself."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            return False
        task.result()
        return True

    # -- the steps

    async def _rounds(self) -> None:
        await asyncio.sleep(WARM_UP)
        await self._step(Step("steady load", self._do_nothing), "", 0)
        steps = (
            Step("reload", self._reload),
            Step("broken version", self._ship_broken),
            Step("kill -9", self._kill, free=False),
            Step("hang", self._hang, free=False),
            Step("upgrade", self._upgrade),
            Step("overload", self._overload, sheds=True, only="gateway"),
            Step("edit", self._edit, sheds=True, only="gateway"),
        )
        number = 0
        while number == 0 or not self._over:
            number += 1
            for position, step in enumerate(steps):
                if number > 1 and self._over:
                    return
                await self._step(step, step.only or SERVICES[(position + number - 1) % len(SERVICES)], number)
                await self._check_orders()

    @property
    def _over(self) -> bool:
        limit = self.settings.seconds
        return limit is not None and self.scene.elapsed >= limit

    async def _step(self, step: "Step", service: str, number: int) -> None:
        self.scene.absorb(await self._traffic.step(step.name))
        self._step_now = step, service, number
        self.scene.mark(step.name.partition(" ")[0])
        account: str | Account
        try:
            account, done = await step.action(service), True
            await asyncio.sleep(SETTLE)
        except DemoError as error:
            account, done = str(error), False
            self.scene.say(account, "bad")
        self._conclude(await self._traffic.step("between steps"), account, done=done)

    def _conclude(self, tally: Tally, account: str | Account, *, done: bool) -> None:
        assert self._step_now is not None
        step, service, number = self._step_now
        self._step_now = None
        detail: dict[str, object] = {}
        if isinstance(account, Account):
            complaint = account.complain(tally)
            done = done and not complaint
            note, detail, told = complaint or account.note(tally), account.detail, account.sentence(tally)
        else:
            note, told = account, _cost(step, service, tally)
        result = StepResult(
            name=step.name,
            service=service,
            round=number,
            tally=tally,
            note=note,
            done=done,
            free=step.free,
            sheds=step.sheds,
            detail=detail,
        )
        self.scene.add(result)
        self.scene.say(told, "good" if result.good else "bad")

    async def _do_nothing(self, service: str) -> str:
        self.scene.doing = "steady load and nothing else, for comparison"
        self.scene.say(self.scene.doing, "do")
        await asyncio.sleep(BASELINE)
        return "nothing is done to it: for comparison"

    async def _reload(self, service: str) -> str:
        self._announce(f"reloading {service}: new workers start beside the old ones")
        self._write_version(service, "")
        return await self._ship(service)

    async def _ship_broken(self, service: str) -> str:
        broken = next(self._breakages)
        self._announce(f"shipping a broken version of {service}: {broken}")
        before = await self._shop.steady(service)
        self._write_version(service, broken)
        result = await self._command(service, "reload")
        if result.status == 0:
            raise DemoError(f"the broken version of {service} was taken; it should have been refused")
        reason = result.output.splitlines()[0].removeprefix("holdfast: ") if result.output else "no reason given"
        after = await self._shop.steady(service)
        if after.generation != before.generation:
            raise DemoError(f"{service} is at generation {after.generation} after a refused reload")
        self.scene.say(f"refused with exit status {result.status}; generation {before.generation} serves on", "good")
        self._announce(f"shipping a repaired version of {service}")
        self._write_version(service, "")
        return f"refused: {reason.rpartition(': ')[2]}; repaired: {await self._ship(service)}"

    async def _kill(self, service: str) -> str:
        view = await self._shop.steady(service)
        victim = max(view.workers, key=lambda worker: worker.requests)
        self._announce(f"killing worker {victim.slot} of {service} in the middle of its requests")
        self.scene.say(f"kill -9 {victim.pid}", "command")
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        began = self.scene.elapsed
        await self._noticed(service, "crashes", view.crashes)
        return f"replaced in {self.scene.elapsed - began:.1f} s"

    async def _hang(self, service: str) -> str:
        view = await self._shop.steady(service)
        self._announce(f"hanging a worker of {service}: time.sleep(30) on its loop")
        self.scene.say(f"curl -X POST http://{self._shop[service].address}/debug/hang?seconds=30", "command")
        began = self.scene.elapsed
        async with self._shop.hang(service):
            await self._noticed(service, "hangs", view.hangs)
        return f"found and replaced in {self.scene.elapsed - began:.1f} s"

    async def _upgrade(self, service: str) -> str:
        view = await self._shop.steady(service)
        self._announce(f"upgrading the supervisor of {service}: its sockets stay open")
        result = await self._command(service, "upgrade")
        if result.status != 0:
            raise DemoError(f"the upgrade of {service} was refused: {result.output}")
        after = await self._shop.steady(service)
        if after.pid != view.pid or after.upgrades != view.upgrades + 1:
            raise DemoError(f"the supervisor of {service} was not upgraded: process {after.pid}")
        return f"same process {after.pid}, generation {after.generation}, in {result.seconds:.1f} s"

    async def _overload(self, service: str) -> Account:
        self._announce(f"more people come to {service} than it can serve")
        return await overload(Stage(self._shop, self._traffic, self.scene))

    async def _edit(self, service: str) -> Account:
        self._announce(f"a limit of {service} is edited while it runs")
        return await edit(Stage(self._shop, self._traffic, self.scene))

    # -- what the steps are made of

    def _announce(self, text: str) -> None:
        self.scene.doing = text
        self.scene.say(text, "do")

    async def _command(self, service: str, verb: str) -> CommandResult:
        self.scene.say(f"holdfast {verb} --name {service}", "command")
        return await self._shop.command(service, verb)

    async def _ship(self, service: str) -> str:
        result = await self._command(service, "reload")
        if result.status != 0:
            raise DemoError(f"the reload of {service} was refused: {result.output}")
        view = await self._shop.steady(service)
        return f"generation {view.generation} in {result.seconds:.1f} s"

    def _write_version(self, service: str, last_line: str) -> None:
        """A new version of the service's code on disk. The number makes each differ in size from the one before."""
        source = self._shop[service].source
        text = source.read_text().partition("\n# version ")[0].rstrip("\n")
        self._version += 1
        source.write_text(f"{text}\n\n# version {'I' * (self._version % 7)}\n{last_line}\n")

    async def _noticed(self, service: str, counter: Literal["crashes", "hangs"], before: int) -> None:
        end = self.scene.elapsed + CHANGE_LIMIT
        while self.scene.elapsed < end:
            view = await self._shop.look(service)
            if view is not None and getattr(view, counter) > before:
                await self._shop.steady(service)
                return
            await asyncio.sleep(POLL)
        raise DemoError(f"{service} has not counted one of the {counter} within {CHANGE_LIMIT:g} s")

    async def _check_orders(self, *, at_end: bool = False) -> None:
        receipts = await self._traffic.receipts()
        await asyncio.to_thread(self._ledger.check, receipts, self.scene.orders)
        if at_end:
            await asyncio.to_thread(self._ledger.count, self.scene.orders)

    # -- what is watched meanwhile

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._poll(), name="status")]
        tasks += [asyncio.create_task(self._listen(name), name=f"events of {name}") for name in SERVICES]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            for name in SERVICES:
                if (view := await self._shop.look(name)) is not None:
                    self.scene.services[name] = view
            await asyncio.sleep(WATCH_SECONDS)

    async def _listen(self, name: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                async for happening in follow(self._shop[name].control):
                    if line := narrate(name, happening):
                        self.scene.say(line)
            await asyncio.sleep(POLL)  # an upgrade ends the connection; the next one is there at once


def _cost(step: Step, service: str, tally: Tally) -> str:
    lost = "no request" if not tally.failed else f"{tally.failed} request{'s' * (tally.failed != 1)}"
    refused = f", {tally.refused} refused" if tally.refused else ""
    cost = f"{step.name}{' of ' + service if service else ''} cost {lost} of {tally.requests:,}{refused}"
    return f"{cost}; longest {tally.worst * 1e3:.0f} ms"
