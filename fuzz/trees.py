"""Changes of a TOML file that stay TOML: of the tree that it means, written anew."""

import json
import math
import random
import tomllib
from collections.abc import Sequence
from typing import Any, Final

PLACES_LIMIT: Final = 2000
"""Places of a tree that may be changed."""


def change_tree(text: bytes, rng: random.Random, names: Sequence[str], values: Sequence[Any]) -> bytes | None:
    """Another file with one value put in, replaced, moved, doubled or taken away. None when ``text`` is no TOML."""
    try:
        tree = tomllib.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    found: list[tuple[Any, Any]] = []
    _gather(tree, found)
    holder, key = rng.choice(found) if found else (tree, rng.choice(names))
    match rng.randrange(7):
        case 0 if found:
            del holder[key]
        case 1:
            _put(holder, key, rng.choice(names), rng.choice(values), rng)
        case 2 if found:
            _put(holder, key, rng.choice(names), holder[key], rng)
        case 3 if found:
            other, place = rng.choice(found)
            _replace(holder, key, _copied(other[place]))
        case 4 if found and isinstance(holder[key], list):
            holder[key].append(rng.choice(values))
        case 5 if found and isinstance(holder[key], dict):
            holder[key][rng.choice(names)] = rng.choice(values)
        case _:
            _replace(holder, key, rng.choice(values))
    return written(tree).encode(errors="replace")


def written(tree: dict[str, Any]) -> str:
    """``tree`` as TOML, its sections in tables of their own."""
    lines = [f"{_name(name)} = {_value(value)}" for name, value in tree.items() if not isinstance(value, dict)]
    for name, value in tree.items():
        if isinstance(value, dict):
            lines += [f"[{_name(name)}]", *(f"{_name(key)} = {_value(item)}" for key, item in value.items())]
    return "\n".join([*lines, ""])


def _gather(value: Any, found: list[tuple[Any, Any]]) -> None:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if len(found) < PLACES_LIMIT:
            found.append((value, key))
            _gather(value[key], found)


def _put(holder: Any, key: Any, name: str, value: Any, rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), _copied(value))
    else:
        holder[name] = _copied(value)


def _replace(holder: Any, key: Any, value: Any) -> None:
    holder[key] = value


def _copied(value: Any) -> Any:
    """A value of its own, so that nothing is inside of itself."""
    return json.loads(json.dumps(value, default=str))


def _name(name: str) -> str:
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_name(key)} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _name(value)
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    return str(value)
