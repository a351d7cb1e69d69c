"""Memory that runs out, on real connections: the cgroup is a directory of the test's."""

from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.server.admission.cgroup import Cgroup, read_file
from holdfast.server.admission.settings import read_admission
from server.engineroom import LOOPS, UPGRADE, Room, Waits, request, run, serving, until

ROUTES: list[dict[str, Any]] = [
    {"match": "/pay", "criticality": "critical_plus"},
    {"match": "/suggest", "criticality": "sheddable"},
]


class Group:
    """A cgroup of version 2 with a limit of 1,000 bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("cgroup", "0::/\n")
        self.write("memory.max", "1000\n")
        self.use(100)

    def write(self, name: str, text: str) -> None:
        beside = self.directory / "new"
        beside.write_text(text)
        beside.replace(self.directory / name)

    def use(self, used: int) -> None:
        self.write("memory.current", f"{used}\n")

    def take_over(self, room: Room) -> None:
        """Be what the engine looks at from its next look on."""
        pressure = room.state.entrance.admission.pressure
        own = str(self.directory / "cgroup")
        pressure.cgroup = Cgroup(
            lambda path: read_file(own if path == "/proc/self/cgroup" else path), str(self.directory)
        )
        pressure.due = -inf


async def refused_below(room: Room, rank: int) -> None:
    await until(lambda: room.state.entrance.admission.least == rank)


@pytest.mark.parametrize("loop", LOOPS)
def test_less_critical_requests_are_refused_while_memory_is_short(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        group = Group(tmp_path)
        async with serving(Waits(going=True), routes=ROUTES, exempt={"/readyz"}) as room:
            group.take_over(room)
            client = await room.connect()
            assert [(await client.get(path)).status for path in ("/pay", "/suggest", "/other")] == [200, 200, 200]
            group.use(985)
            await refused_below(room, 3)
            paths = ("/pay", "/suggest", "/other", "/readyz")
            found = [await client.get(path) for path in paths]  # on one connection, which stays
            assert [one.status for one in found] == [200, 503, 503, 200]
            assert found[1].headers["retry-after"] == "1"
            assert msgspec.json.decode(found[1].body)["code"] == "unavailable"
            counts = room.state.entrance.counters.snapshot().routes
            assert counts["/suggest"].refused == {"memory": 1}
            assert counts["others"].refused == {"memory": 1}
            group.use(100)
            await refused_below(room, 0)
            assert (await client.get("/suggest")).status == 200

    run(main, loop)


def test_a_websocket_is_refused_like_a_request(tmp_path: Path) -> None:
    async def main() -> None:
        group = Group(tmp_path)
        async with serving(Waits(going=True), routes=ROUTES) as room:
            group.take_over(room)
            group.use(910)
            await refused_below(room, 1)
            client = await room.connect()
            await client.send(request("GET", "/suggest", *UPGRADE))
            assert (await client.response()).status == 503
            assert await client.ended()

    run(main)


def test_a_change_of_settings_is_gone_by(tmp_path: Path) -> None:
    async def main() -> None:
        group = Group(tmp_path)
        group.use(910)
        async with serving(Waits(going=True), routes=ROUTES) as room:
            group.take_over(room)
            await refused_below(room, 1)
            room.engine.configure(read_admission({"pressure": {"memory": 0.95}}), ())
            await refused_below(room, 0)
            room.engine.configure(read_admission({"pressure": {"memory": 0.5}}), ())
            await refused_below(room, 3)
            room.engine.configure(read_admission({"pressure": False}), ())
            await refused_below(room, 0)

    run(main)
