"""The consoles of a page, run as a reader would: each command, and whether it says what the page says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs.pages import DOCS, blocks

GAP = "..."
"""Stands for anything in a line, and alone in a line for any number of lines."""


class Shown(NamedTuple):
    """A command of a page, its variables, and the lines that follow it; none when the page shows no output."""

    place: str
    variables: dict[str, str]
    words: list[str]
    lines: list[str]


def shown(page: str) -> Iterator[Shown]:
    """The ``holdfast`` commands in the consoles of ``page``."""
    for block in blocks(DOCS / page):
        if block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            words = shlex.split(command, comments=True)
            variables = {}
            while "=" in words[0] and words[0].partition("=")[0].isupper():
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            if words[0] == "holdfast":
                yield Shown(f"{page}:{block.line}", variables, words[1:], lines)


def save(page: str, directory: Path) -> None:
    """Write the titled files of ``page`` into ``directory``; of several with one name the first."""
    seen = set()
    for block in blocks(DOCS / page):
        if block.title and block.title not in seen:
            seen.add(block.title)
            path = directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def fits(text: str, lines: list[str]) -> bool:
    """Whether ``text`` is what the page shows: ``...`` is anything, and spaces are not counted."""
    wanted = [r"(?:.*\n)*" if line.strip() == GAP else f"{_line(line)}\n" for line in lines]
    found = "".join(f"{' '.join(line.split())}\n" for line in text.rstrip("\n").split("\n"))
    return re.fullmatch("".join(wanted), found) is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in " ".join(line.split()).split(GAP))
