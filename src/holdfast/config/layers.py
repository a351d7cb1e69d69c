"""The layers of a configuration: defaults, files, directories, variables, flags. Later ones win.

Each is a ``Document`` of its own; ``merged`` puts them together. All are read anew for each change, so that what was
taken out of a file is gone.
"""

import contextlib
import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from holdfast.config.document import DEPTH_LIMIT, Document, Layer, Mark, Origin, checked, merged
from holdfast.config.lines import lines_of
from holdfast.config.mistakes import Place, all_of, parse_place, place_text, printable
from holdfast.config.reading import decoded, read_directory, read_file, without_newline
from holdfast.core.errors import ConfigError

VARIABLES: Final = "HOLDFAST__"
"""What the names of variables begin with that hold a value of any section."""
PARTS_LIMIT: Final = 128
"""Parts of one dotted name: the time that the standard library takes for one grows with their square."""
FRAGMENTS: Final = (".toml", ".json")
"""How files in a directory are named that hold more than one value."""

_POSITION: Final = re.compile(r"\s*\(at ([^)]*)\)\s*$")
_LONG_NAME: Final = re.compile(
    rf"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{PARTS_LIMIT}}}"""
)


def read_document(
    *,
    defaults: Mapping[str, Any] | None = None,
    files: Sequence[str | Path] = (),
    directories: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    aliases: Mapping[str, Place] | None = None,
    options: Mapping[str, str] | None = None,
    check: Callable[[Document], object] | None = None,
) -> Document:
    """All layers as one document. ``ConfigErrors`` tells what is wrong in each of them. Reads files: it may block.

    ``check`` looks at each layer by itself, and raises ``ConfigError``: also for what another layer lies over.
    """
    makers: list[Callable[[], Document]] = [
        lambda: Document.of(defaults or {}),
        *(functools.partial(from_file, file) for file in files),
        *(functools.partial(from_directory, directory) for directory in directories),
        lambda: from_environment(env or {}, aliases=aliases),
        lambda: from_flags(flags or {}, options=options),
    ]
    documents: list[Document] = []
    errors: list[ConfigError] = []
    for make in makers:
        try:
            documents.append(make())
            if check is not None:
                check(documents[-1])
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise all_of(errors)
    return merged(*documents)


def from_file(path: str | Path) -> Document:
    """The TOML in the file at ``path``, or the JSON when its name ends so. ``ConfigError`` when there is none."""
    return _parsed(read_file(path), str(path), "file")


def from_directory(path: str | Path) -> Document:
    """The files in the directory at ``path``, as Kubernetes mounts a ConfigMap or a Secret.

    A ``*.toml`` or ``*.json`` is a fragment; they are merged in the order of their names. Any other file is one value:
    its name is the value's dotted path, its content bare text, of which one newline at the end is dropped. Values
    win over fragments.
    """
    fragments: list[Document] = []
    leaves = _Leaves("directory")
    for name, content in read_directory(path).items():
        source = str(Path(path) / name)
        if name.endswith(FRAGMENTS):
            fragments.append(_parsed(content, source, "directory"))
        else:
            try:
                place = parse_place(name)
            except ValueError:
                raise ConfigError(
                    printable(source), None, "a name such as section.key, or one that ends with .toml"
                ) from None
            leaves.add(place, without_newline(decoded(content, source)), source)
    return merged(*fragments, leaves.document())


def from_environment(env: Mapping[str, str], *, aliases: Mapping[str, Place] | None = None) -> Document:
    """The variables named ``HOLDFAST__SECTION__KEY``, and those in ``aliases``, which say what each one means.

    A part of a name that is all capitals is meant in lower case. The value is bare text, of which the setting's
    type decides what it means, or a TOML table, which merges; for a list, a TOML list or text separated by commas.
    """
    leaves = _Leaves("env")
    for variable, text in sorted(env.items()):
        if aliases and variable in aliases:
            leaves.add(aliases[variable], text, variable)
        elif variable.startswith(VARIABLES):
            parts = variable.removeprefix(VARIABLES).split("__")
            if not all(parts):
                raise ConfigError(printable(variable), None, f"a name such as {VARIABLES}SECTION__KEY")
            leaves.add(tuple(part.lower() if part.isupper() else part for part in parts), text, variable)
    return leaves.document()


