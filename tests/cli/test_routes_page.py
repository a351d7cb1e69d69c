"""The page on routes says what the program says."""

import re
from pathlib import Path
from typing import Any

import pytest

from cli.configs import enter, said
from cli.pages import Shown, fits, save, shown
from docs.pages import DOCS, prose
from holdfast.core.errors import Rejected
from holdfast.core.settings import settings_of
from holdfast.server.admission.admission import Admission
from holdfast.server.admission.answers import Answers
from holdfast.server.admission.deadlines import Hearing
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings, read_admission, read_routes

PAGE = "routes.md"
COMMANDS = [one for one in shown(PAGE) if not {"--app", "--running"} & set(one.words)]
_ROW = re.compile(r"^\| `([a-z_]+)` \| ([^|]+) \|")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    save(PAGE, tmp_path)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: " ".join(one.words))
def test_each_command_says_what_the_page_says(command: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *command.words)
    assert fits(text, command.lines or ["..."]), text


def tables() -> list[dict[str, str]]:
    """The tables of settings of the page: name and default of each row."""
    found: list[dict[str, str]] = []
    for line in prose(DOCS / PAGE):
        if line.startswith("| Setting |"):
            found.append({})
        elif (match := _ROW.match(line)) and found:
            found[-1][match[1]] = match[2]
    return found


@pytest.mark.parametrize(("number", "kind"), [(0, RouteSettings), (1, AdmissionSettings)])
def test_each_setting_is_in_the_tables_with_its_default(number: int, kind: Any) -> None:
    listed = tables()[number]
    fields = {field.name: field for field in settings_of(kind)}
    assert set(listed) == set(fields)
    for name, default in listed.items():
        field = fields[name]
        if field.required:
            assert default == "required"
        elif default in ("none", "any", "nobody", "no limits", "what it matches"):
            assert field.default in (None, "", {}, ()) or field.default == type(field.default)()
        elif default in ("on", "off"):
            assert field.default is (default == "on")
        elif name != "criticality":  # what it comes to without any is decided by admission
            assert default == f"`{field.default}`"


def test_the_refusal_is_the_one_that_clients_get() -> None:
    admission = Admission(read_admission(), read_routes([{"match": "POST /orders", "rate_limit": "2/m"}]))
    peer = admission.connect("192.0.2.1")
    for second in range(2):
        admission.enter("POST", "/orders", "", (), peer, 100.0 + second)
    with pytest.raises(Rejected) as refused:
        admission.enter("POST", "/orders", "", (), peer, 102.0)
    head, _, body = Answers().answer(refused.value)[1].decode().partition("\r\n\r\n")
    page = (DOCS / PAGE).read_text()
    assert head.replace("\r\n", "\n") in page
    assert body in page


def test_all_headers_that_are_believed_are_named() -> None:
    page = (DOCS / PAGE).read_text().lower()
    table = page.partition("## behind a proxy")[2]
    settings = read_admission()
    names = [name.decode() for name in Hearing()._readers]
    for name in (*names, settings.tenant, settings.forwarded, "x-forwarded-proto"):
        assert f"`{name}`" in table
        assert f"proxy_set_header {name} " in table
    assert "`forwarded`" in table
