import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from holdfast.config.reading import FILE_LIMIT
from holdfast.config.settings import dump, load, load_with_origins, restore
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
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

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("a name other than forbidden")


class Needy(msgspec.Struct, frozen=True):
    app: str
    tags: tuple[str, ...] = msgspec.field(default_factory=lambda: ("web",))


def run(file: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> Run:
    return load(Run, table="run", file=file, env=env or {}, flags=flags)


def refusal(file: Path | None = None, env: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        run(file, env, **flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "holdfast.toml"


def test_each_layer_wins_over_the_one_below_and_is_named(file: Path) -> None:
    file.write_text("""
        [run]
        workers = 1
        boot_timeout = "10s"
        max_body_size = "64KiB"
        bind = ["a:1", "b:2"]
    """)
    settings, origins = load_with_origins(
        Run,
        table="run",
        file=file,
        env={"HOLDFAST_WORKERS": "2", "HOLDFAST_BOOT_TIMEOUT": "20s", "HOLDFAST_ACCESS_LOG": "yes", "PATH": "/bin"},
        flags={"workers": 3, "name": None},
    )
    assert settings == Run(
        workers=3,
        boot_timeout=Duration(20),
        max_body_size=Size(65536),
        bind=("a:1", "b:2"),
        access_log=True,
    )
    assert origins == {
        "workers": "flag",
        "bind": "file",
        "boot_timeout": "env",
        "max_body_size": "file",
        "access_log": "env",
        "log_format": "default",
        "name": "default",
        "jitter": "default",
        "token": "default",
    }


LAYERED = st.fixed_dictionaries({}, optional={layer: st.integers(1, 64) for layer in ("file", "env", "flag")})


@given(LAYERED)
def test_the_last_layer_that_speaks_is_heard(tmp_path_factory: pytest.TempPathFactory, said: dict[str, int]) -> None:
    file = None
    if "file" in said:
        file = tmp_path_factory.getbasetemp() / "layered.toml"
        file.write_text(f"[run]\nworkers = {said['file']}\n")
    settings, origins = load_with_origins(
        Run,
        table="run",
        file=file,
        env={"HOLDFAST_WORKERS": str(said["env"])} if "env" in said else {},
        flags={"workers": said.get("flag")},
    )
    winner = next((layer for layer in ("flag", "env", "file") if layer in said), "default")
    assert origins["workers"] == winner
    assert settings.workers == said.get(winner, "auto")


def test_without_any_layer_the_defaults_stand() -> None:
    assert run() == Run()


def test_text_in_flags_is_read_by_the_type_and_nothing_given_is_nothing() -> None:
    assert run(workers="4", boot_timeout="1m").workers == 4
    assert run(bind=()).bind == ("127.0.0.1:8000",)
    assert run(bind=("a:1", "b:2")).bind == ("a:1", "b:2")
    assert run(bind="a:1,b:2").bind == ("a:1", "b:2")
    assert run(access_log=False).access_log is False


def test_an_unknown_name_is_named_with_its_place_and_the_nearest_one(file: Path) -> None:
    file.write_text("[run]\nwokers = 4\n")
    assert refusal(file) == f"{file} [run] wokers: expected the name of a setting; did you mean workers?"
    assert refusal(env={"HOLDFAST_WOKERS": "4"}).endswith("did you mean HOLDFAST_WORKERS?")
    assert refusal(env={"HOLDFAST_workers": "4"}).endswith("did you mean HOLDFAST_WORKERS?")
    assert refusal(wokers=4).startswith("--wokers: ")
    assert refusal(boot_timeot=4).endswith("did you mean --boot-timeout?")


def test_an_unknown_name_near_nothing_lists_what_there_is() -> None:
    assert "there are HOLDFAST_ACCESS_LOG, HOLDFAST_BIND" in refusal(env={"HOLDFAST_QQQQ": "4"})


def test_a_bad_value_is_shown_with_its_place_and_what_is_expected(file: Path) -> None:
    file.write_text('[run]\nworkers = "four"\n')
    expected = "got 'four', expected \"auto\" or a whole number, at least 1"
    assert refusal(file) == f"{file} [run] workers: {expected}"
    assert refusal(env={"HOLDFAST_WORKERS": "four"}) == f"HOLDFAST_WORKERS: {expected}"
    assert refusal(workers="four") == f"--workers: {expected}"
    assert refusal(log_format="jsno").endswith('expected "auto" or "text" or "json"; did you mean json?')


@pytest.mark.parametrize(
    ("name", "value"),
    [("workers", 0), ("boot_timeout", "0s"), ("jitter", 1.5), ("max_body_size", "-1"), ("access_log", "maybe")],
)
def test_a_value_out_of_bounds_is_refused_in_every_layer(name: str, value: object, file: Path) -> None:
    file.write_text(f"[run]\n{name} = {value!r}\n")
    assert f"[run] {name}: got {value!r}" in refusal(file)
    assert f"HOLDFAST_{name.upper()}: got {str(value)!r}" in refusal(env={f"HOLDFAST_{name.upper()}": str(value)})
    assert f"--{name.replace('_', '-')}: got {value!r}" in refusal(None, None, **{name: value})


def test_variables_with_other_owners_are_left_alone() -> None:
    env = {"HOLDFAST_WORKER": "1", "HOLDFASTER": "x", "holdfast_workers": "4"}
    settings = load(Run, table="run", file=None, env=env, flags={}, ignore_env={"HOLDFAST_WORKER"})
    assert settings == Run()
    other = load(Run, table="run", file=None, env={"SHOP_WORKERS": "4"}, flags={}, prefix="SHOP_")
    assert other.workers == 4


def test_a_secret_is_never_shown(file: Path) -> None:
    file.write_text('[run]\ntoken = "hunter2"\n')
    told = [refusal(file), refusal(env={"HOLDFAST_TOKEN": "hunter2"}), refusal(token="hunter2"), refusal(token=5551212)]
    file.write_text('[run]\ntokn = "hunter2"\n')
    told += [refusal(file), refusal(env={"HOLDFAST_TOKN": "hunter2"}), refusal(tokn="hunter2")]
    file.write_text('run = "hunter2"\n')
    told.append(refusal(file))
    assert not [text for text in told if "hunter2" in text or "5551212" in text]
    assert all("token" in text.lower() for text in told[:7])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.toml")
    assert "expected a file that can be read" in refusal(tmp_path)


def test_a_syntax_error_names_file_line_and_column(file: Path) -> None:
    file.write_text("[run]\nworkers = 3 4\n")
    assert refusal(file).startswith(f"{file} line 2, column 13: expected valid TOML")
    file.write_text("[run]\nworkers = [1\n")
    assert f"{file} end of document" in refusal(file)


def test_a_broken_file_is_one_clear_line(file: Path) -> None:
    file.write_bytes(b'[run]\nname = "\xff"\n')
    assert refusal(file) == f"{file} line 2: expected text in UTF-8"
    file.write_text(f"[run]\nworkers = {'9' * 5000}\n")
    assert "expected valid TOML" in refusal(file)
    file.write_text(f"[run]\nworkers = 0x{'f' * 5000}\njitter = 0x{'f' * 5000}\n")
    assert "jitter: got a huge int" in refusal(file)
    file.write_text("#" * (FILE_LIMIT + 1))
    assert "at most" in refusal(file)
    file.write_text(f"[run]\nbind = {'[' * 10000}")
    assert str(file) in refusal(file)


def test_a_misspelled_table_is_not_passed_over_in_silence(file: Path) -> None:
    file.write_text("[rum]\nworkers = 3\n")
    assert refusal(file).endswith("did you mean run?")
    file.write_text("workers = 3\n")
    assert refusal(file).endswith("move it below [run]")
    file.write_text("run = 3\n")
    assert "expected a table" in refusal(file)
    file.write_text("[dev]\nanything = 1\n")
    assert load(Run, table="run", file=file, env={}, flags={}, other_tables={"dev"}) == Run()


def test_a_file_with_a_byte_order_mark_is_read(file: Path) -> None:
    file.write_text("[run]\nworkers = 3\n", encoding="utf-8-sig")
    assert run(file).workers == 3


def test_a_rule_between_settings_is_one_line_too() -> None:
    assert refusal(name="forbidden") == "[run]: expected a name other than forbidden"


def test_a_setting_without_a_default_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"\[run\] app: expected text; it must be given"):
        load(Needy, table="run", file=None, env={}, flags={})
    assert load(Needy, table="run", file=None, env={"HOLDFAST_APP": "a:b"}, flags={}) == Needy("a:b")


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


SETTINGS = st.builds(
    Run,
    workers=st.integers(1, 64) | st.just("auto"),
    bind=st.lists(st.text(), max_size=3).map(tuple),
    boot_timeout=st.floats(1e-6, 1e6).map(Duration),
    max_body_size=st.integers(0, 2**40).map(Size),
    access_log=st.booleans(),
    log_format=st.sampled_from(["auto", "text", "json"]),
    name=st.none() | st.text().filter(lambda name: name != "forbidden"),
    jitter=st.floats(0, 1),
    token=st.text(min_size=8),
)


@given(SETTINGS)
def test_settings_reach_another_process_unchanged(settings: Run) -> None:
    wire = msgspec.json.encode(dump(settings))
    copy = restore(Run, msgspec.json.decode(wire))
    assert copy == settings
    assert type(copy.boot_timeout) is Duration
    assert type(copy.max_body_size) is Size


@pytest.mark.parametrize("values", [{"wokers": 1}, {"workers": 0}, {"workers": None}])
def test_what_another_process_sent_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Run wo"):
        restore(Run, values)


def test_a_variable_may_name_the_table_too(file: Path) -> None:
    assert run(env={"HOLDFAST__RUN__WORKERS": "3", "HOLDFAST__ADMISSION__LANES": "1"}).workers == 3
    assert run(env={"HOLDFAST__RUN__WORKERS": "3", "HOLDFAST_WORKERS": "5"}).workers == 5
    text = refusal(env={"HOLDFAST__RUN__WORKRS": "3"})
    assert text == "HOLDFAST__RUN__WORKRS: expected the name of a setting; did you mean HOLDFAST__RUN__WORKERS?"


def test_a_settings_file_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "holdfast.toml")
    assert "a pipe" in refusal(tmp_path / "holdfast.toml")
