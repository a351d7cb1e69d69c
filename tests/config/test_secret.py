import copy
import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sections import NO_ENV, SCHEMA, AppSettings, document, values
from holdfast.config.diff import changes
from holdfast.config.document import Document, merged
from holdfast.config.layers import from_directory, from_environment, from_flags
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.schema import Schema
from holdfast.config.secret import BLOT, SECRET_LIMIT, Secret, blotted, files_of, named_secret
from holdfast.core.errors import ConfigError
from holdfast.core.settings import Settings, about

WORD = "hunter2-correct-horse"


def database(value: Any, env: dict[str, str] | None = None) -> str:
    snapshot = SCHEMA.read(values(settings={"database": value}), env=env or {})
    secret: Secret = snapshot.settings.database
    return secret.reveal()


def refusal(value: Any, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigErrors) as caught:
        SCHEMA.read(values(settings={"database": value}), env=env or {})
    text = str(caught.value)
    assert "\n" not in text
    assert WORD not in text
    return text


def test_a_secret_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(WORD)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031
    shown.append(repr(AppSettings(database=secret, pin=WORD)))
    logging.getLogger(__name__).warning("it is %s", secret)
    shown.append(caplog.text)
    shown.append(json.dumps({"a": secret}, default=str))
    assert not [text for text in shown if WORD in text]
    assert secret.reveal() == WORD


def test_a_secret_goes_into_no_codec_by_itself() -> None:
    for encode in (json.dumps, msgspec.json.encode, msgspec.msgpack.encode, pickle.dumps):
        with pytest.raises(TypeError):
            encode(Secret(WORD))


def test_secrets_are_compared_by_their_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("é") != Secret("e")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert not Secret("")
    assert copy.copy(Secret("a")) == copy.deepcopy(Secret("a")) == Secret("a")


def test_a_secret_is_given_plain_or_by_file_or_by_variable(tmp_path: Path) -> None:
    file = tmp_path / "db"
    file.write_text(f"{WORD}\n")
    assert database(WORD) == WORD
    assert database({"file": str(file)}) == WORD
    assert database({"env": "DB"}, {"DB": WORD}) == WORD
    file.write_text(f"{WORD}\n\n")
    assert database({"file": str(file)}) == f"{WORD}\n"
    file.write_bytes(f"{WORD}\r\n".encode())
    assert database({"file": str(file)}) == WORD


def test_a_file_is_looked_for_beside_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "db").write_text(WORD)
    found = SCHEMA.read(document('[settings]\ndatabase = { file = "db" }', tmp_path), env=NO_ENV)
    assert found.settings.database.reveal() == WORD


def test_a_secret_that_cannot_be_read_is_a_mistake_that_says_where(tmp_path: Path) -> None:
    assert "expected a file that can be read" in refusal({"file": str(tmp_path / "none")})
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in refusal({"file": str(tmp_path / "empty")})
    (tmp_path / "big").write_text("x" * (SECRET_LIMIT + 1))
    assert f"at most {SECRET_LIMIT} bytes" in refusal({"file": str(tmp_path / "big")})
    (tmp_path / "nul").write_text(f"{WORD}\0")
    assert "NUL" in refusal({"file": str(tmp_path / "nul")})
    (tmp_path / "latin").write_bytes(b"\xff" + WORD.encode())
    assert "UTF-8" in refusal({"file": str(tmp_path / "latin")})
    assert "expected a variable that is set; NONE is not" in refusal({"env": "NONE"})
    assert "is empty" in refusal({"env": "EMPTY"}, {"EMPTY": ""})


@pytest.mark.parametrize("value", [5, True, [WORD], {"file": 5}, {"file": WORD, "env": WORD}, {"path": WORD}, {}])
def test_what_is_no_secret_is_refused_without_being_shown(value: Any) -> None:
    assert 'expected text, { file = "PATH" } or { env = "NAME" }; the value is secret' in refusal(value)


@pytest.mark.parametrize("pin", ["123", 12345, [WORD], {"x": WORD}, None])
def test_a_setting_that_is_marked_secret_is_never_shown(pin: Any) -> None:
    with pytest.raises(ConfigErrors) as caught:
        SCHEMA.read(values(settings={"pin": pin}), env=NO_ENV)
    text = str(caught.value)
    assert text.startswith("holdfast.toml settings.pin: expected text, of length 4 or more; the value is secret")


