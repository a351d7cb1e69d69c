"""The forms of ``[errors]`` and ``[pipelines]`` as JSON Schema, for editors: as their readers read them.

Rules between several settings, and which classes there are, it cannot know; so it accepts more than the readers do.
"""

from typing import Any, Final

from holdfast.config.schema_json import Emitter
from holdfast.core.codes import Code
from holdfast.core.errorrule import RULES_LIMIT
from holdfast.core.errors import ConfigError
from holdfast.core.failure import MESSAGE_LIMIT, REASON, REASON_LIMIT
from holdfast.core.pipeline import POLICIES_LIMIT
from holdfast.core.policy import Policy
from holdfast.core.settings import ERRORS_LIMIT, PolicySettings, read_table
from holdfast.resilience.catalog import CATALOG, CLASSIFY

_STATUS: Final = {"type": "integer", "minimum": 400, "maximum": 599, "description": "An HTTP status."}
_ERRORS: Final = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": ERRORS_LIMIT}],
    "description": "Exceptions by name.",
}
_SILENT: Final = ("Exception", "BaseException")
"""Whose texts may hold anything, and are not told."""


def describe_errors(emitter: Emitter) -> dict[str, Any]:
    """A table of rules by the names of exceptions."""
    rule = emitter.define("ErrorRule", _rule())
    silent = {
        "allOf": [rule, {"not": {"type": "object", "properties": {"tell": {"const": True}}, "required": ["tell"]}}]
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(_SILENT, silent),
        "additionalProperties": rule,
        "maxProperties": RULES_LIMIT,
    }


def describe_pipelines(emitter: Emitter, limit: int) -> dict[str, Any]:
    """A table of at most ``limit`` pipelines, each a list of policies."""
    entry = emitter.define("Policy", {"anyOf": _entries(emitter)})
    classify = {"type": "object", "required": [CLASSIFY]}
    pipeline = {
        "type": "array",
        "items": entry,
        "maxItems": POLICIES_LIMIT,
        "contains": classify,
        "minContains": 0,
        "maxContains": 1,
        "description": "Policies, outermost first.",
    }
    return {"type": "object", "additionalProperties": pipeline, "maxProperties": limit}


def _rule() -> dict[str, Any]:
    names = [code.value for code in Code if code is not Code.OK]
    # In any case of letters, of which the lower one is offered.
    any_case = "|".join("".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in name) for name in names)
    code = {"anyOf": [{"enum": names}, {"type": "string", "pattern": f"^({any_case})$"}], "description": "A code."}
    table = {
        "type": "object",
        "properties": {
            "code": code,
            "status": _STATUS,
            "reason": {
                "type": "string",
                "pattern": f"^{REASON.pattern}$",
                "maxLength": REASON_LIMIT,
                "description": "What machines are told; by default made of the class's name.",
            },
            "message": {
                "type": "string",
                "minLength": 1,
                "maxLength": MESSAGE_LIMIT,
                "description": "What people are told.",
            },
            "tell": {
                "type": "boolean",
                "default": False,
                "description": "The message is the exception's own text.",
            },
        },
        "additionalProperties": False,
        "anyOf": [{"required": ["code"]}, {"required": ["status"]}],
    }
    return {"anyOf": [code, _STATUS, table], "description": "What clients are told of an exception."}


def _entries(emitter: Emitter) -> list[dict[str, Any]]:
    """What one item of a pipeline may be: the name of a policy, or a table with that name alone."""
    bare = [kind for kind, policy in CATALOG.kinds.items() if _has_defaults(policy.settings_type())]
    found: list[dict[str, Any]] = [{"enum": bare, "description": "A policy with its defaults."}]
    for kind, policy in CATALOG.kinds.items():
        found.append(_only(kind, _value(emitter, policy, kind in bare)))
    names = {"type": "object", "properties": {"ignore": _ERRORS, "record": _ERRORS}, "additionalProperties": False}
    return [*found, _only(CLASSIFY, {**names, "description": "Which exceptions count as failures."})]


def _only(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {kind: value}, "required": [kind], "additionalProperties": False}


def _value(emitter: Emitter, policy: type[Policy[Any]], has_defaults: bool) -> dict[str, Any]:
    settings = policy.settings_type()
    options: list[Any] = [emitter.settings(settings)]
    if has_defaults:
        options.append({"const": True})
    by_position = emitter.setting(settings, settings.positional())
    if by_position is not None:
        # A table is one of settings, and true means the defaults, whatever the setting itself might be.
        other = {"not": {"anyOf": [{"type": "object"}, {"const": True}]}}
        options.append({"allOf": [other, by_position]})
    return {"anyOf": options}


def _has_defaults(settings: type[PolicySettings]) -> bool:
    try:
        read_table(settings, {})
    except ConfigError:
        return False
    return True
