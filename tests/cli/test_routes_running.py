"""``holdfast routes --running``."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.configs import complained, enter, said
from cli.pages import fits, shown
from cli.rooms import Room, eventually, room_in
from holdfast.cli.routes_running import COLUMNS, header, print_counts, row
from holdfast.supervisor.counts import AskedWorker, GateNow, PressureNow, QueueNow, RouteSum, ServiceCounts
from holdfast.telemetry.requests import BOUNDS, CLASSES

APP = """
import time
from pathlib import Path

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/block":
        while not Path("go").exists():
            time.sleep(0.01)
    status = 500 if scope["path"] == "/bad" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it would be ignored
runpy.run_module("holdfast", run_name="__main__", alter_sys=True)
"""
FILE = """\
[admission]
clients = { rate = "1000/s" }

[[routes]]
match = "/orders"
rate_limit = "2/h"
bulkhead = 20

[[routes]]
match = "/never"
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Room]:
    with room_in(tmp_path) as room:
        room.save(APP)
        (tmp_path / "holdfast.toml").write_text(FILE)
        room.serve("run", "--hang-timeout", "60s")
        yield room
        (tmp_path / "go").touch()


def get(room: Room, path: str) -> int:
    address = room.status()["addresses"][0]
    try:
        with urllib.request.urlopen(f"{address}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def counted(room: Room) -> Any:
    answer = room.call("routes", "--running", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_a_running_service_tells_what_it_has_counted(service: Room) -> None:
    assert [get(service, path) for path in ("/orders", "/orders", "/orders", "/bad", "/x")] == [200, 200, 429, 500, 200]
    found = {route["name"]: route for route in counted(service)["routes"]}
    assert list(found) == ["/orders", "/never", "others"]
    assert (found["/orders"]["requests"], found["/orders"]["refused"]) == (2, {"rate_limit": 1})
    assert (found["others"]["requests"], found["others"]["classes"]["5xx"]) == (2, 1)
    assert (found["/never"]["requests"], found["/never"]["p99"]) == (0, None)
    table = service.call("routes", "--running").stdout
    assert table.startswith("app: 1 of 1 worker counted\nqueue    0 wait, 0 run, as many as come; 0 refused\n")
    lines = [[cell.strip() for cell in line.split(" | ")] for line in table.partition("\n\n")[2].splitlines()]
    assert lines[0] == ["route", "requests", "in flight", "p50", "p99", "5xx", "refused by", "gates"]
    assert lines[1][:3] == ["/orders", "2", "0"]
    assert lines[1][-2:] == ["rate_limit 1", "bulkhead 0/20"]
    watch = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "routes", "--running", "--watch", "--json"],
        cwd=service.directory,
        env=service.environment(),
        stdout=subprocess.PIPE,
    )
    service.processes.append(watch)
    assert watch.stdout is not None
    with watch.stdout:
        assert [json.loads(watch.stdout.readline())["name"] for _ in range(2)] == ["app", "app"]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0


