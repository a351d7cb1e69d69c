"""Reads the values of a document into types, and notes everything that is wrong on the way."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.config.document import Document, Mark
from holdfast.config.mistakes import ERRORS_LIMIT, ConfigErrors, Place, Shown, each, place_text, steps_in
from holdfast.config.nodes import (
    Either,
    Foreign,
    Hidden,
    Items,
    Leaf,
    Mapped,
    Model,
    Node,
    Table,
    form_of,
    holds_secret,
    is_text,
    listed,
    phrase_of,
)
from holdfast.config.secret import Secret, base_of, blotted, is_reference, named_secret, resolve
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Refused, expected, from_plain, from_text, nearest

NAMES_SHOWN: Final = 12
"""How many valid names a message lists when none is near."""
WORDS_LIMIT: Final = 500
"""Characters that a message takes over from a check of the user's."""
QUIET: Final = "the value is secret"

Opaque: TypeAlias = Foreign | Model


class Failed:
    """What stands for a value that could not be read."""

    __slots__ = ()


FAILED: Final = Failed()


class Reading:
    """One pass over a document. ``errors`` are the mistakes so far, ``secrets`` the texts of the secrets by place.

    ``references``: whether a secret was read from a file or a variable, so that the same document may mean something
    else the next time. May block, for such a file.
    """

    def __init__(self, document: Document, env: Mapping[str, str]) -> None:
        self.document = document
        self.env = env
        self.errors: list[ConfigError] = []
        self.total = 0
        self.secrets: dict[Place, str] = {}
        self.references = False

    def finish(self) -> None:
        """Raise ``ConfigErrors`` when anything was wrong, with no secret in any of its words."""
        if self.total:
            raise ConfigErrors([blotted_error(error, self.secrets.values()) for error in self.errors], self.total)

    def read(self, node: Node, value: Any, mark: Mark, place: Place) -> Any:
        """What ``value`` means, or ``FAILED`` when that is a mistake, which then is noted."""
        match node:
            case Leaf():
                return self._leaf(node, value, mark, place)
            case Items():
                return self._items(node, value, mark, place)
            case Mapped():
                return self._mapped(node, value, mark, place)
            case Table():
                return self._table(node, value, mark, place)
            case Either():
                return self._either(node, value, mark, place)
            case Hidden():
                return self._hidden(node, value, mark, place)
            case Foreign() | Model():
                return self._opaque(node, value, mark, place)

    def wrong(self, place: Place, value: Any, wanted: str, hint: str = "") -> Failed:
        """Note a mistake. ``value`` is shown unless it is None; of tables and lists, only what they are."""
        if place and named_secret(place[-1]):
            value, hint = None, hint if value is None else QUIET
        return self._note(place_text(place), value, wanted, place, hint)

    def unknown(self, place: Place, names: Mapping[str, Any]) -> Failed:
        """Note a name that is none. What it names is not shown: it may be a secret under a wrong name."""
        near = nearest(str(place[-1]), names)
        shown = ", ".join(sorted(names)[:NAMES_SHOWN])
        hint = f"did you mean {near}?" if near else f"there are {shown}{', ...' if len(names) > NAMES_SHOWN else ''}"
        return self._note(place_text(place), None, "the name of a setting", place, hint if names else "")

    def _note(self, where: str, value: Any, wanted: str, place: Place, hint: str) -> Failed:
        self.total += 1
        if len(self.errors) < ERRORS_LIMIT:
            if isinstance(value, Mapping):
                value = Shown("a table")
            elif isinstance(value, list | tuple | set | frozenset):
                value = Shown(f"a list of {len(value)}")
            source = str(self.document.origin(place))
            self.errors.append(ConfigError(where, value, wanted, source=source, hint=hint))
        return FAILED

    def _unfit(self, node: Node, value: Any, place: Place, hint: str = "", wanted: str = "") -> Failed:
        return self.wrong(place, None if holds_secret(node) else value, wanted or phrase_of(node), hint)

    def _leaf(self, node: Leaf, value: Any, mark: Mark, place: Place) -> Any:
        given = value
        if node.inner is not None and isinstance(value, Mapping):
            # By the settings that its reader would make of it: so that all mistakes are found, with their places.
            given = self._table(node.inner, value, mark, place)
            if given is FAILED:
                return FAILED
        try:
            return from_text(node.kinds, given) if mark.origin.text else from_plain(node.kinds, given)
        except Refused as refused:
            return self._unfit(node, value, place, refused.hint, refused.expected)
        except ConfigError as error:  # a reader of settings in settings
            return self._inside(error, place)
        except Exception as error:  # a reader may run code of the user's, which may raise anything
            return self.wrong(place, None, expected(node.kinds), _words(error))

    def _items(self, node: Items, value: Any, mark: Mark, place: Place) -> Any:
        texts, hint = False, ""
        if mark.origin.text:
            text = value
            value, texts = _list_in(text)
        elif isinstance(value, str) and is_text(node.item):
            value, hint = listed(value)
        if not isinstance(value, list):
            return self._unfit(node, value, place, hint)
        before = self.total
        found = []
        for number, item in enumerate(value):
            inner = mark if texts else Mark(_no_text(mark)) if mark.origin.text else mark.of(number)
            found.append(self.item(node, item, inner, (*place, number)))
        if mark.origin.text:
            self._cover(place, text)
        return FAILED if self.total > before else self.whole(node, found, place)

    def item(self, node: Items, value: Any, mark: Mark, place: Place) -> Any:
        """As ``read``, for one item of a list."""
        if node.advice and isinstance(value, Mapping):
            foreign = [name for name in value if name in node.advice]
            if foreign:
                for name in foreign:
                    wanted = "another setting"
                    self._note(place_text((*place, name)), None, wanted, (*place, name), node.advice[name])
                self.read(node.item, {n: i for n, i in value.items() if n not in node.advice}, mark, place)
                return FAILED
        return self.read(node.item, value, mark, place)

    def whole(self, node: Items, found: list[Any], place: Place) -> Any:
        """The list of ``found``, all of which is sound by itself, or ``FAILED``."""
        for rule, limit in node.limits:
            if len(found) < limit if rule == "min_length" else len(found) > limit:
                words = "least" if rule == "min_length" else "most"
                return self.wrong(place, found, f"{phrase_of(node)}, at {words} {limit} of them")
        try:
            if node.rule is not None:
                node.rule(found)
            return node.make(found)
        except ConfigError as error:
            return self._inside(error, place)
        except TypeError:  # a set of what cannot be in one
            return self._unfit(node, found, place)

    def _mapped(self, node: Mapped, value: Any, mark: Mark, place: Place) -> Any:
        if not isinstance(value, Mapping):
            return self._unfit(node, value, place)
        before = self.total
        found = {}
        for name, item in value.items():
            if named_secret(name) and isinstance(item, str):
                self.secrets[(*place, name)] = item
            found[name] = self.read(node.value, item, mark.of(name), (*place, name))
        return FAILED if self.total > before else found

    def _table(self, node: Table, value: Any, mark: Mark, place: Place) -> Any:
        if not isinstance(value, Mapping):
            return self._unfit(node, value, place)
        before = self.total
        found: dict[str, Any] = {}
        for key, item in value.items():
            entry = node.entries.get(key)
            if entry is None:
                self.unknown((*place, key), node.entries)
            else:
                found[entry.name] = self.read(entry.node, item, mark.of(key), (*place, key))
        for entry in node.entries.values():
            if entry.default is msgspec.UNSET and entry.key not in value:
                self._note(
                    place_text((*place, entry.key)),
                    None,
                    phrase_of(entry.node),
                    (*place, entry.key),
                    "it must be given",
                )
        if self.total > before:
            return FAILED
        try:
            return node.type(**found)
        except ConfigError as error:
            return self._inside(error, place)
        except (ValueError, TypeError) as error:
            # A rule between several settings, checked by the class itself: its words say what is expected.
            return self.wrong(place, None, _words(error) or "values that go together")
        except Exception as error:  # a __post_init__ of the user's may raise anything, and all of it is a refusal
            return self.wrong(place, None, "values that go together", f"{type(error).__name__}: {_words(error)}")

    def _either(self, node: Either, value: Any, mark: Mark, place: Place) -> Any:
        options = {form_of(option): option for option in node.options}
        plain = options.get("value")
        absent = mark.origin.text and not value
        if "secret" in options and not absent and (isinstance(value, str) or is_reference(value)):
            return self.read(options["secret"], value, mark, place)
        if mark.origin.text:
            if plain is not None and self._fits(plain, value, mark, place):
                return self.read(plain, value, mark, place)
            if "list" in options:
                return self.read(options["list"], value, mark, place)
            return self._unfit(node, value, place)
        form = "table" if isinstance(value, Mapping) else "list" if isinstance(value, list) else "value"
        chosen = options.get(form) or plain
        if chosen is None or (isinstance(chosen, Leaf) and not self._fits(chosen, value, mark, place)):
            return self._unfit(node, value, place)  # all that fits is named, not only what has this form
        return self.read(chosen, value, mark, place)

    def _fits(self, node: Node, value: Any, mark: Mark, place: Place) -> bool:
        return Reading(self.document, self.env).read(node, value, mark, place) is not FAILED

    def _hidden(self, node: Hidden, value: Any, mark: Mark, place: Place) -> Any:
        if node.inner is not None and not isinstance(value, str) and not is_reference(value):
            # A number, or None. Of lists and tables nothing is secret by itself but all of it is by its name.
            self._keep(value, place)
            return self._quietly(node.inner, value, mark, place)
        try:
            text = resolve(value, self.env, base_of(mark.origin))
        except Refused as refused:
            return self._note(place_text(place), None, refused.expected, place, refused.hint or QUIET)
        self.secrets[place] = text
        if isinstance(value, Mapping):
            self.references = True
            mark = Mark(msgspec.structs.replace(mark.origin, text=True))
        return Secret(text) if node.inner is None else self._quietly(node.inner, text, mark, place)

    def _cover(self, place: Place, text: str) -> None:
        """Keep bare ``text`` secret as a whole when anything in it is, which has no place of its own."""
        if any(len(other) > len(place) and other[: len(place)] == place for other in self.secrets):
            self.secrets[place] = text

    def _keep(self, value: Any, place: Place) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                self._keep(item, (*place, name))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self._keep(item, (*place, number))
        elif value is not None and not isinstance(value, bool):
            self.secrets[place] = str(value)

    def _quietly(self, node: Node, value: Any, mark: Mark, place: Place) -> Any:
        result = Reading(self.document, self.env).read(node, value, mark, place)
        if result is not FAILED:
            return result
        # The words of a reader or of a check may quote the value: only what the type says is told.
        return self._note(place_text(place), None, phrase_of(node), place, QUIET)

    def _opaque(self, node: Opaque, value: Any, mark: Mark, place: Place) -> Any:
        if node.type is dict and isinstance(value, dict) and not value:
            return {}
        from holdfast.config.typed import read_foreign, read_model, secret_names  # most services have no settings

        before = self.total
        names = secret_names(node.type) if isinstance(node, Model) else frozenset()
        value = self._noted(value, mark, place, names, False)
        if self.total > before:
            return FAILED
        read = read_model if isinstance(node, Model) else read_foreign
        texts = _texts(mark, value, ())
        result, complaints = read(node.type, value)
        for _ in range(len(texts)):
            # Bare text stays text where that fits; where it does not, it is what TOML reads in it.
            again = {complaint.place for complaint in complaints} & texts
            if not again:
                break
            texts -= again
            for inner in again:
                text, where = _at(value, inner), (*place, *inner)
                value = _put(value, inner, self._noted(_guess(text), mark, where, names, False))
                self._cover(where, text)
            if self.total > before:
                return FAILED
            result, complaints = read(node.type, value)
        for complaint in complaints:
            where = (*place, *complaint.place)
            if complaint.names is not None:
                self.unknown(where, dict.fromkeys(complaint.names))
            else:
                shown = None if where in self.secrets or holds_secret(node) else complaint.value
                self.wrong(where, shown, complaint.expected[:WORDS_LIMIT], complaint.hint)
        return FAILED if complaints else result

    def _noted(self, value: Any, mark: Mark, place: Place, names: frozenset[str], hidden: bool) -> Any:
        """``value`` with the secrets that it refers to. All that are secret by type or name are noted."""
        hidden = hidden or bool(place and (named_secret(place[-1]) or place[-1] in names))
        if hidden and is_reference(value):
            try:
                value = resolve(value, self.env, base_of(mark.origin))
            except Refused as refused:
                return self._note(place_text(place), None, refused.expected, place, refused.hint)
            self.references = True
            self.secrets[place] = value
        elif isinstance(value, Mapping):
            return {n: self._noted(item, mark.of(n), (*place, n), names, hidden) for n, item in value.items()}
        elif isinstance(value, list):
            return [self._noted(item, mark.of(i), (*place, i), names, hidden) for i, item in enumerate(value)]
        elif hidden and value is not None and not isinstance(value, bool):
            self.secrets[place] = str(value)
        return value

    def _inside(self, error: ConfigError, place: Place) -> Failed:
        """Mistakes that settings, or a reader of them, found themselves: their owner's name gives way to the place."""
        for one in each(error):
            steps = steps_in(one.path)
            where = (*place, *steps)
            names = [step for step in steps if isinstance(step, str)]
            quiet = any(where[:length] in self.secrets for length in range(len(place), len(where) + 1))
            quiet = quiet or any(map(named_secret, names))
            value, hint = (None, QUIET) if quiet else (one.value, one.hint)
            self._note(place_text(where), value, one.expected, where, hint)
        return FAILED


