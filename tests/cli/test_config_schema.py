"""``holdfast config schema``: what editors check by takes what Holdfast takes, and refuses most of what it refuses."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cli.configs import FILE, complained, enter, said
from cli.rooms import Room
from cli.test_config_check import APP
from docs.pages import all_blocks
from holdfast.config.document import Document
from holdfast.config.mistakes import ConfigErrors
from holdfast.supervisor.configuration import make_schema


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


@pytest.fixture
def schema(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(said(capsys, "config", "schema"))


def complaints(schema: Any, text: str) -> list[str]:
    """The places of what is wrong with the TOML in ``text``, as an editor would mark them."""
    found = Draft202012Validator(schema).iter_errors(tomllib.loads(text))
    return ["/".join(map(str, error.absolute_path)) for error in found]


def refused(text: str) -> bool:
    try:
        make_schema().read(Document.of(tomllib.loads(text)))
    except ConfigErrors:
        return True
    return False


def test_it_is_a_schema(schema: Any) -> None:
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {"run", "admission", "routes", "errors", "pipelines", "settings"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        FILE,
        '[run]\nworkers = "auto"\nkeep_alive = "75s"\nmax_body_size = "1MiB"\nbind = ["0.0.0.0:80", "unix:/run/x"]\n',
        "[run]\nworkers = 4\nkeep_alive = 75\nmax_body_size = 1024\n",
        "[admission]\nconcurrency = false\n[admission.clients]\nconnections = 5\n",
        '[[routes]]\nmatch = "*"\nbulkhead = { limit = 5 }\nthrottle = true\nbreaker = { failure_rate = 0.5 }\n',
        '[pipelines]\nstock = [{ timeout = "2s" }, { retry = 3 }, "breaker"]\n',
        '[errors]\n"shop:Gone" = { code = "not_found", tell = true }\n"shop:Late" = 504\n',
        '[settings]\nanything = { at = ["all"] }\n',
    ],
)
def test_it_takes_what_holdfast_takes(schema: Any, text: str) -> None:
    assert not refused(text)
    assert complaints(schema, text) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[runs]\nworkers = 2\n", ""),
        ("[run]\nwrokers = 2\n", "run"),
        ('[run]\nworkers = "many"\n', "run/workers"),
        ("[run]\naccess_log = 1\n", "run/access_log"),
        ("[run]\nsurge = 0\n", "run/surge"),
        ('[run]\nloop = "uvlop"\n', "run/loop"),
        ('[[routes]]\ntimeout = "2s"\n', "routes/0"),
        ('[[routes]]\nmatch = "/"\ncriticality = "high"\n', "routes/0/criticality"),
        ('[[routes]]\nmatch = "/"\ntimeout = "soon"\n', "routes/0/timeout"),
        ('[routes]\nmatch = "/"\n', "routes"),
        ('[admission]\ntrusted_proxies = "10.0.0.0/8, 10.1.0.0/16"\n', "admission/trusted_proxies"),
    ],
)
def test_it_marks_what_holdfast_refuses(schema: Any, text: str, place: str) -> None:
    assert refused(text)
    assert place in complaints(schema, text)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda block: block.place)
def test_it_takes_each_file_of_the_pages(schema: Any, block: Any) -> None:
    assert complaints(schema, block.text) == []


def test_it_says_what_a_setting_means_and_its_default(schema: Any) -> None:
    run = schema["$defs"]["Settings"]["properties"]
    assert run["keep_alive"]["description"] == "How long an idle connection is kept."
    assert run["keep_alive"]["default"] == "1m15s"
    assert schema["$defs"]["RouteSettings"]["properties"]["match"]["description"].startswith("Methods and a path")


def test_it_is_written_into_a_file(capsys: pytest.CaptureFixture[str], schema: Any) -> None:
    text = said(capsys, "config", "schema", "--output", "holdfast.schema.json")
    assert "#:schema ./holdfast.schema.json" in text
    assert json.loads(Path("holdfast.schema.json").read_text()) == schema


def test_a_file_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = complained(capsys, "config", "schema", "--output", "no/where.json")
    assert lines == ["holdfast: no/where.json cannot be written: No such file or directory"]


def test_with_the_app_it_has_the_apps_own_settings(room: Room) -> None:
    room.save(APP)
    made = room.call("config", "schema", "--app", "app:service")
    assert made.returncode == 0, made.stderr
    schema = json.loads(made.stdout)
    assert complaints(schema, '[settings]\ncurrency = "EUR"\nstripe = { env = "KEY" }\n') == []
    assert complaints(schema, '[settings]\ncurency = "EUR"\n') == ["settings", "settings"]
    shop = schema["$defs"][schema["properties"]["settings"]["$ref"].rpartition("/")[2]]
    assert shop["properties"]["limit"]["default"] == 10
