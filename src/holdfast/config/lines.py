"""In which line of a TOML text each name stands. For messages: what it does not understand has no line."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final

from holdfast.config.mistakes import Place

_BLANK: Final = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_KEY: Final = re.compile(r"""[ \t]*+([A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+""")
_VALUE: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}|\'\'\'(?:[^']|'(?!''))*+'{3,5}|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+\''''
    r"""|#[^\n]*+|[\[\]{}\n]|[^"'#\[\]{}\n]++""",
    re.DOTALL,
)
_STEP: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def lines_of(text: str) -> Mapping[Place, int]:
    """The line of each table, and of each name outside of lists and tables in one line, in a ``text`` that is valid."""
    return _Scan(text).run()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1
        self._counted = 0
        self._table: Place = ()
        self._lists: dict[Place, int] = {}
        self._found: dict[Place, int] = {}

    def run(self) -> Mapping[Place, int]:
        while self._skip(_BLANK) and self._position < len(self._text):
            line = self._line_now()
            if self._text[self._position] == "[":
                place = self._header()
            else:
                names = self._names()
                place = (*self._table, *names) if names else ()
                if not names or not self._pass_value():
                    break
            if not place:
                break
            for length in range(1, len(place) + 1):
                self._found.setdefault(place[:length], line)
        return self._found

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
        return match is not None

    def _line_now(self) -> int:
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _header(self) -> Place:
        many = self._text.startswith("[[", self._position)
        self._position += 2 if many else 1
        names = self._names()
        if not names:
            return ()
        self._position += 2 if many else 1
        place: Place = ()
        for number, name in enumerate(names):
            place = (*place, name)
            if many and number == len(names) - 1:
                self._lists[place] = self._lists.get(place, -1) + 1
            if place in self._lists:
                place = (*place, self._lists[place])
        self._table = place
        return place

    def _names(self) -> list[str]:
        names: list[str] = []
        while (match := _KEY.match(self._text, self._position)) is not None:
            name = match.group(1)
            try:
                names.append(tomllib.loads(f"n = {name}")["n"] if name[0] in "\"'" else name)
            except tomllib.TOMLDecodeError:
                return []
            self._position = match.end()
            if not self._text.startswith(".", self._position):
                return names
            self._position += 1
        return []

    def _pass_value(self) -> bool:
        depth = 0
        while (match := _VALUE.match(self._text, self._position)) is not None:
            piece = match.group()
            if piece == "\n" and not depth:
                return True
            self._position = match.end()
            depth += _STEP.get(piece, 0)
        return self._position == len(self._text)
