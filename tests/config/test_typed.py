import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sections import NO_ENV, values
from config.trees import VALUES
from holdfast.config.document import Document, merged
from holdfast.config.layers import from_environment
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.schema import Schema
from holdfast.config.secret import BLOT, Secret
from holdfast.core.duration import Duration
from holdfast.core.settings import about


def read(schema: Schema, env: dict[str, str] | None = None, **given_values: Any) -> Any:
    found = merged(values(settings=given_values), from_environment(env or {}))
    return schema.read(found, env={"PW": "from-env"})["settings"]


def mistakes(schema: Schema, env: dict[str, str] | None = None, **given_values: Any) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(schema, env, **given_values)
    told = [str(error).removeprefix("holdfast.toml ") for error in caught.value.errors]
    assert not any("\n" in text for text in told)
    return told


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Db:
    host: str
    password: Secret
    port: Annotated[int, about("p", ge=1)] = 5432
    api_key: str = "none"


@dataclasses.dataclass
class App:
    db: Db
    color: Color = Color.RED
    since: dt.date | None = None
    root: Path = Path("/")
    id: uuid.UUID | None = None
    price: Decimal = Decimal(0)
    wait: Duration = Duration(3)  # noqa: RUF009  # it never changes
    tags: list[str] = dataclasses.field(default_factory=list)
    computed: int = dataclasses.field(default=7, init=False)

    def __post_init__(self) -> None:
        if "bad" in self.tags:
            raise ValueError("tags without bad")
        if "worse" in self.tags:
            raise KeyError("worse")


APP = Schema({"settings": App})


def test_a_dataclass_is_read_like_settings() -> None:
    found = read(
        APP,
        db={"host": "h", "password": {"env": "PW"}},
        color="blue",
        since="2020-01-02",
        root="/srv",
        id="12345678-1234-5678-1234-567812345678",
        price="1.50",
        wait="1m",
        tags=["a"],
    )
    assert isinstance(found, App)
    assert found.db == Db("h", Secret("from-env"))
    assert (found.color, found.since, found.root) == (Color.BLUE, dt.date(2020, 1, 2), Path("/srv"))
    assert (found.id, found.price) == (uuid.UUID("12345678-1234-5678-1234-567812345678"), Decimal("1.50"))
    assert (found.wait, found.tags, found.computed) == (60.0, ["a"], 7)


def test_a_dataclass_has_all_its_mistakes_told() -> None:
    assert mistakes(
        APP, db={"host": 5, "port": 0, "api_key": 9}, color="blu", since="20-1", root=5, wait=-1, tags=[1], computed=3
    ) == [
        "settings.db.host: got 5, expected text",
        "settings.db.port: got 0, expected a whole number, at least 1",
        "settings.db.api_key: expected text; the value is secret",
        'settings.db.password: expected text, { file = "PATH" } or { env = "NAME" }; it must be given',
        'settings.color: got \'blu\', expected "red" or "blue"; did you mean blue?',
        "settings.since: expected a valid RFC3339 encoded date",
        "settings.root: expected a path",
        "settings.wait: got -1, expected a duration such as 500ms or 1m30s",
        "settings.tags[0]: got 1, expected text",
        "settings.computed: expected the name of a setting; there are color, db, id, price, root, since, tags, wait",
    ]


def test_what_its_own_check_raises_is_a_mistake() -> None:
    db = {"host": "h", "password": "p"}
    assert mistakes(APP, db=db, tags=["bad"]) == ["settings: expected tags without bad"]
    assert mistakes(APP, db=db, tags=["worse"]) == ["settings: expected values that go together; KeyError: 'worse'"]
    assert mistakes(APP) == ["settings.db: expected a table; it must be given"]


def test_its_own_check_cannot_give_a_secret_away() -> None:
    @dataclasses.dataclass
    class Leaky:
        password: str
        dsn: Secret

        def __post_init__(self) -> None:
            raise ValueError(f"not {self.password} nor {self.dsn.reveal()!r}")

    told = mistakes(Schema({"settings": Leaky}), password="hunter2", dsn="cor'rect")
    assert told[0].startswith(f"settings: expected not {BLOT} nor ")
    assert "cor'rect" not in told[0]


class Tagged(msgspec.Struct, tag=True):
    size: int = 0


class Other(msgspec.Struct, tag=True):
    name: str = ""


class Own(msgspec.Struct, forbid_unknown_fields=True):
    shape: Tagged | Other = msgspec.field(default_factory=Tagged)
    when: dt.datetime | None = None
    pair: tuple[int, str] = (0, "")


OWN = Schema({"settings": Own})


def test_what_holdfast_does_not_know_msgspec_reads() -> None:
    found = read(OWN, shape={"type": "Other", "name": "x"}, when="2020-01-02T03:04:05Z", pair=[1, "a"])
    assert found.shape == Other("x")
    assert found.when == dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert found.pair == (1, "a")
    assert mistakes(OWN, shape={"type": "Other", "name": 5}, pair=[1, 2]) == [
        "settings.shape.name: expected str; it is int",
        "settings.pair[1]: expected str; it is int",
    ]


def test_bare_text_is_text_where_that_fits_and_else_what_toml_reads() -> None:
    assert read(OWN, {"HOLDFAST__SETTINGS__PAIR": '[3, "x"]'}).pair == (3, "x")
    shape = {"HOLDFAST__SETTINGS__SHAPE__TYPE": "Tagged", "HOLDFAST__SETTINGS__SHAPE__SIZE": "5"}
    assert read(OWN, shape).shape == Tagged(5)
    shape = {"HOLDFAST__SETTINGS__SHAPE__TYPE": "Other", "HOLDFAST__SETTINGS__SHAPE__NAME": "5"}
    assert read(OWN, shape).shape == Other("5")


