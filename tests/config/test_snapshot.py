import hashlib
import pickle
from typing import Any

import pytest
from hypothesis import given

from config.sections import NO_ENV, SCHEMA, RouteSettings, values
from config.trees import TABLES
from holdfast.config.document import Document
from holdfast.config.schema import Schema

FREE = Schema(dict.fromkeys("abc", dict))


def test_sections_are_attributes_and_items() -> None:
    snapshot = SCHEMA.read(values(routes=[{"match": "x"}]), version=3, env=NO_ENV)
    assert snapshot.routes == snapshot["routes"] == [RouteSettings(match="x")]
    assert list(snapshot) == ["admission", "routes", "errors", "settings"]
    assert "routes" in snapshot
    assert "nothing" not in snapshot
    with pytest.raises(AttributeError, match="no section nothing; there are admission, routes"):
        _ = snapshot.nothing
    with pytest.raises(KeyError):
        _ = snapshot["nothing"]


def test_a_snapshot_does_not_change() -> None:
    snapshot = SCHEMA.read(Document(), env=NO_ENV)
    with pytest.raises(AttributeError, match="does not change"):
        snapshot.version = 5
    with pytest.raises(AttributeError, match="does not change"):
        del snapshot.version
    with pytest.raises(TypeError):
        snapshot.sections["routes"] = []  # type: ignore[index]
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(snapshot)


def test_another_version_of_it_is_the_same_otherwise() -> None:
    snapshot = SCHEMA.read(values(routes=[{"match": "x"}]), version=3, env=NO_ENV)
    other = snapshot.with_version(9)
    assert (other.version, snapshot.version) == (9, 3)
    assert other.digest == snapshot.digest
    assert other.routes is snapshot.routes
    assert other.origin(("routes",)) == snapshot.origin(("routes",))


@given(TABLES, TABLES)
def test_a_digest_is_of_the_values(one: dict[str, Any], other: dict[str, Any]) -> None:
    def digest(table: dict[str, Any]) -> str:
        return FREE.read(Document.of({"a": table}), env=NO_ENV).digest

    assert digest(one) == digest(dict(reversed(one.items())))
    assert (digest(one) == digest(other)) == (repr(sorted(one.items())) == repr(sorted(other.items())) or one == other)


def test_a_digest_is_always_the_same() -> None:
    digest = FREE.read(Document.of({"a": {"x": [1, "é", None]}}), env=NO_ENV).digest
    assert digest == hashlib.sha256('{"a":{"x":[1,"é",null]}}'.encode()).hexdigest()


@given(TABLES)
def test_without_secrets_nothing_is_left_out(table: dict[str, Any]) -> None:
    snapshot = FREE.read(Document.of({"a": table}), env=NO_ENV)
    assert snapshot.redacted() == {"a": table}