def blotted_error(error: ConfigError, secrets: Any) -> ConfigError:
    """``error`` with none of ``secrets`` in its words."""
    value = blotted(error.value, secrets) if type(error.value) is str else error.value
    wanted, hint = blotted(error.expected, secrets), blotted(error.hint, secrets)
    return ConfigError(error.path, value, wanted, source=error.source, hint=hint)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:WORDS_LIMIT]


def _no_text(mark: Mark) -> Any:
    return msgspec.structs.replace(mark.origin, text=False)


def _list_in(text: str) -> tuple[Any, bool]:
    """The list in bare ``text``, and whether its items are bare text too."""
    if text.lstrip().startswith("["):
        try:
            return _value_in(text), False
        except ValueError:
            pass  # [::1]:80,[::1]:81 is a list as well
    return [part.strip() for part in text.split(",") if part.strip()], True


def _texts(mark: Mark, value: Any, place: Place) -> set[Place]:
    found = {place} if mark.origin.text and isinstance(value, str) else set()
    for key, inner in mark.inside.items():
        if isinstance(value, Mapping) and key in value:
            found |= _texts(inner, value[key], (*place, key))
    return found


def _at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def _put(value: Any, place: Place, new: Any) -> Any:
    return {**value, place[0]: _put(value[place[0]], place[1:], new)} if place else new


def _value_in(text: str) -> Any:
    from holdfast.config.layers import table_in  # with the parser of TOML: a worker is sent what has been parsed

    return table_in(text)


def _guess(text: str) -> Any:
    try:
        return _value_in(text)
    except ValueError:
        return text
