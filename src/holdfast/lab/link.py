"""A running supervisor as seen from outside: its control socket, one JSON line each way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

MAX_LINE = 4 * 1024 * 1024
ASK_LIMIT = 5.0
"""Seconds for one question. Commands that take long go through the command line, not through here."""


class WorkerView(msgspec.Struct, frozen=True):
    """What the demo shows of a worker."""

    slot: int
    pid: int
    generation: int
    state: str
    requests: int = 0
    connections: int = 0
    memory: int = 0
    configuration: int = 0


class ServiceView(msgspec.Struct, frozen=True):
    """What the demo shows of a service."""

    name: str
    pid: int
    state: str
    generation: int
    wanted: int
    workers: tuple[WorkerView, ...] = ()
    upgrades: int = 0
    crashes: int = 0
    hangs: int = 0
    configuration: int = 0
    refused: tuple[str, ...] = ()
    """What is wrong with its settings as they stand in its file."""

    @property
    def steady(self) -> bool:
        """Every worker there is serves, and none is missing."""
        return (
            self.state == "serving"
            and len(self.workers) == self.wanted
            and all(worker.state == "ready" and worker.generation == self.generation for worker in self.workers)
        )


class Happening(msgspec.Struct, frozen=True):
    """An event of a supervisor, flat: fields that its kind does not have keep their default."""

    type: str
    slot: int = 0
    pid: int = 0
    generation: int = 0
    workers: int = 0
    seconds: float = 0.0
    reason: str = ""
    ending: str = ""
    expected: bool = True
    stacks: str = ""
    version: int | str = 0
    """Of the configuration; of the code, when that was upgraded."""
    changes: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()


class _Refusal(msgspec.Struct, frozen=True):
    reason: str = ""


class _Line(msgspec.Struct, frozen=True):
    result: ServiceView | None = None
    error: _Refusal | None = None
    event: Happening | None = None
    past: bool = False


async def look(path: Path) -> ServiceView:
    """The state of the supervisor at ``path``. OSError when nobody answers there within ASK_LIMIT, RuntimeError when
    it refuses."""
    async with asyncio.timeout(ASK_LIMIT), _open(path, "status") as reader:
        raw = await reader.readline()
    if not raw.endswith(b"\n"):
        raise ConnectionError(f"the supervisor at {path} ended the connection")
    line = msgspec.json.decode(raw, type=_Line)
    if line.result is None:
        raise RuntimeError(f"{path}: {line.error.reason if line.error else 'no answer'}")
    return line.result


async def follow(path: Path) -> AsyncIterator[Happening]:
    """What happens there from now on. Ends with the connection, which an upgrade of the supervisor closes."""
    async with _open(path, "events") as reader:
        while raw := await reader.readline():
            line = msgspec.json.decode(raw, type=_Line)
            if line.event is not None and not line.past:
                yield line.event


@asynccontextmanager
async def _open(path: Path, op: str, **parameters: Any) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE)
    try:
        writer.write(msgspec.json.encode({"op": op, **parameters}) + b"\n")
        yield reader
    finally:
        writer.close()
