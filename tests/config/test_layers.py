import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.trees import TABLES
from holdfast.config.document import Document
from holdfast.config.layers import (
    PARTS_LIMIT,
    from_directory,
    from_environment,
    from_file,
    from_flags,
    read_document,
    table_in,
)
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.reading import without_newline
from holdfast.core.errors import ConfigError


def refusal(read: Any, *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def toml(directory: Path, text: str) -> Path:
    file = directory / "holdfast.toml"
    file.write_text(text)
    return file


def test_all_layers_in_their_order(tmp_path: Path) -> None:
    first = toml(tmp_path, 'a = 1\nb = 1\nc = 1\nd = 1\ne = 1\n[t]\nx = "file"\n')
    second = tmp_path / "more.json"
    second.write_text('{"b": 2, "c": 2, "d": 2, "e": 2}')
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "c").write_text("3\n")
    (mount / "d").write_text("3\n")
    (mount / "e").write_text("3\n")
    result = read_document(
        defaults={"a": 0, "z": 0},
        files=[first, second],
        directories=[mount],
        env={"HOLDFAST__D": "4", "HOLDFAST__E": "4", "PATH": "/bin"},
        flags={"e": 5, "f": None, "g": ()},
    )
    assert result.values == {"a": 1, "z": 0, "b": 2, "c": "3", "d": "4", "e": 5, "t": {"x": "file"}}
    layers = {name: result.origin((name,)).layer for name in "zabcde"}
    assert layers == {"z": "default", "a": "file", "b": "file", "c": "directory", "d": "env", "e": "flag"}
    assert str(result.origin(("t", "x"))) == f"{first}:7"
    assert str(result.origin(("c",))) == str(mount / "c")
    assert result.texts == {("c",), ("d",)}