def test_a_marked_setting_may_refer_to_where_it_is() -> None:
    found = SCHEMA.read(values(settings={"pin": {"env": "PIN"}}), env={"PIN": "12345"})
    assert found.settings.pin == "12345"
    assert found.redacted() == {"settings": {"pin": {"env": "PIN"}}}


def test_names_that_sound_secret_are() -> None:
    for name in (
        "password",
        "db_password",
        "apiKey",
        "API-KEY",
        "client_secret",
        "auth_token",
        "tokens",
        "private_key",
    ):
        assert named_secret(name), name
    for name in ("token_bucket", "key", "keys", "secretary", "passwordless", "monkey"):
        assert not named_secret(name), name


OPEN = Schema({"open": dict, "texts": dict[str, str], "numbers": dict[str, int]})


def test_free_tables_hide_what_sounds_secret() -> None:
    found = OPEN.read(
        values(open={"db": [{"password": WORD, "host": "h"}], "tokens": [WORD]}, texts={"api_key": WORD, "x": "y"}),
        env=NO_ENV,
    )
    assert found.redacted() == {
        "open": {"db": [{"password": BLOT, "host": "h"}], "tokens": [BLOT]},
        "texts": {"api_key": BLOT, "x": "y"},
    }
    with pytest.raises(ConfigErrors) as caught:
        OPEN.read(values(numbers={"api_key": WORD}), env=NO_ENV)
    assert WORD not in str(caught.value)


def test_passwords_in_addresses_are_blotted_out() -> None:
    assert blotted("postgres://user:pass@host/db?a=b") == "postgres://user:***@host/db?a=b"
    assert blotted("https://host:80/a@b") == "https://host:80/a@b"
    assert blotted("is it 'ab\\nc'?", ["ab\nc"]) == f"is it '{BLOT}'?"
    assert blotted("an a", ["a"]) == "an a"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=3, max_size=10), st.text(max_size=5))
def test_no_text_with_a_secret_survives(secret: str, around: str) -> None:
    assert secret not in blotted(f"{around}{secret}{around}", [secret]).replace(BLOT, "") or secret in around * 2 + BLOT


def test_every_way_out_hides_every_secret(tmp_path: Path) -> None:
    (tmp_path / "settings.pin").write_text(WORD)
    documents = [
        values(settings={"database": WORD, "pin": WORD}, routes=[{"match": "a", "token": WORD}]),
        merged(values(settings={}), from_environment({"HOLDFAST__SETTINGS__DATABASE": WORD})),
        from_flags({"settings.database": WORD}),
        from_directory(tmp_path),
    ]
    empty = SCHEMA.read(Document(), env=NO_ENV)
    for given_document in documents:
        snapshot = SCHEMA.read(given_document, env=NO_ENV)
        shown = [
            repr(snapshot),
            json.dumps(snapshot.redacted()),
            repr(changes(empty, snapshot, SCHEMA)),
            repr(changes(snapshot, empty, SCHEMA)),
            repr(changes(Document(), given_document, SCHEMA)),
            repr(snapshot.settings),
            repr(snapshot.routes),
            snapshot.digest,
        ]
        assert not [text for text in shown if WORD in text]
        assert BLOT in shown[1]


def test_a_wrong_name_does_not_give_the_secret_away() -> None:
    with pytest.raises(ConfigErrors) as caught:
        SCHEMA.read(values(settings={"databse": WORD}, routes=[{"match": 5, "tokn": WORD}]), env=NO_ENV)
    assert WORD not in str(caught.value)


def test_a_digest_does_not_let_secrets_be_guessed() -> None:
    def digest(word: str, key: bytes) -> str:
        return SCHEMA.read(values(settings={"database": word}), env=NO_ENV, key=key).digest

    assert digest(WORD, b"1") == digest(WORD, b"1")
    assert digest(WORD, b"1") != digest(WORD, b"2")
    assert digest(WORD, b"1") != digest(WORD + "x", b"1")


def test_the_same_secret_from_elsewhere_has_the_same_digest() -> None:
    plain = SCHEMA.read(values(settings={"database": WORD}), env=NO_ENV)
    referred = SCHEMA.read(values(settings={"database": {"env": "DB"}}), env={"DB": WORD})
    assert plain.digest == referred.digest


