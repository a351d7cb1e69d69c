"""Settings that change while the service answers: thousands of changes under load, a third of which are wrong.

    python -m benchmarks.config_changes                     10,000 changes
    python -m benchmarks.config_changes --changes 500

Two workers, a file, and a client that never retries. Each change is written to the file; most are then announced by
the command that ``holdfast config apply`` gives, every fiftieth is left to be noticed. Checked, for all of them: no
request failed; nothing wrong took hold; each refusal names the path and the cause; every worker had each change within
a second; a rate limit that was used up and a breaker that was open stayed so.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

APPS: Final = Path(__file__).parent / "apps"
WORKERS: Final = 2
CONNECTIONS: Final = 8
PAUSE: Final = 0.002
"""Seconds between two requests of one connection: the load is there to notice, not to fill the machine."""
LEFT_ALONE: Final = 50
"""Every so many changes, one is left for the supervisor to notice."""
WITHIN: Final = 1.0
"""Seconds within which a change has to hold in every worker."""
LONGEST: Final = 20.0
"""Seconds after which one step is given up."""
USED_UP: Final = 60
"""Refusals in a row after which both workers are taken to have used up their limit, or opened their breaker."""


class Wrong(NamedTuple):
    """A mistake: what is written, and what its refusal has to say."""

    text: str
    told: tuple[str, ...]


MISTAKES: Final = (
    Wrong("[settings]\nnumber = -1\n", ("settings.number", "at least 0")),
    Wrong("[settings]\nnumbr = 1\n", ("settings.numbr", "did you mean number?")),
    Wrong("[settings]\nunlucky = true\n", ("settings", "thirteen brings bad luck")),
    Wrong("[admission]\nclients = { conections = 4 }\n", ("admission.clients.conections", "did you mean connections?")),
    Wrong('[[routes]]\nmatch = "GET /x"\ntimeout = "-1s"\n', ("routes[2].timeout", "more than 0s")),
    Wrong('[[routes]]\nmatch = "GET /x"\nretry = 3\n', ("routes[2].retry", "its client retries by itself")),
    Wrong('[errors]\n"no.such.module:Error" = "not_found"\n', ('errors."no.such.module:Error"', "can be imported")),
    Wrong('[pipelines]\npay = ["breker"]\n', ("pipelines.pay[0].breker", "did you mean breaker?")),
    Wrong("[setings]\nnumber = 1\n", ("setings", "did you mean settings?")),
    Wrong("[settings\n", ("holdfast.toml", "valid TOML")),
)


def sound(number: int) -> str:
    """The file of change ``number``: every part of it changes now and then, also what has state."""
    odd = number % 2
    return f"""[admission]
clients = {{ connections = {1000 + number % 7} }}
[[routes]]
match = "GET /limited"
rate_limit = {{ rate = "{1 + odd}/h", burst = 5 }}
[[routes]]
match = "GET /broken"
breaker = {{ consecutive = 3, open = "{1 + odd}h", open_max = "2h" }}
[errors]
"builtins:LookupError" = "{"not_found" if odd else "internal"}"
[pipelines]
pay = [{{ timeout = "{1 + number % 5}s" }}, "breaker"]
"""


def settings(number: int) -> str:
    """The app's own part of it."""
    return f"[settings]\nnumber = {number}\n"


class Client:
    """One connection after the other to the service; a failure is a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        body = await reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), body.decode()

    def close(self) -> None:
        """The next request has a connection of its own."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Watch:
    """What the load has seen, and what it must not see any more."""

    def __init__(self) -> None:
        self.answers = 0
        self.failures: Counter[str] = Counter()
        self.floor = 0
        """The number that holds everywhere: no request that begins now may be answered by an older one."""
        self.sound: set[int] = {0}
        self.stale: list[tuple[int, int]] = []
        self.invalid: list[int] = []
        self.forgotten: Counter[str] = Counter()

    async def load(self, port: int) -> None:
        """Ask again and again, until it is cancelled."""
        client = Client(port)
        turn = random.Random(port)
        try:
            while True:
                await self._ask(client, turn.choice(("/", "/", "/", "/", "/limited", "/broken")))
                await asyncio.sleep(PAUSE)
        finally:
            client.close()

    async def _ask(self, client: Client, path: str) -> None:
        floor = self.floor
        try:
            async with asyncio.timeout(LONGEST):
                status, body = await client.get(path)
        except (OSError, EOFError, TimeoutError) as error:
            self.failures[f"{path}: {error!r}"] += 1
            client.close()
            return
        self.answers += 1
        if path == "/":
            self._look(status, body, floor)
        elif status != {"/limited": 429, "/broken": 503}[path]:
            self.forgotten[f"{path}: {status}"] += 1

    def _look(self, status: int, body: str, floor: int) -> None:
        if status != 200:
            self.failures[f"/: {status}"] += 1
            return
        number = int(body.split()[1])
        if number not in self.sound:
            self.invalid.append(number)
        if number < floor:
            self.stale.append((number, floor))


