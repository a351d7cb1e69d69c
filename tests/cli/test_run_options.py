"""The options of ``run`` are the fields of its settings."""

from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner
from msgspec import Meta, Struct

from holdfast.cli.main import COMMANDS, group, main
from holdfast.cli.options import options_of
from holdfast.cli.run import run
from holdfast.core.duration import Duration
from holdfast.core.fields import fields_of
from holdfast.core.size import Size
from holdfast.supervisor.settings import Settings


class Sample(Struct, frozen=True, kw_only=True):
    target: Annotated[str, Meta(description="What.")] = ""
    count: Annotated[int | Literal["auto"], Meta(description="How many.")] = "auto"
    grace: Annotated[Duration, Meta(description="How long.")] = Duration(90.0)
    limit: Annotated[Size, Meta(description="How large.")] = Size(65536)
    eager: Annotated[bool, Meta(description="Whether.")] = False
    place: Annotated[tuple[str, ...], Meta(description="Where.", extra={"metavar": "ADDRESS"})] = ("here",)


def given(*arguments: str) -> dict[str, object]:
    found: dict[str, object] = {}

    @click.command()
    @options_of(Sample, argument="target")
    def command(**values: object) -> None:
        found.update(values)

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return found


def test_what_is_not_given_is_absent() -> None:
    nothing = {"target": None, "count": None, "grace": None, "limit": None, "eager": None, "place": ()}
    assert given() == nothing


def test_each_field_is_an_option_and_one_is_the_argument() -> None:
    arguments = [
        "--count",
        "3",
        "--grace",
        "5s",
        "--limit",
        "1MB",
        "--eager",
        "--place",
        "a",
        "--place",
        "b",
        "main:app",
    ]
    assert given(*arguments) == {
        "target": "main:app",
        "count": "3",
        "grace": "5s",
        "limit": "1MB",
        "eager": True,
        "place": ("a", "b"),
    }


def test_a_truth_value_can_be_denied() -> None:
    assert given("--no-eager")["eager"] is False


def test_help_tells_the_description_the_kind_and_the_default() -> None:
    @click.command()
    @options_of(Sample, argument="target")
    def command(**_: object) -> None: ...

    text = CliRunner().invoke(command, ["--help"]).output
    for expected in ("[TARGET]", "--count N|auto", "How many.  [auto]", "--grace DURATION", "[1m30s]", "[64KiB]"):
        assert expected in text
    assert "--eager / --no-eager" in text
    assert "--place ADDRESS" in text
    assert "[here]" in text


def test_run_has_every_setting() -> None:
    names = {parameter.name for parameter in run.params}
    assert names == {field.name for field in fields_of(Settings)} | {"config", "config_dir"}


def test_every_command_of_the_list_is_in_the_help_without_being_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in text
        assert line in text
    assert "4  no such supervisor is running" in text


def test_every_command_but_the_demo_can_be_imported() -> None:
    made = group()
    context = click.Context(made)
    for name in COMMANDS:
        if name != "demo":
            assert made.get_command(context, name) is not None


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert "holdfast" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_HOLDFAST_COMPLETE" in capsys.readouterr().out
