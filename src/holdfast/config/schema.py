"""The sections of a configuration and their types: a document is read into a snapshot, or refused with all mistakes."""

import os
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from holdfast.config.document import Document, same
from holdfast.config.mistakes import Place
from holdfast.config.nodes import Either, Hidden, Items, Leaf, Mapped, Model, Node, Nodes, Table, form_of, holds_secret
from holdfast.config.reader import FAILED, Reading
from holdfast.config.secret import named_secret
from holdfast.config.snapshot import Snapshot


class Schema:
    """``Schema({"admission": AdmissionSettings, "routes": list[RouteSettings], "errors": dict[str, str]})``.

    A section's type is a struct of settings, a list of them, a table (``dict[str, X]``), or the user's own: a struct, a
    dataclass, a pydantic model. ``dict`` takes any table. A section that a document does not have is read from an
    empty table or list. ``restart`` names sections of which every change needs a new generation; a single setting is
    marked by ``about(..., live=False)``. ``TypeError`` for a type that no document can fill. Immutable, safe to share.
    """

    def __init__(self, sections: Mapping[str, Any], *, restart: Collection[str] = ()) -> None:
        for name in sections:
            if hasattr(Snapshot, name) or not name.isidentifier():
                raise TypeError(f"a section cannot be called {name!r}: it is an attribute of a snapshot")
        nodes = Nodes()
        self.types = dict(sections)
        self.sections: Mapping[str, Node] = {name: nodes.of(_plain(kind)) for name, kind in sections.items()}
        self.restart = frozenset(restart)

    def read(
        self,
        document: Document,
        *,
        version: int = 0,
        env: Mapping[str, str] | None = None,
        key: bytes = b"",
        previous: Snapshot | None = None,
    ) -> Snapshot:
        """The snapshot that ``document`` describes. Raises ``ConfigErrors`` with all mistakes.

        ``env`` is where secrets are looked up, by default the process's. ``key`` is for the digest of secrets. What
        has not changed since ``previous`` is taken over from it, the same objects. May block: secrets may be in files.
        """
        reading = Reading(document, os.environ if env is None else env)
        found: dict[str, Any] = {}
        references = set()
        for name in document.values:
            if name not in self.sections:
                reading.unknown((name,), self.sections)
        for name, node in self.sections.items():
            kept = self._kept(name, document, previous)
            if kept is not None:
                found[name] = kept
                assert previous is not None
                reading.secrets.update({p: text for p, text in previous.secrets.items() if p[0] == name})
                continue
            reading.references = False
            empty: Any = [] if form_of(node) == "list" else {}
            value = document.values.get(name, empty)
            found[name] = self._section(name, node, value, reading, document, previous)
            if reading.references:
                references.add(name)
        reading.finish()
        return Snapshot(
            document, found, version=version, secrets=reading.secrets, references=frozenset(references), key=key
        )

    def _kept(self, name: str, document: Document, previous: Snapshot | None) -> Any:
        if previous is None or name in previous.references or name not in previous:
            return None
        return previous[name] if _unchanged((name,), (name,), document, previous.document) else None

    def _section(
        self, name: str, node: Node, value: Any, reading: Reading, document: Document, previous: Snapshot | None
    ) -> Any:
        mark = document.mark.of(name)
        reusable = previous is not None and name in previous and name not in previous.references
        # Of a list, each item that was there before, at the same place or elsewhere, is taken over.
        if (
            isinstance(node, Items)
            and isinstance(value, list)
            and isinstance(node.item, Table)
            and reusable
            and previous is not None
            and not mark.origin.text
            and not any(place[0] == name for place in previous.secrets)
        ):
            before = previous.document.values.get(name, [])
            made = previous[name]
            result = []
            failed = False
            for number, item in enumerate(value):
                known = number < len(before) and same(item, before[number])
                read = made[number] if known else reading.item(node, item, mark.of(number), (name, number))
                failed = failed or read is FAILED
                result.append(read)
            return FAILED if failed else reading.whole(node, result, (name,))
        return reading.read(node, value, mark, (name,))

    def is_secret(self, place: Place) -> bool:
        """Whether the value at ``place`` is never shown."""
        return any(map(named_secret, place)) or any(hidden for hidden, _ in self._way(place))

    def may_hold_secret(self, place: Place, text: str) -> bool:
        """Whether ``text`` at ``place`` may be a list or a table, written as bare text, that has secrets in it."""
        node: Node | None = self.sections.get(str(place[0])) if place else None
        for key in place[1:]:
            node = _step(node, key)[0]
        if isinstance(node, Model):
            return text.lstrip().startswith(("[", "{"))
        return holds_secret(node)

    def is_live(self, place: Place) -> bool:
        """Whether a change at ``place`` takes hold without a new generation."""
        return (not place or place[0] not in self.restart) and all(live for _, live in self._way(place))

    def json_schema(self) -> dict[str, Any]:
        """A JSON Schema (draft 2020-12) of a document, for editors."""
        from holdfast.config.schema_json import Emitter  # for editors: no service needs it while it runs

        return Emitter().document(self.sections)

    def _way(self, place: Place) -> list[tuple[bool, bool]]:
        """For each step to ``place``, whether it is secret and whether it is live."""
        found: list[tuple[bool, bool]] = []
        node: Node | None = self.sections.get(str(place[0])) if place else None
        for key in place[1:]:
            node, hidden, live = _step(node, key)
            found.append((hidden, live))
        if isinstance(node, Hidden):
            found.append((True, True))
        return found


def _unchanged(place: Place, before: Place, document: Document, other: Document) -> bool:
    new, old = document.get(place, msgspec.UNSET), other.get(before, msgspec.UNSET)
    length = len(place)
    texts = {text for text in document.texts if text[:length] == place}
    return same(new, old) and texts == {text for text in other.texts if text[:length] == before}


def _step(node: Node | None, key: str | int) -> tuple[Node | None, bool, bool]:
    match node:
        case Table():
            entry = node.entries.get(str(key))
            return (None, False, True) if entry is None else (entry.node, entry.secret, entry.live)
        case Items():
            return node.item, False, True
        case Mapped():
            return node.value, False, True
        case Leaf():
            return (None, False, True) if node.inner is None else _step(node.inner, key)
        case Hidden():
            return None, True, True
        case Model():
            from holdfast.config.typed import secret_names  # most services have no models

            return node, key in secret_names(node.type), True
        case Either():
            steps = [_step(option, key) for option in node.options]
            found = next((inner for inner, _, _ in steps if inner is not None), None)
            return found, any(hidden for _, hidden, _ in steps), all(live for _, _, live in steps)
        case _:
            return None, False, True


def _plain(kind: Any) -> Any:
    return dict[str, Any] if kind is dict else kind