class Service:
    """The service, its file, and its control socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "holdfast.toml"
        self.control = directory / "control.sock"
        self.port = 0

    def write(self, text: str) -> None:
        """Replace the file, as an editor or a deploy does."""
        fresh = self.directory / ".holdfast.toml.new"
        fresh.write_text(text)
        fresh.replace(self.file)

    async def ask(self, op: str, **more: Any) -> dict[str, Any]:
        """One command; its whole answer."""
        async with asyncio.timeout(LONGEST):
            reader, writer = await asyncio.open_unix_connection(str(self.control), limit=16 << 20)
            with contextlib.closing(writer):
                writer.write(json.dumps({"op": op, **more}).encode() + b"\n")
                answer: dict[str, Any] = json.loads(await reader.readline())
                return answer


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Service]:
    """Start it, and end it."""
    service = Service(directory)
    service.write(sound(0) + settings(0))
    environment = {**os.environ, "HOLDFAST_RUNTIME": str(directory), "PWD": str(directory)}
    environment["STATE_DIRECTORY"] = str(directory / "state")
    command = [sys.executable, "-P", "-m", "holdfast", "run", "configured:app", "--app-dir", str(APPS)]
    command += ["--workers", str(WORKERS), "--bind", "127.0.0.1:0", "--control", str(service.control)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        async with asyncio.timeout(LONGEST):
            while not service.port:
                await asyncio.sleep(0.05)
                if process.poll() is not None:
                    raise RuntimeError((directory / "log").read_text())
                with contextlib.suppress(OSError, ValueError):
                    status = (await service.ask("status"))["result"]
                    if status["state"] == "serving":
                        service.port = int(status["addresses"][0].rpartition(":")[2])
        yield service
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, LONGEST)


async def use_up(service: Service) -> None:
    """Spend the rate limit and open the breaker, in both workers."""
    for path, refused in (("/limited", 429), ("/broken", 503)):
        in_a_row = 0
        async with asyncio.timeout(LONGEST):
            while in_a_row < USED_UP:
                client = Client(service.port)  # a connection of its own: any worker may take it
                status, _ = await client.get(path)
                client.close()
                in_a_row = in_a_row + 1 if status == refused else 0


class Found(NamedTuple):
    """What came of one change: how long it took until it held in all workers, and what was wrong with it."""

    seconds: float
    complaint: str = ""
    refused: bool = False


async def change(service: Service, watch: Watch, number: int, turn: random.Random) -> Found:
    """One change, and everything that is checked about it."""
    wrong = turn.choice(MISTAKES) if turn.random() < 1 / 3 else None
    alone = number % LEFT_ALONE == 0
    before = (await service.ask("config"))["result"] if alone else {}
    if wrong is None:
        watch.sound.add(number)
        text = sound(number) + settings(number)
    else:
        own = "" if "[settings]" in wrong.text else settings(number + 1_000_000)
        text = sound(number) + own + wrong.text
        if wrong.text.startswith(("[admission]", "[errors]", "[pipelines]")):
            text = _without(sound(number), wrong.text.partition("]")[0] + "]") + own + wrong.text
        elif wrong.text.startswith("[[routes]]"):
            text = sound(number).replace("[errors]", f"{wrong.text}[errors]") + own
    began = time.monotonic()
    service.write(text)
    if alone:
        return await _noticed(service, watch, number, wrong, before, began)
    answer = await service.ask("config-apply", who="benchmark", why=f"change {number}")
    seconds = time.monotonic() - began
    error = answer.get("error")
    if wrong is None:
        if error is not None:
            return Found(seconds, f"change {number} was refused: {error}")
        watch.floor = number
        return Found(seconds)
    if error is None:
        return Found(seconds, f"{wrong.text!r} was not refused", refused=True)
    said = f"{error['reason']} {error['detail']}"
    missing = [words for words in wrong.told if words not in said]
    return Found(seconds, f"{said!r} does not say {missing}" if missing else "", refused=True)


async def _noticed(
    service: Service, watch: Watch, number: int, wrong: Wrong | None, before: dict[str, Any], began: float
) -> Found:
    """Wait until the supervisor has seen by itself what was written."""
    while time.monotonic() - began < LONGEST:
        await asyncio.sleep(0.02)
        now = (await service.ask("config"))["result"]
        seconds = time.monotonic() - began
        if wrong is None and now["version"] > before["version"]:
            if {worker["version"] for worker in now["workers"]} == {now["version"]}:
                watch.floor = number
                return Found(seconds)
        elif wrong is not None and now["refused_count"] > before["refused_count"]:
            said = " ".join(now["refused"])
            missing = [words for words in wrong.told if words not in said]
            return Found(seconds, f"{said!r} does not say {missing}" if missing else "", refused=True)
    return Found(time.monotonic() - began, f"change {number} was not noticed")


def _without(text: str, table: str) -> str:
    """``text`` without one table."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        inside = line.startswith(table) if line.startswith("[") else inside
        lines += [] if inside else [line]
    return "".join(lines)


async def play(changes: int, seed: int) -> int:
    """All of it; the number of complaints."""
    complaints: list[str] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        async with running(Path(place)) as service:
            await use_up(service)
            watch = Watch()
            tasks = [asyncio.create_task(watch.load(service.port)) for _ in range(CONNECTIONS)]
            turn = random.Random(seed)
            began = time.monotonic()
            found: list[Found] = []
            try:
                for number in range(1, changes + 1):
                    found.append(await change(service, watch, number, turn))
                    if number % 1000 == 0:
                        print(f"… {number} changes, {watch.answers} answers", file=sys.stderr, flush=True)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.sleep(0)  # what was closed is closed in the next turn of the loop
            seconds = time.monotonic() - began
            status = (await service.ask("config"))["result"]
        tracebacks = (Path(place) / "log").read_text().count("Traceback")
    complaints += [one.complaint for one in found if one.complaint]
    complaints += [f"{count} requests failed: {how}" for how, count in watch.failures.items()]
    complaints += [f"answered by {number}, which was refused" for number in watch.invalid]
    complaints += [f"answered by {number} when {floor} held everywhere" for number, floor in watch.stale]
    complaints += [f"{count} answers as if it had been forgotten: {how}" for how, count in watch.forgotten.items()]
    complaints += [f"a change took {one.seconds:.2f} s" for one in found if one.seconds > WITHIN]
    complaints += [f"{tracebacks} tracebacks in the log"] if tracebacks else []
    versions = {worker["version"] for worker in status["workers"]}
    complaints += [f"the workers have versions {versions}, not {status['version']}"] if len(versions) > 1 else []
    report(found, watch, seconds, seed)
    for complaint in complaints[:20]:
        print(f"WRONG: {complaint}")
    return len(complaints)


def report(found: Sequence[Found], watch: Watch, seconds: float, seed: int) -> None:
    """The figures."""
    held = sorted(one.seconds for one in found if not one.refused)
    refused = sum(one.refused for one in found)
    print(f"{len(found)} changes in {seconds:.0f} s, seed {seed}: {len(held)} held, {refused} refused")
    print(f"{watch.answers} answers meanwhile, {sum(watch.failures.values())} requests failed")
    if held:
        middle, high = held[len(held) // 2], held[min(len(held) - 1, int(len(held) * 0.99))]
        print(f"in all {WORKERS} workers after {middle * 1000:.0f} ms (median), {high * 1000:.0f} ms (p99), ", end="")
        print(f"{held[-1] * 1000:.0f} ms (at most)")


def main() -> int:
    """1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return 1 if asyncio.run(play(options.changes, options.seed)) else 0


if __name__ == "__main__":
    sys.exit(main())
