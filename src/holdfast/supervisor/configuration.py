"""The one document of a service: its sections, and their types."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from msgspec import Meta

from holdfast.config.mistakes import all_of, place_text
from holdfast.config.schema import Schema
from holdfast.core.errorrule import read_rules
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader
from holdfast.server.admission.routes import ROUTES_LIMIT, RouteTable
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings, check_names
from holdfast.server.admission.steps import ADVICE
from holdfast.supervisor.settings import Settings

PIPELINES_LIMIT: Final = 1000
"""Pipelines of one service."""


def make_schema(settings_type: Any = dict) -> Schema:
    """The sections ``run``, ``admission``, ``routes``, ``errors``, ``pipelines`` and ``settings``.

    ``settings_type`` is the app's own; ``dict`` takes any table, for those who do not have the app. ``errors`` and
    ``pipelines`` are read as far as they can be without it: a pipeline stays the plain list that it was.
    ``TypeError`` when no document can fill ``settings_type``.
    """
    return Schema(
        {
            "run": Settings,
            "admission": AdmissionSettings,
            "routes": Annotated[list[RouteSettings], Meta(extra={"rule": check_routes, "advice": ADVICE})],
            "errors": Annotated[Mapping[str, Any], Meta(extra={"reader": ERRORS, "describe": _describe_errors})],
            "pipelines": Annotated[
                Mapping[str, Any], Meta(extra={"reader": PIPELINES, "describe": _describe_pipelines})
            ],
            "settings": settings_type,
        }
    )


def check_routes(routes: Sequence[RouteSettings]) -> None:
    """Raises ``ConfigError`` for routes that do not go together: too many, of one name, or not to be told apart."""
    if len(routes) > ROUTES_LIMIT:
        raise ConfigError("", len(routes), f"at most {ROUTES_LIMIT} routes")
    try:
        RouteTable((route.pattern(), None) for route in routes)
        check_names(routes)
    except ConfigError as error:
        raise ConfigError(
            error.path.removeprefix("routes"), error.value, error.expected, error.source, error.hint
        ) from None


def _read_errors(value: Any) -> dict[Any, Any]:
    rules, mistakes = read_rules(value, "")
    if mistakes:
        raise all_of(mistakes)
    return rules


def _read_pipelines(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    if len(value) > PIPELINES_LIMIT:
        raise ConfigError("", len(value), f"at most {PIPELINES_LIMIT} pipelines")
    if not value:
        return {}
    from holdfast.resilience import catalog  # all policies: a worker without pipelines boots sooner

    mistakes = []
    for name, policies in value.items():
        try:
            catalog.read(policies, where=place_text((name,)))
        except ConfigError as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise all_of(mistakes)
    return dict(value)


def _describe_errors(emitter: Any) -> dict[str, Any]:
    from holdfast.supervisor import forms  # for editors: no service needs them while it runs

    return forms.describe_errors(emitter)


def _describe_pipelines(emitter: Any) -> dict[str, Any]:
    from holdfast.supervisor import forms

    return forms.describe_pipelines(emitter, PIPELINES_LIMIT)


ERRORS: Final = Reader(_read_errors, "a table of exceptions and what they mean")
PIPELINES: Final = Reader(_read_pipelines, "a table of pipelines, each a list of policies")