def from_flags(flags: Mapping[str, object], *, options: Mapping[str, str] | None = None) -> Document:
    """Values by dotted path, as a command line gives them: text is bare text, None and () are absent.

    ``options`` are the names by which the command line knows them, for messages.
    """
    leaves = _Leaves("flag")
    for name, value in flags.items():
        if value is None or value == ():
            continue
        try:
            place = parse_place(name)
        except ValueError:
            raise ConfigError(printable(name), None, "a path such as section.key", source="flags") from None
        leaves.add(place, value, (options or {}).get(name, name))
    return leaves.document()


def table_in(text: str) -> Any:
    """The TOML value in ``text``; ``ValueError`` when it is none, or goes on past its end."""
    bare = text.strip()
    if "\n" in bare or _LONG_NAME.search(bare):
        raise ValueError
    try:
        found = tomllib.loads(f"value = {bare}")
    except RecursionError:
        raise ValueError from None
    return found["value"]


class _Leaves:
    """Values that come one by one, put together into a tree."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._values: dict[str, Any] = {}
        self._origins: dict[Place, Origin] = {}

    def add(self, place: Place, value: object, source: str) -> None:
        if len(place) > DEPTH_LIMIT:
            raise ConfigError(printable(source), None, f"at most {DEPTH_LIMIT} names in a path")
        for name in place:
            checked({name: None}, printable(source))
        text = isinstance(value, str)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            with contextlib.suppress(ValueError):  # then it is text that begins so
                value, text = table_in(value), False
        # Checked one by one, so that a message can name the variable.
        value = checked({place_text(place): value}, printable(source))[place_text(place)]
        table = self._values
        for length, name in enumerate(place[:-1], 1):
            table = table.setdefault(str(name), {})
            if not isinstance(table, dict):
                raise self._twice(place[:length], source)
            self._origins.setdefault(place[:length], Origin(self._layer, source))
        name = str(place[-1])
        if name in table:
            raise self._twice(place, source)
        table[name] = value
        self._origins[place] = Origin(self._layer, source, 0, text)

    def _twice(self, place: Place, source: str) -> ConfigError:
        other = self._origins.get(place) or next(o for p, o in self._origins.items() if place == p[: len(place)])
        return ConfigError(
            place_text(place),
            None,
            "one value",
            source=printable(source),
            hint=f"{printable(str(other))} gives another",
        )

    def document(self) -> Document:
        return Document(checked(self._values), self._mark(self._values, ()))

    def _mark(self, value: Any, place: Place) -> Mark:
        origin = self._origins.get(place, Origin(self._layer))
        if not isinstance(value, dict) or (place and place not in self._origins):
            return Mark(origin)
        inside = {name: self._mark(item, (*place, name)) for name, item in value.items() if self._has((*place, name))}
        return Mark(origin, inside)

    def _has(self, place: Place) -> bool:
        return place in self._origins


def _parsed(content: bytes, source: str, layer: Layer) -> Document:
    text = decoded(content, source)
    if source.endswith(".json"):
        return Document.of(_json(text, printable(source)), layer, source)
    values = toml_in(text, printable(source))
    return Document.of(values, layer, source, lines_of(text))


def toml_in(text: str, source: str) -> dict[str, Any]:
    """What the TOML in ``text`` means. ``ConfigError`` says where ``source`` is wrong, without quoting it."""
    if long := _LONG_NAME.search(text):
        where = f"line {text.count(chr(10), 0, long.start()) + 1}"
        raise ConfigError(where, None, f"names of at most {PARTS_LIMIT} parts", source=source)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a whole number of more digits than Python reads
        position = _POSITION.search(str(error))
        where = position.group(1) if position else "somewhere"
        raise ConfigError(where, None, "valid TOML", source=source, hint=_harmless(str(error))) from None
    except RecursionError:
        raise ConfigError("", None, "less deeply nested TOML", source=source) from None


def _json(text: str, source: str) -> Any:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ConfigError(place_text((name[:80],)), None, "each name once in a table", source=source)
            found[name] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=table)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}", None, "valid JSON", source=source, hint=error.msg) from None
    except ValueError:
        raise ConfigError("somewhere", None, "valid JSON", source=source, hint="a number is too long") from None
    except RecursionError:
        raise ConfigError("", None, "less deeply nested JSON", source=source) from None


def _harmless(message: str) -> str:
    """What the parser says, without what it quotes: that may be half of a secret."""
    message = _POSITION.sub("", message)
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", message)[:200].replace("\n", " ")