def test_a_secret_is_read_anew_though_the_document_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "db"
    file.write_text("first")
    given_document = values(settings={"database": {"file": str(file)}})
    before = SCHEMA.read(given_document, env=NO_ENV)
    file.write_text("second")
    after = SCHEMA.read(given_document, env=NO_ENV, previous=before)
    assert after.settings.database.reveal() == "second"
    assert after.digest != before.digest
    assert [str(change) for change in changes(before, after, SCHEMA).items] == [f"settings.database: {BLOT} -> {BLOT}"]


def test_on_disk_secrets_are_referred_to_where_that_can_be(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "settings.pin").write_text(WORD)
    env = {"HOLDFAST__SETTINGS__DATABASE": WORD}
    snapshot = SCHEMA.read(merged(from_directory(mount), from_environment(env)), env=NO_ENV)
    stored, whole = snapshot.for_disk(plain=False)
    assert whole
    assert stored.values == {
        "settings": {"pin": {"file": str(mount / "settings.pin")}, "database": {"env": "HOLDFAST__SETTINGS__DATABASE"}}
    }
    restored = SCHEMA.read(Document.restored(json.loads(json.dumps(stored.plain()))), env=env)
    assert restored.settings == snapshot.settings
    assert restored.digest == snapshot.digest


def test_on_disk_secrets_of_files_are_left_out_unless_asked_for() -> None:
    snapshot = SCHEMA.read(values(settings={"database": WORD}), env=NO_ENV)
    stored, whole = snapshot.for_disk(plain=False)
    assert not whole
    assert stored.values == {"settings": {"database": BLOT}}
    assert snapshot.for_disk(plain=True)[0] == snapshot.document


def test_in_code_a_secret_may_be_text() -> None:
    assert AppSettings(database=WORD).database == Secret(WORD)  # type: ignore[arg-type]  # it is read
    with pytest.raises(ConfigError) as caught:
        AppSettings(database=5)  # type: ignore[arg-type]
    assert "expected text" in str(caught.value)


@dataclasses.dataclass
class Peers:
    peers: list[Secret]
    host: str = "h"


class Account(pydantic.BaseModel):
    pin: pydantic.SecretStr


class Accounts(pydantic.BaseModel):
    accounts: list[Account]
    host: str = "h"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (Schema({"section": Peers}), f"{WORD},other-{WORD}"),
        (Schema({"section": Peers}), f'["{WORD}", "x"]'),
        (Schema({"section": Accounts}), f'[{{pin = "{WORD}"}}]'),
    ],
    ids=["separated by commas", "a list", "of a model"],
)
def test_a_bare_text_with_secrets_in_it_is_secret_as_a_whole(schema: Schema, text: str, tmp_path: Path) -> None:
    name = "peers" if "peers" in str(schema.json_schema()) else "accounts"
    layer = from_environment({f"HOLDFAST__SECTION__{name.upper()}": text, "HOLDFAST__SECTION__HOST": "shown"})
    snapshot = schema.read(layer, env=NO_ENV)
    assert snapshot.redacted() == {"section": {name: BLOT, "host": "shown"}}
    assert schema.read(layer, env=NO_ENV, key=b"k").digest != snapshot.digest
    stored, whole = snapshot.for_disk(plain=False)
    assert not whole
    assert stored.values == {"section": {name: BLOT, "host": "shown"}}
    assert snapshot.for_disk(plain=True)[0] == layer
    other = Document.of({"section": {}})
    for before, after in ((other, layer), (layer, other), (other, snapshot), (snapshot, other)):
        told = repr(changes(before, after, schema))
        assert WORD not in told
        assert "shown" in told


def test_a_bare_list_may_refer_to_secrets() -> None:
    for schema, name, text in (
        (Schema({"section": Peers}), "PEERS", '[{ env = "DB" }]'),
        (Schema({"section": Accounts}), "ACCOUNTS", '[{ pin = { env = "DB" } }]'),
    ):
        layer = from_environment({f"HOLDFAST__SECTION__{name}": text})
        snapshot = schema.read(layer, env={"DB": WORD})
        assert WORD in snapshot.secrets.values()
        assert snapshot.references == {"section"}
        with pytest.raises(ConfigErrors, match="a variable that is set"):
            schema.read(layer, env=NO_ENV)


def test_the_longer_of_two_secrets_is_blotted_out_whole() -> None:
    assert blotted("say abcdef", ["abcd", "abcdef"]) == f"say {BLOT}"


