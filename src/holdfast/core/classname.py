"""Classes of exceptions by name: ``shop.errors:OutOfStock``, or a bare ``LookupError`` for one of Python's own."""

import builtins
import importlib
import re
import sys
from typing import Any, Final

from holdfast.core.errors import ConfigError
from holdfast.core.kinds import nearest

NAME_LIMIT: Final = 500
"""Characters of such a name."""

_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_NAME: Final = re.compile(rf"(?:(?P<module>{_DOTTED}):)?(?P<path>{_DOTTED})")
_EXPECTED: Final = "the name of an exception, such as shop.errors:OutOfStock"


def checked(name: str, source: str) -> str:
    """``name`` when it has the form of one. Raises ``ConfigError``, also for a bare name that is none of Python's."""
    match = _NAME.fullmatch(name) if len(name) <= NAME_LIMIT else None
    if match is None:
        raise ConfigError(f'"{name[:NAME_LIMIT]}"', None, _EXPECTED, source)
    if match["module"]:
        return name
    found = vars(builtins).get(name)
    if not _is_exception(found):
        module, _, last = name.rpartition(".")
        own = {kind for kind, value in vars(builtins).items() if _is_exception(value)}
        near = f"{module}:{last}" if module else nearest(name, own)
        hint = f"did you mean {near}?" if near else "write its module before it"
        raise ConfigError(f'"{name}"', None, _EXPECTED, source, hint)
    return name


def find_loaded(name: str) -> type[BaseException] | None:
    """The class of ``name`` if its module is loaded and has it already. Imports nothing."""
    module, path = _split(name)
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        # Not getattr: a module's own __getattr__ might import, or raise, and this is the way of every error.
        found = getattr(found, "__dict__", {}).get(part)
    return found if _is_exception(found) else None


def import_class(name: str, source: str) -> type[BaseException]:
    """The class of ``name``; imports its module. Raises ``ConfigError``."""
    module, path = _split(name)
    shown = f'"{name}"'
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        # The module's own code runs now, and may raise anything.
        hint = f"{type(error).__name__}: {error}"
        raise ConfigError(shown, None, f"a module {module} that can be imported", source, hint) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = nearest(part, (name for name in dir(found) if isinstance(vars(found).get(name), type)))
            hint = f"did you mean {near}?" if near else ""
            where = getattr(found, "__name__", module)
            raise ConfigError(shown, None, f"an exception class; {where} has no {part}", source, hint) from None
    if not _is_exception(found):
        raise ConfigError(shown, None, f"an exception class; {path} is a {type(found).__name__}", source)
    assert isinstance(found, type)
    return found


def _split(name: str) -> tuple[str, str]:
    module, colon, path = name.rpartition(":")
    return (module, path) if colon else ("builtins", name)


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
