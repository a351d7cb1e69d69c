"""What a rule of the error table says, and how rules are read from plain data."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from holdfast.core.classname import checked
from holdfast.core.codes import Code
from holdfast.core.errors import ConfigError
from holdfast.core.failure import MESSAGE_LIMIT, REASON, REASON_LIMIT, check
from holdfast.core.kinds import nearest

RULES_LIMIT: Final = 1000
"""Rules that one table may have."""

_ALL: Final = ("BaseException", "Exception", BaseException, Exception)
_CODES: Final = [code.value for code in Code if code is not Code.OK]
_EXPECTED: Final = "a code such as failed_precondition, a status from 400 to 599, or a table"
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+")
_SUFFIXES: Final = ("Error", "Exception")


class ErrorRule(msgspec.Struct, frozen=True):
    """What is told of an exception of some class.

    ``reason``, ``message`` and ``status`` are as in ``Failure``, and have its defaults. With ``tell`` the message is
    the exception's own text, if it has one: say so only of exceptions whose texts are written for clients.

    Raises ``ValueError`` as ``Failure`` does.
    """

    code: Code
    reason: str = ""
    message: str = ""
    status: int = 0
    tell: bool = False

    def __post_init__(self) -> None:
        check(self.code, self.reason, self.status)


def read_rules(plain: object, source: str) -> tuple[dict[Any, Any], list[ConfigError]]:
    """The rules in ``plain``, by class or by name, and a ``ConfigError`` for each that is none.

    A rule is an ``ErrorRule`` or a function.
    """
    rules: dict[Any, Any] = {}
    mistakes: list[ConfigError] = []
    if not isinstance(plain, Mapping):
        return rules, [ConfigError("errors", plain, "a table of exceptions", source)]
    if len(plain) > RULES_LIMIT:
        return rules, [ConfigError("errors", len(plain), f"at most {RULES_LIMIT} rules", source)]
    for name, value in plain.items():
        try:
            key = _key(name, source)
            rules[key] = _rule(key, value, source)
        except ConfigError as mistake:
            mistakes.append(mistake)
    return rules, mistakes


def rule_of(value: object, place: str, source: str = "") -> ErrorRule:
    """The rule that a code, its name, a status or a table means. Raises ``ConfigError``."""
    if isinstance(value, ErrorRule):
        return value
    if isinstance(value, Code | str):
        return ErrorRule(_code(value, place, source))
    if isinstance(value, int) and not isinstance(value, bool):
        status = _status(value, place, source)
        return ErrorRule(Code.of_http(status), status=status)
    if isinstance(value, Mapping):
        return _of_table(value, place, source)
    raise ConfigError(place, value, _EXPECTED, source)


def reason_of(name: str) -> str:
    """A reason from the name of a class: ``OutOfStockError`` is OUT_OF_STOCK. Empty when it makes none."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix) or name
    reason = "_".join(part for part in _WORDS.split(name) if part).upper()[:REASON_LIMIT].rstrip("_")
    return reason if REASON.fullmatch(reason) else ""


def _key(name: object, source: str) -> object:
    if isinstance(name, str):
        return checked(name, source)
    if isinstance(name, type) and issubclass(name, BaseException):
        return name
    raise ConfigError("errors", name, "an exception class or its name", source)


def _rule(name: Any, value: Any, source: str) -> Any:
    place = f'"{name}"' if isinstance(name, str) else name.__qualname__
    if callable(value):
        return value
    rule = rule_of(value, place, source)
    if rule.tell and name in _ALL:
        # Nobody knows what the texts of all exceptions hold: passwords in addresses, rows, paths.
        raise ConfigError(f"{place}.tell", True, "false, for its texts may hold secrets", source)
    if not rule.reason:
        module, last = _names(name)
        if module != "builtins":
            rule = msgspec.structs.replace(rule, reason=reason_of(last))
    return rule


def _names(name: Any) -> tuple[str, str]:
    if isinstance(name, str):
        module, _, path = name.rpartition(":")
        return module or "builtins", path.rpartition(".")[2]
    return name.__module__, name.__name__


def _of_table(table: Mapping[Any, Any], place: str, source: str) -> ErrorRule:
    fields = ErrorRule.__struct_fields__
    for name in table:
        if name not in fields:
            near = nearest(str(name), fields)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(fields)}"
            raise ConfigError(f"{place}.{name}", None, "the name of a setting", source, hint)
    read: dict[str, Any] = {}
    for name, value in table.items():
        there = f"{place}.{name}"
        if name == "code":
            read[name] = _code(value, there, source)
        elif name == "status":
            read[name] = _status(value, there, source)
        elif name == "reason":
            read[name] = _reason(value, there, source)
        elif name == "message":
            read[name] = _message(value, there, source)
        elif isinstance(value, bool):
            read[name] = value
        else:
            raise ConfigError(there, value, "true or false", source)
    if "code" not in read:
        if "status" not in read:
            raise ConfigError(place, None, "a table with a code or a status", source)
        read["code"] = Code.of_http(read["status"])
    return ErrorRule(**read)


def _code(value: object, place: str, source: str) -> Code:
    if isinstance(value, str):
        found = next((code for code in Code if code.value == value.lower()), None)
    else:
        found = value if isinstance(value, Code) else None
    if found is None or found is Code.OK:
        if isinstance(value, int) and not isinstance(value, bool):
            hint = f"write status = {value}"
        else:
            near = nearest(value.lower(), _CODES) if isinstance(value, str) else ""
            hint = f"did you mean {near}?" if near else f"there are {', '.join(_CODES)}"
        raise ConfigError(place, value, "the code of an error", source, hint)
    return found


def _status(value: object, place: str, source: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
        return value
    raise ConfigError(place, value, "an error status, 400 to 599", source)


def _reason(value: object, place: str, source: str) -> str:
    if isinstance(value, str) and len(value) <= REASON_LIMIT and REASON.fullmatch(value):
        return value
    near = reason_of(re.sub(r"\W+", "_", value)) if isinstance(value, str) else ""
    hint = f"did you mean {near}?" if near else ""
    raise ConfigError(place, value, f"at most {REASON_LIMIT} of A-Z, 0-9 and _, such as OUT_OF_STOCK", source, hint)


def _message(value: object, place: str, source: str) -> str:
    if isinstance(value, str) and 0 < len(value) <= MESSAGE_LIMIT:
        return value
    raise ConfigError(place, value, f"a text of 1 to {MESSAGE_LIMIT} characters", source)
