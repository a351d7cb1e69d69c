"""Values that are never shown: where they are kept, how they are read, and how they are blotted out elsewhere."""

import hmac
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeAlias

from msgspec import Meta

from holdfast.config.document import Document, Origin
from holdfast.config.mistakes import Place
from holdfast.config.reading import decoded, read_file, without_newline
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader, Refused

BLOT: Final = "<secret>"
"""What is shown in place of a secret."""
SECRET_LIMIT: Final = 64 * 1024
"""Bytes of a file that holds a secret."""
BLOTTED_LENGTH: Final = 3
"""Characters from which a secret is looked for in other texts: shorter ones are in every text."""
EXPECTED: Final = 'text, { file = "PATH" } or { env = "NAME" }'

_NAMED: Final = re.compile(
    r"(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|credential)s?$"
)
_USERINFO: Final = re.compile(r"(://[^/@\s:]*):[^/@\s]+@")


class Secret:
    """A text that only ``reveal()`` gives. Its ``repr``, ``str`` and JSON do not, and it cannot be pickled.

    Two are equal when their texts are; how long that takes does not depend on where they differ.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return f"Secret({BLOT})"

    def __str__(self) -> str:
        return BLOT

    def __format__(self, spec: str) -> str:
        return format(BLOT, spec)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; send where it comes from")


def is_reference(value: object) -> bool:
    """Whether ``value`` is a table that says where a secret is."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    ((name, place),) = value.items()
    return name in ("file", "env") and isinstance(place, str)


def resolve(value: object, env: Mapping[str, str], base: Path | None = None) -> str:
    """The secret that ``value`` is or refers to. Raises ``Refused``, whose words do not show it.

    A relative path starts from ``base``, the directory of the file that names it. One newline at the end of a file
    is dropped. May block: it reads a file.
    """
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, str):
        return value
    if not is_reference(value):
        raise Refused(EXPECTED)
    assert isinstance(value, Mapping)
    ((kind, name),) = value.items()
    if kind == "env":
        if not env.get(name):
            raise Refused("a variable that is set", f"{name[:80]} is not, or is empty")
        return env[name]
    path = Path(name) if base is None else base / name
    try:
        text = without_newline(decoded(read_file(path, limit=SECRET_LIMIT), str(path)))
    except ConfigError as error:
        raise Refused(error.expected, "; ".join(part for part in (str(path), error.hint) if part)) from None
    if not text or "\0" in text:
        raise Refused("a file that holds text", f"{path} is empty or has a NUL in it")
    return text


def base_of(origin: Origin) -> Path | None:
    """What relative paths start from that ``origin`` gives."""
    return Path(origin.place).parent if origin.layer in ("file", "directory") else None


def files_of(document: Document, secret: Callable[[Place], bool]) -> dict[Path, list[Place]]:
    """The files that ``document`` refers to at places that are ``secret``, and those places. Reads none of them."""
    found: dict[Path, list[Place]] = {}
    for place, name in _files(document.values, ()):
        if secret(place):
            base = base_of(document.origin(place))
            found.setdefault(Path(name) if base is None else base / name, []).append(place)
    return found


def _files(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, Mapping):
        if is_reference(value):
            if "file" in value:
                yield place, value["file"]
            return
        for name, item in value.items():
            yield from _files(item, (*place, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _files(item, (*place, number))


def named_secret(name: object) -> bool:
    """Whether what ``name`` names is likely a secret: then it is not shown, whatever its type says."""
    return isinstance(name, str) and _NAMED.search(name.lower()) is not None


def blotted(text: str, secrets: Collection[str] = ()) -> str:
    """``text`` without any of ``secrets``, and without passwords in addresses (``scheme://user:password@host``)."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= BLOTTED_LENGTH:
            text = text.replace(secret, BLOT)
            text = text.replace(repr(secret)[1:-1], BLOT)  # as a message quotes it
    return _USERINFO.sub(r"\1:***@", text) if "://" in text else text


def _read(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    return Secret(resolve(value, os.environ))


SECRET: Final = Reader(_read, EXPECTED)
SecretText: TypeAlias = Annotated[Secret, Meta(extra={"reader": SECRET, "secret": True})]
"""The type of a ``Secret`` in ``Settings``. In code it may be given as text too, and as a table as in a file."""
