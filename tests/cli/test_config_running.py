"""``holdfast config`` against a running service."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from cli.configs import answered, complained, enter, said
from cli.rooms import Room, eventually, exchange, room_in
from holdfast.cli.main import group

APP = """
from dataclasses import dataclass

from holdfast.config.secret import Secret
from holdfast.service.service import Service

@dataclass(frozen=True)
class Shop:
    currency: str = "EUR"
    stripe: Secret = Secret("")
    password: str = ""

async def plain(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

app = Service("shop", plain, settings=Shop)

@app.check_change
def known(settings):
    return None if settings.currency in ("EUR", "USD") else f"no bank takes {settings.currency}"
"""
FIRST = """\
[run]
max_requests = 1000

[[routes]]
match = "GET /orders/{id}"
bulkhead = 20

[settings]
currency = "EUR"
stripe = "sk_live_1"
password = "horse"
"""


class Service:
    """A service that reads ``holdfast.toml``, which ``write`` replaces."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.file = room.directory / "holdfast.toml"

    def write(self, *changes: tuple[str, str]) -> None:
        text = self.file.read_text() if self.file.exists() else FIRST
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        exchange(self.file, text)

    def save(self, *changes: tuple[str, str], told: str) -> None:
        """The same, and wait until the log says ``told``."""
        self.write(*changes)
        eventually(lambda: told in self.room.log().read_text(), told)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with room_in(tmp_path) as room:
        room.save(APP)
        made = Service(room)
        made.write()
        room.serve("run", "--state-dir", "state")
        enter(tmp_path, monkeypatch, room.runtime)
        yield made


def completed(*words: str, incomplete: str = "") -> list[str]:
    complete = ShellComplete(group(), {}, "holdfast", "_HOLDFAST_COMPLETE")
    return [item.value for item in complete.get_completions(list(words), incomplete)]


def test_what_holds_and_who_has_it_is_shown_without_secrets(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "config", "show", "--running")
    head = [line for line in text.splitlines() if line.startswith("# ")]
    assert head[0].startswith("# version 1, ")
    assert head[0].endswith(" by start")
    assert head[1].endswith("generation 1) has version 1")
    assert "sk_live_1" not in text
    assert "horse" not in text
    told = answered(capsys, "config", "show", "--running", "run", "settings")
    assert set(told["values"]) == {"run", "settings"}
    assert told["values"]["settings"] == {"currency": "EUR", "stripe": "<secret>", "password": "<secret>"}
    assert told["origins"]["run.max_requests"] == f"{service.file}:2"
    assert told["origins"]["run.state_dir"] == "--state-dir"
    assert [worker["version"] for worker in told["workers"]] == [1]


def test_a_change_that_is_refused_is_told_with_all_that_is_wrong(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.save(("bulkhead = 20", "bulkhead = 0"), ('"EUR"', '"XYZ"'), told="is refused")
    lines = complained(capsys, "config", "apply", "--why", "a try")
    assert lines[0].startswith("holdfast: apply refused: ")
    assert any("routes[0].bulkhead" in line and f"{service.file}:6" in line for line in lines), lines
    told = answered(capsys, "config", "apply", status=1)
    assert told["ok"] is False
    assert "routes[0].bulkhead" in f"{told['reason']} {told['detail']}"
    assert "routes[0].bulkhead" in complained(capsys, "config", "diff", status=2)[0]
    service.save(("bulkhead = 0", "bulkhead = 20"), told="no bank takes XYZ")
    assert "no bank takes XYZ" in " ".join(complained(capsys, "config", "apply"))
    shown = said(capsys, "config", "show", "--running")
    assert "# version 1, " in shown
    assert "# refused: " in shown
    assert "no bank takes XYZ" in shown


def test_the_history_tells_who_changed_what_and_why(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.save(("bulkhead = 20", "bulkhead = 30"), told="configuration 2 holds")
    assert said(capsys, "config", "apply").splitlines() == ["nothing has changed: version 2 holds"]
    lines = said(capsys, "config", "rollback", "1", "--who", "ann", "--why", "too many").splitlines()
    assert lines[0] == "routes[0].bulkhead: 30 -> 20"
    assert lines[1].startswith("version 3 holds in 1 worker after ")
    told = answered(capsys, "config", "history")
    assert told["current"] == 3
    entries = [(entry["version"], entry["verdict"], entry["who"], entry["why"]) for entry in told["entries"]]
    assert entries[-2:] == [(2, "applied", "file", "saved"), (3, "applied", "ann", "rollback to 1: too many")]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in said(capsys, "config", "history").splitlines()]
    assert rows[0] == ["version", "verdict", "when", "who", "why", "what"]
    assert (rows[1][:2], rows[1][3:]) == (["3*", "applied"], ["ann", "rollback to 1: too many", "routes[0].bulkhead"])
    assert rows[2][0] == "2"
    again = answered(capsys, "config", "rollback", "2")
    assert (again["ok"], again["version"], again["workers"], again["total"]) == (True, 4, 1, 1)
    assert again["changes"] == [{"path": "routes[0].bulkhead", "before": 20, "after": 30, "live": True}]
    assert "there are 1, 2, 3, 4" in complained(capsys, "config", "rollback", "99")[0]
    assert completed("config", "rollback") == ["4", "3", "2", "1"]
    assert completed("config", "rollback", incomplete="3") == ["3"]


def test_a_change_that_workers_cannot_take_over_gets_a_new_generation(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.save(("max_requests = 1000", "max_requests = 2000"), told="generation 2 serves")
    lines = said(capsys, "config", "rollback", "1").splitlines()
    assert lines[0] == "run.max_requests: 2000 -> 1000  (needs a new generation)"
    assert lines[1].startswith("generation 3 serves: version 3 holds in 1 worker after ")
    lines = said(capsys, "config", "diff").splitlines()
    assert lines == [
        "run.max_requests: 1000 -> 2000  (needs a new generation)",
        "1 change; a new generation of workers is needed",
    ]
    assert answered(capsys, "config", "diff")["new_generation"] is True


def test_differences_go_from_the_running_service_to_files_and_versions(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "config", "diff", "--exit-code") == "there is no difference\n"
    service.save(("bulkhead = 20", "bulkhead = 30"), ("= 1000", "= 2000"), told="configuration 2 holds")
    service.save(("bulkhead = 30", 'bulkhead = 30\ntimeout = "2s"'), told="configuration 3 holds")
    # There are secrets in these versions, so that their documents are not kept: the steps between them are.
    assert sorted(said(capsys, "config", "diff", "1").splitlines()) == [
        "3 changes; a new generation of workers is needed",
        "routes[0].bulkhead: 30 -> 20",
        'routes[0].timeout: "2s" -> <absent>',
        "run.max_requests: 2000 -> 1000  (needs a new generation)",
    ]
    told = answered(capsys, "config", "diff", "1", "2", "--exit-code", status=1)
    changes = {one["path"]: (one["before"], one["after"]) for one in told["changes"]}
    assert changes == {"run.max_requests": (1000, 2000), "routes[0].bulkhead": (20, 30)}
    Path("other.toml").write_text(service.file.read_text().replace("sk_live_1", "sk_live_2").replace("30", "40"))
    text = said(capsys, "config", "diff", "other.toml")
    assert text.splitlines() == ["routes[0].bulkhead: 30 -> 40", "1 change"]
    assert "version 99 is not kept; there are 1, 2, 3" in complained(capsys, "config", "diff", "1", "99")[0]


def test_versions_without_secrets_are_compared_by_their_documents(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    without = ('stripe = "sk_live_1"\npassword = "horse"\n', "")
    service.save(without, told="configuration 2 holds")
    service.save(('"EUR"', '"USD"'), ('match = "GET /orders/{id}"', 'match = "/"'), told="configuration 3 holds")
    service.save(('"USD"', '"EUR"'), told="configuration 4 holds")
    told = answered(capsys, "config", "diff", "2", "4")
    assert [(one["path"], one["before"], one["after"]) for one in told["changes"]] == [
        ("routes[0].match", "GET /orders/{id}", "/")
    ]
