"""``holdfast routes``."""

from pathlib import Path

import pytest

from cli.configs import FILE, answered, complained, enter, said
from cli.rooms import Room


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    Path("holdfast.toml").write_text(FILE)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(" | ")]


def test_all_routes_are_listed_the_most_specific_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "routes")
    head, _, table = text.partition("\n\n")
    assert head.splitlines() == [
        "for all of the process: clients(100/s, burst=200), queue(fair_by=tenant, concurrency={target=20ms})",
        "believed about clients, deadlines and criticality: nobody",
    ]
    lines = table.splitlines()
    assert cells(lines[0]) == ["match", "host", "headers", "policies, in order", "timeout", "criticality", "from"]
    assert [cells(line)[0] for line in lines[1:]] == [
        "/static/{path...}",
        "POST /orders",
        "GET /orders/{id}",
        "GET /orders/{id}",
        "(others)",
    ]
    assert cells(lines[2]) == [
        "POST /orders",
        "",
        "",
        "clients, rate_limit(50/s, key=header:x-tenant), bulkhead(20), queue",
        "2s",
        "critical_plus",
        "holdfast.toml:9",
    ]
    assert cells(lines[3])[2:5] == ["x-version: 2", "clients, bulkhead(3), queue", "3s"]
    assert cells(lines[1])[1] == "*.example.org"


def test_columns_that_nobody_needs_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text('[[routes]]\nmatch = "GET /"\n')
    table = said(capsys, "routes").partition("\n\n")[2].splitlines()
    assert cells(table[0]) == ["match", "policies, in order", "timeout", "criticality", "from"]
    assert cells(table[1]) == ["GET /", "queue", "none", "critical", "holdfast.toml:1"]


def test_without_routes_there_are_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").unlink()
    text = said(capsys, "routes")
    assert text.startswith("for all of the process: queue(fair_by=tenant)\n")
    assert "(others)" in text


def test_a_request_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "routes", "GET", "/orders/7", "--header", "x-version=2", "--host", "shop.example")
    squeezed = [" ".join(line.split()) for line in text.splitlines()]
    assert squeezed[0] == "GET /orders/7 on shop.example"
    assert "it takes GET /orders/{id} (x-version: 2) holdfast.toml:20" in squeezed
    assert "because the most specific that fits" in squeezed
    start = squeezed.index("on its way it meets, in this order")
    assert squeezed[start + 2 : start + 6] == [
        "1 | clients(100/s, burst=200) | 429 RATE_LIMITED",
        "2 | bulkhead(3) | 503 BULKHEAD_FULL",
        "3 | timeout(3s) | 504 DEADLINE_EXCEEDED",
        "4 | queue(fair_by=tenant, concurrency={target=20ms}) | 503 OVERLOADED",
    ]
    rest = squeezed[squeezed.index("the others") + 2 :]
    assert "has the more specific headers" in rest[0]
    assert any("the method is not POST" in line or "the path is another one" in line for line in rest)


def test_a_path_alone_is_a_get(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(capsys, "routes", "/orders/7")["method"] == "GET"
    assert answered(capsys, "routes", "https://shop.example/orders/7")["host"] == "shop.example"
    assert answered(capsys, "routes", "post", "/orders")["route"]["match"] == "POST /orders"


def test_what_no_route_fits_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "routes", "GET", "/nowhere")
    assert "it takes" not in text
    assert "no route fits it" in text
    assert answered(capsys, "routes", "GET", "/nowhere")["fits"] is False


def test_a_route_with_no_gate_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text(
        '[admission]\nqueue = false\n[[routes]]\nmatch = "GET /"\nname = "front"\nmust_finish = true\n'
    )
    text = said(capsys, "routes", "GET", "/")
    assert "on its way it meets nothing" in text
    assert "which is     front" in text
    assert "must finish  its handler goes on" in text
    assert said(capsys, "routes").startswith("for all of the process: none\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["GET"], "GET /orders/7"),
        (["--host", "a"], "name its method and path"),
        (["/", "--header", "novalue"], "write x-version=2"),
        (["/", "--header", "né=1"], "names are ASCII"),
    ],
)
def test_half_a_request_is_refused_with_advice(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complained(capsys, "routes", *arguments, status=2)[0]


def test_a_header_may_be_written_as_on_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    told = answered(capsys, "routes", "GET", "/orders/7", "--header", "X-Version: 2")
    assert told["headers"] == {"x-version": "2"}
    assert told["route"]["headers"] == {"x-version": "2"}


def test_a_wrong_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text('[[routes]]\nmatch = "GET orders"\n')
    assert "holdfast.toml" in complained(capsys, "routes", status=2)[0]


APP = """
import holdfast

async def app(scope, receive, send): ...

service = holdfast.Service("shop", app)

@service.route("POST /orders", timeout="9s")
async def create(): ...

@service.route("GET /carts/{id}", bulkhead=4)
async def cart(): ...
"""


def test_with_the_app_its_own_routes_are_there(room: Room) -> None:
    room.save(APP)
    (room.directory / "holdfast.toml").write_text('[[routes]]\nmatch = "POST /orders"\ntimeout = "2s"\n')
    listed = room.call("routes", "--app", "app:service")
    assert listed.returncode == 0, listed.stderr
    lines = [cells(line) for line in listed.stdout.partition("\n\n")[2].splitlines()]
    assert [(line[0], line[-1]) for line in lines[1:]] == [
        ("POST /orders", "holdfast.toml:1"),
        ("GET /carts/{id}", "app:cart"),
        ("(others)", "critical"),
    ]
    assert lines[1][2] == "2s"
    assert "bulkhead(4)" in lines[2][1]


def test_a_marked_handler_that_nobody_routes_is_told(room: Room) -> None:
    room.save("import holdfast\n@holdfast.route(timeout='2s')\nasync def lost(): ...\nasync def app(a, b, c): ...\n")
    (room.directory / "holdfast.toml").write_text("")
    for words in (["routes"], ["config", "check"]):
        failed = room.call(*words, "--app", "app:app")
        assert failed.returncode == 1
        assert "route on app:lost" in failed.stderr


def test_a_route_in_code_that_does_not_go_with_the_file_is_a_mistake(room: Room) -> None:
    room.save(APP)
    (room.directory / "holdfast.toml").write_text('[[routes]]\nmatch = "GET|POST /carts/{id}"\n')
    told = room.call("config", "check", "--app", "app:service")
    assert told.returncode == 1
    assert "app:cart" in told.stderr
