"""The demo's shop: a copy of examples/shop in a temporary directory, and four supervisors that serve it."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from holdfast.lab.link import ServiceView, look
from holdfast.lab.load import Load, run_load, start_load

SERVICES: Final = ("gateway", "orders", "inventory", "payments")
PAGES_PER_SECOND: Final = 400
"""Pages of the catalogue that the gateway can make, all its workers together."""
HANG_TIMEOUT: Final = "2s"
HANG_SECONDS: Final = 30
"""How long the hung worker would stay blocked if nobody ended it."""
START_LIMIT: Final = 60.0
STEADY_LIMIT: Final = 45.0
COMMAND_LIMIT: Final = 90.0
POLL: Final = 0.1
STOP_LIMIT: Final = 15.0
"""What the supervisors have to end before they are killed."""
LAST_LOG: Final = 2000
"""Characters of a service's log that an error shows."""

# Ends a supervisor when this process dies without having ended it, be it by SIGKILL. The setting (PR_SET_PDEATHSIG)
# survives exec, also the one of an upgrade. Where there is no prctl, there is no such net.
_TIED: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class DemoError(Exception):
    """The demo cannot go on; the message says why, with the words of whoever failed."""


class CommandResult(msgspec.Struct, frozen=True):
    """A command of ``holdfast`` that has ended."""

    line: str
    status: int
    output: str
    seconds: float


