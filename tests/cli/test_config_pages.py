"""The page on configuration says what the program says: each of its commands is run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.configs import enter, said
from cli.pages import Shown, fits, save, shown
from cli.rooms import Room, eventually, exchange, room_in
from docs.pages import DOCS, prose
from holdfast.cli.config import COMMANDS
from holdfast.supervisor.configuration import make_schema

PAGE = "configuration.md"
ALL = list(shown(PAGE))
RUNNING = ("--running", "history", "rollback", "apply")
_CHANGING = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|(?<=after )[\d.]+(?= s)")


def needs_a_service(command: Shown) -> bool:
    words = command.words
    return bool(set(words) & set(RUNNING)) or (words[1] == "diff" and not words[-1].endswith(("code",)))


def _timeless(text: str) -> str:
    return _CHANGING.sub("WHEN", text)


FILES = [one for one in ALL if one.words[0] != "run" and not needs_a_service(one)]
ASKING = [one for one in ALL if one.words[0] != "run" and needs_a_service(one)]


@pytest.fixture
def page_room(tmp_path: Path) -> Iterator[Room]:
    """The files of the page, and those that its commands name."""
    with room_in(tmp_path) as room:
        save(PAGE, tmp_path)
        for name in ("deploy/production.toml", "staging.toml", "production.toml"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(tmp_path / "holdfast.toml", tmp_path / name)
        yield room


def test_each_command_of_the_group_is_on_the_page() -> None:
    assert {one.words[1] for one in ALL if one.words[0] == "config"} == set(COMMANDS)


@pytest.mark.parametrize("command", FILES, ids=lambda one: " ".join(one.words))
def test_each_command_about_files_says_what_the_page_says(
    command: Shown, page_room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--app" in command.words:  # the app is imported: not into the process of the tests
        done = page_room.call(*command.words, **command.variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        text = done.stdout
    else:
        enter(page_room.directory, monkeypatch)
        for name, value in command.variables.items():
            monkeypatch.setenv(name, value)
        text = said(capsys, *command.words)
    assert fits(text, command.lines or ["..."]), text


def test_the_story_of_the_page_happens(
    page_room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = page_room
    file = room.directory / "holdfast.toml"
    room.serve("run", "--workers", "2", "--state-dir", "state")
    enter(room.directory, monkeypatch, room.runtime)

    def edit(old: str, new: str, verdict: str) -> None:
        exchange(file, file.read_text().replace(old, new))
        eventually(lambda: verdict in room.log().read_text(), verdict)

    edit("50/s", "80/s", "configuration 2 holds")
    edit("timeout", "timeuot", "is refused")
    story = [one for one in ASKING if one.lines]
    assert [one.words[1] for one in story] == ["history", "rollback"]
    for command in story:
        text = said(capsys, *command.words)
        assert fits(_timeless(text), list(map(_timeless, command.lines))), text
    edit("timeuot", "timeout", "configuration 4 holds")
    for command in ASKING:
        said(capsys, *command.words)


def test_the_page_has_every_section() -> None:
    rows = [line for line in prose(DOCS / PAGE) if line.startswith("| `[")]
    named = {re.sub(r"[\[\]]", "", row.split("`")[1]) for row in rows}
    assert named == set(make_schema().sections)
