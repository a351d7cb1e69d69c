"""The pages as the tests see them: code blocks with their language and title, links, headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$")


class Block(NamedTuple):
    """A fenced block. ``title`` is the file that the reader is to save it as; empty when none is named."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of ``page``. Fails on a fence that is never closed, or whose info string is not ours."""
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is None:
            if line.startswith("```"):
                match = _FENCE.match(line)
                assert match is not None, f"{page.name}:{number}: {line}"
                opened = number, match["language"], match["title"] or ""
                inside = []
        elif line == "```":
            yield Block(page, *opened, "\n".join(inside) + "\n")
            opened = None
        else:
            inside.append(line)
    assert opened is None, f"{page.name}:{opened}: the block is never closed"


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def prose(page: Path) -> list[str]:
    """The lines outside of code blocks."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return kept


def links(page: Path) -> list[str]:
    return [target for line in prose(page) for target in _LINK.findall(line)]


def anchors(page: Path) -> set[str]:
    """The headings of ``page`` as GitHub makes anchors of them."""
    found = set()
    for line in prose(page):
        if match := _HEADING.match(line):
            kept = re.sub(r"[^\w\- ]", "", match[1].lower())
            found.add(kept.strip().replace(" ", "-"))
    return found
