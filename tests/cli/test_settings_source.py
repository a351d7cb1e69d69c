"""Where the settings of a service come from, and where its history is kept."""

from pathlib import Path

import pytest

from cli.configs import forget
from holdfast.cli.settings import SettingsSource
from holdfast.config.mistakes import ConfigErrors
from holdfast.supervisor.settings import Settings

FILE = "holdfast.toml"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget(monkeypatch, "STATE_DIRECTORY", "XDG_STATE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def source(directory: Path, *, config: str | None = None, **flags: object) -> SettingsSource:
    return SettingsSource({"app": "shop.main:app", **flags}, config=config, directory=directory)


def test_each_layer_wins_over_the_one_below_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text('[run]\nworkers = 1\nsurge = 1\nprobe = "/a"\n[settings]\ncurrency = "EUR"\n')
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "run.surge").write_text("2\n")
    monkeypatch.setenv("HOLDFAST_PROBE", "/b")
    found = SettingsSource(
        {"app": "a:b", "workers": "4", "name": None, "bind": ()},
        config=None,
        directory=tmp_path,
        presets={"workers": 3, "access_log": True},
        config_dirs=("mount",),
    )
    document = found.document()
    settings = found.settings(document)
    assert (settings.workers, settings.surge, settings.probe, settings.access_log) == (4, 2, "/b", True)
    assert document.get(("settings", "currency")) == "EUR"
    names = {name: str(document.origin(("run", name))) for name in ("app", "workers", "surge", "probe")}
    assert names == {
        "app": "APP",
        "workers": "--workers",
        "surge": str(tmp_path / "mount" / "run.surge"),
        "probe": "HOLDFAST_PROBE",
    }


def test_the_default_file_may_come_and_go_but_a_named_one_must_be_there(tmp_path: Path) -> None:
    found = source(tmp_path)
    assert found.file is None
    assert found.files == (tmp_path / FILE,)
    (tmp_path / FILE).write_text("[run]\nworkers = 3\n")
    assert found.read().workers == 3
    with pytest.raises(ConfigErrors, match=r"other\.toml"):
        source(tmp_path, config="other.toml").read()


def test_the_history_is_where_the_setting_the_unit_or_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = source(tmp_path)
    assert found.state(found.read()) == tmp_path / "home" / ".local" / "state" / "holdfast" / "main"
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert found.state(found.read()) == Path("/x/holdfast/main")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert found.state(Settings(name="n")) == tmp_path / "home" / ".local" / "state" / "holdfast" / "n"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/shop:/var/lib/other")
    assert found.state(found.read()) == Path("/var/lib/shop/holdfast")
    assert found.state(Settings(state_dir="kept")) == tmp_path / "kept"
    assert found.state(Settings(state_dir="none")) is None


@pytest.mark.parametrize(
    "broken",
    [
        "[run]\napp = \"lost:app\"\nname = 'orders'\nworkers = =\n",
        '[other]\nname = "no"\n[run]\nname = "orders"\nworkers = "many"\n',
    ],
)
def test_the_history_of_a_service_whose_file_is_broken_is_found(tmp_path: Path, broken: str) -> None:
    (tmp_path / FILE).write_text(broken)
    found = SettingsSource({}, config=None, directory=tmp_path)
    with pytest.raises(ConfigErrors):
        found.read()
    assert found.state(None) == tmp_path / "home" / ".local" / "state" / "holdfast" / "orders"


def test_flags_and_variables_name_the_service_before_a_broken_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text('[run]\nname = "orders"\nworkers = =\n')
    state = tmp_path / "home" / ".local" / "state" / "holdfast"
    monkeypatch.setenv("HOLDFAST_NAME", "payments")
    assert source(tmp_path).state(None) == state / "payments"
    assert source(tmp_path, name="shipping").state(None) == state / "shipping"


def test_a_mistake_in_a_file_is_told_even_where_a_flag_lies_over_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[run]\nworkers = "many"\n[[routes]]\nmatch = 3\n')
    with pytest.raises(ConfigErrors) as caught:
        source(tmp_path, workers="2").document()
    assert [error.path for error in caught.value.errors] == ["run.workers", "routes[0].match"]


def test_a_default_file_that_goes_away_is_a_mistake_and_does_not_take_its_settings_with_it(tmp_path: Path) -> None:
    found = source(tmp_path)
    assert found.document().values.get("routes") is None, "there was none"
    (tmp_path / FILE).write_text('[[routes]]\nmatch = "/a"\n')
    assert len(found.document().values["routes"]) == 1
    found.keep()
    (tmp_path / FILE).unlink()
    with pytest.raises(ConfigErrors, match=FILE):
        found.document()
    (tmp_path / FILE).symlink_to("nowhere.toml")
    with pytest.raises(ConfigErrors, match=FILE):
        found.document()
    with pytest.raises(ConfigErrors, match=FILE):
        source(tmp_path).document()
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).write_text("")
    assert "routes" not in found.document().values


def test_a_default_file_that_never_held_may_go_away_again(tmp_path: Path) -> None:
    found = source(tmp_path)
    found.document()
    found.keep()
    (tmp_path / FILE).write_text('[[routes]]\nmatch = "/a"\n')
    found.document()  # and no generation would serve with it
    (tmp_path / FILE).unlink()
    assert "routes" not in found.document().values