class Account(pydantic.BaseModel):
    host: str
    password: pydantic.SecretStr
    pin: pydantic.SecretStr | None = None
    port: int = pydantic.Field(5, ge=1)


class Shop(pydantic.BaseModel):
    account: Account
    accounts: list[Account] = []
    by_name: dict[str, Account] = {}
    mode: Literal["a", "b"] | int = "a"
    alias: int = pydantic.Field(0, alias="aliasName")
    on: bool = False

    @pydantic.field_validator("on")
    @classmethod
    def _on(cls, value: bool, info: pydantic.ValidationInfo) -> bool:
        if value:
            raise ValueError(f"not on with {info.data['account'].password.get_secret_value()}")
        return value


SHOP = Schema({"settings": Shop})


def test_a_model_is_read() -> None:
    found = read(
        SHOP,
        account={"host": "h", "password": {"env": "PW"}, "port": 7},
        accounts=[{"host": "i", "password": "plain"}],
        aliasName=3,
        mode="b",
    )
    assert isinstance(found, Shop)
    assert found.account.password.get_secret_value() == "from-env"
    assert (found.account.port, found.accounts[0].host, found.alias, found.mode) == (7, "i", 3, "b")


def test_a_model_has_all_its_mistakes_told_at_their_places() -> None:
    told = mistakes(
        SHOP,
        account={"host": 1, "password": "hunter22", "prot": 3, "port": 0},
        accounts=[{"host": "a"}],
        by_name={"x y": {"host": "a", "password": "hunter22", "prt": 1}},
        mode="c",
        alias=5,
    )
    assert told == [
        "settings.account.prot: expected the name of a setting; did you mean port?",
        'settings.by_name."x y".prt: expected the name of a setting; did you mean port?',
        "settings.alias: expected the name of a setting; did you mean aliasName?",
        "settings.account.host: expected a valid string",
        "settings.account.port: expected greater than or equal to 1",
        "settings.accounts[0].password: expected a value; it must be given",
        "settings.mode: expected 'a' or 'b'",
        "settings.mode: expected a valid integer, unable to parse string as an integer",
    ]


def test_a_validator_of_a_model_cannot_give_a_secret_away() -> None:
    assert mistakes(SHOP, account={"host": "h", "password": "hunter22"}, on=True) == [
        f"settings.on: expected not on with {BLOT}"
    ]


def test_a_model_hides_its_secrets() -> None:
    found = SHOP.read(values(settings={"account": {"host": "h", "password": "hunter22", "pin": "98765"}}), env=NO_ENV)
    assert found.redacted() == {"settings": {"account": {"host": "h", "password": BLOT, "pin": BLOT}}}
    assert SHOP.is_secret(("settings", "account", "pin"))
    assert not SHOP.is_secret(("settings", "account", "host"))


def test_bare_text_for_a_model() -> None:
    env = {
        "HOLDFAST__SETTINGS__ACCOUNT__HOST": "99",
        "HOLDFAST__SETTINGS__ACCOUNT__PORT": "98",
        "HOLDFAST__SETTINGS__ACCOUNT__PASSWORD": "12345",
        "HOLDFAST__SETTINGS__ACCOUNTS": '[{host = "x", password = "y"}]',
    }
    found = read(SHOP, env)
    assert (found.account.host, found.account.port) == ("99", 98)
    assert found.account.password.get_secret_value() == "12345"
    assert found.accounts[0].host == "x"


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0


@pydantic.dataclasses.dataclass
class Point:
    x: int
    name: str = ""


def test_a_model_that_allows_other_names_has_them() -> None:
    assert read(Schema({"settings": Loose}), a=1, b=2).model_extra == {"b": 2}


def test_a_dataclass_of_pydantic_is_read_by_pydantic() -> None:
    schema = Schema({"settings": Point})
    assert read(schema, x=1) == Point(1)
    assert mistakes(schema, x="a", nam="b") == [
        "settings.nam: expected the name of a setting; did you mean name?",
        "settings.x: expected a valid integer, unable to parse string as an integer",
    ]


JUNK = st.dictionaries(
    st.sampled_from(["db", "color", "since", "account", "accounts", "mode", "shape", "pair", "x"]), VALUES, max_size=4
)


@given(JUNK)
def test_any_table_is_a_value_or_a_list_of_mistakes(junk: dict[str, Any]) -> None:
    for schema in (APP, OWN, SHOP, Schema({"settings": Point})):
        try:
            told = repr(schema.read(Document.of({"settings": junk}), env=NO_ENV).redacted())
        except ConfigErrors as error:
            told = str(error)
        assert told


def test_pydantic_is_not_imported_for_other_types() -> None:
    code = """
import sys, dataclasses
from holdfast.config.schema import Schema
from holdfast.config.document import Document
@dataclasses.dataclass
class A:
    x: int = 1
schema = Schema({"settings": A})
schema.read(Document.of({"settings": {"x": 2}}))
schema.json_schema()
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    port: int = 1


class Cat(pydantic.BaseModel):
    meow: int


class Dog(pydantic.BaseModel):
    bark: int


class Owner(pydantic.BaseModel):
    pet: Cat | Dog
    strict: Strict | None = None


def test_a_name_that_a_model_forbids_itself_is_told_once() -> None:
    assert mistakes(Schema({"settings": Strict}), prt=1) == [
        "settings.prt: expected the name of a setting; did you mean port?"
    ]


def test_of_several_models_pydantic_takes_the_one_that_fits() -> None:
    schema = Schema({"settings": Owner})
    assert read(schema, pet={"bark": 1}).pet == Dog(bark=1)
    assert read(schema, pet={"meow": 1}, strict={"port": 2}).strict == Strict(port=2)
