"""Documents whose secrets are elsewhere can be read as far as that goes."""

from dataclasses import dataclass
from typing import Literal

import pytest

from holdfast.cli.checking import check_all, read_unresolved
from holdfast.config.document import Document
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.schema import Schema
from holdfast.config.secret import Secret


@dataclass
class Database:
    host: str
    password: Secret
    pin_secret: int = 0


SCHEMA = Schema({"database": Database, "others": list[Database]})
ABSENT = {"env": "NOT_SET"}


def test_a_secret_that_is_there_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "horse")
    snapshot = read_unresolved(SCHEMA, Document.of({"database": {"host": "db", "password": {"env": "SET"}}}))
    assert snapshot is not None
    assert snapshot.database.password.reveal() == "horse"


def test_something_stands_in_for_one_that_is_not() -> None:
    document = Document.of({"database": {"host": "db", "password": ABSENT, "pin_secret": ABSENT}})
    with pytest.raises(ConfigErrors):
        check_all(SCHEMA, document)
    check_all(SCHEMA, document, secrets=False)
    snapshot = read_unresolved(SCHEMA, document)
    assert snapshot is not None
    assert snapshot.database.host == "db"


@dataclass
class Picky:
    api_key: str
    level: int = 1

    def __post_init__(self) -> None:
        if len(self.api_key) < 32:
            raise ValueError("a key of 32 characters and more")


def test_a_rule_that_the_stand_in_breaks_is_no_mistake_and_a_wrong_setting_beside_it_is() -> None:
    schema = Schema({"picky": Picky})
    assert read_unresolved(schema, Document.of({"picky": {"api_key": ABSENT}})) is None
    with pytest.raises(ConfigErrors) as raised:
        read_unresolved(schema, Document.of({"picky": {"api_key": ABSENT, "level": "high"}}))
    assert [error.path for error in raised.value.errors] == ["picky.level"]


def test_a_type_that_takes_other_texts_only_is_no_mistake() -> None:
    @dataclass
    class Typed:
        api_key: Literal["a", "b"]

    assert read_unresolved(Schema({"typed": Typed}), Document.of({"typed": {"api_key": ABSENT}})) is None


def test_mistakes_elsewhere_are_still_told_with_their_places() -> None:
    good = {"host": "db", "password": ABSENT}
    document = Document.of({"database": good, "others": [good, {"hots": "db", "password": ABSENT}]}, "file", "a.toml")
    with pytest.raises(ConfigErrors) as raised:
        check_all(SCHEMA, document, secrets=False)
    assert [error.path for error in raised.value.errors] == ["others[1].hots", "others[1].host"]
