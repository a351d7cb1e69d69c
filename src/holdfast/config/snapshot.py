"""What holds now: the sections of one configuration, read into their types."""

import hashlib
import hmac
import json
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from holdfast.config.document import Document, Mark, Origin
from holdfast.config.mistakes import Place
from holdfast.config.secret import BLOT, blotted, is_reference, named_secret

_ROOT: Final[Place] = ()


class Snapshot:
    """One configuration. Immutable, safe to share between threads. Sections are attributes, and items by name.

    ``version`` grows with each that is applied. ``digest`` is a hash of the values, in which secrets are hashed with
    ``key``: the same values have the same digest wherever the key is the same. ``document`` is what it was read from.
    """

    __slots__ = ("_secrets", "digest", "document", "references", "sections", "version")

    version: int
    digest: str
    document: Document
    sections: Mapping[str, Any]
    references: frozenset[str]
    """The sections that hold a secret from a file or a variable: the same document may mean something else later."""
    _secrets: Mapping[Place, str]

    def __init__(
        self,
        document: Document,
        sections: Mapping[str, Any],
        *,
        version: int = 0,
        secrets: Mapping[Place, str] = types.MappingProxyType({}),
        references: frozenset[str] = frozenset(),
        key: bytes = b"",
    ) -> None:
        values = {
            "document": document,
            "sections": types.MappingProxyType(dict(sections)),
            "version": version,
            "references": references,
            "_secrets": types.MappingProxyType(dict(secrets)),
            "digest": _digest(document.values, secrets, key),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a snapshot does not change: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a snapshot does not change: {name} cannot be deleted")

    def __getattr__(self, name: str) -> Any:
        try:
            return self.sections[name]
        except KeyError:
            raise AttributeError(f"there is no section {name}; there are {', '.join(self.sections)}") from None

    def __getitem__(self, name: str) -> Any:
        return self.sections[name]

    def __contains__(self, name: object) -> bool:
        return name in self.sections

    def __iter__(self) -> Iterator[str]:
        return iter(self.sections)

    def __reduce__(self) -> Any:
        raise TypeError("a snapshot is not pickled; send its document, and read it there")

    def origin(self, place: Place) -> Origin:
        """Where the value at ``place`` came from."""
        return self.document.origin(place)

    @property
    def secrets(self) -> Mapping[Place, str]:
        """The texts of the secrets by place. Not for showing."""
        return self._secrets

    def redacted(self) -> dict[str, Any]:
        """The document's values for people: without secrets, but with where they come from."""
        return redacted(self.document.values, self._secrets, _ROOT)  # type: ignore[no-any-return]

    def with_version(self, version: int) -> "Snapshot":
        """The same under another version."""
        other = object.__new__(Snapshot)
        for name in self.__slots__:
            object.__setattr__(other, name, version if name == "version" else getattr(self, name))
        return other

    def hiding(self, places: Collection[Place]) -> "Snapshot":
        """The same, in which the values at ``places`` are secret too."""
        known = {place: self.document.get(place) for place in places if place not in self._secrets}
        texts = {place: value if isinstance(value, str) else str(value) for place, value in known.items() if value}
        other = self.with_version(self.version)
        object.__setattr__(other, "_secrets", types.MappingProxyType({**self._secrets, **texts}))
        return other

    def for_disk(self, *, plain: bool) -> tuple[Document, bool]:
        """The document with references in place of secrets that came from variables and mounted files.

        A secret that stands in a file itself, or on the command line, has none: it is left as it is when ``plain``,
        else blotted out. The second part says whether the document can be read again.
        """
        return _referring(self.document, self._secrets, plain)

    def __repr__(self) -> str:
        return f"<Snapshot {self.version} {self.digest[:12]} of {', '.join(self.sections)}>"


def redacted(value: Any, secrets: Mapping[Place, str], place: Place) -> Any:
    """A copy of ``value`` in which secrets are blotted out: those at ``secrets``, and what their names give away."""
    hidden = place in secrets or (bool(place) and named_secret(place[-1]))
    if is_reference(value) and hidden:
        return dict(value)
    if isinstance(value, Mapping):
        return {name: redacted(item, secrets, (*place, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [redacted(item, secrets, (*place, i)) for i, item in enumerate(value)]
    if hidden and value is not None and not isinstance(value, bool):
        return BLOT
    return blotted(value) if isinstance(value, str) else value


def _digest(values: Mapping[str, Any], secrets: Mapping[Place, str], key: bytes) -> str:
    hashed: Any = values
    for place, text in secrets.items():
        mac = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        hashed = _put(hashed, place, {"secret": mac})
    text = json.dumps(hashed, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _put(value: Any, place: Place, new: Any) -> Any:
    """``value`` with ``new`` at ``place``. What is on the way is copied, the rest shared."""
    if not place:
        return new
    key, rest = place[0], place[1:]
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return [_put(item, rest, new) if i == key else item for i, item in enumerate(value)]
    if isinstance(value, Mapping) and key in value:
        return {**value, key: _put(value[key], rest, new)}
    return value


def _referring(document: Document, secrets: Mapping[Place, str], plain: bool) -> tuple[Document, bool]:
    values: Any = document.values
    mark = document.mark
    whole = True
    covers = {place[:length] for place in secrets for length in range(len(place))}
    for place in secrets:
        given = document.get(place)
        if given is None or is_reference(given):
            continue  # it is inside of a bare text, which is a secret as a whole; or it is referred to already
        origin = document.origin(place)
        if origin.text and origin.layer in ("env", "directory") and place not in covers:
            values = _put(values, place, {"env" if origin.layer == "env" else "file": origin.place})
            mark = _settled(mark, place)
        elif not plain:
            values, whole = _put(values, place, BLOT), False
    return Document(values, mark), whole


def _settled(mark: Mark, place: Place) -> Mark:
    """``mark`` where ``place`` is no bare text, and the path of a mounted file does not start from that file."""
    if not place:
        return Mark(Origin("default", mark.origin.place))
    return Mark(mark.origin, {**mark.inside, place[0]: _settled(mark.of(place[0]), place[1:])})
