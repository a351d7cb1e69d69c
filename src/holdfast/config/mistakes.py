"""All that is wrong in one configuration, told at once, and the places where it is wrong."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from holdfast.core.errors import ConfigError, HoldfastError

Place: TypeAlias = tuple[str | int, ...]
"""Where a value is: names of tables, and positions in lists."""

ERRORS_LIMIT: Final = 100
"""Mistakes that are kept; more are only counted."""
SHOWN_LIMIT: Final = 20
"""Mistakes that ``str()`` writes out."""
PLACE_LIMIT: Final = 64
"""Names that a place has at most."""
PLACE_TEXT_LIMIT: Final = 300
"""Characters of the name of a file or a variable that a message shows."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STEP: Final = re.compile(r"""\.?([A-Za-z0-9_-]+)|\.?"((?:[^"\\]|\\.)*)"|\[([0-9]{1,9})\]""")
_OWNER: Final = re.compile(r"""[^" ]+ (?=[^ ])""")
_PART: Final = re.compile(r"""([A-Za-z0-9_-]+)|"((?:[^"\\]|\\.)*)"|'([^']*)'""")


class ConfigErrors(ConfigError):
    """Everything that is wrong. ``errors`` are the first ``ERRORS_LIMIT`` mistakes, ``total`` counts all of them.

    It is a ``ConfigError`` itself, the first of them, for whoever wants only one. ``str()`` has a line for each, up to
    ``SHOWN_LIMIT``; a single mistake is one line.
    """

    def __init__(self, errors: Sequence[ConfigError], total: int = 0) -> None:
        kept = tuple(errors[:ERRORS_LIMIT])
        first = kept[0]
        super().__init__(first.path, first.value, first.expected, first.source, first.hint)
        self.errors = kept
        self.total = max(total, len(errors))
        HoldfastError.__init__(self, kept, self.total)

    def __str__(self) -> str:
        if self.total == 1:
            return str(self.errors[0])
        shown = [f"  {error}" for error in self.errors[:SHOWN_LIMIT]]
        more = self.total - len(shown)
        return "\n".join([f"{self.total} mistakes", *shown, *([f"  and {more} more"] if more else [])])


class Shown(str):
    """Words that stand for a value in a message: they are not quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def printable(text: str, limit: int = PLACE_TEXT_LIMIT) -> str:
    """``text``, a name of a file or a variable, in one line that can be printed and encoded."""
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def each(error: ConfigError) -> tuple[ConfigError, ...]:
    """The single mistakes in ``error``."""
    return error.errors if isinstance(error, ConfigErrors) else (error,)


def all_of(errors: Iterable[ConfigError]) -> ConfigErrors:
    """One error for all of ``errors``, of which there must be one."""
    found = [one for error in errors for one in each(error)]
    return ConfigErrors(found)


def place_text(place: Place) -> str:
    """``place`` as people write it: ``routes[2].timeout``, ``errors."shop:OutOfStock"``. ``parse_place`` reads it."""
    parts: list[str] = []
    for part in place:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            name = part if _BARE.fullmatch(part) else json.dumps(part)
            parts.append(f".{name}" if parts else name)
    return "".join(parts)


def parse_place(text: str) -> tuple[str, ...]:
    """The names in a dotted path; one with other characters than letters, digits, _ and - is quoted, as in TOML.

    ``ValueError`` for a text that is none, or has more than ``PLACE_LIMIT`` names.
    """
    names: list[str] = []
    position = 0
    while len(names) < PLACE_LIMIT:
        match = _PART.match(text, position)
        if match is None:
            break
        bare, quoted, literal = match.groups()
        names.append(json.loads(f'"{quoted}"') if quoted is not None else bare if bare is not None else literal)
        position = match.end()
        if position == len(text):
            return tuple(names)
        if text[position] != ".":
            break
        position += 1
    raise ValueError(f"{text[:80]!r} is not a path such as section.key")


def steps_in(path: str) -> Place:
    """The place that the ``path`` of a ``ConfigError`` names in what was read, without the name of its owner before it.

    What is no path is one name. ``Breaker open`` is ``("open",)``, ``ship[1].retry.limit`` is four steps.
    """
    owner = _OWNER.match(path)
    text = path[owner.end() :] if owner else path
    steps: list[str | int] = []
    position = 0
    while position < len(text) and len(steps) < PLACE_LIMIT:
        match = _STEP.match(text, position)
        if match is None:
            return (text,)
        bare, quoted, number = match.groups()
        try:
            steps.append(
                int(number) if number is not None else json.loads(f'"{quoted}"') if quoted is not None else bare
            )
        except ValueError:
            return (text,)
        position = match.end()
    return tuple(steps)