def test_a_wrong_value_with_a_secret_name_is_not_shown() -> None:
    with pytest.raises(ConfigErrors) as caught:
        OPEN.read(values(texts={"api_key": 1234567}), env=NO_ENV)
    assert str(caught.value) == "holdfast.toml texts.api_key: expected text; the value is secret"


def test_values_with_secret_names_are_hashed_with_the_key() -> None:
    document_with_key = values(texts={"api_key": WORD})
    digests = {OPEN.read(document_with_key, env=NO_ENV, key=key).digest for key in (b"1", b"2")}
    assert len(digests) == 2


@dataclasses.dataclass
class Optional:
    main: Secret | None = None
    number: Annotated[int, about("Of the card.", secret=True)] = 0


OPTIONAL = Schema({"section": Optional})


def test_an_empty_variable_is_no_secret() -> None:
    for text, expected in (("", None), ("x", Secret("x"))):
        found = OPTIONAL.read(from_environment({"HOLDFAST__SECTION__MAIN": text}), env=NO_ENV)
        assert found["section"].main == expected


def test_a_secret_that_is_a_number_is_hidden_too() -> None:
    digests = set()
    for key in (b"1", b"2"):
        found = OPTIONAL.read(values(section={"number": 4321987}), env=NO_ENV, key=key)
        assert found.redacted() == {"section": {"number": BLOT}}
        digests.add(found.digest)
    assert len(digests) == 2


def test_a_model_that_refers_to_a_secret_is_read_anew() -> None:
    schema = Schema({"section": Account})
    given_document = values(section={"pin": {"env": "PIN"}})
    before = schema.read(given_document, env={"PIN": "1111"})
    after = schema.read(given_document, env={"PIN": "2222"}, previous=before)
    assert after["section"].pin.get_secret_value() == "2222"


def test_a_check_of_settings_that_quotes_a_secret_is_not_quoted() -> None:
    class Careless(Settings, frozen=True):
        pin: Annotated[int, about("p", secret=True)] = 0

        def check(self) -> None:
            if self.pin:
                raise ConfigError("Careless pin", self.pin, "another one", hint=f"not {self.pin}")

    with pytest.raises(ConfigErrors) as caught:
        Schema({"section": Careless}).read(values(section={"pin": 12}), env=NO_ENV)
    assert str(caught.value) == "holdfast.toml section.pin: expected another one; the value is secret"


def test_secrets_of_what_was_taken_over_stay_secret() -> None:
    first = {"match": "a", "token": WORD}
    before = SCHEMA.read(values(routes=[first], settings={"database": WORD}), env=NO_ENV)
    grown = values(routes=[first, {"match": "b"}], settings={"database": WORD})
    after = SCHEMA.read(grown, env=NO_ENV, previous=before)
    assert dict(after.secrets) == {("routes", 0, "token"): WORD, ("settings", "database"): WORD}
    assert after.digest == SCHEMA.read(grown, env=NO_ENV).digest


def test_a_table_that_only_looks_like_a_reference_is_shown_without_passwords() -> None:
    found = OPEN.read(values(open={"x": {"env": "db://u:pass@h"}}), env=NO_ENV)
    assert found.redacted() == {"open": {"x": {"env": "db://u:***@h"}}}


def test_a_secret_that_changes_is_one_change() -> None:
    before, after = (SCHEMA.read(values(settings={"database": word}), env=NO_ENV) for word in (WORD, "x" + WORD))
    assert [str(change) for change in changes(before, after, SCHEMA).items] == [f"settings.database: {BLOT} -> {BLOT}"]


def test_the_files_of_secrets_are_found_where_they_are_referred_to_from(tmp_path: Path) -> None:
    values = {
        "settings": {
            "password": {"file": "db/password"},
            "pools": [{"token": {"file": "/run/token"}}, {"token": {"env": "TOKEN"}}],
            "again": {"password": {"file": "db/password"}},
            "journal": {"file": "journal"},
            "sink": {"file": "a", "mode": "w"},
        }
    }
    document = Document.of(values, "file", str(tmp_path / "holdfast.toml"))
    assert files_of(document, lambda place: place[-1] in ("password", "token")) == {
        tmp_path / "db/password": [("settings", "password"), ("settings", "again", "password")],
        Path("/run/token"): [("settings", "pools", 0, "token")],
    }
    flags = Document.of(values, "flag")
    assert Path("db/password") in files_of(flags, lambda _: True)
    assert Path("a") not in files_of(flags, lambda _: True)
