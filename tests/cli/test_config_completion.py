"""Shells complete the commands for the configuration, and what they take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from cli.configs import complained, enter
from holdfast.cli.config import COMMANDS, SECTIONS, config
from holdfast.cli.main import group
from holdfast.cli.table import text_table
from holdfast.supervisor.configuration import make_schema


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def completed(*words: str, incomplete: str = "") -> list[str]:
    complete = ShellComplete(group(), {}, "holdfast", "_HOLDFAST_COMPLETE")
    return [item.value for item in complete.get_completions(list(words), incomplete)]


def test_the_commands_of_the_group_are_completed() -> None:
    assert {"config", "routes"} <= set(completed())
    assert completed("config") == list(COMMANDS)
    assert completed("config", incomplete="s") == ["show", "schema"]


def test_their_options_and_what_they_take_are_completed() -> None:
    assert completed("config", "show", incomplete="r") == ["run", "routes"]
    assert {"--app", "--config", "--config-dir", "--no-secrets", "--json"} <= set(
        completed("config", "check", incomplete="--")
    )
    assert completed("routes", incomplete="p") == ["POST", "PUT", "PATCH"]
    assert {"--host", "--header"} <= set(completed("routes", incomplete="--h"))


def test_versions_are_completed_with_those_of_the_service_and_without_one_with_none() -> None:
    assert completed("config", "rollback") == []  # test_config_running has those of a service


def test_a_real_shell_gets_them(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_HOLDFAST_COMPLETE": "bash_complete",
        "COMP_WORDS": "holdfast config ",
        "COMP_CWORD": "2",
    }
    code = "from holdfast.cli.main import group; group()(prog_name='holdfast')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == list(COMMANDS)


def test_show_takes_the_sections_that_there_are() -> None:
    assert set(SECTIONS) == set(make_schema().sections)


def test_a_wrong_command_of_the_group_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = complained(capsys, "config", "chekc", status=2)
    assert line == "holdfast config: no such command 'chekc'; did you mean check?"
    (line,) = complained(capsys, "config", "check", "--no-secret", status=2)
    assert "did you mean --no-secrets?" in line


def test_without_a_running_service_those_that_ask_one_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show", "--running"], ["diff"], ["history"], ["apply"], ["rollback", "1"]):
        (line,) = complained(capsys, "config", *words, status=4)
        assert "no supervisor is running" in line


def test_each_command_can_be_imported_and_has_its_line() -> None:
    import click

    with click.Context(config) as context:
        for name in COMMANDS:
            command = config.get_command(context, name)
            assert command is not None
            assert command.name == name


def test_the_cells_of_a_table_are_lined_up_and_empty_ends_are_left_out() -> None:
    text = text_table(("a", "long name", "c"), [("1", "", "x"), ("", "", ""), ("22", "y", "")])
    assert text.splitlines() == ["a  | long name | c", "1  |           | x", "", "22 | y"]