class ShopService:
    """One service of the shop under its own ``holdfast run``."""

    def __init__(self, name: str, root: Path, port: int) -> None:
        self.name: Final = name
        self.port: Final = port
        self.source: Final = root / "shop" / f"{name}.py"
        self.config: Final = root / "shop" / f"{name}.toml"
        self.control: Final = root / "run" / f"{name}.sock"
        self.log: Final = root / "logs" / f"{name}.log"
        self.process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def last_words(self) -> str:
        """The end of the log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-LAST_LOG:].strip()
        return "(no log)"


class Shop:
    """The four services. Made by ``open_shop``, which also ends them. Belongs to one event loop."""

    def __init__(self, root: Path, workers: int) -> None:
        self.root: Final = root
        self.workers: Final = workers
        ports = _free_ports(len(SERVICES))
        self.services: Final = {name: ShopService(name, root, port) for name, port in zip(SERVICES, ports, strict=True)}
        self.environment: Final = self._environment()

    def __getitem__(self, name: str) -> ShopService:
        return self.services[name]

    @property
    def orders_file(self) -> Path:
        return self.root / "data" / "orders.db"

    async def start(self) -> None:
        """Start all four and wait until they serve. Raises DemoError with the log of one that does not."""
        for service in self.services.values():
            await self._spawn(service)
        await asyncio.gather(*(self.steady(name, START_LIMIT) for name in SERVICES))

    async def stop(self) -> None:
        """End all processes: gently, and by force what is left after STOP_LIMIT."""
        started = [one.process for one in self.services.values() if one.process is not None]
        for process in started:
            _signal(process, signal.SIGINT)  # as Ctrl-C there: drains, without the pauses that strangers would need
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await asyncio.gather(*(process.wait() for process in started))
        except TimeoutError:
            pass  # force comes next
        finally:
            for process in started:
                if process.returncode != 0:
                    # It leads a group of its own, with its workers and nobody else in it.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()

    async def look(self, name: str) -> ServiceView | None:
        """The state of a service; None when its supervisor does not answer."""
        try:
            return await look(self[name].control)
        except (OSError, RuntimeError):
            return None

    async def steady(self, name: str, within: float = STEADY_LIMIT) -> ServiceView:
        """Wait until every worker of the service serves and no old one is left. DemoError after ``within``."""
        service = self[name]
        end = time.monotonic() + within
        while time.monotonic() < end:
            view = await self.look(name)
            if view is not None and view.steady:
                return view
            if service.process is not None and service.process.returncode is not None:
                status = service.process.returncode
                raise DemoError(f"{name} ended with status {status}; it said:\n{service.last_words()}")
            await asyncio.sleep(POLL)
        raise DemoError(f"{name} was not steady within {within:g} s; it said:\n{service.last_words()}")

    async def command(self, name: str, *arguments: str) -> CommandResult:
        """Run ``holdfast ARGUMENTS --name NAME`` as anybody would."""
        began = time.monotonic()
        full = [*arguments, "--name", name]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast",
            *full,
            cwd=self.root,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_LIMIT):
                output, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        status = process.returncode
        assert status is not None
        text = output.decode(errors="replace").strip()
        return CommandResult(f"holdfast {' '.join(full)}", status, text, time.monotonic() - began)

    async def order(self) -> str:
        """Place an order at the gateway; its id. Raises DemoError when there is none."""
        made: list[str] = []

        def keep(status: int, body: bytes) -> bool:
            made.append(msgspec.json.decode(body)["id"])
            return status == 201

        body = b'{"sku": "anchor", "card": "4242424242424242"}'
        load = Load(
            addresses=(self["gateway"].address,), path="/orders", method="POST", body=body, connections=1, count=1
        )
        report = await run_load(load, check=keep)
        if not made:
            raise DemoError(f"the first order failed: {report.samples[0].detail if report.samples else 'no answer'}")
        return made[0]

    @asynccontextmanager
    async def hang(self, name: str) -> AsyncIterator[None]:
        """Have one worker of the service block its event loop; inside, the request that does it is under way."""
        load = Load(
            addresses=(self[name].address,),
            path=f"/debug/hang?seconds={HANG_SECONDS}",
            method="POST",
            connections=1,
            count=1,
            timeout=HANG_SECONDS * 2,
        )
        run = start_load(load)
        try:
            yield
        finally:
            run.abort()

    async def _spawn(self, service: ShopService) -> None:
        arguments = [
            *("-m", "holdfast", "run", "--config", str(service.config), "--state-dir", str(self.root / "state")),
            *("--bind", service.address, "--workers", str(self.workers), "--app-dir", str(self.root)),
            *("--hang-timeout", HANG_TIMEOUT, "--log-format", "text"),
        ]
        with service.log.open("wb") as log:
            service.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _TIED,
                *arguments,
                cwd=self.root,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which ends everything in order
            )

    def _environment(self) -> dict[str, str]:
        # Settings for the user's own services are not for the shop.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "SHOP_"))}
        urls = {f"SHOP_{name.upper()}_URL": f"http://{one.address}" for name, one in self.services.items()}
        return {
            **kept,
            **urls,
            "PYTHONPATH": os.pathsep.join(_import_paths()),
            "SHOP_DATA": str(self.root / "data"),
            "SHOP_DEBUG": "1",
            "SHOP_PAGE_SECONDS": f"{self.workers / PAGES_PER_SECOND:.6f}",
            "HOLDFAST_RUNTIME": str(self.root / "run"),
            "PWD": str(self.root),
        }


@asynccontextmanager
async def open_shop(workers: int) -> AsyncIterator[Shop]:
    """A running shop; at the end its processes and its directory are gone. DemoError when it cannot start."""
    source = find_source()
    root = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        shutil.copytree(source, root / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        for name, mode in (("run", 0o700), ("data", 0o700), ("logs", 0o700)):
            (root / name).mkdir(mode=mode)
        shop = Shop(root, workers)
        try:
            await shop.start()
            yield shop
        finally:
            await shop.stop()
    finally:
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


def find_source() -> Path:
    """Where the shop's code is: in the installed package, or in the checkout. DemoError when in neither."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "examples" / "shop", package.parent.parent / "examples" / "shop")
    for place in places:
        if (place / "gateway.py").is_file():
            return place
    raise DemoError(f"the example shop is not installed; looked in {places[0]} and {places[1]}")


def _import_paths() -> list[str]:
    """PYTHONPATH for processes in another directory, so that they find the same holdfast as this one."""
    given = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    home = Path(__file__).resolve().parents[2]
    return given if home.name in ("site-packages", "dist-packages") else [*given, str(home)]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. All are held until the last is chosen, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