def test_a_worker_that_does_not_answer_is_named_and_not_waited_for(service: Room) -> None:
    waits = threading.Thread(target=get, args=(service, "/block"))
    waits.start()
    missing = re.compile(r"^missing  worker 0 \(process \d+\): no answer within 2 s$", re.MULTILINE)
    eventually(lambda: missing.search(service.call("routes", "--running").stdout), "it is blocked")
    (service.directory / "go").touch()
    waits.join(30)
    assert eventually(lambda: counted(service)["routes"], "it answers again")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--running", "/orders"], "METHOD cannot go with --running"),
        (["--running", "--host", "a"], "--host cannot go with --running"),
        (["--running", "--app", "a:b"], "--app cannot go with --running"),
        (["--watch"], "--watch needs --running"),
        (["--name", "shop"], "--name needs --running"),
    ],
)
def test_what_is_of_files_does_not_go_with_a_running_service(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    enter(tmp_path, monkeypatch)
    assert expected in complained(capsys, "routes", *arguments, status=2)[0]


def test_the_name_of_a_service_in_the_environment_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("HOLDFAST_NAME", "shop")
    assert "(others)" in said(capsys, "routes")


UNKNOWN = PressureNow()


def queue(**changes: Any) -> QueueNow:
    plain: dict[str, Any] = {
        "waiting": 0,
        "running": 0,
        "limit": None,
        "governor": "found out",
        "started": 0,
        "refused": 0,
        "overloaded": False,
        "work": 0.0,
        "target": 0.0,
    }
    return QueueNow(**(plain | changes))


def worker(slot: int = 0, missing: str = "", pressure: PressureNow = UNKNOWN, **queued: Any) -> AskedWorker:
    return AskedWorker(slot, 100 + slot, 1, "ready", missing, queue(**queued), pressure)


def route(name: str, *gates: GateNow, **told: Any) -> RouteSum:
    classes = dict.fromkeys(CLASSES, 0) | told.pop("classes", {})
    plain: dict[str, Any] = {"requests": 0, "in_flight": 0, "waiting": 0, "p50": None, "p99": None, "mean": None}
    refused = told.pop("refused", {})
    return RouteSum(name=name, classes=classes, refused=refused, buckets=(), gates=gates, **(plain | told))


def counts(*workers: AskedWorker, routes: tuple[RouteSum, ...] = (), gates: tuple[GateNow, ...] = ()) -> ServiceCounts:
    return ServiceCounts("shop", routes, gates, workers)


def test_the_page_shows_what_it_looks_like(capsys: pytest.CaptureFixture[str]) -> None:
    print_counts(
        counts(
            worker(0, waiting=3, running=9, refused=800, overloaded=True),
            worker(1, running=5, refused=12),
            routes=(
                route(
                    "POST /orders",
                    GateNow("rate_limit", "rate_limit"),
                    GateNow("bulkhead", "bulkhead", 9, 40),
                    requests=12301,
                    in_flight=9,
                    waiting=3,
                    p50=0.0112,
                    p99=0.0968,
                    classes={"5xx": 4},
                    refused={"queue": 12, "rate_limit": 208},
                ),
                route("GET /orders/{id}", requests=80112, in_flight=5, p50=0.0031, p99=0.0241, refused={"clients": 31}),
                route(
                    "/reports/{path...}",
                    GateNow("bulkhead", "bulkhead", 0, 8),
                    requests=96,
                    p50=4.2,
                    p99=10.0,
                    refused={"bulkhead": 12, "queue": 800},
                ),
                route("others", requests=7, p50=0.0006, p99=0.0024),
            ),
        )
    )
    lines = next(one.lines for one in shown("routes.md") if one.words == ["routes", "--running"])
    text = capsys.readouterr().out
    assert fits(text, lines), text


def test_gates_are_told_by_what_they_hold_and_how_they_are() -> None:
    gates = (
        GateNow("rate_limit", "rate_limit"),
        GateNow("throttle", "throttle", share=0.125),
        GateNow("throttle", "calm"),
        GateNow("breaker", "bank", states={"closed": 3, "open": 1}),
        GateNow("breaker", "breaker", states={"half_open": 2}),
        GateNow("bulkhead", "few", 3, 8.0),
    )
    told = dict(zip(COLUMNS, row(route("/", *gates)), strict=True))
    assert told["gates"] == "throttle 12%, bank 3 closed 1 open, breaker half_open, few 3/8"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.00024, "0.2 ms"), (0.0096, "9.6 ms"), (0.25, "250 ms"), (2.5, "2.5 s"), (BOUNDS[-1], "> 10 s")],
)
def test_durations_are_for_a_glance(seconds: float | None, text: str) -> None:
    told = dict(zip(COLUMNS, row(route("/", p50=seconds)), strict=True))
    assert told["p50"] == text


def test_the_head_tells_the_limits_that_were_found() -> None:
    lines = header(counts(worker(0, limit=8.0, running=8), worker(1, running=3)))
    assert lines[1] == "queue    0 wait, 11 run of 8 that may (found out) in 1 of 2 workers; 0 refused"
    lines = header(counts(worker(0, limit=8.0, governor="vegas"), worker(1, limit=4.0, governor="vegas")))
    assert lines[1] == "queue    0 wait, 0 run of 12 that may (vegas); 0 refused"


def test_the_head_tells_of_the_cgroup_and_of_who_is_missing() -> None:
    short = PressureNow(memory=0.953, refused_below="critical", throttled=0.4)
    found = counts(
        worker(0, pressure=short),
        worker(1, pressure=PressureNow(memory=0.95, throttled=0.1)),
        worker(2, missing="its event loop is blocked"),
        gates=(GateNow("rate_limit", "clients"), GateNow("adaptive_limit", "concurrency", 3, 20.0)),
    )
    assert header(found)[0] == "shop: 2 of 3 workers counted"
    assert header(found)[2:] == [
        "gates    concurrency 3/20",
        "memory   95% of what the cgroup allows is in use; requests less than critical are refused",
        "cpu      the cgroup has withheld it in 40% of the periods since the last look",
        "missing  worker 2 (process 102): its event loop is blocked",
    ]


def test_routes_for_which_there_was_no_room_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_counts(ServiceCounts("shop", (route("/"),), (), (worker(),), left_out=3))
    assert capsys.readouterr().out.endswith("and 3 routes for which a worker's message had no room\n")