def test_mistakes_of_all_layers_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_document(
            files=[tmp_path / "none.toml", toml(tmp_path, "a = =")],
            directories=[tmp_path / "nowhere"],
            env={"HOLDFAST__": "1"},
            flags={"a..b": 1},
        )
    assert caught.value.total == 5
    assert [str(error).split(":")[0].rpartition("/")[2] for error in caught.value.errors] == [
        "none.toml",
        "holdfast.toml line 1, column 5",
        "nowhere",
        "HOLDFAST__",
        "flags a..b",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = 1\na = 2\n", "line 2, column 6: expected valid TOML"),
        (b"[a]\n[a]\n", "line 2"),
        (b'a = "\xff"', "line 1: expected text in UTF-8"),
        (b"\xff\xfea\0", "text in UTF-8"),
        (b"a = 'x\0'", "expected valid TOML"),
        (b'a = "\\u0000"', "without NUL"),
        (b"a = " + b"[" * 100_000, "less deeply nested"),
        (b"a = " + b"{b=" * 100_000, "less deeply nested"),
        (b"a." * 400_000 + b"a = 1", f"at most {PARTS_LIMIT} parts"),
        (b"x = {" + b"a . " * 200 + b"a = 1}", f"line 1: expected names of at most {PARTS_LIMIT} parts"),
        (b"[" + b"'a'." * 200 + b"a]", f"at most {PARTS_LIMIT} parts"),
        (b"[" + b".".join([b"a"] * 100) + b"]", "tables and lists inside each other"),
        (b"a = " + b"9" * 900_000, "expected valid TOML"),
        (b"a = 99999999999999999999999", "64 bits"),
        (b"a = nan", "finite"),
        (b"[[a]]\n" * 100_000, "at most"),
        (b'"' * 1_000_000, "expected valid TOML"),
        (b"a" * 1_000_000, "expected valid TOML"),
        (b"#" * (1024 * 1024 + 1), "bytes"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_hostile_toml_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_bytes(content)
    text = refusal(from_file, file)
    assert words in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "a": 2}', "a: expected each name once"),
        (b'{"b": {"a": 1, "a": 2}}', "each name once"),
        (b"[1]", "expected a table"),
        (b"{", "line 1: expected valid JSON"),
        (b'{"a": NaN}', "finite"),
        (b'{"a": ' + b"[" * 100_000, "less deeply nested"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "a number is too long"),
        (b'{"a": "\\ud800"}', "UTF-8"),
        (b'{"a": 1e999}', "finite"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_hostile_json_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "holdfast.json"
    file.write_bytes(content)
    assert words in refusal(from_file, file)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text("[run]\nworkers = 3\n", encoding="utf-8-sig")
    assert from_file(file).values == {"run": {"workers": 3}}


def test_a_syntax_error_does_not_quote_the_line(tmp_path: Path) -> None:
    file = toml(tmp_path, '[db]\npassword = "hunter2" hunter2\n')
    assert "hunter2" not in refusal(from_file, file)


def test_dates_are_kept_as_text(tmp_path: Path) -> None:
    found = from_file(toml(tmp_path, "a = 2020-01-02\nb = 2020-01-02T03:04:05Z\nc = 03:04:05"))
    assert found.values == {"a": "2020-01-02", "b": "2020-01-02T03:04:05+00:00", "c": "03:04:05"}


@given(TABLES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_document_in_a_file_is_the_same_document(tmp_path: Path, table: dict[str, Any]) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(table))
    assert from_file(file) == Document.of(table)


@given(st.binary(max_size=60) | st.text(st.sampled_from("[]{}=.\"'#\n\\ab1e"), max_size=60).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_document_or_one_mistake(tmp_path: Path, content: bytes) -> None:
    for name in ("a.toml", "a.json"):
        file = tmp_path / name
        file.write_bytes(content)
        try:
            found = from_file(file)
        except ConfigError as error:
            told = str(error)
        else:
            told = ""
            assert json.loads(json.dumps(found.values)) == found.values
        assert "\n" not in told


def test_a_mount_has_fragments_and_values(tmp_path: Path) -> None:
    (tmp_path / "10-base.toml").write_text('[db]\nhost = "a"\nport = 1\n[cache]\nsize = 1\n')
    (tmp_path / "20-more.json").write_text('{"db": {"host": "b"}}')
    (tmp_path / "db.port").write_text("77\n")
    (tmp_path / 'errors."shop:Out"').write_text("failed\r\n")
    (tmp_path / ".ignored").write_text("=")
    found = from_directory(tmp_path)
    assert found.values == {
        "db": {"host": "b", "port": "77"},
        "cache": {"size": 1},
        "errors": {"shop:Out": "failed"},
    }
    assert str(found.origin(("db", "host"))) == str(tmp_path / "20-more.json")
    assert str(found.origin(("cache", "size"))) == f"{tmp_path / '10-base.toml'}:5"
    assert found.origin(("db", "port")).text


def test_a_mount_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = =")
    assert f"{tmp_path}/a.toml line 1" in refusal(from_directory, tmp_path)
    (tmp_path / "a.toml").unlink()
    (tmp_path / "no path").write_text("1")
    assert f"{tmp_path}/no path: expected a name such as section.key" in refusal(from_directory, tmp_path)
    (tmp_path / "no path").unlink()
    (tmp_path / "a").write_text("1")
    (tmp_path / "a.b").write_text("1")
    assert f"a: expected one value; {tmp_path}/a gives another" in refusal(from_directory, tmp_path)


def test_only_one_newline_at_the_end_is_dropped() -> None:
    assert [without_newline(text) for text in ("a\n", "a\r\n", "a\n\n", "a", "\n", " a \n")] == [
        "a",
        "a",
        "a\n",
        "a",
        "",
        " a ",
    ]


def test_variables_name_a_place() -> None:
    found = from_environment(
        {
            "HOLDFAST__ADMISSION__CONCURRENCY__TARGET": "20ms",
            "HOLDFAST__settings__maxItems": "5",
            "HOLDFAST_WORKERS": "3",
            "HOLDFAST_OTHER": "not mine",
            "PATH": "/bin",
        },
        aliases={"HOLDFAST_WORKERS": ("run", "workers")},
    )
    assert found.values == {
        "admission": {"concurrency": {"target": "20ms"}},
        "settings": {"maxItems": "5"},
        "run": {"workers": "3"},
    }
    assert str(found.origin(("run", "workers"))) == "HOLDFAST_WORKERS"
    assert found.texts == {
        ("admission", "concurrency", "target"),
        ("settings", "maxItems"),
        ("run", "workers"),
    }


def test_a_variable_with_a_table_merges_and_one_that_only_looks_so_is_text() -> None:
    found = from_environment({"HOLDFAST__A": ' {b = 1, c = ["x"]} ', "HOLDFAST__D": "{not toml"})
    assert found.values == {"a": {"b": 1, "c": ["x"]}, "d": "{not toml"}
    assert found.texts == {("d",)}
    assert found != Document.of(dict(found.values))


def test_two_variables_for_one_place_are_refused() -> None:
    text = refusal(from_environment, {"HOLDFAST__A": "1", "HOLDFAST__A__B": "2"})
    assert text == "HOLDFAST__A__B a: expected one value; HOLDFAST__A gives another"
    assert refusal(from_environment, {"HOLDFAST__A__B": "2", "HOLDFAST__A": "1"}) == text
    assert "gives another" in refusal(from_environment, {"HOLDFAST__A__B": "2", "HOLDFAST__a": "1"})
    assert "gives another" in refusal(from_environment, {"HOLDFAST__A": "2", "HOLDFAST__a": "1"})


@pytest.mark.parametrize("name", ["HOLDFAST__", "HOLDFAST__A__", "HOLDFAST____A", "HOLDFAST__" + "A__" * 40 + "A"])
def test_names_of_variables_that_are_no_place_are_refused(name: str) -> None:
    assert name in refusal(from_environment, {name: "1"})


@given(
    st.dictionaries(st.text("AB_a\udc80", max_size=6).map(lambda n: f"HOLDFAST__{n}"), st.text(max_size=10), max_size=4)
)
def test_any_environment_is_a_document_or_one_mistake(env: Mapping[str, str]) -> None:
    try:
        found = from_environment(env)
    except ConfigError as error:
        told = str(error)
    else:
        told = "HOLDFAST__"
        assert json.loads(json.dumps(found.values)) == found.values
    assert "HOLDFAST__" in told
    assert told.isprintable()


def test_flags_are_values_by_path() -> None:
    found = from_flags({"run.workers": 3, 'errors."a.b"': "x", "run.bind": ("a", "b"), "none": None, "empty": ()})
    assert found.values == {"run": {"workers": 3, "bind": ["a", "b"]}, "errors": {"a.b": "x"}}
    assert found.texts == {("errors", "a.b")}
    assert "expected a path such as section.key" in refusal(from_flags, {"a b": 1})


@pytest.mark.parametrize(
    "text", ["", "1\nb = 2", "1 2", "[" * 5000, "a", ".".join("a" * 999), "{" + "a." * 200 + "a=1}"]
)
def test_what_is_no_single_value_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the words are tomllib's
        table_in(text)


def test_a_fifo_in_a_mount_does_not_stop_anything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    assert "a pipe" in refusal(from_directory, tmp_path)
