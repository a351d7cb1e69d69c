"""Settings that change while the service answers: in all workers at once, or not at all."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks import config_changes

from e2e.harness import Refused, Running, request, wait_for
from e2e.pressure import assert_nothing_lost, pressure

Serve = Callable[..., Running]
CHANGES = 200
TRIES = 40
"""Requests on connections of their own after which both workers have very likely answered one."""


def write(directory: Path, text: str) -> None:
    """Replace the settings file, as an editor does."""
    fresh = directory / ".fresh"
    fresh.write_text(text)
    fresh.replace(directory / "holdfast.toml")


def start(serve: Serve, directory: Path, text: str, *options: str) -> Running:
    write(directory, text)
    state = {"STATE_DIRECTORY": str(directory / "state")}
    return serve("configured", "--workers", "2", *options, env=state)


def config(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.ask("config")
    return found


def numbers(running: Running) -> dict[int, int]:
    """The number that each worker says, by its process."""
    address = running.address
    bodies = [request(address)[2].split() for _ in range(TRIES)]
    return {int(pid): int(number) for pid, _, number in bodies}


def held(running: Running, version: int) -> bool:
    now = config(running)
    return now["version"] == version and {one["version"] for one in now["workers"]} == {version}


def noticed(running: Running, look: Callable[[], bool], what: str) -> float:
    """Wait for something that was saved to be noticed; the seconds it took."""
    began = time.monotonic()
    wait_for(look, 30, what)
    return time.monotonic() - began


def test_a_change_in_the_file_holds_in_every_worker_and_no_process_is_replaced(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    before = running.pids()
    assert numbers(running) == dict.fromkeys(before, 1)
    with pressure(running) as load:
        write(tmp_path, '[settings]\nnumber = 2\n[[routes]]\nmatch = "GET /limited"\nrate_limit = "1/h"\n')
        noticed(running, lambda: held(running, 2), "the change holds")
        assert numbers(running) == dict.fromkeys(before, 2)
        assert [request(running.address, "/limited")[0] for _ in range(20)].count(429) >= 18
        assert_nothing_lost(load.stop())
    assert running.pids() == before
    status = running.status()
    assert status["generation"] == 1
    assert {worker["configuration"] for worker in status["workers"]} == {status["configuration"]} == {2}
    assert {worker["digest"] for worker in status["workers"]} == {status["digest"]}
    assert "configuration 2 holds (file: saved)" in running.log


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[settings]\nnumbr = 3\n", "holdfast.toml:2 settings.numbr: expected the name of a setting; did you mean num"),
        ("[settings]\nnumber = 13\n", "settings: expected what lucky agrees to; thirteen brings bad luck"),
        ("[settings]\nnumber = =\n", "holdfast.toml line 2, column 10: expected valid TOML"),
        ('[errors]\n"configured:Gone" = "not_found"\n', 'errors."configured:Gone": expected an exception class'),
        ("[run]\nbacklog = 7\n", "run.backlog: got '7', expected 2048, as at the start; stop and start to change it"),
        ('[run]\nprobe = "x"\n', "run.probe: got 'x', expected a path that begins with /"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place_and_nothing_changes(
    serve: Serve, tmp_path: Path, text: str, told: str
) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    before = running.pids()
    write(tmp_path, text)
    noticed(running, lambda: config(running)["refused_count"] == 1, "it is refused")
    assert told in config(running)["refused"][0]
    assert told in running.log
    assert running.status()["refused"] == config(running)["refused"]
    with pytest.raises(Refused) as again:
        running.ask("config-apply", who="ann")
    assert told in again.value.reason
    assert numbers(running) == dict.fromkeys(before, 1)
    history = running.ask("config-history")["entries"]
    assert [(one["verdict"], one["who"]) for one in history] == [
        ("applied", "start"),
        ("refused", "file"),
        ("refused", "ann"),
    ]
    write(tmp_path, "[settings]\nnumber = 2\n")
    noticed(running, lambda: held(running, 2), "the correction holds")
    assert config(running)["refused"] == []


def test_a_mounted_directory_that_is_swapped_is_noticed(serve: Serve, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    for name, number in (("..one", 1), ("..two", 2)):
        (mount / name).mkdir(parents=True)
        (mount / name / "settings.number").write_text(f"{number}\n")
    (mount / "..data").symlink_to("..one")
    (mount / "settings.number").symlink_to("..data/settings.number")
    running = serve("configured", "--workers", "2", "--config-dir", "mount", "--state-dir", "state")
    pids = running.pids()
    assert numbers(running) == dict.fromkeys(pids, 1)
    (mount / "..fresh").symlink_to("..two")
    (mount / "..fresh").replace(mount / "..data")
    noticed(running, lambda: held(running, 2), "the swap is noticed")
    assert numbers(running) == dict.fromkeys(pids, 2)
    assert config(running)["origins"]["settings.number"].endswith("mount/settings.number")


def test_a_setting_that_workers_cannot_take_over_gets_a_generation_and_loses_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    before = running.pids()
    with pressure(running) as load:
        write(tmp_path, '[run]\nkeep_alive = "70s"\n[settings]\nnumber = 2\n')
        noticed(running, lambda: running.status()["generation"] == 2, "the new generation serves")
        assert set(numbers(running).values()) == {2}
        wait_for(lambda: set(running.children()) == running.pids(), 30, "the old workers have ended")
        assert_nothing_lost(load.stop())
    assert not running.pids() & before
    assert held(running, 2)


def test_settings_with_which_no_generation_comes_up_are_refused_and_those_of_before_stay(
    serve: Serve, tmp_path: Path
) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    before = running.pids()
    write(tmp_path, '[run]\nprobe = "/broken"\n[settings]\nnumber = 2\n')
    noticed(running, lambda: config(running)["refused_count"] == 1, "it is refused")
    assert "the probe of /broken was answered with status 500" in config(running)["refused"][0]
    assert numbers(running) == dict.fromkeys(before, 1)
    assert running.status()["generation"] == 1
    assert held(running, 1)
    entry = running.ask("config-history")["entries"][-1]
    assert (entry["verdict"], entry["version"]) == ("refused", 1)


def test_a_bad_file_at_the_start_is_passed_over_for_the_last_good_one(serve: Serve, tmp_path: Path) -> None:
    first = start(serve, tmp_path, '[run]\nname = "shop"\n[settings]\nnumber = 5\n')
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    running = start(serve, tmp_path, '[run]\nname = "shop"\n[settings]\nnumber = =\n')
    assert set(numbers(running).values()) == {5}
    now = config(running)
    assert "valid TOML" in now["refused"][0]
    assert "version 1, the last good one, is used in its place" in now["start"]
    assert running.status()["refused"] == now["refused"]
    assert "the last good one, is used in its place" in running.log
    write(tmp_path, '[run]\nname = "shop"\n[settings]\nnumber = 6\n')
    noticed(running, lambda: set(numbers(running).values()) == {6}, "the correction holds")
    assert (config(running)["refused"], config(running)["start"]) == ([], "")


def test_a_wrong_flag_at_the_start_is_refused_whatever_was_good_before(serve: Serve, tmp_path: Path) -> None:
    first = start(serve, tmp_path, "[settings]\nnumber = 5\n")
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    running = Running(tmp_path, "configured:app", "--workers", "many", env={"STATE_DIRECTORY": str(tmp_path / "state")})
    try:
        assert running.wait_end() == 2
        assert "--workers: got 'many'" in running.log
    finally:
        running.end()


def test_settings_that_never_served_are_not_the_last_good_ones(serve: Serve, tmp_path: Path) -> None:
    first = start(serve, tmp_path, "[settings]\nnumber = 5\n")
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    write(tmp_path, "[settings]\nnumber = 13\n")
    second = Running(tmp_path, "configured:app", env={"STATE_DIRECTORY": str(tmp_path / "state")})
    try:
        assert second.wait_end() == 3
        assert "thirteen brings bad luck" in second.log
    finally:
        second.end()
    running = start(serve, tmp_path, "[settings\n")
    assert set(numbers(running).values()) == {5}


def test_an_earlier_version_can_be_rolled_back_to_also_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    first = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    write(tmp_path, "[settings]\nnumber = 2\n")
    assert first.ask("config-apply", who="ann", why="more")["version"] == 2
    first.signal(signal.SIGTERM)
    assert first.wait_end() == 0
    running = start(serve, tmp_path, "[settings]\nnumber = 2\n")
    pids = running.pids()
    applied = running.ask("config-rollback", version=1, who="bob", why="too much")
    assert (applied["version"], applied["generation"]) == (3, 0)
    assert numbers(running) == dict.fromkeys(pids, 1)
    told = [(one["version"], one["who"], one["why"]) for one in running.ask("config-history")["entries"]]
    assert told == [(1, "start", ""), (2, "ann", "more"), (3, "bob", "rollback to 1: too much")]
    with pytest.raises(Refused, match="version: got 9, expected a version that is kept"):
        running.ask("config-rollback", version=9)
    assert set(numbers(running).values()) == {1}, "the file is not looked at until it changes"
    assert running.reload()["ok"]
    assert set(numbers(running).values()) == {2}, "a reload reads it"


def test_what_is_saved_while_a_generation_boots_waits_and_says_so(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    source = (tmp_path / "configured.py").read_text()
    wait = "import time\nfrom pathlib import Path\n\nwhile not Path('go').exists():\n    time.sleep(0.02)\n"
    running.write("configured.py", f"{wait}{source}")
    write(tmp_path, '[run]\nkeep_alive = "70s"\n[settings]\nnumber = 2\n')
    noticed(running, lambda: config(running)["tried"] == "file: saved", "the new generation boots")
    assert config(running)["waiting"] == []
    write(tmp_path, '[run]\nkeep_alive = "70s"\n[settings]\nnumber = 3\n')
    with socket.socket(socket.AF_UNIX) as impatient:
        impatient.connect(str(running.control_path))
        impatient.sendall(b'{"op": "config-apply", "who": "ann", "why": "now"}\n')
        noticed(running, lambda: config(running)["waiting"] == ["ann: now", "file: saved"], "both wait")
        assert set(numbers(running).values()) == {1}
        (tmp_path / "go").touch()
        noticed(running, lambda: held(running, 3), "the latest holds")
    wait_for(lambda: not config(running)["waiting"] and not config(running)["tried"], what="nothing waits")
    assert set(numbers(running).values()) == {3}
    history = running.ask("config-history")["entries"]
    assert [(one["version"], one["who"]) for one in history] == [(1, "start"), (2, "file"), (3, "ann")]


def test_a_reload_takes_code_and_settings_together(serve: Serve, tmp_path: Path) -> None:
    """The old code does not know the new setting: asked by itself, it refuses what the new code can have."""
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    source = (tmp_path / "configured.py").read_text()
    running.write("configured.py", source.replace("    dsn: Ann", '    colour: str = ""\n    dsn: Ann'))
    write(tmp_path, '[settings]\nnumber = 2\ncolour = "red"\n')
    noticed(running, lambda: config(running)["refused_count"] == 1, "the old code refuses it")
    running.signal(signal.SIGHUP)
    wait_for(lambda: {one["generation"] for one in running.workers()} == {2}, 30, "the reload")
    assert set(numbers(running).values()) == {2}
    assert config(running)["values"]["settings"]["colour"] == "red"


def test_workers_that_boot_later_have_the_settings_of_now(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    write(tmp_path, "[settings]\nnumber = 2\n")
    running.ask("config-apply")
    victim = min(running.pids())
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(running.pids() - {victim}) == 2, 30, "another worker serves")
    running.ask("scale", count=3)
    assert set(numbers(running).values()) == {2}
    assert held(running, 2)


def test_an_upgrade_of_the_supervisor_keeps_version_and_history(serve: Serve, tmp_path: Path) -> None:
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    write(tmp_path, "[settings]\nnumber = 2\n")
    running.ask("config-apply", who="ann")
    before, pids = config(running), running.pids()
    running.ask("upgrade", reload=False)
    after = config(running)
    assert (after["version"], after["digest"]) == (before["version"], before["digest"])
    assert {one["version"] for one in after["workers"]} == {2}
    write(tmp_path, "[settings]\nnumber = 3\n")
    noticed(running, lambda: held(running, 3), "a change after the upgrade holds")
    assert numbers(running) == dict.fromkeys(pids, 3)
    assert [one["version"] for one in running.ask("config-history")["entries"]] == [1, 2, 3]


def test_no_answer_log_or_file_shows_a_secret(serve: Serve, tmp_path: Path) -> None:
    """The supervisor does not import the app: which of its settings are secret, the workers tell."""

    def kept() -> list[str]:
        return [path.read_text() for path in (tmp_path / "state").rglob("*.json*") if path.name != "last-good.json"]

    running = start(serve, tmp_path, '[settings]\ndsn = "pw-one"\n')
    write(tmp_path, '[settings]\ndsn = "pw-two"\nnumber = 1\n')
    answers = [running.ask("config-apply"), config(running), running.ask("config-history"), running.status()]
    wait_for(lambda: len(kept()) == 3, what="the history and two versions are on the disk")
    assert "pw-" not in f"{answers}{kept()}{running.log}"
    assert "settings.dsn: <secret> -> <secret>" in running.log.replace("'", "")


def test_without_a_file_nothing_is_written_anywhere(serve: Serve, tmp_path: Path) -> None:
    running = serve("configured", env={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert config(running)["state_directory"] == ""
    write(tmp_path, "[settings]\nnumber = 2\n")
    noticed(running, lambda: held(running, 2), "a file that comes later is noticed")
    assert not (tmp_path / "state").exists()


def test_a_state_directory_that_cannot_be_written_costs_the_history_alone(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    running = start(serve, tmp_path, "[settings]\nnumber = 1\n")
    write(tmp_path, "[settings]\nnumber = 2\n")
    running.ask("config-apply")
    assert set(numbers(running).values()) == {2}
    assert "state" in config(running)["trouble"]


def test_changes_in_a_row_under_load_are_all_or_nothing_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = asyncio.run(config_changes.play(CHANGES, seed=2))
    assert wrong == 0, capsys.readouterr().out
