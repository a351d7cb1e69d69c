"""What ``status`` and ``events`` show."""

import io

import msgspec
import pytest
from rich.console import Console

from holdfast.cli.events import line
from holdfast.cli.status import panel, plain, short
from holdfast.supervisor.status import GenerationRefused, Outcome, Status, WorkerStatus


def worker(slot: int, **changes: object) -> WorkerStatus:
    made = WorkerStatus(
        slot=slot,
        pid=1000 + slot,
        generation=3,
        state="ready",
        phase="",
        uptime=75.0,
        requests=12345,
        in_flight=2,
        connections=50,
        migrated=0,
        failed=0,
        memory=64 << 20,
        lag=0.0123,
        silent=0.1,
        health="pass",
        checks=(),
    )
    return msgspec.structs.replace(made, **changes)


STATUS = Status(
    name="orders",
    version="9.9",
    python="3.11.7",
    pid=999,
    state="serving",
    generation=3,
    uptime=90061.0,
    upgrades=1,
    addresses=("http://127.0.0.1:8000", "unix:/run/orders.sock"),
    admin=("http://127.0.0.1:9000",),
    workers=(
        worker(0),
        worker(1, state="booting", phase="importing the app", memory=0, health="fail", checks=("db: refused",)),
    ),
    wanted=2,
    crashes=4,
    hangs=1,
    restarting=("slot 1: the worker exited with status 1",),
    last_reload=Outcome(ok=False, generation=4, seconds=1.25, at=0.0, reason="no table"),
)

FACTS = (
    "orders: serving, generation 3, up 1d 1h, 1 upgrade",
    "http://127.0.0.1:8000, unix:/run/orders.sock",
    "http://127.0.0.1:9000",
    "Holdfast 9.9 on Python 3.11.7, process 999",
    "2 wanted, 1 ready, 4 crashed, 1 hung",
    "generation 4 refused",
    "no table",
    "slot 1: the worker exited with status 1",
    "slot 1: db: refused",
    "1000",
    "12,345",
    "64 MiB",
    "12 ms",
    "1m 15s",
    "booting (importing the app)",
)


@pytest.mark.parametrize("fact", FACTS)
def test_the_plain_table_tells(fact: str) -> None:
    assert fact in plain(STATUS)


def test_the_plain_table_has_no_colours_and_straight_columns() -> None:
    text = plain(STATUS)
    assert "\x1b" not in text
    table = [row for row in text.splitlines() if " | " in row]
    assert len(table) == 3
    assert len({row.index(" | ") for row in table}) == 1


def test_the_coloured_table_tells_the_same() -> None:
    stream = io.StringIO()
    Console(file=stream, width=140, force_terminal=True, color_system=None).print(panel(STATUS))
    for fact in FACTS:
        assert fact in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.9, "59s"), (61.0, "1m 1s"), (7260.0, "2h 1m"), (90061.0, "1d 1h")]
)
def test_durations_are_for_a_glance(seconds: float, text: str) -> None:
    assert short(seconds) == text


def test_an_event_is_told_in_words_with_the_apps_error_below() -> None:
    event = GenerationRefused(0.0, 4, "it raised", "Traceback\n  here")
    told = line(msgspec.to_builtins(event))
    assert told.splitlines()[0].endswith("generation 4 is refused, the one before serves on: it raised")
    assert told.splitlines()[1:] == ["    Traceback", "      here"]


def test_an_event_of_a_newer_version_is_shown_as_it_is() -> None:
    assert line({"type": "MoonRose", "at": 0.0, "phase": "full"}).endswith("  MoonRose phase=full")
