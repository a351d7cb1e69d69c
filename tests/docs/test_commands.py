"""Every command line that the pages show is one that the program takes."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docs.pages import ROOT, Block, all_blocks
from holdfast.cli.main import group
from holdfast.config.layers import from_flags
from holdfast.supervisor.configuration import make_schema

_EXEC = re.compile(r"^Exec\w+=\S*?(holdfast .*)$", re.MULTILINE)
_LIST = re.compile(r'\[\s*"holdfast".*?\]', re.DOTALL)
_MAKE = re.compile(r"^\$ make ([\w-]+)", re.MULTILINE)


def commands() -> Iterator[tuple[Block, list[str]]]:
    """From consoles, unit files, manifests and image recipes."""
    for block in all_blocks("console"):
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith(("$ holdfast ", "# holdfast ")):
                yield block, _first(shlex.split(line[2:], comments=True))
    for block in all_blocks("ini"):
        for line in _EXEC.findall(block.text.replace("\\\n", " ")):
            yield block, shlex.split(line)
    for block in (*all_blocks("yaml"), *all_blocks("dockerfile")):
        for found in _LIST.findall(block.text):
            yield block, json.loads(found)


def _first(words: list[str]) -> list[str]:
    """What comes before the shell's own operators."""
    return list(itertools.takewhile(lambda word: word not in ("|", "||", "&", "&&", ">"), words))


SHOWN = list(commands())


def test_the_pages_show_commands() -> None:
    names = {words[1] for _, words in SHOWN}
    assert {"run", "dev", "reload", "upgrade", "drain", "scale", "stop", "status", "events", "demo"} <= names
    languages = {block.language for block, _ in SHOWN}
    assert languages == {"console", "ini", "yaml", "dockerfile"}


@pytest.mark.parametrize(("block", "words"), SHOWN, ids=[f"{block.place} {words[1]}" for block, words in SHOWN])
def test_each_command_is_one_that_the_program_takes(
    block: Block, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()  # options that name a directory want one that is there
    program = group()
    with click.Context(program, info_name="holdfast") as context:
        command = program.get_command(context, words[1])
        assert command is not None, f"{block.place}: no command {words[1]}"
        parsed = command.make_context(words[1], words[2:], parent=context)
    if words[1] in ("run", "dev"):
        given = {name: value for name, value in parsed.params.items() if name not in ("config", "config_dir", "watch")}
        make_schema().read(from_flags({f"run.{name}": value for name, value in given.items()}))


def test_each_make_target_that_the_pages_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for block in all_blocks("console") for name in _MAKE.findall(block.text)}
    assert {"run", "test", "check"} <= named
    assert not {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)}
