"""``holdfast config check``: everything that is wrong, at once, with an exit status for scripts."""

from pathlib import Path

import pytest

from cli.configs import FILE, answered, complained, enter, said
from cli.rooms import Room

WRONG = """\
[run]
wrokers = 2

[[routes]]
match = "GET /"
timeout = "-1s"

[[routes]]
match = "POST /orders"
retry = 3

[errors]
LookupError = "notfound"
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def test_a_sound_file_is_told_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text(FILE)
    assert said(capsys, "config", "check") == "holdfast.toml: nothing is wrong\n"
    assert answered(capsys, "config", "check")["ok"] is True


def test_all_mistakes_are_told_with_place_value_expectation_and_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("holdfast.toml").write_text(WRONG)
    lines = complained(capsys, "config", "check")
    assert lines[0] == "holdfast.toml:2 run.wrokers: expected the name of a setting; did you mean workers?"
    assert lines[1].startswith("holdfast.toml:6 routes[0].timeout: got '-1s', expected a duration")
    assert lines[2].startswith("holdfast.toml:10 routes[1].retry: expected ")
    assert "put it around a call that the handler makes" in lines[2]
    assert "did you mean not_found?" in lines[3]
    assert lines[4:] == ["holdfast.toml: 4 mistakes"]


def test_as_json_each_mistake_is_taken_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text(WRONG)
    told = answered(capsys, "config", "check", status=1)
    assert told["ok"] is False
    (only,) = told["checked"]
    assert (only["source"], only["total"]) == ("holdfast.toml", 4)
    assert only["mistakes"][0] == {
        "source": "holdfast.toml:2",
        "path": "run.wrokers",
        "expected": "the name of a setting",
        "hint": "did you mean workers?",
        "text": "holdfast.toml:2 run.wrokers: expected the name of a setting; did you mean workers?",
    }


def test_more_mistakes_than_are_kept_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text("[run]\n" + "".join(f"x{number} = 1\n" for number in range(150)))
    lines = complained(capsys, "config", "check")
    assert len(lines) == 102
    assert lines[100:] == ["and 50 more", "holdfast.toml: 150 mistakes"]


def test_each_file_is_checked_by_itself_and_without_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_WORKERS", "none at all")
    Path("good.toml").write_text(FILE)
    Path("bad.toml").write_text("[run]\nwrokers = 1\n")
    Path("mounted").mkdir()
    Path("mounted/run.workers").write_text("many")
    told = answered(capsys, "config", "check", "good.toml", "bad.toml", "mounted", "gone.toml", status=1)
    assert [(one["source"], one["total"]) for one in told["checked"]] == [
        ("good.toml", 0),
        ("bad.toml", 1),
        ("mounted", 1),
        ("gone.toml", 1),
    ]
    assert "HOLDFAST_WORKERS" in complained(capsys, "config", "check", "--config", "good.toml")[0]


def test_files_and_the_options_of_run_do_not_go_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("good.toml").write_text(FILE)
    assert "give files, or --config" in complained(capsys, "config", "check", "a", "--config", "b", status=2)[0]
    monkeypatch.setenv("HOLDFAST_CONFIG", "other.toml")
    assert "nothing is wrong" in said(capsys, "config", "check", "good.toml")


def test_what_run_would_refuse_here_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text('[run]\napp = "a:b"\nbind = ["80 80"]\n')
    assert "got '80 80'" in complained(capsys, "config", "check")[0]
    Path("holdfast.toml").write_text('[run]\napp = "main"\n')
    assert "expected module:attribute" in complained(capsys, "config", "check")[0]


def test_the_app_need_not_be_named_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text("[run]\nworkers = 2\n")
    assert "nothing is wrong" in said(capsys, "config", "check")
    Path("holdfast.toml").write_text('[run]\nbind = ["80 80"]\n')
    assert "got '80 80'" in complained(capsys, "config", "check")[0]


def test_without_any_file_the_variables_are_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, "config", "check") == "variables and defaults: nothing is wrong\n"
    monkeypatch.setenv("HOLDFAST_WORKRS", "2")
    assert "did you mean HOLDFAST_WORKERS?" in complained(capsys, "config", "check")[0]


def test_mistakes_in_variables_are_told_with_those_in_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("holdfast.toml").write_text("[run]\nwrokers = 2\nsurge = 0\n[settings]\ntoken = { env = 'NOT_SET' }\n")
    monkeypatch.setenv("HOLDFAST_WORKRS", "2")
    monkeypatch.setenv("HOLDFAST_SURGE", "3")
    monkeypatch.setenv("HOLDFAST_BACKLOG", "-1")
    told = answered(capsys, "config", "check", "--no-secrets", status=1)
    texts = [one["text"] for one in told["checked"][0]["mistakes"]]
    assert len(texts) == 4, texts
    assert "run.wrokers" in texts[0]
    assert texts[1].startswith("HOLDFAST_BACKLOG")
    assert "did you mean HOLDFAST_WORKERS?" in " ".join(texts[2:])
    assert "run.surge: got 0" in " ".join(texts[2:])  # which the variable covers, until it is gone


def test_secrets_that_are_not_here_are_missed_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    Path("holdfast.toml").write_text(
        '[settings]\npassword = { env = "NOT_SET" }\n[settings.db]\ntoken = { file = "x" }\n'
    )
    lines = complained(capsys, "config", "check", "holdfast.toml")
    assert lines[0].startswith("holdfast.toml:2 settings.password: expected a variable that is set; NOT_SET is not")
    assert lines[-1] == "holdfast.toml: 2 mistakes"
    assert "nothing is wrong" in said(capsys, "config", "check", "holdfast.toml", "--no-secrets")
    assert "nothing is wrong" in said(capsys, "config", "check", "--no-secrets")


def test_without_secrets_all_other_mistakes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = '[settings]\npassword = { env = "NOT_SET" }\n[run]\nwrokers = 2\nworkers = "no"\n'
    Path("holdfast.toml").write_text(text)
    told = answered(capsys, "config", "check", "--no-secrets", status=1)
    assert [one["path"] for one in told["checked"][0]["mistakes"]] == ["run.wrokers", "run.workers"]


APP = """
from holdfast.core.settings import Settings, about
from holdfast.config.secret import SecretText
from holdfast.service.service import Service
from typing import Annotated

