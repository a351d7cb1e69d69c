"""``holdfast config show``, of the files of now."""

import tomllib
from pathlib import Path

import pytest

from cli.configs import FILE, answered, complained, enter, said
from holdfast.cli.config import about
from holdfast.supervisor.configured import ConfigStatus, WorkerConfig


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    Path("holdfast.toml").write_text(FILE)


def test_it_shows_the_document_as_toml(capsys: pytest.CaptureFixture[str]) -> None:
    assert tomllib.loads(said(capsys, "config", "show")) == tomllib.loads(FILE)


def test_each_value_has_its_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_WORKERS", "4")
    monkeypatch.setenv("HOLDFAST__SETTINGS__CURRENCY", "USD")
    lines = [" ".join(line.split()) for line in said(capsys, "config", "show").splitlines()]
    assert 'app = "shop:app" # holdfast.toml:2' in lines
    assert 'workers = "4" # HOLDFAST_WORKERS' in lines
    assert 'currency = "USD" # HOLDFAST__SETTINGS__CURRENCY' in lines
    assert 'headers = { x-version = "2" } # holdfast.toml:22' in lines
    assert all(" # " in line for line in lines if " = " in line)


def test_a_directory_lies_over_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mounted").mkdir()
    Path("mounted/settings.currency").write_text("CHF\n")
    text = said(capsys, "config", "show", "--config-dir", "mounted", "settings")
    assert text == '[settings]\ncurrency = "CHF"  # mounted/settings.currency\n'


def test_only_the_sections_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(tomllib.loads(said(capsys, "config", "show", "errors", "settings"))) == {"errors", "settings"}


def test_secrets_are_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, looked_up, userinfo = "horse", "battery", "staple"
    monkeypatch.setenv("TOKEN", looked_up)
    with Path("holdfast.toml").open("a") as file:
        file.write(f'password = "{plain}"\ntoken = {{ env = "TOKEN" }}\nurl = "redis://u:{userinfo}@cache/0"\n')
    shown = said(capsys, "config", "show")
    told = answered(capsys, "config", "show")
    for secret in (plain, looked_up, userinfo):
        assert secret not in shown
        assert secret not in str(told)
    assert 'password = "<secret>"' in shown
    assert 'token = { env = "TOKEN" }' in shown
    assert told["values"]["settings"]["url"] == "redis://u:***@cache/0"


def test_as_json_it_has_values_and_origins(capsys: pytest.CaptureFixture[str]) -> None:
    told = answered(capsys, "config", "show", "run", "routes")
    assert told["values"]["run"] == {"app": "shop:app", "workers": 2}
    assert told["origins"]["run.workers"] == "holdfast.toml:3"
    assert told["origins"]["routes[0].rate_limit.key"] == "holdfast.toml:13"
    assert told["origins"]["routes[2].policies[0].bulkhead"].startswith("holdfast.toml:")
    assert not any(place.startswith("settings") for place in told["origins"])


def test_a_wrong_file_is_refused_with_all_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text('[run]\nwrokers = 2\n[[routes]]\nmatch = "GET /"\ntimeout = "-1s"\n')
    lines = complained(capsys, "config", "show", status=2)
    assert lines[0] == "holdfast: 2 mistakes"
    assert "holdfast.toml:2 run.wrokers: expected the name of a setting; did you mean workers?" in lines[1]


def test_without_a_file_nothing_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").unlink()
    assert said(capsys, "config", "show") == "# nothing is set: all settings are at their defaults\n"


def test_of_a_running_service_it_says_who_has_what() -> None:
    workers = (
        WorkerConfig(0, 71, 2, "ready", version=12, digest="ab"),
        WorkerConfig(1, 72, 2, "ready", version=11, digest="cd", refusal="settings:\nno bank takes it"),
        WorkerConfig(2, 73, 2, "booting"),
    )
    status = ConfigStatus(
        12,
        "0123456789abcdef",
        0.0,
        "ann",
        "more traffic",
        {},
        {},
        workers,
        refused=("holdfast.toml:3 run.wrokers: expected the name of a setting",),
        tried="reload: SIGHUP",
        waiting=("file: saved", "ann"),
        start="the configuration is refused, version 12, the last good one, is used",
        trouble="/var/lib: read-only",
    )
    lines = about(status)
    assert lines[0].startswith("version 12, 0123456789ab, since 19")
    assert lines[0].endswith(" by ann: more traffic")
    assert lines[1:4] == [
        "worker 0 (pid 71, generation 2) has version 12",
        "worker 1 (pid 72, generation 2) has version 11; it refuses: settings: no bank takes it",
        "worker 2 (pid 73, generation 2) has not said yet what it has",
    ]
    assert lines[4:7] == [
        "being tried: reload: SIGHUP",
        "waits for its turn: file: saved",
        "waits for its turn: ann",
    ]
    assert lines[7].startswith("the configuration is refused")
    assert lines[8] == "refused: holdfast.toml:3 run.wrokers: expected the name of a setting"
    assert lines[9] == "the history is not kept: /var/lib: read-only"
