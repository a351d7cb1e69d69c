"""Settings as the rooms below see them, events as people read them, readiness as probes see it."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.core.duration import Duration
from holdfast.core.event import Event
from holdfast.server.http.settings import HttpSettings
from holdfast.supervisor.control import control_path, runtime_directory
from holdfast.supervisor.settings import Settings
from holdfast.supervisor.status import (
    AnyEvent,
    BootRefused,
    ConfigurationChanged,
    ConfigurationRefused,
    GenerationRefused,
    GenerationReplaced,
    ServiceStopping,
    Status,
    SupervisorUpgraded,
    WorkerEnded,
    WorkerHung,
    WorkerStarted,
    WorkerStatus,
    describe,
)

READY = WorkerStatus(0, 9, 1, "ready", "", 1.0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, "pass", ())
STATUS = Status("x", "0", "3", 1, "serving", 1, 1.0, 0, (), (), (READY,), 1, 0, 0)

LINES: list[tuple[Event, int, str]] = [
    (
        WorkerStarted(0, 1, 9, 2, 0.5, "start"),
        logging.INFO,
        "worker 1 (pid 9, generation 2) is ready after 0.50 s: start",
    ),
    (WorkerEnded(0, 1, 9, 2, "exited with status 0", True), logging.INFO, "worker 1 (pid 9, generation 2) exited"),
    (WorkerEnded(0, 1, 9, 2, "exited", True, ("GET /a",)), logging.WARNING, "not finished: GET /a"),
    (WorkerEnded(0, 1, 9, 2, "was ended by SIGSEGV", False), logging.ERROR, "was ended by SIGSEGV"),
    (WorkerHung(0, 1, 9, 31.2, "in f"), logging.ERROR, "blocked for 31.2 s; it is replaced. It was at:\nin f"),
    (WorkerHung(0, 1, 9, 31.2, ""), logging.ERROR, "no stacks came"),
    (BootRefused(0, 1, 2, "no table", "Traceback"), logging.ERROR, "worker 1 of generation 2: no table\nTraceback"),
    (GenerationReplaced(0, 2, 4, 1.0), logging.INFO, "generation 2 serves with 4 workers after 1.00 s"),
    (GenerationRefused(0, 2, "no", ""), logging.ERROR, "generation 2 is refused, the one before serves on: no"),
    (
        ConfigurationChanged(0, 4, "d1", "ann", "more", ("a: 1 -> 2",), 1),
        logging.INFO,
        "configuration 4 holds (ann: more): a: 1 -> 2",
    ),
    (ConfigurationChanged(0, 4, "d1", "ann", "", ("a", "b"), 9), logging.INFO, "holds (ann):\n  a\n  b\n  and 7 more"),
    (
        ConfigurationRefused(0, 4, "file", "saved", ("x: no",), 1),
        logging.ERROR,
        "a configuration is refused (file: saved), 4 stays: x: no",
    ),
    (SupervisorUpgraded(0, "1.0"), logging.INFO, "upgraded to holdfast 1.0"),
    (ServiceStopping(0, "SIGTERM"), logging.INFO, "stopping (SIGTERM)"),
]


@pytest.mark.parametrize(("event", "level", "words"), LINES)
def test_events_are_told_in_words(event: Event, level: int, words: str) -> None:
    told, line = describe(event)
    assert told == level
    assert words in line


def test_every_kind_of_event_has_its_words() -> None:
    assert {type(event) for event, _, _ in LINES} == set(AnyEvent.__args__)


def test_a_service_is_ready_while_it_serves_and_one_worker_is_well() -> None:
    change = msgspec.structs.replace
    assert STATUS.ready
    assert not change(STATUS, state="draining").ready
    assert not change(STATUS, workers=()).ready
    sick = change(READY, health="fail")
    assert not change(STATUS, workers=(sick,)).ready
    assert change(STATUS, workers=(sick, READY)).ready
    assert not change(STATUS, workers=(change(READY, state="hung"),)).ready


def test_the_name_of_a_service_is_its_modules_unless_it_has_one() -> None:
    assert Settings(app="shop.orders:app").service_name == "orders"
    assert Settings(app="orders:app", name="o2").service_name == "o2"
    assert Settings().service_name == "holdfast"


def test_the_engine_gets_every_setting_that_it_shares_as_a_plain_number() -> None:
    settings = Settings(app="x:y", keep_alive=Duration(3.5), max_connections=7)
    http = settings.http()
    assert (http.keep_alive, http.max_connections) == (3.5, 7)
    assert type(http.keep_alive) is float
    shared = set(HttpSettings.__struct_fields__) & set(Settings.__struct_fields__)
    assert {"keep_alive", "header_timeout", "body_timeout", "max_body_size"} <= shared
    assert all(getattr(http, name) == getattr(settings, name) for name in shared)


def test_what_a_reload_cannot_change_are_the_sockets_and_the_names() -> None:
    before = Settings(app="x:y").fixed()
    for change in (
        {"name": "z"},
        {"bind": ("127.0.0.1:1",)},
        {"admin": "127.0.0.1:1"},
        {"control": "/c"},
        {"backlog": 1},
        {"unix_mode": "600"},
        {"tls_certificate": "c.pem"},
    ):
        settings: Any = {"app": "x:y", **change}
        assert Settings(**settings).fixed() != before, change
    assert Settings(app="x:y", workers=3, keep_alive=Duration(1.0), tls_key="k.pem").fixed() == before


def test_control_sockets_are_in_the_first_directory_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_RUNTIME", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert runtime_directory().name.startswith("holdfast-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert runtime_directory() == Path("/run/user/7/holdfast")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/orders:/run/other")
    assert runtime_directory() == Path("/run/orders")
    monkeypatch.setenv("HOLDFAST_RUNTIME", "/srv/run")
    assert control_path("orders") == Path("/srv/run/orders.sock")
