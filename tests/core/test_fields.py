from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from holdfast.core.duration import Duration
from holdfast.core.fields import fields_of
from holdfast.core.size import Size


class Run(msgspec.Struct, frozen=True, kw_only=True):
    workers: Annotated[int | Literal["auto"], Meta(description="How many.", extra={"ge": 1})] = "auto"
    bind: Annotated[tuple[str, ...], Meta(description="Where.", extra={"metavar": "ADDRESS"})] = ("127.0.0.1:8000",)
    boot_timeout: Annotated[Duration, Meta(gt=0)] = Duration(60)
    max_body_size: Size = Size(1024)
    access_log: bool = False
    log_format: Literal["auto", "text", "json"] = "auto"
    name: str | None = None
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    token: Annotated[str, Meta(extra={"secret": True}, min_length=8)] = "unset-token"


class Needy(msgspec.Struct, frozen=True):
    app: str
    tags: tuple[str, ...] = msgspec.field(default_factory=lambda: ("web",))


def test_what_the_command_line_needs_to_know_comes_from_the_struct() -> None:
    fields = {field.name: field for field in fields_of(Run)}
    assert list(fields) == list(Run.__struct_fields__)
    assert fields["workers"].description == "How many."
    assert fields["workers"].default == "auto"
    assert fields["workers"].type == int | Literal["auto"]
    assert fields["workers"].expected == '"auto" or a whole number, at least 1'
    assert fields["bind"].extra["metavar"] == "ADDRESS"
    assert fields["boot_timeout"].type is Duration
    assert fields["log_format"].choices == ("auto", "text", "json")
    assert [name for name, field in fields.items() if field.is_flag] == ["access_log"]
    assert [name for name, field in fields.items() if field.is_many] == ["bind"]
    assert [name for name, field in fields.items() if field.secret] == ["token"]
    assert [name for name, field in fields.items() if field.choices] == ["log_format"]
    assert [field.required for field in fields_of(Needy)] == [True, False]
    assert fields_of(Needy)[1].default == ("web",)


def test_a_field_of_a_type_that_settings_cannot_have_is_named() -> None:
    class Wrong(msgspec.Struct, frozen=True):
        table: dict[str, str] = {}

    with pytest.raises(TypeError, match="table: a setting cannot be of type dict"):
        fields_of(Wrong)