class OutOfStock(Exception): ...

class Shop(Settings, frozen=True):
    currency: Annotated[str, about("Of all prices.")]
    limit: Annotated[int, about("Of a basket.", ge=1)] = 10
    stripe: Annotated[SecretText | None, about("Of the bank.")] = None

async def app(scope, receive, send): ...

service = Service("shop", app, settings=Shop)
"""


def test_with_the_app_its_own_settings_and_exceptions_are_checked(room: Room) -> None:
    room.save(APP)
    file = room.directory / "holdfast.toml"
    file.write_text('[settings]\ncurency = "EUR"\nlimit = 0\n[errors]\n"app:OutOfStok" = 404\n')
    assert room.call("config", "check").returncode == 0
    refused = room.call("config", "check", "--app", "app:service")
    assert refused.returncode == 1
    lines = refused.stderr.splitlines()
    assert "holdfast.toml:2 settings.curency: expected the name of a setting; did you mean currency?" in lines
    assert "holdfast.toml:3 settings.limit: got 0, expected a whole number, at least 1" in lines
    assert any(line.startswith("holdfast.toml:1 settings.currency: ") and "must be given" in line for line in lines)
    assert any("app:OutOfStok" in line and "did you mean OutOfStock?" in line for line in lines)
    assert lines[-1] == "holdfast.toml: 4 mistakes"
    file.write_text('[settings]\ncurrency = "EUR"\n[errors]\n"app:OutOfStock" = 404\n')
    good = room.call("config", "check", "--app", "app:service")
    assert (good.returncode, good.stderr) == (0, "")


def test_what_only_the_app_knows_to_be_secret_is_hidden_with_it(room: Room) -> None:
    room.save(APP)
    (room.directory / "holdfast.toml").write_text('[settings]\ncurrency = "EUR"\nstripe = "sk_live_1"\n')
    assert "sk_live_1" not in room.call("config", "show", "--app", "app:service").stdout


def test_an_app_that_cannot_be_imported_is_told_with_its_own_error(room: Room) -> None:
    room.save("raise RuntimeError('no database')\n")
    failed = room.call("config", "check", "--app", "app:app")
    assert failed.returncode == 1
    assert "importing app failed: RuntimeError: no database" in failed.stderr
